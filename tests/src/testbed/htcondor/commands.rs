//! HTCondor's commands as scripts that run them inside of the pool, as its user.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::packages::find_program;
use super::super::process::ProcessId;
use super::{HtCondor, USER, USER_ID};

/// For the scheduler's restart, beside the commands for everyone in `usr/bin`.
const ADMINISTRATION: [&str; 4] = [
    "condor_off",
    "condor_on",
    "condor_reconfig",
    "condor_restart",
];

/// Writes one script for each command of the tree's; they work as long as `master` runs.
///
/// A script becomes the command: signals reach it, its exit status and output are the command's. Working
/// directory is the one that exists on both sides.
pub(super) fn write(pool: &HtCondor, master: &ProcessId, data: &Path) -> io::Result<PathBuf> {
    let nsenter = find_program("nsenter")
        .ok_or_else(|| io::Error::other("there is no nsenter (Debian package util-linux)"))?;
    let dir = data.join("bin");
    std::fs::create_dir_all(&dir)?;
    let commands = std::fs::read_dir(pool.tree.join("usr/bin"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("condor_"))
        .chain(ADMINISTRATION.map(str::to_owned));
    for name in commands {
        let script = format!(
            "#!/bin/sh\n\
             # {name} in the testbed's HTCondor pool.\n\
             # The number may have become another process's.\n\
             if [ \"$(readlink /proc/{pid}/root)\" != {tree} ]; then\n\
             \x20   echo \"{name}: the testbed's HTCondor pool does not run\" >&2\n\
             \x20   exit 1\n\
             fi\n\
             exec {nsenter} --target {pid} --mount --root --setuid {USER_ID} --setgid {USER_ID} -- \\\n\
             \x20   /usr/bin/env --chdir={exchange} PATH=/usr/bin:/usr/sbin HOME=/home/{USER} USER={USER} \\\n\
             \x20   {name} \"$@\"\n",
            pid = master.pid,
            tree = quoted(&pool.tree),
            nsenter = quoted(&nsenter),
            exchange = quoted(&pool.exchange_dir),
        );
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(dir.join(name))?
            .write_all(script.as_bytes())?;
    }
    Ok(dir)
}

/// A path as one word of a shell script.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
