//! Submitting a job (contract service.md, section 4): every check, in the contract's order, then one
//! write. A refused job leaves no trace.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use cts_shared::error_code::ErrorCode;
use cts_shared::file_location::file_locations;
use cts_shared::id::JobId;
use cts_shared::image_name::ImageName;
use cts_shared::job_input::{InputFile, InputFiles, JobInput};
use cts_shared::mount_point::check_mount_points;
use cts_shared::s3_path::S3Path;
use cts_shared::split::file_range;
use cts_shared::state::job_flow::JobRecord;
use cts_shared::wire::image::{Image, JobImage};

use crate::app::App;
use crate::config::Config;
use crate::error::Error;
use crate::identity::User;
use crate::job_store::NewJob;
use crate::object_store::{ObjectHead, WRITE_TEST_NAME, try_writing};
use crate::{images, jobs, refdata};

/// Input objects of one job asked about at the same time.
const CONCURRENT_HEADS: usize = 64;

/// Most bytes of arguments and environment variables: what Linux passes to a program where its stack
/// may have the usual 8 MiB (execve(2), "Limits on size of arguments and environment").
const MAX_COMMAND_BYTES: usize = 2 * 1024 * 1024;

/// Checks and stores a job, and has it started in the background. Returns its id.
///
/// # Errors
/// In the contract's order: 30001 (limits), 30040 and 40030 (image), 30001, 40060 and 30400
/// (reference data), 20010 and 40010 (output directory), 20010, 40010, 30001 and 30030 (input objects),
/// then what only this service checks: 30001 (mount points, size of the command), 30020 and 30001 (places
/// of the inputs); then 60020 and 60010 (site) and the site's own;
/// [`Error::Unavailable`] when S3 does not answer.
pub async fn submit_job(
    app: &Arc<App>,
    user: &User,
    mut job_input: JobInput,
) -> Result<JobId, Error> {
    check_limits(&app.config, &job_input)?;
    let image = registered_image(app, &job_input).await?;
    check_refdata(app, &job_input, &image).await?;
    check_output_dir(app, &job_input).await?;
    let (files, sizes) = check_input_files(app, job_input.input_files.to_files()).await?;
    check_mounts(&job_input, &image)?;
    check_command_size(&job_input)?;
    check_places(&job_input)?;
    app.sites
        .open(job_input.cluster, &*app.site_store)
        .await?
        .check(user, &job_input)?;

    let id = JobId::new(uuid::Uuid::new_v4());
    let site = job_input.cluster;
    let num_containers = job_input.num_containers;
    job_input.input_files = InputFiles::Files(files);
    app.jobs
        .insert_job(NewJob {
            id,
            user: user.name.clone(),
            job_input,
            image,
            input_bytes: Some(largest_share(&sizes, num_containers)),
            record: JobRecord::new(num_containers, app.clock.now()),
        })
        .await?;
    tracing::info!(job.id = %id, site = %site, containers = num_containers, "job submitted");

    if !app.config.start_jobs {
        tracing::info!(job.id = %id, "test mode: the job is not started");
        return Ok(id);
    }
    let app = Arc::clone(app);
    // Not awaited: the job is stored; should this fail, the starter tries again.
    tokio::spawn(async move {
        if let Err(error) = jobs::resume::start_on_site(&app, site, id).await {
            tracing::warn!(job.id = %id, site = %site, %error, "the job waits for its site");
        }
    });
    Ok(id)
}

fn check_limits(config: &Config, job_input: &JobInput) -> Result<(), Error> {
    let illegal = |message: String| Err(Error::refused(ErrorCode::IllegalParameter, message));
    let site = job_input.cluster;
    let limits = site.limits();
    let runtime = job_input.runtime.duration();
    if job_input.cpus > limits.cpus_per_node {
        return illegal(format!(
            "cpus is {}; site {site} has {} on a node",
            job_input.cpus, limits.cpus_per_node
        ));
    }
    let max_runtime = std::time::Duration::from_secs(u64::from(limits.max_runtime_min) * 60);
    if runtime > max_runtime {
        return illegal(format!(
            "runtime is {} s; site {site} allows {} min",
            runtime.as_secs_f64(),
            limits.max_runtime_min
        ));
    }
    let max_memory_bytes = u64::from(limits.memory_per_node_gb) * 1_000_000_000;
    if job_input.memory_bytes > max_memory_bytes {
        return illegal(format!(
            "memory is {} bytes; site {site} has {} GB on a node",
            job_input.memory_bytes, limits.memory_per_node_gb
        ));
    }
    let cpu_hours = f64::from(job_input.cpus)
        * f64::from(job_input.num_containers)
        * (runtime.as_secs_f64() / 3600.0);
    if cpu_hours > config.max_cpu_hours {
        return illegal(format!(
            "cpus x num_containers x runtime is {cpu_hours:.2} CPU hours; a job may ask for {}",
            config.max_cpu_hours
        ));
    }
    Ok(())
}

async fn registered_image(app: &App, job_input: &JobInput) -> Result<JobImage, Error> {
    let name: ImageName = images::parse_name(&job_input.image)?;
    let Image { image, .. } = images::get(app, name).await?;
    Ok(image)
}

async fn check_refdata(app: &App, job_input: &JobInput, image: &JobImage) -> Result<(), Error> {
    let Some(refdata_id) = &image.refdata_id else {
        return Ok(());
    };
    if job_input.params.refdata_mount_point.is_none() && image.default_refdata_mount_point.is_none()
    {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            format!(
                "image {} uses reference data and has no default mount point for it; give \
                 params.refdata_mount_point",
                job_input.image
            ),
        ));
    }
    refdata::check_staged(app, refdata_id, job_input.cluster).await
}

