//! One worker per item, over all processes that share the metadata: `flock` on a file. The kernel frees the
//! lock of a holder that dies, however it dies. Over NFS it holds between machines as well (Linux turns it
//! into a lock of the server's).
//!
//! The file may be removed by who holds it ([`Lock::remove_file`]); whoever gets a lock therefore looks
//! whether its file is still the one at the path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Between two tries: `flock` cannot be waited for and cancelled at once.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// So often a directory that a removal takes away is made again.
const MAKING_TRIES: usize = 100;

/// A note of a holder has some hundred bytes; more is not read.
const MAX_NOTE_BYTES: u64 = 4096;

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// Not only by closing the file: a child that another thread is just starting has it open, too.
impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!("{} is freed by closing it: {error}", self.path.display());
        }
    }
}

/// Who holds a lock, as the holder wrote into its file. For messages only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    since: String,
}

impl Holder {
    fn here() -> Self {
        Self {
            host: host_name(),
            pid: std::process::id(),
            since: jiff::Timestamp::now().to_string(),
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, pid, since } = self;
        let (host, since) = (host.escape_debug(), since.escape_debug());
        write!(f, "process {pid} on {host}, since {since}")
    }
}

/// This machine's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

impl Lock {
    /// Takes the lock if nobody holds it; makes its file, and the directories above, if needed.
    pub(super) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let mut file = open(path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
            if !is_at(&file, path)? {
                continue;
            }
            sign(&mut file);
            return Ok(Some(Self {
                file,
                path: path.to_owned(),
            }));
        }
    }

    /// Waits for the lock; says in the log whom it waits for. None if cancelled. Cancel safe.
    pub(super) async fn take(path: &Path, cancel: &CancellationToken) -> io::Result<Option<Self>> {
        let mut has_said = false;
        loop {
            let tried = path.to_owned();
            // A file system that hangs must not hold up the caller's runtime.
            let tried = tokio::task::spawn_blocking(move || match Self::try_take(&tried)? {
                Some(lock) => Ok(Ok(lock)),
                None => Ok(Err(holder(&tried))),
            });
            match tried.await.map_err(io::Error::other)? {
                Ok(Ok(lock)) => return Ok(Some(lock)),
                Ok(Err(holder)) if !has_said => {
                    has_said = true;
                    tracing::info!("waiting for the lock {}, held by {holder}", path.display());
                }
                Ok(Err(_)) => {}
                Err(error) => return Err(error),
            }
            let waited = cancel.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL));
            if waited.await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Whether someone holds the lock at this moment. Makes no file. For lists only: a [`try_take`](Self::try_take)
    /// at the very same moment may fail because of it.
    pub(super) fn is_held(path: &Path) -> io::Result<bool> {
        let file = match open_to_read(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        // Shared, so that two who look do not see each other.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the lock's file: of an item that is no more.
    pub(super) fn remove_file(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Whether an error means that there is no such file: also where a file stands in a directory's place.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether an error means that this process may look here but not write.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

/// The holder in words.
pub(super) fn holder(path: &Path) -> String {
    let read = || {
        let mut text = Vec::new();
        open_to_read(path)?
            .take(MAX_NOTE_BYTES)
            .read_to_end(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    match read().map(|text| serde_json::from_slice::<Holder>(&text)) {
        Ok(Ok(holder)) => holder.to_string(),
        _ => "an unknown process".to_owned(),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NO_FOLLOWING)
            .open(path)
    };
    for _ in 0..MAKING_TRIES {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.and_then(regular),
        }
        if let Some(parent) = path.parent() {
            // A removal may take the directory at any time.
            match fs::create_dir_all(parent) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    open().and_then(regular)
}

/// Neither through a link nor waiting for a pipe's other end: others may write in the directory, too.
const NO_FOLLOWING: i32 = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .bits()
    .cast_signed();

/// Opens a small file of the metadata for reading.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(NO_FOLLOWING)
        .open(path)
        .and_then(regular)
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no regular file; remove it"))
    }
}

/// Whether this file is the one at the path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    // Over NFS a name may be remembered for seconds after its file was removed.
    if ours.nlink() == 0 {
        return Ok(false);
    }
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes who holds the lock. Only messages need it, so that a full disk is no reason to fail.
fn sign(file: &mut File) {
    let written = serde_json::to_vec(&Holder::here())
        .map_err(io::Error::from)
        .and_then(|text| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)
        });
    if let Err(error) = written {
        tracing::debug!("cannot write who holds the lock: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holds_it_at_a_time_and_its_name_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id/lock");
        assert!(!Lock::is_held(&path).unwrap());
        let lock = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(Lock::is_held(&path).unwrap());
        let process = format!("process {} on ", std::process::id());
        assert!(holder(&path).starts_with(&process), "{}", holder(&path));
        drop(lock);
        assert!(!Lock::is_held(&path).unwrap());
        assert!(Lock::try_take(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn who_waits_gets_it_although_its_file_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id/lock");
        let first = Lock::try_take(&path).unwrap().unwrap();
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { Lock::take(&path, &CancellationToken::new()).await }
        });
        tokio::task::yield_now().await;
        first.remove_file().unwrap();
        let second = waiting.await.unwrap().unwrap().unwrap();
        assert!(path.exists() && Lock::try_take(&path).unwrap().is_none());
        drop(second);
    }

    #[test]
    fn a_directory_that_is_removed_at_the_same_time_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id/lock");
        let (round, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut removed_in = 0;
                while !ended.load(Ordering::Relaxed) {
                    let now = round.load(Ordering::Relaxed);
                    // Once in a round, at any moment of it; it is refused while there is something in it.
                    if removed_in != now && fs::remove_dir(dir.path().join("id")).is_ok() {
                        removed_in = now;
                    }
                }
            });
            for _ in 0..2000 {
                round.fetch_add(1, Ordering::Relaxed);
                let taken = Lock::try_take(&path).and_then(|lock| match lock {
                    Some(lock) => lock.remove_file(),
                    None => Err(io::Error::other("somebody holds it")),
                });
                if let Err(error) = taken {
                    ended.store(true, Ordering::Relaxed);
                    panic!("{error}");
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
    }

    #[tokio::test]
    async fn waiting_ends_when_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _held = Lock::try_take(&path).unwrap().unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(Lock::take(&path, &cancel).await.unwrap().is_none());
    }
}
