//! Container logs in S3 (contract service.md, section 6, "Logs").

use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::s3_path::S3Path;

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::object_store::{ByteRange, ObjectStream};

use super::get_own;

/// One of a container's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    /// The name of a container's log: the last part of its key.
    #[must_use]
    pub fn file_name(self, container: ContainerNumber) -> String {
        let stream = match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        };
        format!("container-{container}-{stream}.txt")
    }
}

/// Part of a container's log, as it arrives.
///
/// # Errors
/// In the contract's order: 40040, 20000, 40070 (the job has no logs), 30001 (no such container;
/// `range` starts behind the end), 40010.
pub async fn read(
    app: &App,
    user: &User,
    id: JobId,
    container: ContainerNumber,
    stream: LogStream,
    range: ByteRange,
) -> Result<ObjectStream, Error> {
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
    if range.first > 0 || range.length.is_some() {
        let size = app.object_store.head(&path).await?.size_bytes;
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
    Ok(app.object_store.get(&path, range).await?)
}
