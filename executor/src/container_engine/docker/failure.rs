//! The engine's errors in our words.
//!
//! The API has status codes and free text, no error codes: what the status does not tell is read from the
//! texts of Docker 19 to 29 and Podman 4.

use std::error::Error;
use std::io;

use bollard::errors::Error as ApiError;

use super::super::StartFault;
use super::{ContainerSpec, EngineError, Unreachable};

/// Any failed call, unless its caller knows better.
pub(super) fn from_api(host: &str, call: &'static str, error: &ApiError) -> EngineError {
    let refused = |status: Option<u16>, detail: String| {
        if is_no_space(&detail) {
            EngineError::NoSpace { call, detail }
        } else {
            EngineError::Refused {
                call,
                status,
                detail,
            }
        }
    };
    match error {
        ApiError::DockerResponseServerError {
            status_code,
            message,
        } => refused(Some(*status_code), message.trim().to_owned()),
        ApiError::DockerStreamError { error } => refused(None, error.trim().to_owned()),
        ApiError::SocketNotFoundError(_) => EngineError::Unreachable {
            host: host.to_owned(),
            reason: Unreachable::NoSocket,
        },
        ApiError::JsonDataError { .. } | ApiError::JsonSerdeError { .. } => {
            refused(None, format!("its answer makes no sense: {error}"))
        }
        ApiError::HyperLegacyError { .. }
        | ApiError::HyperResponseError { .. }
        | ApiError::IOError { .. } => EngineError::Unreachable {
            host: host.to_owned(),
            reason: match io_cause(error) {
                Some(cause) => unreachable(cause),
                None => Unreachable::Other(chain(error)),
            },
        },
        error => refused(None, chain(error)),
    }
}

/// What kept us from a socket.
pub(super) fn unreachable(error: &io::Error) -> Unreachable {
    match error.kind() {
        io::ErrorKind::NotFound => Unreachable::NoSocket,
        io::ErrorKind::PermissionDenied => Unreachable::PermissionDenied,
        io::ErrorKind::ConnectionRefused => Unreachable::NotListening,
        _ => Unreachable::Other(error.to_string()),
    }
}

fn io_cause(error: &ApiError) -> Option<&io::Error> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        // The library's variants are transparent: their source skips the error they wrap.
        if let Some(ApiError::IOError { err }) = error.downcast_ref::<ApiError>() {
            return Some(err);
        }
        next = error.source();
    }
    None
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn is_no_space(text: &str) -> bool {
    text.contains("no space left on device") || text.contains("disk quota exceeded")
}

/// Why a pull failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullFault {
    NotFound,
    Denied,
    NoSpace,
    /// Trying again would not help.
    Permanent,
    /// It may.
    Transient,
}

/// Reads a pull's failure from the engine's words, which are mostly the registry's.
pub(super) fn pull_fault(status: Option<u16>, text: &str) -> PullFault {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if is_no_space(&text) {
        PullFault::NoSpace
    } else if says(&["toomanyrequests", "too many requests", "rate limit"]) {
        PullFault::Transient
    } else if says(&[
        "unauthorized",
        "authentication required",
        "denied",
        "no basic auth credentials",
        "may require 'docker login'",
        "forbidden",
    ]) {
        PullFault::Denied
    } else if says(&[
        "manifest unknown",
        "name unknown",
        "not found",
        "repository name not known",
        "no matching manifest",
    ]) {
        PullFault::NotFound
    } else if status == Some(400)
        || says(&[
            "server gave http response to https client",
            "invalid reference format",
            "unsupported media type",
            "certificate signed by unknown authority",
        ])
    {
        PullFault::Permanent
    } else {
        PullFault::Transient
    }
}

/// A create or start that was refused, as far as the container is to blame.
pub(super) fn not_started(spec: &ContainerSpec, error: EngineError) -> EngineError {
    let EngineError::Refused { detail, .. } = error else {
        return error;
    };
    EngineError::NotStarted {
        name: spec.name.clone(),
        image: spec.image.clone(),
        fault: start_fault(spec, detail),
    }
}

fn start_fault(spec: &ContainerSpec, detail: String) -> StartFault {
    let text = detail.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let entrypoint = || spec.command.first().cloned().unwrap_or_default();
    let missing = says(&["not found", "no such file", "does not exist"]);
    if says(&["docker-init", "catatonit"]) && missing {
        StartFault::InitMissing { detail }
    } else if says(&["mount", "bind source path", "mount source path", "statfs"]) {
        let mounts: Vec<String> = spec
            .mounts
            .iter()
            .map(|mount| format!("{} -> {}", mount.host.display(), mount.container))
            .collect();
        StartFault::Mount {
            mounts: mounts.join(", "),
            detail,
        }
    } else if says(&["exec: ", "executable file"]) && missing {
        StartFault::EntrypointNotFound {
            entrypoint: entrypoint(),
            detail,
        }
    } else if says(&["exec format error"])
        || (says(&["exec: "]) && says(&["permission denied", "is a directory"]))
    {
        StartFault::EntrypointNotExecutable {
            entrypoint: entrypoint(),
            detail,
        }
    } else {
        StartFault::Other(detail)
    }
}

