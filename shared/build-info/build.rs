//! Finds out which commit is built, and has cargo look again only when that may have changed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// For builds from a source archive, such as a container image's.
const OVERRIDE: &str = "CTS_GIT_HASH";

fn main() {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let hash = std::env::var(OVERRIDE)
        .ok()
        .filter(|hash| !hash.trim().is_empty())
        .or_else(checked_out_commit)
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=CTS_BUILD_GIT_HASH={}", hash.trim());
}

/// The commit of the checkout that this crate is part of, if it is a checkout and git is there.
fn checked_out_commit() -> Option<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    // A file in a worktree, a directory in a clone. An archive that was unpacked inside another
    // project's checkout has neither, and that project's commit would be wrong.
    if !workspace.join(".git").exists() {
        return None;
    }
    let git = |arguments: &[&str]| git(workspace, arguments);
    // HEAD changes at a checkout, its branch at a commit. A branch that is packed has no file; then
    // the log of HEAD, which grows at both, tells.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| workspace.join(path));
        // Cargo runs a build script again and again for a file that does not exist.
        if let Some(path) = path.filter(|path: &PathBuf| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--verify", "HEAD"])
}

/// What git prints, if it succeeds and prints something.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
