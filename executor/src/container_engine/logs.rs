//! Keeps what a container prints: two files, bounded in size, written with constant memory.
//!
//! Of each stream the first half of its allowance is kept as it comes. What follows goes round in an unnamed
//! temporary file of the other half's size, so that at the end the *last* part is there too; it is then appended after
//! a line that says exactly how many bytes were left out between. Bytes are bytes: lines of any length and
//! binary output make no difference. A write error (disk full) is remembered and reported; the container is never
//! blocked by it and the other stream goes on.
//!
//! Disk space: at most one and a half times the allowance per stream, for the moment of the final append.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::LogTail;

/// Default allowance of one stream.
pub const DEFAULT_LIMIT_BYTES: u64 = 1 << 30;

/// How much of each stream's end is kept in memory.
pub const TAIL_BYTES: usize = 4096;

/// Pieces under way between the engine and the disk; the engine sends up to 32 KiB in one.
const QUEUE_PIECES: usize = 32;

/// A log file could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot create log file {}: {cause}; check that the working directory is writable and has space", path.display())]
pub struct LogFileError {
    path: PathBuf,
    cause: io::Error,
}

/// What became of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Bytes the container printed.
    pub printed_bytes: u64,
    /// Bytes of those that are not in the file.
    pub dropped_bytes: u64,
    /// Why bytes are missing or may be, other than by the allowance.
    pub error: Option<String>,
}

/// The two log files of a container, created empty.
#[derive(Debug)]
pub struct ContainerLogs {
    stdout: BoundedLog,
    stderr: BoundedLog,
}

impl ContainerLogs {
    /// Creates (or empties) both files. Do it first thing in a run: `HTCondor` holds a job whose log
    /// files are missing, and the hold then hides the cause.
    ///
    /// `limit_bytes` is the allowance of each stream.
    ///
    /// # Errors
    /// When a file cannot be created.
    pub fn create(stdout: &Path, stderr: &Path, limit_bytes: u64) -> Result<Self, LogFileError> {
        Ok(Self {
            stdout: BoundedLog::create(stdout, limit_bytes)?,
            stderr: BoundedLog::create(stderr, limit_bytes)?,
        })
    }

    /// A view of the streams' ends that stays valid while the logs are written.
    pub(super) fn tails(&self) -> Tails {
        Tails {
            stdout: Arc::clone(&self.stdout.tail),
            stderr: Arc::clone(&self.stderr.tail),
        }
    }

    /// Starts writing on a thread for blocking work. The writer ends when every sender is dropped.
    pub(super) fn start(self) -> (LogSender, LogWriter) {
        let (sender, mut receiver) = mpsc::channel::<Piece>(QUEUE_PIECES);
        let Self {
            mut stdout,
            mut stderr,
        } = self;
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = receiver.blocking_recv() {
                match piece {
                    Piece::Stdout(bytes) => stdout.write(&bytes),
                    Piece::Stderr(bytes) => stderr.write(&bytes),
                    Piece::Broken(reason) => {
                        stdout.fail(&reason);
                        stderr.fail(&reason);
                    }
                }
            }
            (stdout.finish(), stderr.finish())
        });
        (LogSender(sender), LogWriter(writer))
    }
}

#[derive(Debug)]
enum Piece {
    Stdout(Bytes),
    Stderr(Bytes),
    /// Output may be missing from here on, and why.
    Broken(String),
}

/// Where an engine puts what the container prints. Waits when the disk is slower than the container.
#[derive(Debug, Clone)]
pub(super) struct LogSender(mpsc::Sender<Piece>);

impl LogSender {
    pub(super) async fn stdout(&self, bytes: Bytes) {
        self.send(Piece::Stdout(bytes)).await;
    }

    pub(super) async fn stderr(&self, bytes: Bytes) {
        self.send(Piece::Stderr(bytes)).await;
    }

    pub(super) async fn broken(&self, reason: String) {
        self.send(Piece::Broken(reason)).await;
    }

