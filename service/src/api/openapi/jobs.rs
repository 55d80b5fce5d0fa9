//! Jobs as their owners see them.

use serde_json::{Value, json};

use cts_shared::job_input::rules::CHECKSUM;
use cts_shared::s3_path::S3Path;
use cts_shared::state::JobState;

use super::job_input;
use super::operation::{Access, Operation, container_num, in_query, job_id};
use super::schema::{
    Object, Schema, integer, integer_from, integer_within, list_of, nullable, number, one_of,
    reference, string, string_of_length, text, time, with_default, words,
};
use crate::api::job_lists::MAX_JOBS;

pub(super) const TAG: &str = "Jobs";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        listing(Operation::get("/jobs", "list_jobs").about(
            Access::User,
            "List your jobs",
            "The jobs that you submitted, the one that changed last first. Without the input files and \
             outputs: those are in `GET /jobs/{job_id}`.",
        )),
        Operation::post("/jobs", "submit_job")
            .about(
                Access::User,
                "Submit a job",
                "Checks everything that can be checked, stores the job and hands it to its site. A job \
                 that is refused leaves no trace.\n\nThe input files are shared out evenly: with 10 \
                 files and 3 containers, container 0 gets the first 4, the others 3 each. Each \
                 container starts with the image's entrypoint and `args`. A parameter in `args` or \
                 `environment` stands for what differs from container to container: its input files, \
                 the place of a file that lists them, or its number.",
            )
            .body(reference("JobInput-Input"), job_input::examples())
            .answers(reference("SubmitJobResponse"), "The job is stored."),
        Operation::get("/jobs/{job_id}/status", "get_job_status")
            .about(
                Access::Owner,
                "Follow a job",
                "The job's state and when it entered each of its states. Cheap: ask this one when you \
                 wait for a job.",
            )
            .parameter(job_id())
            .answers(reference("JobStatus"), "The job's states."),
        Operation::get("/jobs/{job_id}", "get_job")
            .about(
                Access::Owner,
                "Get a job",
                "All about the job: what was submitted, its states, its outputs with their checksums.",
            )
            .parameter(job_id())
            .answers(reference("Job"), "The job."),
        Operation::get("/jobs/{job_id}/exit_codes", "get_job_exit_codes")
            .about(
                Access::Owner,
                "Get the containers' exit codes",
                "By container number; null where a container has not ended by itself.",
            )
            .parameter(job_id())
            .answers(reference("ExitCodes"), "The exit codes."),
        log("/jobs/{job_id}/log/{container_num}/stdout", "get_job_stdout", "standard output"),
        log("/jobs/{job_id}/log/{container_num}/stderr", "get_job_stderr", "standard error"),
        Operation::put("/jobs/{job_id}/cancel", "cancel_job")
            .about(
                Access::Owner,
                "Cancel a job",
                "Its containers are stopped. The job is `canceling` until they are, then `canceled`. A \
                 job that has ended, or is being canceled already, is answered with 404.",
            )
            .parameter(job_id())
            .answers_nothing("The job is being canceled."),
    ]
    .into_iter()
    .map(|operation| operation.tagged(TAG))
    .collect()
}

fn log(path: &'static str, name: &str, stream: &str) -> Operation {
    Operation::get(path, name)
        .about(
            Access::Owner,
            &format!("Read a container's {stream}"),
            "There once the container has ended. `seek` and `length` take a part of it; so does the \
             header `Range`, an addition to the contract, which is answered with 206.",
        )
        .parameter(job_id())
        .parameter(container_num())
        .parameter(in_query(
            "seek",
            integer_from(0),
            "Bytes to leave out at the start.",
        ))
        .parameter(in_query(
            "length",
            integer_from(1),
            "Bytes to read; less come if the log is shorter.",
        ))
        .answers_as("200", "text/plain", string(), "The log, or the part of it.")
        .answers_as("206", "text/plain", string(), "The part that `Range` asks for.")
}

/// What listings of jobs have in common.
pub(super) fn listing(operation: Operation) -> Operation {
    operation
        .parameter(in_query(
            "cluster",
            nullable(reference("Cluster")),
            "Only jobs of this site.",
        ))
        .parameter(in_query(
            "state",
            nullable(reference("JobState")),
            "Only jobs in this state.",
        ))
        .parameter(in_query(
            "after",
            nullable(time()),
            "Only jobs that changed last at this time or later. ISO 8601 with an offset, or seconds \
             since 1970.",
        ))
        .parameter(in_query(
            "before",
            nullable(time()),
            "Only jobs that changed last before this time.",
        ))
        .parameter(in_query(
            "limit",
            with_default(
                nullable(integer_within(&(1..=MAX_JOBS))),
                MAX_JOBS,
            ),
            "Most jobs to list.",
        ))
        .answers(reference("ListJobsResponse"), "The jobs.")
}

/// Values that administrators attach to jobs.
pub(super) fn admin_meta() -> Value {
    json!({
        "type": "object",
        "additionalProperties": one_of([string(), integer(), number()]),
    })
}

pub(super) fn s3_path() -> Value {
    string_of_length(&S3Path::CHARS)
}

/// Id, state, transitions.
fn stateful(description: &'static str, transition: &str) -> Object {
    Object::new(description)
        .always("id", string(), "The job's id.")
        .always("state", reference("JobState"), "The state it is in.")
        .always(
            "transition_times",
            list_of(reference(transition)),
            "The states it entered, oldest first.",
        )
}