/// With an init process the container starts even when its entrypoint cannot: the init process says so on standard
/// error and ends, tini with 126 or 127, catatonit with 1. Its words, if `stderr` ends with them.
pub(super) fn init_failure(code: u8, stderr: &str) -> Option<String> {
    let line = stderr.lines().next_back()?;
    let said_by_init = match code {
        126 | 127 => line.starts_with("[FATAL tini"),
        1 => line.starts_with("ERROR (catatonit:") && line.contains("failed to exec"),
        _ => false,
    };
    said_by_init.then(|| format!("the entrypoint could not be started: {line}"))
}

/// A container that has ended or is gone cannot be signalled, and need not be.
pub(super) fn ended_is_fine(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        // 304 not modified (stop), 404 no such container, 409 not running (kill)
        Err(EngineError::Refused {
            status: Some(304 | 404 | 409),
            ..
        }) => Ok(()),
        // Podman's word for it, with status 500.
        Err(EngineError::Refused { detail, .. }) if detail.contains("container state improper") => {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;

    #[test]
    fn pull_faults_are_told_apart() {
        for (status, text, fault) in [
            (
                404,
                "manifest for kbase/x@sha256:aa not found: manifest unknown: manifest unknown",
                PullFault::NotFound,
            ),
            (
                404,
                "pull access denied for kbase/x, repository does not exist or may require 'docker login': denied",
                PullFault::Denied,
            ),
            (
                500,
                "Head \"https://r/v2/x\": unauthorized: authentication required",
                PullFault::Denied,
            ),
            (
                500,
                "Get https://r/v2/: no basic auth credentials",
                PullFault::Denied,
            ),
            (
                500,
                "write /var/lib/docker/tmp/x: no space left on device",
                PullFault::NoSpace,
            ),
            (
                500,
                "toomanyrequests: You have reached your pull rate limit.",
                PullFault::Transient,
            ),
            (
                500,
                "Get \"https://r:5000/v2/\": http: server gave HTTP response to HTTPS client",
                PullFault::Permanent,
            ),
            (400, "invalid reference format", PullFault::Permanent),
            (
                500,
                "Get https://r/v2/: dial tcp: lookup r: Temporary failure in name resolution",
                PullFault::Transient,
            ),
            (500, "unexpected EOF", PullFault::Transient),
        ] {
            assert_eq!(pull_fault(Some(status), text), fault, "{text}");
        }
    }

    #[test]
    fn start_faults_name_what_is_wrong() {
        let spec = spec();
        let words = |detail: &str| start_fault(&spec, detail.to_owned()).to_string();
        let said = words(
            "OCI runtime create failed: starting container process caused: exec: \"tool\": executable file not found in $PATH: unknown",
        );
        assert!(
            said.contains("entrypoint \"tool\" is not in the image"),
            "{said}"
        );
        let said = words(
            "OCI runtime create failed: starting container process caused: exec: \"/data\": permission denied: unknown",
        );
        assert!(said.contains("cannot be run"), "{said}");
        let said = words(
            "invalid mount config for type \"bind\": bind source path does not exist: /host/in",
        );
        assert!(said.contains("/host/in -> /in"), "{said}");
        let said = words(
            "OCI runtime create failed: exec: \"docker-init\": executable file not found in $PATH",
        );
        assert!(said.contains("install docker-init"), "{said}");
        let said = words("Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available");
        assert!(said.starts_with("Range of CPUs"), "{said}");
        let limits = "runc create failed: error during container init: error setting rlimit type 7: operation not permitted: OCI permission denied";
        assert_eq!(words(limits), limits);
    }

    #[test]
    fn ended_containers_need_no_signal() {
        let refused = |status, detail: &str| {
            Err(EngineError::Refused {
                call: "kill container",
                status: Some(status),
                detail: detail.to_owned(),
            })
        };
        assert_eq!(ended_is_fine(refused(409, "is not running")), Ok(()));
        let podman =
            "can only kill running containers. c1 is in state exited: container state improper";
        assert_eq!(ended_is_fine(refused(500, podman)), Ok(()));
        assert!(ended_is_fine(refused(500, "oops")).is_err());
    }

    #[test]
    fn the_init_process_is_quoted() {
        let line = "[FATAL tini (7)] exec nope failed: No such file or directory";
        assert!(init_failure(127, &format!("x\n{line}\n")).is_some_and(|said| said.contains(line)));
        let other = "ERROR (catatonit:6): failed to exec pid1: Permission denied";
        assert!(init_failure(1, other).is_some_and(|said| said.contains(other)));
        assert_eq!(init_failure(1, line), None);
        assert_eq!(init_failure(127, "sh: foo: not found"), None);
        assert_eq!(init_failure(127, ""), None);
    }
}