/// The executor refuses the same, but only after the job has queued.
fn check_mounts(job_input: &JobInput, image: &JobImage) -> Result<(), Error> {
    let params = &job_input.params;
    let refdata = match (&image.refdata_id, &params.refdata_mount_point) {
        (None, _) => None,
        (Some(_), Some(given)) => Some(given),
        (Some(_), None) => image.default_refdata_mount_point.as_ref(),
    };
    let mut mounts = vec![
        (
            "params.input_mount_point",
            params.input_mount_point.as_str(),
        ),
        (
            "params.output_mount_point",
            params.output_mount_point.as_str(),
        ),
    ];
    mounts.extend(refdata.map(|path| ("params.refdata_mount_point", path.as_str())));
    check_mount_points(&mounts)
        .map_err(|error| Error::refused(ErrorCode::IllegalParameter, error.to_string()))
}

/// Linux does not start a program with more, and lists of jobs carry it.
fn check_command_size(job_input: &JobInput) -> Result<(), Error> {
    let size = job_input.params.literal_bytes();
    if size > MAX_COMMAND_BYTES {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            format!(
                "params.args and params.environment have {size} bytes together; no program can be \
                 started with more than {MAX_COMMAND_BYTES}, put them into an input file"
            ),
        ));
    }
    Ok(())
}

async fn check_output_dir(app: &App, job_input: &JobInput) -> Result<(), Error> {
    let output_dir = &job_input.output_dir;
    let inaccessible =
        |message: String| Err(Error::refused(ErrorCode::S3PathInaccessible, message));
    if app.config.log_dir.contains(output_dir) {
        return inaccessible(format!(
            "output_dir {output_dir} lies below {}, where container logs are kept",
            app.config.log_dir.as_str()
        ));
    }
    if !app.config.allowed_paths.is_empty() {
        return if is_allowed(&app.config, output_dir) {
            Ok(())
        } else {
            inaccessible(format!(
                "output_dir {output_dir} is not below one of the allowed paths: {}",
                allowed(&app.config)
            ))
        };
    }
    let path = S3Path::parse(&format!("{output_dir}{WRITE_TEST_NAME}")).map_err(|error| {
        Error::refused(ErrorCode::IllegalS3Path, format!("output_dir: {error}"))
    })?;
    // In a task of its own, which goes on when the caller does not wait: nothing may be left behind.
    let store = Arc::clone(&app.object_store);
    tokio::spawn(async move { try_writing(&*store, &path).await })
        .await
        .map_err(|error| Error::Internal(format!("the write test of a submission: {error}")))??;
    Ok(())
}

fn is_allowed(config: &Config, path: &str) -> bool {
    config
        .allowed_paths
        .iter()
        .any(|prefix| prefix.contains(path))
}

fn allowed(config: &Config) -> String {
    let paths: Vec<&str> = config
        .allowed_paths
        .iter()
        .map(|path| path.as_str())
        .collect();
    paths.join(", ")
}

/// Every input file must have a place of its own in the input directory.
fn check_places(job_input: &JobInput) -> Result<(), Error> {
    let roots = job_input.input_roots.as_deref().unwrap_or_default();
    file_locations(&job_input.input_files, roots)
        .map(drop)
        .map_err(|error| Error::refused(error.error_code(), error.to_string()))
}

/// The most bytes of input files that one of the containers gets.
fn largest_share(sizes: &[u64], num_containers: u32) -> u64 {
    (0..num_containers)
        .filter_map(|container| file_range(sizes.len(), num_containers, container))
        .filter_map(|range| sizes.get(range))
        .map(|share| {
            share
                .iter()
                .fold(0, |sum: u64, size| sum.saturating_add(*size))
        })
        .max()
        .unwrap_or(0)
}

/// Checks the input objects, and gives each file the checksum of its object, and their sizes in bytes.
async fn check_input_files(
    app: &App,
    files: Vec<InputFile>,
) -> Result<(Vec<InputFile>, Vec<u64>), Error> {
    if !app.config.allowed_paths.is_empty()
        && let Some(outside) = files
            .iter()
            .find(|file| !is_allowed(&app.config, &file.file))
    {
        return Err(Error::refused(
            ErrorCode::S3PathInaccessible,
            format!(
                "input file {} is not below one of the allowed paths: {}",
                outside.file,
                allowed(&app.config)
            ),
        ));
    }
    let checked: Vec<(InputFile, ObjectHead)> = futures::stream::iter(files)
        .map(|file| async move {
            let path = S3Path::parse(&file.file).map_err(|error| {
                Error::refused(ErrorCode::IllegalS3Path, format!("input file: {error}"))
            })?;
            let head = app.object_store.head(&path).await?;
            Ok::<_, Error>((file, head))
        })
        // In order, so that the first bad file of the list is the one reported.
        .buffered(CONCURRENT_HEADS)
        .try_collect()
        .await?;
    checked
        .into_iter()
        .map(|(file, head)| Ok((with_checksum(file, head.crc64nvme)?, head.size_bytes)))
        .collect()
}

fn with_checksum(mut file: InputFile, stored: Option<String>) -> Result<InputFile, Error> {
    let Some(stored) = stored else {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            format!(
                "input file {} has no CRC64NVME checksum in S3; upload it again with one",
                file.file
            ),
        ));
    };
    if let Some(expected) = &file.crc64nvme
        && *expected != stored
    {
        return Err(Error::refused(
            ErrorCode::ChecksumMismatch,
            format!(
                "input file {} has CRC64NVME {stored} in S3, the job expects {expected}; correct \
                 the job or upload the file again",
                file.file
            ),
        ));
    }
    file.crc64nvme = Some(stored);
    Ok(file)
}
