//! Free space.

use std::io;
use std::path::Path;

/// Bytes that an unprivileged process may still write below `directory`.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
