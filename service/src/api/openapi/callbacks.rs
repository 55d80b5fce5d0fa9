//! Callbacks of transfers at sites that are not served here.

use super::operation::{Access, Operation, in_path, job_id};
use super::refdata::refdata_id;
use super::schema::reference;

pub(super) const TAG: &str = "Callbacks";

pub(super) fn operations() -> Vec<Operation> {
    let of_jobs = [
        ("/callback/download/{job_id}", "download_complete", "the inputs are there"),
        ("/callback/job/{job_id}", "job_complete", "the containers have ended"),
        ("/callback/upload/{job_id}", "upload_complete", "the outputs are stored"),
        ("/callback/errlogs/{job_id}", "error_log_upload_complete", "the logs are stored"),
    ]
    .into_iter()
    .map(|(path, name, event)| {
        Operation::get(path, name)
            .about(
                Access::Anyone,
                &format!("A remote site says that {event}"),
                "For jobs whose data a remote transfer service moves. No site of this service works \
                 so: a known job is answered with `appcode` 100000.",
            )
            .parameter(job_id())
            .answers_nothing("Noted.")
            .tagged(TAG)
    });
    of_jobs.chain([refdata_operation()]).collect()
}

fn refdata_operation() -> Operation {
    Operation::get(
        "/callback/refdata_download/{refdata_id}/{cluster}",
        "refdata_download_complete",
    )
    .about(
        Access::Anyone,
        "A remote site says that reference data is there",
        "For sites to which a remote transfer service moves it. No site of this service works so: known \
         reference data is answered with `appcode` 100000.",
    )
    .parameter(refdata_id())
    .parameter(in_path("cluster", reference("Cluster"), "The site."))
    .answers_nothing("Noted.")
    .tagged(TAG)
}
