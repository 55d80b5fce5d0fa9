//! Finds the programs that the service starts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The executor: as given, else beside this program, else in `PATH`.
///
/// # Errors
/// A sentence that says where it was looked for.
pub(crate) fn find_executor(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(given) = given {
        let path = std::path::absolute(given).unwrap_or_else(|_| given.to_owned());
        return if is_program(&path) {
            Ok(path)
        } else {
            Err(format!(
                "the executor {} is not an executable file; correct --executor or LocalSite.executor",
                path.display()
            ))
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .map(|program| program.with_file_name("cts-executor"))
        .filter(|path| is_program(path));
    beside.or_else(|| in_path("cts-executor")).ok_or_else(|| {
        "no executor was found beside cts-service or in PATH; name it with --executor or \
         LocalSite.executor"
            .to_owned()
    })
}

/// A program in `PATH`, by its absolute path.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| is_program(path))
}

pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
