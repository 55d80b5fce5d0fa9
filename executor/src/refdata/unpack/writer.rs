//! The side that writes: makes files, directories and links below the tree, and hashes what it writes.
//!
//! It runs on a thread of its own, so that decompressing does not wait for it. The file system is what knows
//! which names are taken: files are made only where nothing is, and every directory on the way is opened
//! without following links, so that no member can undo or redirect another.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};

use cts_shared::crc64nvme::Crc64NvmeHasher;
use cts_shared::wire::refdata::RefdataFile;
use md5::{Digest, Md5};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Reason, UnpackError};
use super::member::{MemberPath, refused};
use crate::beneath::{self, Links};
use crate::refdata::limits::StagingLimits;
use crate::refdata::listing::{Link, Listing};
use crate::refdata::progress::StagingCounters;

/// Names may have this many bytes for each entry that is allowed: ten times what real ones have.
const NAME_BYTES_PER_ENTRY: u64 = 256;
/// And so many in any case: a few long names are fine.
const NAME_BYTES_AT_LEAST: u64 = 1024 * 1024;

/// What is to be written next.
#[derive(Debug)]
pub(super) enum Step {
    /// A directory.
    Directory(MemberPath),
    /// A file and its first bytes.
    File {
        path: MemberPath,
        executable: bool,
        first: Chunk,
    },
    /// More bytes of the file.
    More(Chunk),
    /// A symbolic link.
    Link { path: MemberPath, target: String },
    /// A second name of a file.
    HardLink {
        path: MemberPath,
        target: MemberPath,
    },
}

/// Bytes of a file, in a buffer that goes back to the reading side.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) buffer: Vec<u8>,
    pub(super) filled: usize,
    /// The file ends with it.
    pub(super) last: bool,
}

/// Writes below one tree.
pub(super) struct Writer<'a> {
    tree: OwnedFd,
    limits: &'a StagingLimits,
    counters: &'a StagingCounters,
    used: Sender<Vec<u8>>,
    /// The directory that was written to last: most members have the same as the one before.
    at: Option<(String, OwnedFd)>,
    open: Option<OpenFile>,
    entries: u64,
    /// Of the names and links' targets of all entries.
    name_bytes: u64,
    listing: Listing,
    hard_links: Vec<(MemberPath, MemberPath)>,
}

struct OpenFile {
    path: MemberPath,
    file: File,
    md5: Md5,
    crc: Crc64NvmeHasher,
}

impl<'a> Writer<'a> {
    /// Writes below `tree`; buffers go back through `used`.
    pub(super) fn new(
        tree: &Path,
        limits: &'a StagingLimits,
        counters: &'a StagingCounters,
        used: Sender<Vec<u8>>,
    ) -> Result<Self, UnpackError> {
        // Opened before anything is written: `syncfs` tells of what has failed since.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(tree, flags, Mode::empty())
            .map_err(|errno| UnpackError::write(&tree.to_string_lossy(), errno))?;
        Ok(Self {
            tree: fd,
            limits,
            counters,
            used,
            at: None,
            open: None,
            entries: 0,
            name_bytes: 0,
            listing: Listing::default(),
            hard_links: Vec::new(),
        })
    }

    /// Takes steps until there are no more or one fails.
    pub(super) fn run(mut self, steps: &Receiver<Step>) -> Result<Self, UnpackError> {
        for step in steps {
            match step {
                Step::Directory(path) => self.directory(&path)?,
                Step::File {
                    path,
                    executable,
                    first,
                } => {
                    self.file(path, executable)?;
                    self.write(first)?;
                }
                Step::More(chunk) => self.write(chunk)?,
                Step::Link { path, target } => self.link(&path, target)?,
                Step::HardLink { path, target } => self.hard_link(path, target)?,
            }
        }
        Ok(self)
    }

    /// Ends the work: every link is looked at with the whole tree in place, and all is on the disk.
    pub(super) fn finish(mut self) -> Result<Listing, UnpackError> {
        for link in &self.listing.links {
            self.check_link(&link.file)?;
        }
        self.list_hard_links();
        self.listing.sort();
        // Once for all files: an fsync of each takes many times as long.
        rustix::fs::syncfs(&self.tree).map_err(|errno| UnpackError::write(".", errno))?;
        Ok(self.listing)
    }

