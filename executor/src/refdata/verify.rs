//! Comparing a tree with its listing.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cts_shared::crc64nvme::Crc64NvmeHasher;
use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::RefdataFile;
use md5::{Digest, Md5};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::error::RefdataError;
use super::fingerprint::{self, Contents};
use super::layout::Layout;
use super::listing::{Listing, Origin};
use super::lock::{self, Lock};
use super::status::{self, Found};
use crate::beneath::{self, Links};

/// Files are read with a buffer of this size by each thread.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Disks and network file systems gain little beyond.
const MAX_THREADS: usize = 8;
/// So many differences are named; the others are counted.
const NAMED_DIFFERENCES: usize = 20;

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Verification {
    /// Files in the listing.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Entries that differ.
    pub different: u64,
    /// The first of them, by path.
    pub differences: Vec<Difference>,
    /// What the tree was staged from.
    #[serde(skip)]
    origin: Option<Origin>,
}

/// One entry that is not as its listing has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// Path below the tree.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Verification {
    /// Whether the tree is what its listing says.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.different == 0
    }
}

impl Verification {
    /// Of a tree whose listing is of no use.
    pub(super) fn without_listing(error: &RefdataError) -> Self {
        Self {
            different: 1,
            differences: vec![Difference {
                path: "md5.json".to_owned(),
                problem: format!("is no listing ({error})"),
            }],
            ..Self::default()
        }
    }

    pub(super) const fn contents(&self) -> Contents {
        Contents {
            files: self.files,
            bytes: self.bytes,
            origin: self.origin,
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> = self
            .differences
            .iter()
            .map(|Difference { path, problem }| format!("{path:?} {problem}"))
            .collect();
        let unnamed = self.different - named.len() as u64;
        match (self.different, unnamed) {
            (0, _) => write!(f, "{} files are as listed", self.files),
            (_, 0) => f.write_str(&named.join(", ")),
            _ => write!(f, "{} and {unnamed} more", named.join(", ")),
        }
    }
}

/// Takes the lock where it can be taken, compares, and writes the fingerprint if every byte was read.
pub(super) fn verify(
    layout: &Layout,
    id: &RefdataId,
    deep: bool,
    cancel: &CancellationToken,
) -> Result<Verification, RefdataError> {
    status::refuse_foreign(layout, id)?;
    if !Found::of(layout, id)?.is_done() {
        return Err(RefdataError::NotStaged {
            id: id.clone(),
            root: layout.root.clone(),
        });
    }
    let path = layout.lock(id);
    // Who may only read is not in anybody's way.
    let lock = match Lock::try_take(&path) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => {
            let holder = lock::holder(&path);
            let id = id.clone();
            return Err(RefdataError::Busy { id, holder });
        }
        Err(error) if lock::is_read_only(&error) => None,
        Err(error) => return Err(RefdataError::local("take the lock", &path)(error)),
    };
    if !deep {
        return compare(layout, id, false, cancel);
    }
    compare_and_note(layout, id, lock.is_some(), cancel)
}

/// Reads the whole tree; if it is right and has not been touched meanwhile, it is trusted from now on.
pub(super) fn compare_and_note(
    layout: &Layout,
    id: &RefdataId,
    may_write: bool,
    cancel: &CancellationToken,
) -> Result<Verification, RefdataError> {
    let tree = layout.tree(id);
    let fingerprint = || fingerprint::of(layout, id).map_err(RefdataError::local("look at", &tree));
    let before = fingerprint()?;
    let verification = compare(layout, id, true, cancel)?;
    if may_write && verification.is_good() && before == fingerprint()? {
        note_as_verified(layout, id, before, verification.contents());
    }
    Ok(verification)
}

/// Writes the fingerprint; without it the next one reads the tree again, which is no reason to fail.
pub(super) fn note_as_verified(
    layout: &Layout,
    id: &RefdataId,
    fingerprint: String,
    contents: Contents,
) {
    if let Err(error) = fingerprint::write(layout, id, fingerprint, contents) {
        tracing::warn!(
            "cannot write {}: {error}; reference data {id} will be read whole again before its next use",
            layout.fingerprint(id).display()
        );
    }
}

/// Compares the finished tree of `id` with its listing.
pub(super) fn compare(
    layout: &Layout,
    id: &RefdataId,
    deep: bool,
    cancel: &CancellationToken,
) -> Result<Verification, RefdataError> {
    let tree = layout.tree(id);
    let listing = Listing::load(&layout.listing(id))?;
    let mut found = Differences::default();
    compare_links(&tree, &listing, &mut found)?;
    find_unlisted(&tree, &listing, &mut found)?;
    let found = Mutex::new(found);
    let links = if listing.is_of_existing_server() {
        Links::FollowInside
    } else {
        Links::Refuse
    };
    compare_files(&tree, &listing.files, links, deep, &found, cancel)?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.named.sort();
    Ok(Verification {
        files: listing.files.len() as u64,
        bytes: listing.bytes(),
        different: found.count,
        differences: found.named,
        origin: listing.origin,
    })
}

/// Bounded, however much differs.
#[derive(Debug, Default)]
struct Differences {
    count: u64,
    named: Vec<Difference>,
}

impl Differences {
    fn add(&mut self, path: &str, problem: impl Into<String>) {
        self.count += 1;
        if self.named.len() < NAMED_DIFFERENCES {
            self.named.push(Difference {
                path: path.to_owned(),
                problem: problem.into(),
            });
        }
    }
}

