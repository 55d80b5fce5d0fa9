//! Where the testbed keeps its files.

use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::TestbedError;

/// The directories of one testbed.
///
/// Two testbeds in two directories do not meet: everything that is machine-wide (socket paths,
/// bridge, cgroup) carries [`Layout::id`].
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
    id: String,
}

impl Layout {
    /// The testbed in `dir`, which is created if it is absent.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn new(dir: &Path) -> Result<Self, TestbedError> {
        let create = || -> std::io::Result<PathBuf> {
            std::fs::create_dir_all(dir.join("logs"))?;
            std::fs::create_dir_all(dir.join("tools"))?;
            dir.canonicalize()
        };
        let dir = create().map_err(|error| {
            TestbedError::new(
                "testbed directory",
                format!("cannot create {}: {error}", dir.display()),
                "give a writable directory with --dir",
            )
        })?;
        let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
        let id = hash.iter().take(4).fold(String::new(), |mut id, byte| {
            write!(id, "{byte:02x}").expect("writing to a string cannot fail");
            id
        });
        Ok(Self { dir, id })
    }

    /// Eight hexadecimal digits that belong to this directory alone.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name under which machine-wide things of this testbed are known.
    pub fn name(&self) -> String {
        format!("cts-testbed-{}", self.id)
    }

    /// The testbed's directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Data of one component; `testbed down` removes it.
    pub fn data(&self, component: &str) -> PathBuf {
        self.dir.join("data").join(component)
    }

    /// The log of one component; kept by `testbed down`.
    pub fn log(&self, component: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{component}.log"))
    }

    /// Downloaded programs; kept by `testbed down`, so that the next start is quick.
    pub fn tools(&self) -> PathBuf {
        self.dir.join("tools")
    }

    /// What the testbed is made of, for machines to read.
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// Serialises `up` and `down`.
    pub fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Sockets and pid files. Not below [`Layout::dir`], because the path of a Unix socket may
    /// have at most 107 bytes and a checkout can be anywhere.
    pub fn run_dir(&self) -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return Path::new("/run").join(self.name());
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_dir()) {
            Some(dir) => Path::new(&dir).join(self.name()),
            None => std::env::temp_dir().join(self.name()),
        }
    }

    /// Makes [`Layout::run_dir`], closed to other users.
    ///
    /// # Errors
    /// When it cannot be made, or another user owns it.
    pub fn create_run_dir(&self) -> Result<PathBuf, TestbedError> {
        let dir = self.run_dir();
        let refuse = |problem: String| {
            TestbedError::new(
                "testbed directory",
                problem,
                "remove it or set XDG_RUNTIME_DIR",
            )
        };
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        made.map_err(|error| refuse(format!("cannot create {}: {error}", dir.display())))?;
        let owner = std::fs::symlink_metadata(&dir)
            .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))
            .map_err(|error| refuse(format!("cannot read {}: {error}", dir.display())))?;
        if owner != rustix::process::geteuid().as_raw() {
            return Err(refuse(format!("{} belongs to user {owner}", dir.display())));
        }
        Ok(dir)
    }
}
