//! The files that are moved: their sizes and counts, and how they are made and checked.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a MiB.
pub(crate) const MIB: u64 = 1024 * 1024;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Some files of one size.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// Its name, which is also its key prefix.
    pub(crate) name: &'static str,
    pub(crate) files: u32,
    pub(crate) file_bytes: u64,
}

impl Workload {
    /// All bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.files) * self.file_bytes
    }

    /// All bytes, in GiB.
    pub(crate) fn gib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let bytes = self.bytes() as f64;
        bytes / GIB
    }

    /// In words.
    pub(crate) fn title(&self) -> String {
        let (size, unit) = match self.file_bytes {
            bytes if bytes.is_multiple_of(1024 * MIB) => (bytes / MIB / 1024, "GiB"),
            bytes if bytes.is_multiple_of(MIB) => (bytes / MIB, "MiB"),
            bytes => (bytes / 1024, "KiB"),
        };
        format!("{} x {size} {unit}", self.files)
    }

    /// The files' names.
    pub(crate) fn file_names(&self) -> impl Iterator<Item = String> {
        (0..self.files).map(|index| format!("file-{index:05}"))
    }

    /// Makes the files in `dir`, a new directory, of bytes that do not compress.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn make(&self, dir: &Path) -> io::Result<PathBuf> {
        let dir = dir.join(self.name);
        std::fs::create_dir_all(&dir)?;
        let mut random = File::open("/dev/urandom")?;
        for name in self.file_names() {
            let mut file = File::create(dir.join(name))?;
            io::copy(&mut (&mut random).take(self.file_bytes), &mut file)?;
        }
        // Nothing of this is to be written out while something is measured.
        rustix::fs::sync();
        Ok(dir)
    }

    /// Checks that `dir` holds all bytes in the right number of files, below any directories.
    ///
    /// # Errors
    /// When it does not, or cannot be read.
    pub(crate) fn check(&self, dir: &Path) -> io::Result<()> {
        let (mut files, mut bytes) = (0_u64, 0_u64);
        let mut open = vec![dir.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    open.push(entry.path());
                } else {
                    files += 1;
                    bytes += metadata.len();
                }
            }
        }
        // A program may have left a large file in pieces.
        if bytes == self.bytes() && (files == u64::from(self.files) || self.files == 1) {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "{bytes} bytes in {files} files arrived instead of {} in {}",
                self.bytes(),
                self.files
            )))
        }
    }
}