fn compare_links(
    tree: &Path,
    listing: &Listing,
    found: &mut Differences,
) -> Result<(), RefdataError> {
    for link in &listing.links {
        let path = tree.join(&link.file);
        match fs::read_link(&path) {
            Ok(target) if target.as_os_str() == link.target.as_str() => {}
            Ok(target) => found.add(
                &link.file,
                format!("points to {target:?}, listed is {:?}", link.target),
            ),
            Err(error) if lock::is_absent(&error) => found.add(&link.file, "is missing"),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                found.add(&link.file, "is no symbolic link any more");
            }
            Err(error) => return Err(RefdataError::local("read", &path)(error)),
        }
    }
    Ok(())
}

/// What is in the tree and not in its listing.
fn find_unlisted(
    tree: &Path,
    listing: &Listing,
    found: &mut Differences,
) -> Result<(), RefdataError> {
    let files = listing.files.iter().map(|file| file.file.as_str());
    let links = listing.links.iter().map(|link| link.file.as_str());
    let listed: BTreeSet<&str> = files.chain(links).collect();
    let may_have_links = listing.is_of_existing_server();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |error| RefdataError::local("list", &directory)(error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_type = entry.file_type().map_err(failed)?;
            if file_type.is_dir() {
                directories.push(entry.path());
                continue;
            }
            if file_type.is_symlink() && may_have_links {
                continue;
            }
            let path = entry.path();
            let below = path.strip_prefix(tree).unwrap_or(&path).to_string_lossy();
            if !listed.contains(below.as_ref()) {
                found.add(&below, "is not in the listing");
            }
        }
    }
    Ok(())
}

/// Compares the files, several at once: the threads take the next one from a shared index.
fn compare_files(
    tree: &Path,
    files: &[RefdataFile],
    links: Links,
    deep: bool,
    found: &Mutex<Differences>,
    cancel: &CancellationToken,
) -> Result<(), RefdataError> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let directory = File::open(tree).map_err(RefdataError::local("open", tree))?;
    let threads = processors.clamp(2, MAX_THREADS).min(files.len());
    let next = AtomicUsize::new(0);
    let compare_some = || {
        let mut buffer = vec![0; if deep { BUFFER_BYTES } else { 0 }];
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cancel.is_cancelled() {
                return Err(RefdataError::Cancelled);
            }
            if let Some(problem) = compare_file(tree, &directory, file, links, &mut buffer, cancel)?
            {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.add(&file.file, problem);
            }
        }
        Ok(())
    };
    let work = || {
        let compared = compare_some();
        if compared.is_err() {
            // The others need not go on.
            next.store(files.len(), Ordering::Relaxed);
        }
        compared
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| {
                let cause = io::Error::other("a thread that read it panicked; please report it");
                Err(RefdataError::local("verify", tree)(cause))
            })
        })
    })
}

/// What is wrong with a file; its bytes are read if there is a buffer for them.
fn compare_file(
    tree: &Path,
    directory: &File,
    listed: &RefdataFile,
    links: Links,
    buffer: &mut [u8],
    cancel: &CancellationToken,
) -> Result<Option<String>, RefdataError> {
    let path = tree.join(&listed.file);
    let below = Path::new(&listed.file);
    let problem = |text: &str| Ok(Some(text.to_owned()));
    let open = |flags| beneath::open(directory, below, flags, Mode::empty(), links);
    // Not for reading: it may be a pipe, or not readable.
    let there = match open(OFlags::PATH) {
        Ok(there) => File::from(there),
        Err(Errno::NOENT | Errno::NOTDIR) => return problem("is missing"),
        Err(Errno::LOOP) => return problem("is, or lies behind, a symbolic link"),
        Err(Errno::XDEV) => return problem("is a symbolic link that leads out of the tree"),
        Err(errno) => return Err(RefdataError::local("look at", &path)(errno.into())),
    };
    let metadata = there.metadata();
    let metadata = metadata.map_err(RefdataError::local("look at", &path))?;
    if !metadata.is_file() {
        return problem("is no regular file any more");
    }
    if metadata.len() != listed.size {
        let size = metadata.len();
        return Ok(Some(format!(
            "has {size} bytes, listed are {}",
            listed.size
        )));
    }
    if buffer.is_empty() {
        return Ok(None);
    }
    // Unreadable sectors and lost rights are for the operator; they are no verdict.
    let file = open(OFlags::RDONLY | OFlags::NONBLOCK)
        .map_err(|errno| RefdataError::local("read", &path)(errno.into()))?;
    let file = File::from(file);
    let mut hasher = Hasher::of(listed);
    let mut at = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(RefdataError::Cancelled);
        }
        let count = match file.read_at(buffer, at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(RefdataError::local("read", &path)(error)),
        };
        hasher.update(buffer.get(..count).unwrap_or_default());
        at += count as u64;
    }
    Ok(hasher.problem(listed))
}

/// The CRC64NVME is much faster and as good against damage; the MD5 is for what the existing server staged.
#[expect(clippy::large_enum_variant, reason = "one per thread, on its stack")]
enum Hasher {
    Crc64Nvme(Crc64NvmeHasher),
    Md5(Md5),
}

impl Hasher {
    fn of(listed: &RefdataFile) -> Self {
        match listed.crc64nvme {
            Some(_) => Self::Crc64Nvme(Crc64NvmeHasher::new()),
            None => Self::Md5(Md5::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc64Nvme(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
        }
    }

    fn problem(self, listed: &RefdataFile) -> Option<String> {
        match self {
            Self::Crc64Nvme(hasher) => {
                let (actual, expected) = (hasher.finish(), listed.crc64nvme?);
                (actual != expected)
                    .then(|| format!("has CRC64NVME {actual}, listed is {expected}"))
            }
            Self::Md5(hasher) => {
                let actual: String = hasher
                    .finalize()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                (!actual.eq_ignore_ascii_case(&listed.md5))
                    .then(|| format!("has MD5 {actual}, listed is {}", listed.md5))
            }
        }
    }
}
