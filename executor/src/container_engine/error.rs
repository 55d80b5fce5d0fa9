//! What can go wrong between the executor and the container engine, by what the caller does next.
//!
//! Each text names the object, the cause and the next step: it goes into the job's error report as it is.

use std::time::Duration;

/// A failure of the engine, or of what it was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// `DOCKER_HOST` cannot be used.
    #[error(
        "DOCKER_HOST is {host:?}: {reason}; use unix:///path/to/socket or tcp://host:port, or leave it unset"
    )]
    InvalidHost {
        /// The setting.
        host: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Nothing answers at the engine's address.
    #[error("container engine at {host}: {reason}")]
    Unreachable {
        /// The engine's address.
        host: String,
        /// Why.
        reason: Unreachable,
    },

    /// The engine took the request and did not answer in time.
    #[error(
        "container engine at {host} did not answer {call:?} within {} s; it hangs: restart it",
        after.as_secs()
    )]
    Hung {
        /// The engine's address.
        host: String,
        /// What was asked, such as `create container`.
        call: &'static str,
        /// The deadline that passed.
        after: Duration,
    },

    /// The engine is older than the executor can work with.
    #[error(
        "container engine at {host} speaks API {found}, at least {minimum} is needed; update it to Docker 19.03 or Podman 3 or later"
    )]
    ApiTooOld {
        /// The engine's address.
        host: String,
        /// The newest version it speaks.
        found: String,
        /// The oldest version the executor speaks.
        minimum: String,
    },

    /// The image is not in its registry, or no longer on this host.
    #[error("image {image} is not there: {detail}; check its name and digest")]
    ImageNotFound {
        /// `name@digest`.
        image: String,
        /// The engine's words.
        detail: String,
    },

    /// The registry wants other credentials.
    #[error(
        "the registry refused image {image}: {detail}; check the engine's login to that registry"
    )]
    PullRefused {
        /// `name@digest`.
        image: String,
        /// The engine's words.
        detail: String,
    },

    /// The pull failed in a way that may pass, more often than the retries allow.
    #[error("image {image} could not be pulled in {tries} tries: {detail}")]
    PullFailed {
        /// `name@digest`.
        image: String,
        /// The engine's words.
        detail: String,
        /// How often it was tried.
        tries: u32,
    },

    /// The engine has no disk space left.
    #[error(
        "no disk space left on the container engine's host while it was asked to {call}: {detail}; free space in its data directory"
    )]
    NoSpace {
        /// What was asked.
        call: &'static str,
        /// The engine's words.
        detail: String,
    },

    /// The container was created but did not start, or could not be created as asked. It has been removed.
    #[error("container {name} of image {image} did not start: {fault}")]
    NotStarted {
        /// The container's name.
        name: String,
        /// `name@digest`.
        image: String,
        /// What is at fault.
        fault: StartFault,
    },

    /// The name is taken by another container.
    #[error(
        "a container named {name} exists already; another executor of the same container may be running"
    )]
    NameTaken {
        /// The name.
        name: String,
    },

    /// The container vanished while it was waited for: someone else removed it.
    #[error("container {id} was removed by someone else while it ran")]
    ContainerGone {
        /// Id or name.
        id: String,
    },

    /// The container has ended and how cannot be told, or not be believed.
    #[error(
        "how container {id} ended is not known: {detail}; this is a failure of the container engine, not of the tool"
    )]
    ExitUnknown {
        /// Id or name.
        id: String,
        /// What the engine said.
        detail: String,
    },

    /// The engine went away while the container ran and did not come back in time.
    #[error("container engine at {host} went away while container {id} ran and did not come back within {} s: {detail}", after.as_secs())]
    Lost {
        /// The engine's address.
        host: String,
        /// Id or name.
        id: String,
        /// How long it was waited for.
        after: Duration,
        /// The last error.
        detail: String,
    },

    /// Any other refusal.
    #[error("container engine could not {call}: {detail}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// HTTP status, when it was one.
        status: Option<u16>,
        /// The engine's words.
        detail: String,
    },
}

/// Why an engine cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// The socket does not exist.
    #[error("no socket there; start the engine, or point DOCKER_HOST to its socket")]
    NoSocket,
    /// This user may not open the socket.
    #[error("permission denied; add this user to the group that owns the socket (usually docker)")]
    PermissionDenied,
    /// The socket exists and nobody listens.
    #[error("nothing listens there; start the engine")]
    NotListening,
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartFault {
    /// The program is not in the image (exit code 127 by convention).
    #[error("entrypoint {entrypoint:?} is not in the image (exit code 127): {detail}")]
    EntrypointNotFound {
        /// First element of the command.
        entrypoint: String,
        /// The engine's words.
        detail: String,
    },
    /// The program is there and cannot be run (exit code 126 by convention).
    #[error("entrypoint {entrypoint:?} cannot be run (exit code 126): {detail}")]
    EntrypointNotExecutable {
        /// First element of the command.
        entrypoint: String,
        /// The engine's words.
        detail: String,
    },
    /// A mount was refused: its source is missing, or a policy such as `SELinux` denies it.
    #[error("a mount was refused: {detail}; the mounts are {mounts}")]
    Mount {
        /// The mounts asked for, `host -> container`.
        mounts: String,
        /// The engine's words.
        detail: String,
    },
    /// The engine's host lacks the init program.
    #[error(
        "the engine's init program is missing: {detail}; install docker-init (tini) or catatonit on the engine's host"
    )]
    InitMissing {
        /// The engine's words.
        detail: String,
    },
    /// Something else.
    #[error("{0}")]
    Other(String),
}

impl EngineError {
    /// Whether the same call would fail again on this host however often it is repeated.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::InvalidHost { .. }
            | Self::ApiTooOld { .. }
            | Self::ImageNotFound { .. }
            | Self::PullRefused { .. }
            | Self::NoSpace { .. }
            | Self::NotStarted { .. }
            | Self::NameTaken { .. }
            | Self::ContainerGone { .. }
            | Self::ExitUnknown { .. } => true,
            Self::Unreachable { reason, .. } => match reason {
                Unreachable::PermissionDenied => true,
                Unreachable::NoSocket | Unreachable::NotListening | Unreachable::Other(_) => false,
            },
            Self::Hung { .. } | Self::PullFailed { .. } | Self::Lost { .. } => false,
            // The request was wrong (4xx); or the engine failed (5xx), which may pass.
            Self::Refused { status, .. } => status.is_some_and(|code| code < 500),
        }
    }

    /// Whether the worker's set-up is at fault, so that no job can run here until a person acts.
    #[must_use]
    pub fn is_setup(&self) -> bool {
        match self {
            Self::InvalidHost { .. } | Self::Unreachable { .. } | Self::ApiTooOld { .. } => true,
            Self::NotStarted { fault, .. } => matches!(fault, StartFault::InitMissing { .. }),
            _ => false,
        }
    }
}
