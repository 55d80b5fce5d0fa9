//! Container logs in S3 (contract service.md, section 6, "Logs").

use cts_shared::container_log::LogStream;
use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::s3_path::S3Path;

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::object_store::{ByteRange, ObjectStream};

use super::get_own;

/// A container's log.
#[derive(Debug, Clone)]
pub struct Log {
    path: S3Path,
}

impl Log {
    /// The log of a container of the user's own job.
    ///
    /// # Errors
    /// In the contract's order: 40040, 20000, 40070 (the job has no logs), 30001 (no such container).
    pub async fn of(
        app: &App,
        user: &User,
        id: JobId,
        container: ContainerNumber,
        stream: LogStream,
    ) -> Result<Self, Error> {
        let job = get_own(app, user, id).await?;
        let Some(logpath) = job.summary.outcome.logpath else {
            return Err(Error::refused(
                ErrorCode::NoLogs,
                format!("Job {id} has no logs"),
            ));
        };
        let containers = job.job_input.num_containers;
        if container >= containers {
            return Err(Error::refused(
                ErrorCode::IllegalParameter,
                format!("job {id} has no container {container}; it has {containers}, from 0"),
            ));
        }
        let path = S3Path::parse(&format!("{logpath}/{}", stream.file_name(container)))
            .map_err(|error| Error::Internal(format!("the log path of job {id}: {error}")))?;
        Ok(Self { path })
    }

    /// How many bytes there are.
    ///
    /// # Errors
    /// 40010: there is no log, as for a container that failed before it started.
    pub async fn size(&self, app: &App) -> Result<u64, Error> {
        Ok(app.object_store.head(&self.path).await?.size_bytes)
    }

    /// The log from byte `seek`, at most `length` bytes, as they arrive.
    ///
    /// # Errors
    /// 30001 (`seek` is behind the end), 40010.
    pub async fn read(&self, app: &App, range: ByteRange) -> Result<ObjectStream, Error> {
        if range.first > 0 || range.length.is_some() {
            let size = self.size(app).await?;
            if range.first > 0 && range.first >= size {
                return Err(Error::refused(
                    ErrorCode::IllegalParameter,
                    format!(
                        "seek {} is not within the {size} bytes of the log",
                        range.first
                    ),
                ));
            }
            // S3 refuses every range of an empty object.
            if size == 0 {
                return Ok(Box::pin(futures::stream::empty()));
            }
        }
        Ok(app.object_store.get(&self.path, range).await?)
    }
}