fn status(description: &'static str, transition: &str) -> Object {
    stateful(description, transition)
        .always("user", string(), "Who submitted it.")
        .maybe(
            "admin_meta",
            admin_meta(),
            "What administrators noted on it.",
        )
        .maybe(
            "site_notice",
            reference("SiteNotice"),
            "What keeps it waiting at its site, or ended it there, if something does.",
        )
}

/// A job without the long lists.
fn preview(description: &'static str, transition: &str, job_input: &str) -> Object {
    status(description, transition)
        .always("job_input", reference(job_input), "What was submitted.")
        .always(
            "image",
            reference("JobImage"),
            "The image as it was when the job was submitted.",
        )
        .always("input_file_count", integer(), "Number of input files.")
        .maybe(
            "cpu_hours",
            nullable(number()),
            "CPU hours that the containers used.",
        )
        .maybe(
            "cpu_factor",
            nullable(number()),
            "CPU time used over CPU time reserved: near 1 is a good use.",
        )
        .maybe(
            "max_memory",
            nullable(integer()),
            "Largest memory of a container, in bytes.",
        )
        .maybe(
            "output_file_count",
            nullable(integer()),
            "Number of output files.",
        )
        .maybe_text("error", "What went wrong.")
        .maybe_text("logpath", "Where in S3 the containers' logs are.")
}

fn with_outputs(job: Object) -> Object {
    job.maybe(
        "outputs",
        nullable(list_of(reference("S3File"))),
        "What the containers wrote; there when the job is complete.",
    )
}

/// A job, for administrators before they get to see more of it.
pub(super) fn job(description: &'static str, transition: &str) -> Object {
    with_outputs(preview(description, transition, "JobInput-Output"))
}

/// A container, with what its reports may hold.
pub(super) fn container() -> Object {
    with_report(
        stateful(
            "One of a job's containers.",
            "JobStateTransition",
        )
        .always("sub_id", integer(), "The container's number, from 0."),
    )
    .maybe(
        "reported_time",
        nullable(time()),
        "When the container entered its state by its worker's clock, if that is not the stored time. An \
         addition to the contract.",
    )
    .maybe(
        "attempts",
        list_of(reference("Attempt")),
        "The executors that announced themselves, oldest first; the last one's reports count. Absent if \
         there were none. An addition to the contract.",
    )
}

/// What executors report of a container.
pub(super) fn with_report(object: Object) -> Object {
    object
        .maybe(
            "exit_code",
            nullable(integer()),
            "Exit code of the container's process.",
        )
        .maybe(
            "outputs",
            nullable(list_of(reference("S3File"))),
            "What it wrote.",
        )
        .maybe_text("admin_error", "What went wrong, for administrators.")
        .maybe_text("traceback", "Where in the program it went wrong.")
        .maybe(
            "usage",
            nullable(reference("ContainerUsage")),
            "What it used. An addition to the contract.",
        )
}

pub(super) fn transition(description: &'static str) -> Object {
    Object::new(description)
        .always("state", reference("JobState"), "The state.")
        .always("time", time(), "When it was entered.")
}

/// An object in S3 with its checksum.
pub(super) fn s3_file(description: &'static str) -> Object {
    Object::new(description)
        .always("file", s3_path(), "S3 path, bucket first.")
        .maybe(
            "crc64nvme",
            nullable(text(&CHECKSUM)),
            "CRC64NVME of the whole object: base64 of the 8 bytes, big-endian.",
        )
        .closed()
}

pub(super) fn schemas() -> Vec<Schema> {
    vec![
        (
            "JobState",
            words(
                &JobState::ALL,
                "The usual way is `created`, `download_submitted`, `job_submitting` (inputs and image \
                 are there), `job_submitted` (the container runs), `upload_submitting`, \
                 `upload_submitted`, `complete`. A container that fails goes by \
                 `error_processing_submitting` and `error_processing_submitted` to `error`. \
                 `complete`, `error` and `canceled` are final.",
            ),
        ),
        (
            "JobStateTransition",
            transition("A state and when it was entered.").build(),
        ),
        (
            "SubmitJobResponse",
            Object::new("The new job.")
                .always("job_id", string(), "Its id.")
                .build(),
        ),
        (
            "SiteNotice",
            Object::new(
                "Something at a job's site that keeps it waiting, or ended it: no machine fits, the batch \
                 system holds it. An addition to the contract.",
            )
            .always("message", string(), "What, and who can do something about it.")
            .always("since", time(), "Since when.")
            .build(),
        ),
        (
            "JobStatus",
            status("A job's states.", "JobStateTransition").build(),
        ),
        ("Job", job("A job.", "JobStateTransition").build()),
        (
            "JobPreview",
            preview(
                "A job without its input files and outputs.",
                "JobStateTransition",
                "JobInputPreview",
            )
            .build(),
        ),
        (
            "ListJobsResponse",
            Object::new("Jobs.")
                .always("jobs", list_of(reference("JobPreview")), "The jobs.")
                .build(),
        ),
        (
            "ExitCodes",
            Object::new("Exit codes.")
                .always(
                    "exit_codes",
                    list_of(nullable(integer())),
                    "By container number; null where unknown.",
                )
                .build(),
        ),
        (
            "S3File",
            s3_file("An object in S3 and its checksum.").build(),
        ),
        (
            "JobImage",
            super::images::job_image("The image of a job.").build(),
        ),
    ]
}
