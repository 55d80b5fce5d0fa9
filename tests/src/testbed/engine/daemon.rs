//! A `dockerd` beside which no other notices: own data, sockets, containerd, bridge and cgroup.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::component::{
    Component, cannot_start, fresh_data_dir, remove_data_dir, stop_processes,
};
use super::super::console::say;
use super::super::error::TestbedError;
use super::super::layout::Layout;
use super::super::packages::{Packages, find_program, system_path};
use super::super::process::{self, ProcessId};
use super::Engine;

const NAME: &str = Engine::NAME;

/// dockerd stops its containers first, each with up to ten seconds.
const GRACE: Duration = Duration::from_secs(20);

/// Programs dockerd is made of or starts; nothing else is ever killed.
const PROGRAMS: [&str; 8] = [
    "dockerd",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "docker-proxy",
    "docker-init",
    "runc",
];

/// A running `dockerd` of the testbed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Daemon {
    socket: PathBuf,
    process: ProcessId,
}

/// Installs what a daemon needs, as far as it is missing.
pub(super) async fn ensure_installed(layout: &Layout) -> Result<(), TestbedError> {
    let packages = Packages::new(layout, NAME);
    let needed = [
        ("dockerd", "docker.io"),
        ("runc", "runc"),
        ("ip", "iproute2"),
        ("mount", "mount"),
    ];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        packages
            .debian_install(&missing, "no container engine is running here")
            .await?;
    }
    let cgroups = Path::new("/sys/fs/cgroup");
    if !cgroups.join("cgroup.controllers").exists() && !cgroups.join("memory").exists() {
        packages
            .debian_install(&["cgroupfs-mount"], "limits need mounted cgroups")
            .await?;
        packages
            .run("cgroupfs-mount", [""; 0], &layout.tools())
            .await?;
    }
    Ok(())
}

impl Daemon {
    pub(super) async fn start(layout: &Layout) -> Result<Self, TestbedError> {
        let data = fresh_data_dir(NAME, layout)?;
        let run = layout.create_run_dir()?;
        let bridge = create_bridge(layout).await?;
        let config = run.join("daemon.json");
        // An own, empty file: the system's would add to the flags below.
        std::fs::write(&config, "{}").map_err(|error| cannot_start(NAME, layout, &error))?;
        let socket = run.join("docker.sock");
        let program = find_program("dockerd").ok_or_else(|| {
            TestbedError::new(
                NAME,
                "dockerd is not installed",
                "install Debian's docker.io",
            )
        })?;
        let name = layout.name();
        let mut command = Command::new(program);
        command
            .arg("--config-file")
            .arg(config)
            .arg("--data-root")
            .arg(data.join("root"))
            .arg("--exec-root")
            .arg(run.join("exec"))
            .arg("--pidfile")
            .arg(run.join("docker.pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .args(["--containerd-namespace", &name])
            .arg(format!("--containerd-plugins-namespace=plugins.{name}"))
            .arg(format!("--bridge={bridge}"))
            .arg(format!("--cgroup-parent=/{name}"))
            .arg("--exec-opt=native.cgroupdriver=cgroupfs")
            .arg("--shutdown-timeout=10")
            // The machine's packet filter and routing stay as they are: containers reach this
            // machine, not the world.
            .args(["--iptables=false", "--ip-masq=false", "--ip-forward=false"])
            .env("PATH", system_path());
        let process = process::spawn_daemon(&mut command, &layout.log(NAME))
            .map_err(|error| cannot_start(NAME, layout, &error))?;
        Ok(Self { socket, process })
    }

    pub(super) fn docker_host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(super) fn process(&self) -> &ProcessId {
        &self.process
    }
}

/// Stops the daemon with all it started, also where it was killed itself, and removes its traces:
/// mounts, network bridge, sockets, data.
pub(super) async fn stop(layout: &Layout, daemon: Option<Daemon>) -> Result<(), TestbedError> {
    let main: Vec<_> = daemon.map(|daemon| daemon.process).into_iter().collect();
    stop_processes(NAME, &main, GRACE).await?;
    let left = processes_left(layout);
    if !left.is_empty() {
        say(format_args!(
            "ending {} processes left by a container engine",
            left.len()
        ));
    }
    stop_processes(NAME, &left, GRACE).await?;
    unmount(layout)?;
    remove_bridge(layout)?;
    remove_cgroups(layout);
    let run = layout.run_dir();
    for name in ["exec", "docker.sock", "docker.pid", "daemon.json"] {
        let path = run.join(name);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let problem = format!("cannot remove {}: {error}", path.display());
                return Err(TestbedError::new(NAME, problem, "remove it by hand"));
            }
            _ => {}
        }
    }
    remove_data_dir(NAME, layout)
}

