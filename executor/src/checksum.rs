//! `cts-executor checksum`: the CRC64NVME of files, as objects in S3 need it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};

use crate::cli::ChecksumArguments;
use crate::commands::complain;
use crate::exit::ExitStatus;

/// Read at a time.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Prints a line for each file: its checksum in base64, two spaces, its path. A file that cannot be read is told on
/// standard error, and the others are read all the same. Blocks.
#[must_use]
pub fn run(arguments: &ChecksumArguments) -> ExitStatus {
    let mut status = ExitStatus::Done;
    for path in &arguments.files {
        let printed = match of_file(path) {
            Ok(checksum) => writeln!(io::stdout(), "{checksum}  {}", path.display()),
            Err(error) => {
                complain(format_args!("cannot read {}: {error}", path.display()));
                status = ExitStatus::Failed;
                continue;
            }
        };
        if printed.is_err() {
            // Nobody listens any more.
            return ExitStatus::Failed;
        }
    }
    status
}

fn of_file(path: &Path) -> io::Result<Crc64Nvme> {
    let mut file = File::open(path)?;
    let mut hasher = Crc64NvmeHasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in [vec![], vec![7; BUFFER_BYTES], vec![9; BUFFER_BYTES + 1]] {
            std::fs::write(&path, &content).unwrap();
            assert_eq!(of_file(&path).unwrap(), Crc64Nvme::of(&content));
        }
        of_file(dir.path()).unwrap_err();
    }
}
