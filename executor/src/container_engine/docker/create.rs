//! What a container is created with: the caller's part and the part that is the same for all. Pure.

use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as ApiMount, MountType,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use super::ContainerSpec;

/// The body of the create request.
///
/// # Errors
/// What about the specification cannot be put to an engine.
pub(super) fn body(spec: &ContainerSpec) -> Result<ContainerCreateBody, String> {
    if spec.command.is_empty() {
        return Err("the command is empty".to_owned());
    }
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        // As entrypoint, without a command: the image's own CMD is dropped then.
        entrypoint: Some(spec.command.clone()),
        cmd: None,
        env: Some(spec.environment.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        tty: Some(false),
        open_stdin: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        // Whatever the image says: the contract promises SIGTERM.
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: i64::try_from(whole_seconds(spec.stop_grace)).ok(),
        host_config: Some(host_config(spec)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(spec: &ContainerSpec) -> Result<HostConfig, String> {
    let memory = i64::try_from(spec.memory_bytes)
        .map_err(|_| format!("a memory limit of {} bytes is too large", spec.memory_bytes))?;
    // A duration of that many seconds has that many nano-processors as nanoseconds.
    let nano_cpus = Duration::try_from_secs_f64(spec.cpus)
        .ok()
        .and_then(|cpus| i64::try_from(cpus.as_nanos()).ok())
        .filter(|cpus| *cpus > 0)
        .ok_or_else(|| format!("{} is not a number of processors", spec.cpus))?;
    Ok(HostConfig {
        memory: Some(memory),
        // Memory plus swap: equal means no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(nano_cpus),
        pids_limit: Some(i64::from(spec.pids_limit)),
        mounts: Some(mounts(spec)?),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".to_owned()]),
        // Adds to the engine's default seccomp and AppArmor profiles, which stay as they are.
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        init: Some(true),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("core".to_owned()),
            soft: Some(0),
            hard: Some(0),
        }]),
        // We read the output ourselves while it comes; a second copy would fill the engine's disk, without bound
        // where the default driver has none.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // The exit code must still be there when we ask for it.
        auto_remove: Some(false),
        ..HostConfig::default()
    })
}

/// As structured mounts: a `host:container:ro` string could not hold a path with a colon, and would create a
/// missing host directory instead of refusing it.
fn mounts(spec: &ContainerSpec) -> Result<Vec<ApiMount>, String> {
    spec.mounts
        .iter()
        .map(|mount| {
            let source = mount
                .host
                .to_str()
                .ok_or_else(|| format!("mount source {:?} is not UTF-8", mount.host))?;
            Ok(ApiMount {
                typ: Some(MountType::BIND),
                source: Some(source.to_owned()),
                target: Some(mount.container.clone()),
                read_only: Some(mount.read_only),
                ..ApiMount::default()
            })
        })
        .collect()
}

/// Rounded up, since engines count in whole seconds and 0 would mean no grace at all.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;

    /// Every setting that keeps a container in bounds, spelt out: a change here is a change of the promise.
    #[test]
    fn containers_are_confined() {
        let body = serde_json::to_value(body(&spec()).unwrap()).unwrap();
        let host = &body["HostConfig"];
        for (found, expected) in [
            (&host["CapDrop"], serde_json::json!(["ALL"])),
            (
                &host["SecurityOpt"],
                serde_json::json!(["no-new-privileges"]),
            ),
            (&host["Privileged"], serde_json::json!(false)),
            (&host["Memory"], serde_json::json!(64 << 20)),
            (&host["MemorySwap"], serde_json::json!(64 << 20)),
            (&host["NanoCpus"], serde_json::json!(1_500_000_000_u64)),
            (&host["PidsLimit"], serde_json::json!(64)),
            (&host["Init"], serde_json::json!(true)),
            (&host["AutoRemove"], serde_json::json!(false)),
            (
                &host["Ulimits"],
                serde_json::json!([{"Name": "core", "Soft": 0, "Hard": 0}]),
            ),
            (&host["LogConfig"]["Type"], serde_json::json!("none")),
            (&host["RestartPolicy"]["Name"], serde_json::json!("no")),
            (
                &host["Mounts"],
                serde_json::json!([{"Target": "/in", "Source": "/host/in", "Type": "bind", "ReadOnly": true}]),
            ),
            (&body["Entrypoint"], serde_json::json!(["tool", "a b"])),
            (&body["Tty"], serde_json::json!(false)),
            (&body["StopSignal"], serde_json::json!("SIGTERM")),
        ] {
            assert_eq!(*found, expected);
        }
        for absent in [
            "Binds",
            "CapAdd",
            "Devices",
            "NetworkMode",
            "PidMode",
            "IpcMode",
            "UsernsMode",
        ] {
            assert!(host[absent].is_null(), "{absent}");
        }
        assert!(body["Cmd"].is_null() && body["User"].is_null());
    }

    #[test]
    fn what_no_engine_can_do_is_refused() {
        let nothing = ContainerSpec {
            command: Vec::new(),
            ..spec()
        };
        assert!(body(&nothing).unwrap_err().contains("command"));
        for cpus in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            let odd = ContainerSpec { cpus, ..spec() };
            assert!(body(&odd).unwrap_err().contains("processors"), "{cpus}");
        }
        let huge = ContainerSpec {
            memory_bytes: u64::MAX,
            ..spec()
        };
        assert!(body(&huge).unwrap_err().contains("memory"));
    }

    #[test]
    fn grace_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(10)), 10);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
    }
}
