//! Secrets: a value that never prints, and where it came from, so that it can be read again when a
//! server refuses it (tokens are rotated while jobs run).

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};

/// More than any token or key has; a larger file is not a secret file.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A secret value. `Debug` prints `[REDACTED]`, there is no `Display`, memory is wiped on drop.
pub type Secret = SecretString;

/// Why a secret file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be opened or read.
    #[error("cannot read the secret file {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Not a regular file: a directory, FIFO, device, or a link that ends at one.
    #[error("the secret file {path} is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Larger than any secret.
    #[error(
        "the secret file {path} has {size} bytes, more than the {MAX_SECRET_BYTES} a secret may have"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Not text, or text that cannot go into a header.
    #[error("the secret file {path} holds something that is not one line of plain text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Nothing but white space.
    #[error("the secret file {path} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a secret file: at most 64 KiB, without blocking on FIFOs, white space and a byte order mark
/// around the value removed.
///
/// # Errors
/// When the file cannot be read or does not hold one line of text.
pub fn read_secret_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |cause: std::io::Error| SecretError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    // NONBLOCK: opening a FIFO without a writer must not hang.
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )
    .map_err(|errno| unreadable(errno.into()))?;
    let file = std::fs::File::from(fd);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretError::NotAFile {
            path: path.to_owned(),
        });
    }
    if metadata.len() > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge {
            path: path.to_owned(),
            size: metadata.len(),
        });
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file that grows meanwhile is noticed.
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge {
            path: path.to_owned(),
            size: bytes.len() as u64,
        });
    }
    let not_text = || SecretError::NotText {
        path: path.to_owned(),
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| not_text())?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(SecretError::Empty {
            path: path.to_owned(),
        });
    }
    if text.chars().any(char::is_control) {
        return Err(not_text());
    }
    Ok(Secret::from(text.to_owned()))
}

fn is_readable_by_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// A secret and its origin.
#[derive(Debug)]
pub struct SecretSource {
    path: Option<PathBuf>,
    current: RwLock<Secret>,
}

impl SecretSource {
    /// Reads the secret from a file; [`Self::reread`] reads it again.
    ///
    /// # Errors
    /// As [`read_secret_file`].
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let secret = read_secret_file(path)?;
        if is_readable_by_all(path) {
            tracing::warn!(
                "every user of this machine can read the secret file {}; take that right away \
                 (chmod o-r)",
                path.display()
            );
        }
        Ok(Self {
            path: Some(path.to_owned()),
            current: RwLock::new(secret),
        })
    }

    /// A secret that was given as a value and cannot change.
    #[must_use]
    pub fn from_value(secret: Secret) -> Self {
        Self {
            path: None,
            current: RwLock::new(secret),
        }
    }

    /// The secret as last read.
    #[must_use]
    pub fn current(&self) -> Secret {
        self.current
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Where it was read from, if from a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Reads the file again; call when a server refused the secret. True when it has changed, so
    /// that trying again makes sense. Reads a small local file: quick enough for an async context.
    ///
    /// # Errors
    /// As [`read_secret_file`]; the old secret then stays.
    pub fn reread(&self) -> Result<bool, SecretError> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let fresh = read_secret_file(path)?;
        let mut current = self
            .current
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let changed = fresh.expose_secret() != current.expose_secret();
        *current = fresh;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn white_space_and_byte_order_mark_are_removed() {
        let (_dir, path) = write(b"\xef\xbb\xbf tok en\r\n\n");
        assert_eq!(read_secret_file(&path).unwrap().expose_secret(), "tok en");
    }

    #[test]
    fn what_is_no_secret_is_refused_in_words() {
        let (_dir, path) = write(b"  \n");
        assert!(
            read_secret_file(&path)
                .unwrap_err()
                .to_string()
                .ends_with("is empty")
        );
        let (_dir, path) = write(b"a\nb");
        assert!(matches!(
            read_secret_file(&path),
            Err(SecretError::NotText { .. })
        ));
        let (_dir, path) = write(b"\xff\xfe");
        assert!(matches!(
            read_secret_file(&path),
            Err(SecretError::NotText { .. })
        ));
        let (_dir, path) = write(&vec![b'x'; 65 * 1024]);
        assert!(matches!(
            read_secret_file(&path),
            Err(SecretError::TooLarge { .. })
        ));
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            read_secret_file(dir.path()),
            Err(SecretError::NotAFile { .. })
        ));
        let missing = dir.path().join("missing");
        assert!(matches!(
            read_secret_file(&missing),
            Err(SecretError::Unreadable { .. })
        ));
    }

    #[test]
    fn a_file_for_all_eyes_is_noticed() {
        let (_dir, path) = write(b"secret");
        for (mode, noticed) in [(0o644, true), (0o640, false), (0o400, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_all(&path), noticed, "{mode:o}");
        }
    }

    #[test]
    fn a_fifo_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(
            read_secret_file(&fifo),
            Err(SecretError::NotAFile { .. })
        ));
    }

    #[test]
    fn rereading_tells_whether_it_changed() {
        let (_dir, path) = write(b"one");
        let source = SecretSource::from_file(&path).unwrap();
        assert!(!source.reread().unwrap());
        fs::write(&path, "two").unwrap();
        assert!(source.reread().unwrap());
        assert_eq!(source.current().expose_secret(), "two");
        fs::remove_file(&path).unwrap();
        source.reread().unwrap_err();
        assert_eq!(source.current().expose_secret(), "two");
    }

    #[test]
    fn a_secret_never_prints() {
        let source = SecretSource::from_value(Secret::from("hunter2".to_owned()));
        assert!(!format!("{source:?}").contains("hunter2"));
    }
}
