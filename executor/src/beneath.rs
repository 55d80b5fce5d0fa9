//! Opening files beneath a directory without ever leaving it, whatever links the tree holds and
//! whoever changes it meanwhile.
//!
//! The kernel does the checking (`openat2`, Linux 5.6). Where it cannot (an older kernel, or a
//! sandbox that refuses the call), the path is walked one name at a time with `O_NOFOLLOW`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What happens at a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// `ELOOP`.
    Refuse,
    /// Followed as long as it stays beneath the directory, else `EXDEV`. Where the kernel cannot
    /// check that: `ELOOP`.
    FollowInside,
}

/// Opens `path`, relative to `directory`; an empty path opens the directory itself. Absolute paths
/// and ones that climb out are refused with `EXDEV`.
pub(crate) fn open(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    links: Links,
) -> Result<OwnedFd, Errno> {
    let directory = directory.as_fd();
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_MAGICLINKS
        | match links {
            Links::Refuse => ResolveFlags::NO_SYMLINKS,
            Links::FollowInside => ResolveFlags::empty(),
        };
    loop {
        match rustix::fs::openat2(directory, path, flags, mode, resolve) {
            // A rename elsewhere raced with the check of "..", or a signal came: ask again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EPERM: what sandboxes answer for calls they do not know.
            Err(Errno::NOSYS | Errno::PERM) => return open_by_name(directory, path, flags, mode),
            result => return result,
        }
    }
}

/// [`open`] for kernels without `openat2`; no link is followed.
fn open_by_name(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Errno::XDEV);
            }
        }
    }
    let last = names.pop().unwrap_or(OsStr::from_bytes(b"."));
    let mut parent: Option<OwnedFd> = None;
    for name in names {
        let at = parent.as_ref().map_or(directory, AsFd::as_fd);
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        parent = Some(rustix::fs::openat(at, name, through, Mode::empty())?);
    }
    let at = parent.as_ref().map_or(directory, AsFd::as_fd);
    rustix::fs::openat(at, last, flags | OFlags::NOFOLLOW, mode)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    type Opener = fn(&OwnedFd, &Path) -> Result<OwnedFd, Errno>;

    fn by_kernel(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
        open(root, path, OFlags::RDONLY, Mode::empty(), Links::Refuse)
    }

    fn by_name(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
        open_by_name(root.as_fd(), path, OFlags::RDONLY, Mode::empty())
    }

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        fs::write(dir.path().join("root/a/b/file"), "inside").unwrap();
        fs::write(dir.path().join("outside"), "outside").unwrap();
        for (link, target) in [
            ("root/climbs", "../outside"),
            ("root/absolute", "/etc/passwd"),
            ("root/to-file", "a/b/file"),
            ("root/to-dir", "a"),
            ("root/loop", "loop"),
        ] {
            symlink(target, dir.path().join(link)).unwrap();
        }
        let root = fs::File::open(dir.path().join("root")).unwrap().into();
        (dir, root)
    }

    #[test]
    fn nothing_outside_is_opened_and_no_link_followed() {
        let (_dir, root) = tree();
        for opener in [by_kernel as Opener, by_name] {
            opener(&root, Path::new("a/b/file")).unwrap();
            opener(&root, Path::new("")).unwrap();
            for bad in ["../outside", "/etc/passwd", "a/../../outside"] {
                assert_eq!(opener(&root, Path::new(bad)).unwrap_err(), Errno::XDEV, "{bad}");
            }
            for link in ["climbs", "absolute", "to-file", "to-dir/b/file", "loop"] {
                opener(&root, Path::new(link)).unwrap_err();
            }
        }
    }

    #[test]
    fn links_that_stay_inside_can_be_followed() {
        let (_dir, root) = tree();
        let follow = |path| {
            open(&root, Path::new(path), OFlags::RDONLY, Mode::empty(), Links::FollowInside)
        };
        follow("to-file").unwrap();
        follow("to-dir/b/file").unwrap();
        assert_eq!(follow("climbs").unwrap_err(), Errno::XDEV);
        assert_eq!(follow("absolute").unwrap_err(), Errno::XDEV);
        assert_eq!(follow("loop").unwrap_err(), Errno::LOOP);
    }
}
