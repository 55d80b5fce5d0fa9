//! Programs that tests write and the service runs.

use std::path::Path;
use std::process::Command;

/// Makes an executable file. Another process writes it: this one may be starting a program in another thread, which
/// would inherit the open file, and a file that is open for writing cannot be run.
pub(crate) fn install(path: &Path, script: &str) {
    let source = path.with_added_extension("source");
    std::fs::write(&source, script).unwrap();
    let installed = Command::new("install")
        .args(["-m", "755"])
        .args([&source, path])
        .status();
    assert!(installed.unwrap().success());
}
