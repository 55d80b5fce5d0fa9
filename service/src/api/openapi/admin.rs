//! The administrators' routes.

use serde_json::{Value, json};

use cts_shared::job_input::rules::{IMAGE, MOUNT_POINT};

use super::images::image_id;
use super::jobs::{admin_meta, container, job, listing, transition};
use super::operation::{Access, Operation, container_num, in_path, in_query, job_id};
use super::schema::{
    Object, Schema, boolean, duration, integer, integer_from, iso_8601, list_of, nullable,
    reference, string, text, time, with, with_default,
};
use crate::api::images::{MAX_URLS, URL, USAGE_NOTES};
use crate::api::notifications::DEFAULT_AGE;
use crate::api::parameters::{ID, USER_NAME};

pub(super) const TAG: &str = "Admin";

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = image_operations();
    operations.extend(job_operations());
    operations.extend(other_operations());
    operations
        .into_iter()
        .map(|operation| operation.tagged(TAG))
        .collect()
}

fn image_operations() -> Vec<Operation> {
    vec![
        Operation::post("/admin/images/{image_id}", "approve_image")
            .about(
                Access::Admin,
                "Register an image",
                "Looks the image up in its registry and lets jobs run it, by the digest found. A name and \
                 tag, and a name and digest, can be registered once.",
            )
            .parameter(image_id())
            .parameter(in_query(
                "refdata_id",
                text(&ID),
                "The reference data that the image needs.",
            ))
            .parameter(in_query(
                "default_refdata_mount_point",
                text(&MOUNT_POINT),
                "Where that reference data is in the container, unless the job says otherwise.",
            ))
            .optional_body(
                reference("ImageRegistration"),
                json!({"about the tool": {"value": {
                    "urls": ["https://github.com/chklovski/CheckM2"],
                    "usage_notes": "Give genomes with --input; results are in quality_report.tsv.",
                }}}),
            )
            .answers(reference("Image"), "The image as registered."),
        Operation::delete("/admin/images/{image_id}", "delete_image")
            .about(
                Access::Admin,
                "Delete an image",
                "New jobs cannot use it any more. Jobs that have it keep it.",
            )
            .parameter(image_id())
            .answers_nothing("The image is deleted."),
    ]
}

fn job_operations() -> Vec<Operation> {
    vec![
        listing(
            Operation::get("/admin/jobs", "list_jobs_admin")
                .about(
                    Access::Admin,
                    "List everyone's jobs",
                    "The one that changed last first, without input files and outputs.",
                )
                .parameter(in_query(
                    "user",
                    text(&USER_NAME),
                    "Only jobs of this user, who must exist.",
                )),
        ),
        Operation::get("/admin/jobs/{job_id}", "get_job_admin")
            .about(
                Access::AdminOrExecutor,
                "Get anyone's job",
                "With what its owner does not see. Executors read what they have to do here.",
            )
            .parameter(job_id())
            .answers(reference("AdminJobDetails"), "The job."),
        Operation::get("/admin/jobs/{job_id}/exit_codes", "get_job_exit_codes_admin")
            .about(
                Access::Admin,
                "Get the exit codes of anyone's job",
                "By container number; null where a container has not ended by itself.",
            )
            .parameter(job_id())
            .answers(reference("ExitCodes"), "The exit codes."),
        Operation::get("/admin/jobs/{job_id}/container", "get_job_containers")
            .about(
                Access::Admin,
                "List a job's containers",
                "Each with its states, exit code, outputs, and what went wrong.",
            )
            .parameter(job_id())
            .answers(reference("SubJobs"), "The containers."),
        Operation::get(
            "/admin/jobs/{job_id}/container/{container_num}",
            "get_job_container",
        )
        .about(
            Access::Admin,
            "Get one of a job's containers",
            "Its states, exit code, outputs, and what went wrong.",
        )
        .parameter(job_id())
        .parameter(container_num())
        .answers(reference("SubJob"), "The container."),
        Operation::get("/admin/jobs/{job_id}/runner_status", "get_job_runner_status")
            .about(
                Access::Admin,
                "Ask the site's scheduler about a container",
                "What HTCondor says about the container's job, by its own names. Empty if it was not \
                 submitted yet. At sites without such a scheduler: `appcode` 100000.",
            )
            .parameter(job_id())
            .parameter(in_query(
                "container_number",
                with_default(integer_from(0), 0),
                "The container's number, from 0.",
            ))
            .answers(
                json!({"type": "object", "additionalProperties": true}),
                "The scheduler's attributes.",
            ),
        Operation::put("/admin/jobs/{job_id}/cancel", "cancel_job_admin")
            .about(
                Access::Admin,
                "Cancel anyone's job",
                "As `PUT /jobs/{job_id}/cancel` does for its owner.",
            )
            .parameter(job_id())
            .answers_nothing("The job is being canceled."),
        Operation::put("/admin/jobs/{job_id}/meta", "update_job_admin_meta")
            .about(
                Access::Admin,
                "Note something on a job",
                "Sets and removes values; those not named stay. The job's owner sees them as `admin_meta`.",
            )
            .parameter(job_id())
            .body(
                reference("UpdateAdminMeta"),
                json!({"set and remove": {"value": {
                    "set_fields": {"ticket": "CTS-17", "priority": 2},
                    "unset_keys": ["seen"],
                }}}),
            )
            .answers_nothing("Noted."),
        Operation::put("/admin/jobs/{job_id}/notify", "resend_notifcation")
            .about(
                Access::Admin,
                "Send a job's notification again",
                "The one of the job's last entry into the state.",
            )
            .parameter(job_id())
            .parameter(with(
                in_query("state", reference("JobState"), "The state."),
                "required",
                true,
            ))
            .answers_nothing("It is being sent."),
        Operation::delete("/admin/jobs/{job_id}/clean", "clean_job")
            .about(
                Access::Admin,
                "Remove a job's intermediate files",
                "For jobs that have ended. Outputs and logs stay. Nothing happens to a clean job.",
            )
            .parameter(job_id())
            .parameter(in_query(
                "force",
                with_default(boolean(), false),
                "Clean a job that has not ended, too.",
            ))
            .answers_nothing("The job is clean."),
    ]
}

