//! Modes of a staged tree: read-only when it is finished, removable when it is not wanted any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Takes every right to write from the tree, from the inside out: files 0444, or 0555 if executable, and
/// directories 0555. No link is followed.
///
/// # Errors
/// When a directory cannot be read or a mode not be changed.
pub fn make_read_only(tree: &Path) -> io::Result<()> {
    let tree = open_directory(rustix::fs::CWD, tree)?;
    seal(&tree)?;
    Ok(())
}

fn seal(directory: &OwnedFd) -> Result<(), Errno> {
    for_each_entry(directory, |name, file_type| match file_type {
        FileType::Directory => seal(&open_directory(directory, name)?),
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
            let executable = mode.contains(Mode::XUSR);
            rustix::fs::fchmod(
                &file,
                Mode::from_raw_mode(if executable { 0o555 } else { 0o444 }),
            )
        }
        _ => Ok(()),
    })?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(0o555))
}

/// Removes a tree, read-only or not, and whatever its state. Nothing is done if it is not there. No link is
/// followed.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(tree: &Path) -> io::Result<()> {
    match rustix::fs::lstat(tree) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
        Ok(_) => return std::fs::remove_file(tree),
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    make_writable(rustix::fs::CWD, tree)?;
    std::fs::remove_dir_all(tree)
}

/// Lets the owner list and change a directory and those in it.
fn make_writable(at: impl AsFd, name: impl rustix::path::Arg + Copy) -> Result<(), Errno> {
    // A directory that may not be read can be opened only so, and is then changed through the descriptor: its
    // name may by now be a link of somebody else's.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(&at, name, flags, Mode::empty())?;
    let by_descriptor = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::chmod(by_descriptor, Mode::RWXU)?;
    let directory = open_directory(&handle, ".")?;
    for_each_entry(&directory, |name, file_type| match file_type {
        FileType::Directory => make_writable(&directory, name),
        _ => Ok(()),
    })
}

fn open_directory(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Calls `visit` with the name and type of every entry.
fn for_each_entry(
    directory: &OwnedFd,
    mut visit: impl FnMut(&std::ffi::CStr, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let file_type = match entry.file_type() {
            // Not every file system says it in the directory.
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        visit(name, file_type)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_finished_tree_is_read_only_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o640)).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/data"), "x").unwrap();
        fs::write(tree.join("a/tool"), "x").unwrap();
        fs::set_permissions(tree.join("a/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("../../outside", tree.join("a/link")).unwrap();
        symlink("..", tree.join("up")).unwrap();

        make_read_only(&tree).unwrap();
        assert_eq!(mode_of(&tree), 0o555);
        assert_eq!(mode_of(&tree.join("a/b")), 0o555);
        assert_eq!(mode_of(&tree.join("a/b/data")), 0o444);
        assert_eq!(mode_of(&tree.join("a/tool")), 0o555);
        assert_eq!(mode_of(&outside), 0o640);

        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "x");
    }

    #[test]
    fn a_link_in_the_place_of_a_tree_is_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        let link = dir.path().join("link");
        symlink(&target, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(target.join("file").exists());
        assert!(fs::symlink_metadata(&link).is_err());
    }
}
