//! The job directory: HTCondor's scratch directory, the process's working directory
//! (contract executor.md, section 4).
//!
//! ```text
//! __input__/<location>                  input files
//! __output__/  or  __output__/<n>/      what the container writes; mode 0777
//! cts-<job>-<n>-container.out, .err     its standard output and error
//! ```
//!
//! The log files exist from the first moment: HTCondor holds a job whose declared output files are
//! missing, and the hold would hide the real cause.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cts_shared::id::{ContainerNumber, JobId};

use crate::config::MountPrefixOverride;
use crate::plan::{ContainerPlan, INPUT_DIRECTORY, Manifest, OUTPUT_DIRECTORY};

/// Something in the job directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum WorkdirError {
    /// The system refused.
    #[error("cannot {action} {path} in the job directory: {cause}")]
    Io {
        /// Verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The override names another place than this.
    #[error(
        "MOUNT_PREFIX_OVERRIDE is for job directories below {old}, and this one is {path}; set it to \
         where this worker keeps them"
    )]
    OutsideOverride {
        /// The override's old prefix.
        old: PathBuf,
        /// The directory.
        path: PathBuf,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkdirError {
    let path = path.to_owned();
    move |cause| WorkdirError::Io {
        action,
        path,
        cause,
    }
}

/// The directory of one run.
#[derive(Debug, Clone)]
pub struct Workdir {
    root: PathBuf,
    job: JobId,
    container: ContainerNumber,
}

impl Workdir {
    /// The job directory at `root`, an absolute path. Makes the log files.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn open(
        root: PathBuf,
        job: JobId,
        container: ContainerNumber,
    ) -> Result<Self, WorkdirError> {
        let workdir = Self {
            root,
            job,
            container,
        };
        for path in [workdir.stdout_log(), workdir.stderr_log()] {
            File::create(&path).map_err(io_error("create", &path))?;
        }
        Ok(workdir)
    }

    /// Removes what a killed run left and makes the directories of this one. A leftover output would
    /// otherwise be published as this run's.
    ///
    /// # Errors
    /// When something cannot be removed or made.
    pub fn prepare(&self, declobber: bool) -> Result<(), WorkdirError> {
        for directory in [INPUT_DIRECTORY, OUTPUT_DIRECTORY] {
            let path = self.root.join(directory);
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!("removed {directory} of an earlier run"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &path)(error)),
            }
            fs::create_dir(&path).map_err(io_error("create", &path))?;
        }
        let output = self.output(declobber);
        fs::create_dir_all(&output).map_err(io_error("create", &output))?;
        // The container's user is unknown; whatever it is, it must be able to write here.
        fs::set_permissions(&output, Permissions::from_mode(0o777))
            .map_err(io_error("open up", &output))
    }

    /// Writes the file that lists the inputs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), WorkdirError> {
        let path = self.input().join(manifest.path.as_str());
        File::create_new(&path)
            .and_then(|mut file| file.write_all(&manifest.content))
            .map_err(io_error("write the manifest", &path))
    }

    /// The input directory.
    #[must_use]
    pub fn input(&self) -> PathBuf {
        self.root.join(INPUT_DIRECTORY)
    }

    /// The directory that the container's output mount shows.
    #[must_use]
    pub fn output(&self, declobber: bool) -> PathBuf {
        self.root
            .join(ContainerPlan::output_directory(declobber, self.container))
    }

    /// The container's standard output.
    #[must_use]
    pub fn stdout_log(&self) -> PathBuf {
        self.root
            .join(format!("cts-{}-{}-container.out", self.job, self.container))
    }

    /// The container's standard error.
    #[must_use]
    pub fn stderr_log(&self) -> PathBuf {
        self.root
            .join(format!("cts-{}-{}-container.err", self.job, self.container))
    }

    /// Where the container host sees a planned mount's directory.
    ///
    /// # Errors
    /// When an override is set and the job directory lies elsewhere.
    pub fn on_host(
        &self,
        planned: &Path,
        mount_prefix: Option<&MountPrefixOverride>,
    ) -> Result<PathBuf, WorkdirError> {
        if planned.is_absolute() {
            // Reference data is named by its place on the host already.
            return Ok(planned.to_owned());
        }
        let here = self.root.join(planned);
        match mount_prefix {
            None => Ok(here),
            Some(prefix) => prefix
                .on_host(&here)
                .ok_or_else(|| WorkdirError::OutsideOverride {
                    old: prefix.old().to_owned(),
                    path: here.clone(),
                }),
        }
    }
}