    async fn send(&self, piece: Piece) {
        // The writer outlives every sender; it is gone only when the process is going down.
        if self.0.send(piece).await.is_err() {
            tracing::warn!("container output came after its log files were closed");
        }
    }
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct LogWriter(tokio::task::JoinHandle<(LogSummary, LogSummary)>);

impl LogWriter {
    /// Waits until everything is in the files. Standard output's summary comes first.
    pub(super) async fn finish(self) -> (LogSummary, LogSummary) {
        self.0.await.unwrap_or_else(|error| {
            let lost = LogSummary {
                error: Some(format!("the log writer failed: {error}")),
                ..LogSummary::default()
            };
            (lost.clone(), lost)
        })
    }
}

/// The ends of both streams, readable while they are written.
#[derive(Debug, Clone)]
pub(super) struct Tails {
    stdout: Arc<Mutex<VecDeque<u8>>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
}

impl Tails {
    pub(super) fn read(&self) -> LogTail {
        LogTail {
            stdout: text_of(&self.stdout),
            stderr: text_of(&self.stderr),
        }
    }
}

fn text_of(tail: &Mutex<VecDeque<u8>>) -> String {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(tail.make_contiguous()).into_owned()
}

/// One stream's file.
#[derive(Debug)]
struct BoundedLog {
    path: PathBuf,
    file: File,
    /// Bytes the first part may still take.
    head_left: u64,
    ring_capacity: u64,
    ring: Option<Ring>,
    printed: u64,
    kept: u64,
    error: Option<String>,
    /// A write failed: nothing more is written.
    closed: bool,
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl BoundedLog {
    fn create(path: &Path, limit_bytes: u64) -> Result<Self, LogFileError> {
        let file = File::create(path).map_err(|cause| LogFileError {
            path: path.to_owned(),
            cause,
        })?;
        let ring_capacity = limit_bytes / 2;
        Ok(Self {
            path: path.to_owned(),
            file,
            head_left: limit_bytes - ring_capacity,
            ring_capacity,
            ring: None,
            printed: 0,
            kept: 0,
            error: None,
            closed: false,
            tail: Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_BYTES))),
        })
    }

    fn write(&mut self, bytes: &[u8]) {
        self.printed += length(bytes);
        self.remember(bytes);
        if self.closed {
            return;
        }
        let head = usize::try_from(self.head_left)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let (head, rest) = bytes.split_at(head);
        let (taken, result) = write_counted(&mut self.file, head);
        self.head_left -= taken;
        self.kept += taken;
        let result = result.and_then(|()| self.write_ring(rest));
        if let Err(error) = result {
            self.closed = true;
            let reason = format!("cannot write {}: {error}", self.path.display());
            self.fail(&reason);
        }
    }

    fn write_ring(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.ring_capacity == 0 {
            return Ok(());
        }
        let ring = match &mut self.ring {
            Some(ring) => ring,
            none => none.insert(Ring::create(&self.path, self.ring_capacity)?),
        };
        ring.write(bytes)
    }

    /// Remembers the first reason why output is or may be missing.
    fn fail(&mut self, reason: &str) {
        if self.error.is_none() {
            tracing::warn!(log = %self.path.display(), reason, "container output is or may be missing");
            self.error = Some(reason.to_owned());
        }
    }

    fn remember(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, last) = bytes.split_at(bytes.len().saturating_sub(TAIL_BYTES));
        let excess = (tail.len() + last.len()).saturating_sub(TAIL_BYTES);
        tail.drain(..excess);
        tail.extend(last);
    }

    fn finish(mut self) -> LogSummary {
        if let Err(error) = self.append_ring() {
            let reason = format!("cannot write {}: {error}", self.path.display());
            self.fail(&reason);
        }
        LogSummary {
            printed_bytes: self.printed,
            dropped_bytes: self.printed - self.kept,
            error: self.error,
        }
    }

    fn append_ring(&mut self) -> io::Result<()> {
        let gap = match &self.ring {
            Some(ring) => ring.overwritten(),
            // An allowance of one byte or none leaves no room for a last part.
            None => self.printed - self.kept,
        };
        if gap > 0 && !self.closed {
            write!(
                self.file,
                "\n[cts-executor: {gap} bytes of output left out here]\n"
            )?;
        }
        if let Some(ring) = self.ring.take() {
            ring.copy_to(&mut self.file, &mut self.kept)?;
        }
        Ok(())
    }
}

/// The last bytes of a stream, in an unnamed file that vanishes with the process.
#[derive(Debug)]
struct Ring {
    file: File,
    capacity: u64,
    /// Bytes ever written.
    written: u64,
}

impl Ring {
    fn create(beside: &Path, capacity: u64) -> io::Result<Self> {
        let directory = match beside.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self {
            file: tempfile::tempfile_in(directory)?,
            capacity,
            written: 0,
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let position = self.written % self.capacity;
            let room = usize::try_from(self.capacity - position).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.file.write_all_at(now, position)?;
            self.written += length(now);
            bytes = rest;
        }
        Ok(())
    }

    fn overwritten(&self) -> u64 {
        self.written.saturating_sub(self.capacity)
    }

