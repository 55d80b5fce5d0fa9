//! The walk over the output tree.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use cts_shared::s3_path::{S3Path, Violation};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::{
    CollectError, Collected, CollectedFile, FileIdentity, UnusableOutputs, open_regular,
};
use crate::beneath::{self, Links};

/// Longest path that is looked into, in bytes: nothing below a longer one can be an S3 key, and
/// the kernel takes no path of 4,096.
const MAX_PATH_BYTES: usize = 1024;

/// How much a container may leave.
#[derive(Debug, Clone, Copy)]
pub struct CollectLimits {
    /// Files, directories and links together. A file takes about 150 bytes of memory.
    pub max_entries: usize,
}

impl Default for CollectLimits {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
        }
    }
}

/// Walks the tree below `root` and finds what will be uploaded below `output_dir` (bucket first, no
/// slash at the end). Blocks on the disk: call it where that does no harm.
///
/// # Errors
/// [`CollectError`]; nothing of the tree may then be uploaded.
pub fn collect(
    root: &Path,
    output_dir: &str,
    limits: CollectLimits,
    cancel: &CancellationToken,
) -> Result<Collected, CollectError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root_error = |errno: Errno| CollectError::Root {
        path: root.to_owned(),
        cause: errno.into(),
    };
    let root_fd = rustix::fs::open(root, flags, Mode::empty()).map_err(root_error)?;
    let mut walk = Walk {
        root: Arc::new(root_fd),
        output_dir,
        files: Vec::new(),
        skipped_links: 0,
        unusable: UnusableOutputs::default(),
        directories: vec![Vec::new()],
        entries: 0,
    };
    while let Some(directory) = walk.directories.pop() {
        if cancel.is_cancelled() {
            return Err(CollectError::Cancelled);
        }
        match walk.list(&directory, limits, cancel) {
            Ok(()) => {}
            Err(ListError::Stop(error)) => return Err(error),
            Err(ListError::Directory(errno)) if directory.is_empty() => {
                return Err(root_error(errno));
            }
            Err(ListError::Directory(errno)) => {
                walk.unusable.add(&directory, unreadable("directory", errno));
            }
        }
    }
    if walk.unusable.count() > 0 {
        return Err(CollectError::Unusable(walk.unusable));
    }
    walk.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Collected {
        files: walk.files,
        skipped_links: walk.skipped_links,
    })
}

struct Walk<'a> {
    root: Arc<OwnedFd>,
    output_dir: &'a str,
    files: Vec<CollectedFile>,
    skipped_links: u64,
    unusable: UnusableOutputs,
    /// Directories still to be listed. By path, so that the open descriptors are few whatever the
    /// depth.
    directories: Vec<Vec<u8>>,
    entries: usize,
}

enum ListError {
    /// This directory cannot be listed.
    Directory(Errno),
    /// The walk ends.
    Stop(CollectError),
}

impl From<Errno> for ListError {
    fn from(errno: Errno) -> Self {
        Self::Directory(errno)
    }
}

impl Walk<'_> {
    fn list(
        &mut self,
        directory: &[u8],
        limits: CollectLimits,
        cancel: &CancellationToken,
    ) -> Result<(), ListError> {
        let path = Path::new(OsStr::from_bytes(directory));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = beneath::open(&self.root, path, flags, Mode::empty(), Links::Refuse)?;
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > limits.max_entries {
                return Err(ListError::Stop(CollectError::TooMany {
                    limit: limits.max_entries,
                }));
            }
            if self.entries.is_multiple_of(1024) && cancel.is_cancelled() {
                return Err(ListError::Stop(CollectError::Cancelled));
            }
            let path = join(directory, name);
            if let Err(reason) = self.visit(&fd, name, &path) {
                self.unusable.add(&path, reason);
            }
        }
        Ok(())
    }

    /// Looks at one name; the reason when it is unusable.
    fn visit(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), String> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| unreadable("file", errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if path.len() > MAX_PATH_BYTES => {
                Err("is too deep: no S3 key is longer than 1024 bytes".to_owned())
            }
            FileType::Directory => {
                self.directories.push(path.to_owned());
                Ok(())
            }
            FileType::RegularFile => self.add(path, Links::Refuse),
            FileType::Symlink => self.visit_link(path),
            other => Err(special(other)),
        }
    }

    fn visit_link(&mut self, path: &[u8]) -> Result<(), String> {
        // PATH: a descriptor that says what it is of, without opening it.
        let target = beneath::open(
            &self.root,
            Path::new(OsStr::from_bytes(path)),
            OFlags::PATH,
            Mode::empty(),
            Links::FollowInside,
        )
        .map_err(|errno| match errno {
            Errno::XDEV => "is a link that leads out of the output directory; use a relative link \
                            or a copy"
                .to_owned(),
            Errno::NOENT | Errno::NOTDIR => "is a link to nothing".to_owned(),
            Errno::LOOP => "is a link that cannot be followed (a loop, or a link this machine's \
                            kernel cannot check)"
                .to_owned(),
            errno => unreadable("link", errno),
        })?;
        let stat = rustix::fs::fstat(&target).map_err(|errno| unreadable("link", errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.skipped_links += 1;
                Ok(())
            }
            FileType::RegularFile => self.add(path, Links::FollowInside),
            other => Err(format!("is a link to something that {}", special(other))),
        }
    }

    /// Adds a file that can be read and named. It is opened to see that it can be, and that it is
    /// still a file: who knows what the name means by now.
    fn add(&mut self, path: &[u8], links: Links) -> Result<(), String> {
        let name = key_suffix(self.output_dir, path)?;
        let file = open_regular(&self.root, Path::new(name), links)
            .map_err(|error| unreadable("file", errno_of(&error)))?;
        let metadata = file
            .metadata()
            .map_err(|error| unreadable("file", errno_of(&error)))?;
        if !metadata.is_file() {
            return Err("changed while it was being looked at".to_owned());
        }
        let identity =
            FileIdentity::of(&file).map_err(|error| unreadable("file", errno_of(&error)))?;
        self.files.push(CollectedFile {
            root: Arc::clone(&self.root),
            path: name.into(),
            identity,
            is_link: links == Links::FollowInside,
        });
        Ok(())
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_owned();
    }
    [directory, b"/", name].concat()
}

/// The path as text, if it can end an S3 key below `output_dir`.
fn key_suffix<'p>(output_dir: &str, path: &'p [u8]) -> Result<&'p str, String> {
    let Ok(text) = std::str::from_utf8(path) else {
        return Err("is not UTF-8".to_owned());
    };
    match S3Path::parse(&format!("{output_dir}/{text}")) {
        Ok(_) => Ok(text),
        Err(error) => Err(match error.violation() {
            Violation::KeyTooLong => "would be an S3 key of more than 1024 bytes".to_owned(),
            Violation::IllegalCharacters => "has a ' or ;".to_owned(),
            Violation::ControlCharacter => {
                "has a control, format, private or unassigned character".to_owned()
            }
            other => format!("cannot be an S3 key: {other}"),
        }),
    }
}

fn unreadable(what: &str, errno: Errno) -> String {
    match errno {
        Errno::ACCESS => format!("is a {what} that only the container's user may read"),
        errno => format!("is a {what} that cannot be read: {errno}"),
    }
}

fn special(file_type: FileType) -> String {
    let what = match file_type {
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::BlockDevice | FileType::CharacterDevice => "a device",
        _ => "no regular file",
    };
    format!("is {what}")
}