    /// One entry more, with so many bytes of names: the listing keeps them in memory.
    fn count(&mut self, path: &str, names: usize) -> Result<(), UnpackError> {
        self.entries += 1;
        let limit = self.limits.max_entries;
        if self.entries > limit {
            return Err(refused(path.as_bytes(), Reason::TooManyEntries { limit }));
        }
        self.name_bytes = self.name_bytes.saturating_add(names as u64);
        let limit = limit
            .saturating_mul(NAME_BYTES_PER_ENTRY)
            .saturating_add(NAME_BYTES_AT_LEAST);
        if self.name_bytes > limit {
            return Err(refused(path.as_bytes(), Reason::NamesTooLong { limit }));
        }
        Ok(())
    }

    fn directory(&mut self, path: &MemberPath) -> Result<(), UnpackError> {
        let text = path.as_str();
        self.count(text, text.len())?;
        if text.is_empty() {
            return Ok(());
        }
        let (parent, name) = path.split();
        self.enter(parent, text)?;
        match rustix::fs::mkdirat(self.at(), name, directory_mode()) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match self.file_type(name) {
                Ok(FileType::Directory) => Ok(()),
                Ok(_) => Err(refused(text.as_bytes(), Reason::Collision)),
                Err(errno) => Err(UnpackError::write(text, errno)),
            },
            Err(errno) => Err(UnpackError::write(text, errno)),
        }
    }

    fn file(&mut self, path: MemberPath, executable: bool) -> Result<(), UnpackError> {
        let text = path.as_str();
        self.count(text, text.len())?;
        let (parent, name) = path.split();
        self.enter(parent, text)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let file = rustix::fs::openat(self.at(), name, flags, mode)
            .map_err(|errno| not_made(text, errno))?;
        self.open = Some(OpenFile {
            file: file.into(),
            md5: Md5::new(),
            crc: Crc64NvmeHasher::new(),
            path,
        });
        Ok(())
    }

    fn write(&mut self, chunk: Chunk) -> Result<(), UnpackError> {
        let Some(open) = self.open.as_mut() else {
            return Ok(());
        };
        let bytes = chunk.buffer.get(..chunk.filled).unwrap_or_default();
        open.file.write_all(bytes).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            UnpackError::write(open.path.as_str(), errno)
        })?;
        open.md5.update(bytes);
        open.crc.update(bytes);
        self.counters.add_unpacked(bytes.len() as u64);
        // Who reads may have ended in an error and want none back.
        let _ = self.used.send(chunk.buffer);
        if chunk.last {
            if let Some(open) = self.open.take() {
                self.listing.files.push(open.listed());
            }
            self.counters.finish_file();
        }
        Ok(())
    }

    fn link(&mut self, path: &MemberPath, target: String) -> Result<(), UnpackError> {
        let text = path.as_str();
        self.count(text, text.len() + target.len())?;
        let (parent, name) = path.split();
        self.enter(parent, text)?;
        rustix::fs::symlinkat(target.as_str(), self.at(), name)
            .map_err(|errno| not_made(text, errno))?;
        self.listing.links.push(Link {
            file: text.to_owned(),
            target,
        });
        Ok(())
    }

    fn hard_link(&mut self, path: MemberPath, target: MemberPath) -> Result<(), UnpackError> {
        let text = path.as_str();
        self.count(text, text.len() + target.as_str().len())?;
        let no_target = || refused(text.as_bytes(), Reason::HardLinkTarget);
        let (target_parent, target_name) = target.split();
        let through = OFlags::PATH | OFlags::DIRECTORY;
        let from = beneath::open(
            &self.tree,
            Path::new(target_parent),
            through,
            Mode::empty(),
            Links::Refuse,
        )
        .map_err(|_| no_target())?;
        match rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            _ => return Err(no_target()),
        }
        let (parent, name) = path.split();
        self.enter(parent, text)?;
        rustix::fs::linkat(&from, target_name, self.at(), name, AtFlags::empty())
            .map_err(|errno| not_made(text, errno))?;
        self.counters.finish_file();
        self.hard_links.push((path, target));
        Ok(())
    }

    /// Lists hard links as the files that they are.
    fn list_hard_links(&mut self) {
        if self.hard_links.is_empty() {
            return;
        }
        let mut by_path: HashMap<String, usize> = (0..)
            .zip(&self.listing.files)
            .map(|(index, file)| (file.file.clone(), index))
            .collect();
        for (path, target) in self.hard_links.drain(..) {
            let index = by_path.get(target.as_str()).copied();
            if let Some(file) = index.and_then(|index| self.listing.files.get(index)) {
                let file = RefdataFile {
                    file: path.as_str().to_owned(),
                    ..file.clone()
                };
                by_path.insert(file.file.clone(), self.listing.files.len());
                self.listing.files.push(file);
            }
        }
    }

    /// Follows a link as a container would, as far as the tree goes. One to nothing is let be.
    fn check_link(&self, path: &str) -> Result<(), UnpackError> {
        let wrong = |reason| Err(refused(path.as_bytes(), reason));
        let follow = Links::FollowInside;
        let to = match beneath::open(
            &self.tree,
            Path::new(path),
            OFlags::PATH,
            Mode::empty(),
            follow,
        ) {
            Ok(to) => to,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::XDEV) => return wrong(Reason::LinkLeaves),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NAMETOOLONG) => {
                return wrong(Reason::LinkUnresolvable);
            }
            Err(errno) => return Err(UnpackError::write(path, errno)),
        };
        let stat = rustix::fs::fstat(&to).map_err(|errno| UnpackError::write(path, errno))?;
        // A kernel that cannot check where links lead opens the link itself.
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => wrong(Reason::LinkUnresolvable),
            _ => Ok(()),
        }
    }

    /// The directory entered last.
    fn at(&self) -> BorrowedFd<'_> {
        match &self.at {
            Some((_, fd)) => fd.as_fd(),
            None => self.tree.as_fd(),
        }
    }

    fn file_type(&self, name: &str) -> Result<FileType, Errno> {
        let stat = rustix::fs::statat(self.at(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    /// Enters `directory`, made if it is not there, on behalf of `member`.
    fn enter(&mut self, directory: &str, member: &str) -> Result<(), UnpackError> {
        if directory.is_empty() {
            self.at = None;
            return Ok(());
        }
        if self.at.as_ref().is_some_and(|(at, _)| at == directory) {
            return Ok(());
        }
        let through = OFlags::PATH | OFlags::DIRECTORY;
        let path = Path::new(directory);
        if let Ok(fd) = beneath::open(&self.tree, path, through, Mode::empty(), Links::Refuse) {
            self.at = Some((directory.to_owned(), fd));
            return Ok(());
        }
        // Name by name: makes what is not there, and finds which name is in the way. The name of where this is
        // only becomes true with the last; an error before ends the writer.
        self.at = None;
        for name in directory.split('/') {
            match rustix::fs::mkdirat(self.at(), name, directory_mode()) {
                Ok(()) => self.count(member, member.len())?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(UnpackError::write(member, errno)),
            }
            let flags = through | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(self.at(), name, flags, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let reason = match self.file_type(name) {
                        Ok(FileType::Symlink) => Reason::ThroughLink,
                        _ => Reason::BelowFile,
                    };
                    return Err(refused(member.as_bytes(), reason));
                }
                Err(errno) => return Err(UnpackError::write(member, errno)),
            };
            self.at = Some((directory.to_owned(), fd));
        }
        Ok(())
    }
}

impl OpenFile {
    fn listed(self) -> RefdataFile {
        RefdataFile {
            file: self.path.as_str().to_owned(),
            md5: hexadecimal(&self.md5.finalize()),
            size: self.crc.len_bytes(),
            crc64nvme: Some(self.crc.finish()),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn directory_mode() -> Mode {
    Mode::from_raw_mode(0o755)
}

/// Something could not be made at `path`.
fn not_made(path: &str, errno: Errno) -> UnpackError {
    match errno {
        Errno::EXIST => refused(path.as_bytes(), Reason::Collision),
        errno => UnpackError::write(path, errno),
    }
}