    /// Appends the content, oldest byte first, counting what arrived.
    fn copy_to(&self, target: &mut File, copied: &mut u64) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut next = self.overwritten();
        while next < self.written {
            let position = next % self.capacity;
            let now = (self.capacity - position)
                .min(self.written - next)
                .min(length(&buffer));
            let (part, _) = buffer.split_at_mut(usize::try_from(now).unwrap_or(usize::MAX));
            self.file.read_exact_at(part, position)?;
            let (taken, result) = write_counted(target, part);
            *copied += taken;
            result?;
            next += now;
        }
        Ok(())
    }
}

/// Like `write_all`, and says how many bytes were taken before an error.
fn write_counted(file: &mut File, mut bytes: &[u8]) -> (u64, io::Result<()>) {
    let mut taken = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                let (now, rest) = bytes.split_at(count);
                taken += length(now);
                bytes = rest;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log_of(limit: u64, pieces: &[Vec<u8>]) -> (Vec<u8>, LogSummary, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::create(&path, limit).unwrap();
        for piece in pieces {
            log.write(piece);
        }
        let tail = text_of(&log.tail);
        let summary = log.finish();
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "no other file is left: {names:?}");
        (std::fs::read(&path).unwrap(), summary, tail)
    }

    proptest! {
        /// Head, gap with the exact count, tail: whatever the allowance and the cuts between pieces.
        #[test]
        fn keeps_head_and_tail(
            limit in 0_u64..40,
            pieces in proptest::collection::vec(proptest::collection::vec(b'a'..=b'z', 0..30), 0..8),
        ) {
            let all: Vec<u8> = pieces.concat();
            let (found, summary, tail) = log_of(limit, &pieces);
            let ring = usize::try_from(limit / 2).unwrap();
            let head = usize::try_from(limit).unwrap() - ring;
            let mut expected = all[..head.min(all.len())].to_vec();
            let dropped = all.len().saturating_sub(head + ring);
            if dropped > 0 {
                expected.extend(format!("\n[cts-executor: {dropped} bytes of output left out here]\n").bytes());
                expected.extend(&all[all.len() - ring..]);
            } else {
                expected.extend(&all[head.min(all.len())..]);
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(summary.printed_bytes, length(&all));
            prop_assert_eq!(summary.dropped_bytes, dropped as u64);
            prop_assert_eq!(summary.error, None);
            prop_assert_eq!(tail.as_bytes(), &all[..]);
        }
    }

    #[test]
    fn tail_keeps_the_last_bytes_only() {
        let mut piece = vec![b'x'; TAIL_BYTES];
        piece.extend(b"end");
        let (_, _, tail) = log_of(1 << 20, &[b"start".to_vec(), piece]);
        assert_eq!(tail.len(), TAIL_BYTES);
        assert!(tail.ends_with("xend") && !tail.contains("start"));
    }

    #[test]
    fn binary_output_is_kept_as_it_is() {
        let bytes: Vec<u8> = (0..=255).collect();
        let (found, _, tail) = log_of(1 << 20, std::slice::from_ref(&bytes));
        assert_eq!(found, bytes);
        assert!(tail.contains('\u{fffd}'));
    }

    #[test]
    fn a_full_disk_is_reported_and_counted() {
        // Linux's device that is always full.
        let mut log = BoundedLog::create(Path::new("/dev/full"), 1 << 20).unwrap();
        log.write(b"lost");
        log.write(b"too");
        let summary = log.finish();
        assert_eq!(summary.printed_bytes, 7);
        assert_eq!(summary.dropped_bytes, 7);
        assert!(summary.error.unwrap().contains("/dev/full"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = BoundedLog::create(Path::new("/nonexistent/log"), 1).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/log"));
    }

    #[tokio::test]
    async fn streams_go_to_their_own_files() {
        let directory = tempfile::tempdir().unwrap();
        let (out, err) = (directory.path().join("o"), directory.path().join("e"));
        let logs = ContainerLogs::create(&out, &err, 1 << 20).unwrap();
        let tails = logs.tails();
        let (sender, writer) = logs.start();
        sender.stdout(Bytes::from_static(b"out")).await;
        sender.stderr(Bytes::from_static(b"err")).await;
        sender.broken("engine gone".to_owned()).await;
        drop(sender);
        let (stdout, stderr) = writer.finish().await;
        assert_eq!(std::fs::read(out).unwrap(), b"out");
        assert_eq!(std::fs::read(err).unwrap(), b"err");
        assert_eq!(stdout.error.as_deref(), Some("engine gone"));
        assert_eq!(stderr.printed_bytes, 3);
        assert_eq!(tails.read().stderr, "err");
    }
}
