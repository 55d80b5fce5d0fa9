//! The directory of everything a service keeps on its machine, held by one process at a time.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use cts_net::secret::Secret;
use secrecy::ExposeSecret;
use uuid::Uuid;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another service works in the directory.
    #[error("another cts-service uses the directory {0}; stop it, or give another directory")]
    Locked(PathBuf),
    /// The file system says no.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// The directory. The kernel gives it back however the process ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be (mode 0700: it holds tokens and secrets) and takes it for this
    /// process.
    ///
    /// # Errors
    /// When another process has it, or the file system says no.
    pub(crate) fn take(path: &Path) -> Result<Self, DataDirError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io_error("make the data directory", path))?;
        let path = path
            .canonicalize()
            .map_err(io_error("find the data directory", path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(io_error("create", &lock_path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::Locked(path)),
            Err(errno) => Err(io_error("lock", &lock_path)(errno.into())),
        }
    }

    /// Its path, absolute.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that only its owner can read; complete under its name or as it was. Returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write_private(
        &self,
        name: &str,
        content: &Secret,
    ) -> Result<PathBuf, DataDirError> {
        let path = self.join(name);
        let write = || -> std::io::Result<()> {
            // Made with mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            file.write_all(content.expose_secret().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(io_error("write", &path))?;
        Ok(path)
    }

    /// A name for the service that works here, the same each time it starts.
    ///
    /// # Errors
    /// When the file with it cannot be read or written.
    pub(crate) fn service_name(&self) -> Result<String, DataDirError> {
        let path = self.join("service-name");
        match std::fs::read_to_string(&path) {
            Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error("read", &path)(error))
            }
            _ => {
                let host = rustix::system::uname();
                let host = host.nodename().to_string_lossy();
                let name = format!("{host} {} {}", self.path.display(), Uuid::new_v4());
                self.write_private("service-name", &Secret::from(name.clone()))?;
                Ok(name)
            }
        }
    }

    /// A path in it.
    #[must_use]
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DataDirError {
    let path = path.to_owned();
    move |cause| DataDirError::Io {
        action,
        path,
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_process_at_a_time_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a").join("b");
        let taken = DataDir::take(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(matches!(DataDir::take(&path), Err(DataDirError::Locked(_))));
        let secret = Secret::from("hush".to_owned());
        for _ in 0..2 {
            let file = taken.write_private("secret", &secret).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "hush");
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let name = taken.service_name().unwrap();
        drop(taken);
        // A child that another test is just starting may have the lock's file open, too.
        let begun = std::time::Instant::now();
        let taken = loop {
            match DataDir::take(&path) {
                Err(DataDirError::Locked(_)) if begun.elapsed().as_secs() < 10 => {}
                taken => break taken.unwrap(),
            }
        };
        assert_eq!(taken.service_name().unwrap(), name);
        let other = DataDir::take(&parent.path().join("c")).unwrap();
        assert_ne!(other.service_name().unwrap(), name);
    }
}
