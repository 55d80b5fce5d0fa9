//! Free space, and room for files.

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

/// Whether no more files can be made below `directory`, however small: the inodes are used up. A file
/// system that makes them as they are needed (Btrfs) says that it has none at all.
///
/// # Errors
/// When the file system cannot be asked.
pub fn is_out_of_files(directory: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_files > 0 && stat.f_favail == 0)
}