/// Daemons and shims name the testbed in their arguments. A container's own processes do not:
/// they are below a shim in the process tree, or, where the shim is gone, in our cgroup.
fn processes_left(layout: &Layout) -> Vec<ProcessId> {
    let all = process::all();
    let name = layout.name();
    let cgroup = format!("/{name}");
    let ours = all
        .iter()
        .filter(|seen| {
            let daemon = PROGRAMS.iter().any(|program| seen.program == *program)
                && seen.mentions(OsStr::new(&name));
            let contained = seen
                .cgroups
                .lines()
                .any(|line| line.split('/').any(|part| format!("/{part}") == cgroup));
            daemon || contained
        })
        .map(|seen| seen.id.clone())
        .collect();
    process::with_descendants(&all, ours)
}

/// Unmounts what a killed daemon left mounted below its directories.
fn unmount(layout: &Layout) -> Result<(), TestbedError> {
    let ours = [layout.data(NAME), layout.run_dir()];
    // Twice mounted places are listed twice: look again until there are none.
    let mut tried = 0;
    loop {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let point = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| ours.iter().any(|dir| Path::new(point).starts_with(dir)))
            // The deepest first.
            .max_by_key(|point| point.len());
        let Some(point) = point else { return Ok(()) };
        let status = Command::new("umount")
            .args(["--lazy", point])
            .env("PATH", system_path())
            .status();
        let done = status.is_ok_and(|status| status.success());
        tried += 1;
        if !done || tried > 10_000 {
            let problem = format!("cannot unmount {point}");
            return Err(TestbedError::new(NAME, problem, "unmount it by hand"));
        }
    }
}

/// Interface names have at most 15 bytes.
fn bridge_name(layout: &Layout) -> String {
    format!("ctsb{}", layout.id())
}

/// Makes the network bridge of the daemon, on a subnet that nothing routes to.
///
/// Without it dockerd would use `docker0`, which another daemon may own.
async fn create_bridge(layout: &Layout) -> Result<String, TestbedError> {
    let name = bridge_name(layout);
    remove_bridge(layout)?;
    let packages = Packages::new(layout, NAME);
    let taken = routed_subnets();
    let subnet = (200..=250)
        .flat_map(|second| (0..=255).map(move |third| [10, second, third]))
        .find(|subnet| !taken.contains(subnet))
        .ok_or_else(|| {
            TestbedError::new(
                NAME,
                "no free subnet in 10.200.0.0/13",
                "remove unused bridges",
            )
        })?;
    let [first, second, third] = subnet;
    let address = format!("{}/24", Ipv4Addr::new(first, second, third, 1));
    let dir = layout.tools();
    packages
        .run("ip", ["link", "add", "name", &name, "type", "bridge"], &dir)
        .await?;
    packages
        .run("ip", ["address", "add", &address, "dev", &name], &dir)
        .await?;
    packages
        .run("ip", ["link", "set", &name, "up"], &dir)
        .await?;
    Ok(name)
}

/// The first three bytes of the networks in the kernel's routing table.
fn routed_subnets() -> HashSet<[u8; 3]> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| u32::from_str_radix(line.split_ascii_whitespace().nth(1)?, 16).ok())
        .map(|network| {
            let [first, second, third, _] = network.to_le_bytes();
            [first, second, third]
        })
        .collect()
}

fn remove_bridge(layout: &Layout) -> Result<(), TestbedError> {
    let name = bridge_name(layout);
    if !Path::new("/sys/class/net").join(&name).exists() {
        return Ok(());
    }
    let output = Command::new("ip")
        .args(["link", "delete", &name])
        .env("PATH", system_path())
        .output();
    let problem = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let next_step = format!("run `ip link delete {name}`");
    Err(TestbedError::new(
        NAME,
        format!("cannot remove the bridge {name}: {problem}"),
        next_step,
    ))
}

/// Empty cgroups cost nothing, so one that cannot be removed is left.
fn remove_cgroups(layout: &Layout) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    for dir in hierarchies
        .map(|entry| entry.path())
        .chain([root.to_owned()])
    {
        let ours = dir.join(layout.name());
        let children = std::fs::read_dir(&ours)
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        for child in children.filter(|child| child.path().is_dir()) {
            let _ = std::fs::remove_dir(child.path());
        }
        let _ = std::fs::remove_dir(ours);
    }
}