fn other_operations() -> Vec<Operation> {
    let site = || in_path("site", reference("Cluster"), "The site.");
    vec![
        Operation::put("/admin/sites/{site}/active", "set_site_active")
            .about(
                Access::Admin,
                "Let a site take jobs",
                "What every site does until it is stopped.",
            )
            .parameter(site())
            .answers_nothing("The site takes jobs."),
        Operation::delete("/admin/sites/{site}/active", "set_site_inactive")
            .about(
                Access::Admin,
                "Have a site take no more jobs",
                "New jobs for it are refused with `appcode` 60010. Jobs it has run on.",
            )
            .parameter(site())
            .answers_nothing("The site takes no more jobs."),
        Operation::get("/admin/clients/nersc", "get_nersc_client_info")
            .about(
                Access::Admin,
                "Look at the NERSC client",
                "This service has none: `appcode` 60000.",
            )
            .parameter(in_query(
                "require_lifetime",
                duration(),
                "Fail if it expires before that time has passed.",
            ))
            .answers(reference("NERSCClientInfo"), "The client."),
        Operation::post("/admin/unsent_notifications", "handle_unsent_notifications")
            .about(
                Access::Admin,
                "Count the notifications that were not sent",
                "Those of transitions older than the age. They are sent without this call, as soon as \
                 the receiver is there.",
            )
            .parameter(in_query(
                "notification_age",
                with_default(duration(), iso_8601(DEFAULT_AGE)),
                "Age of the transitions, a minute or more.",
            ))
            .answers(reference("UnsentNotifications"), "What waits to be sent."),
    ]
}

pub(super) fn schemas() -> Vec<Schema> {
    let mut schemas = job_schemas();
    schemas.extend([
        (
            "ImageRegistration",
            Object::new("What to show about an image.")
                .maybe("urls", nullable(urls()), "Web pages about the tool.")
                .maybe(
                    "usage_notes",
                    nullable(text(&USAGE_NOTES)),
                    "How to use it.",
                )
                .maybe(
                    "from_image",
                    nullable(text(&IMAGE)),
                    "A registered image that supplies what is not given here.",
                )
                .closed()
                .build(),
        ),
        (
            "NERSCClientInfo",
            Object::new("A client of NERSC's API.")
                .always("id", string(), "Its id.")
                .always("expires_at", time(), "When it expires.")
                .always("expires_in", duration(), "Time until then.")
                .build(),
        ),
        (
            "UnsentNotifications",
            Object::new("What waits to be sent.")
                .always("jobs", integer(), "Number of jobs.")
                .always("transitions", integer(), "Number of transitions.")
                .build(),
        ),
    ]);
    schemas
}

fn urls() -> Value {
    let url = with(text(&URL), "format", "uri");
    with(list_of(url), "maxItems", MAX_URLS)
}

fn job_schemas() -> Vec<Schema> {
    vec![
        (
            "AdminJobDetails",
            job(
                "A job as administrators and executors see it.",
                "AdminJobStateTransition",
            )
            .maybe(
                "cleaned",
                with_default(boolean(), false),
                "Whether its intermediate files were removed.",
            )
            .maybe(
                "nersc_details",
                nullable(reference("NERSCDetails")),
                "Of jobs at NERSC.",
            )
            .maybe(
                "jaws_details",
                nullable(reference("JAWSDetails")),
                "Of jobs that JAWS runs.",
            )
            .maybe(
                "htcondor_details",
                nullable(reference("HTCondorDetails")),
                "Of jobs that HTCondor runs.",
            )
            .maybe_text("admin_error", "What went wrong, for administrators.")
            .maybe_text("traceback", "Where in the program it went wrong.")
            .build(),
        ),
        (
            "AdminJobStateTransition",
            transition("A state, when it was entered, and its notification.")
                .always("trans_id", string(), "Id of the notification.")
                .always("notif_sent", boolean(), "Whether it was sent.")
                .build(),
        ),
        (
            "NERSCDetails",
            Object::new("Transfers of a job at NERSC.")
                .always("download_task_id", list_of(string()), "Of its inputs.")
                .maybe("upload_task_id", list_of(string()), "Of its outputs.")
                .maybe("log_upload_task_id", list_of(string()), "Of its logs.")
                .build(),
        ),
        (
            "JAWSDetails",
            Object::new("Runs of a job in JAWS.")
                .always("run_id", list_of(string()), "Ids of the runs.")
                .build(),
        ),
        (
            "HTCondorDetails",
            Object::new("Submissions of a job to HTCondor.")
                .always(
                    "cluster_id",
                    list_of(integer()),
                    "Cluster ids, newest last.",
                )
                .build(),
        ),
        (
            "SubJobs",
            Object::new("A job's containers.")
                .always("subjobs", list_of(reference("SubJob")), "By number.")
                .build(),
        ),
        ("SubJob", container().build()),
        (
            "UpdateAdminMeta",
            Object::new(
                "What to note on a job: at least one value to set or remove, none in both.",
            )
            .maybe("set_fields", admin_meta(), "Values to set.")
            .maybe(
                "unset_keys",
                with(list_of(string()), "uniqueItems", true),
                "Names of values to remove.",
            )
            .closed()
            .build(),
        ),
    ]
}
