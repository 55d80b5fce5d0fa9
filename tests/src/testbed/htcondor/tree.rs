//! The Debian tree that HTCondor runs in: made once, never written to by a run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::component::Component;
use super::super::console::say;
use super::super::error::TestbedError;
use super::super::layout::Layout;
use super::super::packages::{Packages, find_program};
use super::{HtCondor, USER, USER_ID};

const MAKE: &str = include_str!("make_tree.sh");
/// Counts changes of the script above, so that an older tree is not taken for its result.
const EDITION: u32 = 1;

/// Where the tree is, or will be.
pub(super) fn path(layout: &Layout) -> PathBuf {
    layout
        .tools()
        .join("debian")
        .join(format!("trixie-htcondor-{EDITION}"))
}

/// The tree, made if there is none.
pub(super) async fn ensure(layout: &Layout) -> Result<PathBuf, TestbedError> {
    const NAME: &str = HtCondor::NAME;
    if !rustix::process::geteuid().is_root() {
        return Err(TestbedError::new(
            NAME,
            "an HTCondor pool runs jobs as other users, which only root can",
            "run as root",
        ));
    }
    let tree = path(layout);
    if tree.is_dir() {
        return Ok(tree);
    }
    let packages = Packages::new(layout, NAME);
    if find_program("debootstrap").is_none() {
        packages
            .debian_install(
                &["debootstrap", "debian-archive-keyring"],
                "HTCondor needs Debian 13, which it makes",
            )
            .await?;
    }
    say(format_args!(
        "making a Debian 13 with HTCondor below {} (once, about a minute, 440 MB)",
        layout.tools().display()
    ));
    let partial = packages.partial_dir(&tree)?;
    let content = partial.join("content");
    let user_id = USER_ID.to_string();
    let arguments = [
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--",
        "sh",
        "-c",
        MAKE,
    ]
    .map(OsStr::new)
    .into_iter()
    .chain([OsStr::new("make_tree.sh"), content.as_os_str()])
    .chain([user_id.as_str(), USER].map(OsStr::new));
    packages.run("unshare", arguments, Path::new("/")).await?;
    packages.publish(&content, &tree, &partial)?;
    Ok(tree)
}
