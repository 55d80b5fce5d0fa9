//! Why a transfer failed.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use cts_shared::crc64nvme::Crc64Nvme;

use crate::object_store::{ObjectName, StoreError};

/// Why a transfer failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store or the way to it. Where a retry could have helped, retries are used up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An input's bytes are not those the job was submitted with, also at the second try.
    #[error(
        "input {object} has CRC64NVME {actual}, expected {expected} ({version}); upload it again or \
         submit the job with the new checksum"
    )]
    ChecksumMismatch {
        /// The input.
        object: ObjectName,
        /// What the job says.
        expected: Crc64Nvme,
        /// What its bytes have.
        actual: Crc64Nvme,
        /// `ETag` and time of the object that was read.
        version: String,
        /// Both tries gave the same bytes: the object was replaced since the job was submitted, or
        /// the job has a wrong checksum. Else the bytes were damaged on the way.
        is_other_content: bool,
    },
    /// Bytes that were read twice were not the same, and the second ones are right.
    #[error(
        "bytes {} to {} of {object} came damaged when they were read for the first time ({version}); check the \
         network and the store, and try again",
        bytes.start,
        bytes.end
    )]
    ReadDifferently {
        /// The object.
        object: ObjectName,
        /// Which.
        bytes: Range<u64>,
        /// `ETag` and time of the object that was read.
        version: String,
    },
    /// An input was replaced while it was being read.
    #[error(
        "input {object} was replaced while it was being downloaded (was {version}); submit the job \
         again when its inputs no longer change"
    )]
    InputChanged {
        /// The input.
        object: ObjectName,
        /// `ETag` and time of the object that was begun.
        version: String,
    },
    /// The inputs do not fit.
    #[error(
        "no space for the inputs: {need_bytes} more bytes needed, {have_bytes} free in {}; free some \
         or use a machine with a larger disk",
        directory.display()
    )]
    NoSpace {
        /// Where they go.
        directory: PathBuf,
        /// What is known to be still needed.
        need_bytes: u64,
        /// What is free.
        have_bytes: u64,
    },
    /// An input's place is not one below the input directory, or not free.
    #[error("cannot place {object} at {}: {reason}", destination.display())]
    Destination {
        /// The input.
        object: ObjectName,
        /// Its place.
        destination: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A local file or directory.
    #[error("cannot {action} {}: {cause}", path.display())]
    Local {
        /// Verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// An output changed after the container had ended.
    #[error(
        "output {} changed while it was being uploaded; nothing may write to it after the container \
         has ended",
        path.display()
    )]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// An output that S3 cannot hold.
    #[error("output {} has {size} bytes; an S3 object can have at most 10,000 parts of 5 GiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The store took an upload but says that it has other bytes, or cannot say.
    #[error(
        "{object} was uploaded with CRC64NVME {sent}, but the store says it has {stored}; use a store \
         that keeps full-object CRC64NVME checksums"
    )]
    NotConfirmed {
        /// The object.
        object: ObjectName,
        /// What was sent.
        sent: Crc64Nvme,
        /// What the store says.
        stored: String,
    },
    /// Bytes in this machine's memory changed between two looks.
    #[error("the bytes to upload to {object} changed in memory; this machine's hardware is faulty")]
    MemoryCorrupted {
        /// The object.
        object: ObjectName,
    },
    /// The gate is closed: this process may not publish any more.
    #[error("this executor may not publish any more")]
    Closed,
    /// Told to stop.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// A task of the engine panicked.
    #[error("internal error of the transfer engine: {cause}; please report it")]
    Internal {
        /// The panic.
        cause: String,
    },
}

impl TransferError {
    /// Whether trying again, on this machine, would fail the same way.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            Self::Cancelled | Self::Closed => false,
            _ => true,
        }
    }

    /// Whether the caller asked for it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}
