//! Files to upload: opened once, read once, and refused if anything about them changes meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};

use super::TransferError;
use crate::collect::{CollectedFile, FileIdentity, OpenError};

/// Bytes read and hashed in one go: small enough that they are hashed while they are in the cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file to upload.
#[derive(Debug, Clone)]
pub enum Source {
    /// An output, opened beneath the output directory as it was found there.
    Output(CollectedFile),
    /// A file of the executor's own, such as a log: not in a directory that a container writes to.
    File(PathBuf),
}

impl Source {
    /// Opens it.
    pub(super) fn open(&self) -> Result<OpenSource, TransferError> {
        let (path, opened) = match self {
            Self::Output(file) => (file.path().into(), file.open()),
            Self::File(path) => (path.clone(), open_own_file(path)),
        };
        match opened {
            Ok((file, identity)) => Ok(OpenSource {
                path,
                file,
                identity,
            }),
            Err(OpenError::Changed) => Err(TransferError::SourceChanged { path }),
            Err(OpenError::Io(cause)) => Err(TransferError::Local {
                action: "open",
                path,
                cause,
            }),
        }
    }
}

fn open_own_file(path: &PathBuf) -> Result<(File, FileIdentity), OpenError> {
    let file = File::open(path)?;
    let identity = FileIdentity::of(&file)?;
    Ok((file, identity))
}

/// An open file that must stay as it is.
#[derive(Debug)]
pub(super) struct OpenSource {
    path: PathBuf,
    file: File,
    identity: FileIdentity,
}

impl OpenSource {
    pub(super) fn size(&self) -> u64 {
        self.identity.size
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Fills `buffer` from `offset`; returns the checksum of what was read. Lets other tasks run
    /// between chunks.
    pub(super) async fn read(
        &self,
        buffer: &mut [u8],
        mut offset: u64,
    ) -> Result<Crc64Nvme, TransferError> {
        let mut hasher = Crc64NvmeHasher::new();
        for chunk in buffer.chunks_mut(CHUNK_BYTES) {
            self.file.read_exact_at(chunk, offset).map_err(|cause| {
                if cause.kind() == io::ErrorKind::UnexpectedEof {
                    self.changed()
                } else {
                    self.failed("read", cause)
                }
            })?;
            hasher.update(chunk);
            offset += chunk.len() as u64;
            tokio::task::yield_now().await;
        }
        Ok(hasher.finish())
    }

    /// Refuses a file that is not as it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), TransferError> {
        let now = FileIdentity::of(&self.file).map_err(|cause| self.failed("look at", cause))?;
        if now == self.identity {
            Ok(())
        } else {
            Err(self.changed())
        }
    }

    fn changed(&self) -> TransferError {
        TransferError::SourceChanged {
            path: self.path.clone(),
        }
    }

    fn failed(&self, action: &'static str, cause: io::Error) -> TransferError {
        TransferError::Local {
            action,
            path: self.path.clone(),
            cause,
        }
    }
}
