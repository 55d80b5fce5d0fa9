//! The executors' routes.

use serde_json::{Value, json};

use cts_shared::state::JobState;

use super::jobs::with_report;
use super::operation::{Access, Operation, container_num, in_path, job_id};
use super::schema::{
    Object, Schema, boolean, integer_from, nullable, reference, string, text, time, with,
};
use crate::api::attempts::{HOST, INSTANCE};

pub(super) const TAG: &str = "External Execution";

pub(super) fn operations() -> Vec<Operation> {
    let file = |path, name, summary, description| {
        Operation::get(path, name)
            .about(Access::Anyone, summary, description)
            .answers_as(
                "200",
                "*/*",
                with(string(), "format", "binary"),
                "The file.",
            )
            .answers_as(
                "206",
                "*/*",
                with(string(), "format", "binary"),
                "The part that `Range` asks for.",
            )
            .answers_without_body("304", "Not changed since what the request's headers say.")
            .answers_without_body("416", "There is no such part.")
            .tagged(TAG)
    };
    let mut operations = vec![
        Operation::put(
            "/external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}",
            "update_container",
        )
        .about(
            Access::Executor,
            "Report a container's new state",
            "The report and what it means for the job are one step. The same report again changes \
             nothing and is answered with 204, too; one that the container's state does not allow is \
             answered with 404 and `appcode` 40050. Where executors announce themselves, a report that is \
             not of the last attempt is answered with 409 and `appcode` 50200.",
        )
        .parameter(job_id())
        .parameter(container_num())
        .parameter(in_path(
            "new_state",
            reference("JobState"),
            "The state that the container entered.",
        ))
        .body(
            reference("ContainerUpdate"),
            json!({
                "running": {
                    "summary": format!("{}", JobState::JobSubmitted),
                    "value": {"time": "2031-02-03T04:05:06.070809+00:00"},
                },
                "done": {
                    "summary": format!("{}", JobState::Complete),
                    "value": {
                        "time": "2031-02-03T05:05:06.070809+00:00",
                        "outputs": [{"file": "cts/io/stats/stats.tsv", "crc64nvme": "6YwqZlRfOM4="}],
                    },
                },
            }),
        )
        .answers_nothing("The container is in that state.")
        .tagged(TAG),
        file(
            "/external_exec/files/condor/executable.sh",
            "get_condor_executable",
            "Download the wrapper of HTCondor jobs",
            "The script that starts the executor on a worker.",
        ),
        file(
            "/external_exec/files/code_archive.tgz",
            "get_code_archive",
            "Download the executor",
            "The archive that the wrapper unpacks on a worker.",
        ),
    ];
    operations.extend(attempt_operations());
    operations
}

/// Additions to the contract.
fn attempt_operations() -> Vec<Operation> {
    let notice = |operation: Operation| {
        operation
            .body(
                reference("AttemptNotice"),
                json!({"an executor": {"value": {
                    "time": "2031-02-03T04:05:06.070809+00:00",
                    "instance": "0b7c5a1e-2f64-4b0e-9d55-6f6c1f1f7a10",
                    "host": "node1.example.org",
                }}}),
            )
            .answers(reference("AttemptStanding"), "Where the executor stands.")
            .tagged(TAG)
    };
    vec![
        notice(
            Operation::post(
                "/external_exec/jobs/{job_id}/container/{container_num}/attempts",
                "announce_attempt",
            )
            .about(
                Access::Executor,
                "Begin with a container",
                "An executor announces itself before it does anything else, and its reports carry the \
                 number that it gets. The container starts again, and the reports of executors that \
                 began earlier are refused with 409 and `appcode` 50200. The same instance again keeps \
                 its number.",
            )
            .parameter(job_id())
            .parameter(container_num()),
        ),
        notice(
            Operation::put(
                "/external_exec/jobs/{job_id}/container/{container_num}/attempts/{attempt}",
                "renew_attempt",
            )
            .about(
                Access::Executor,
                "Say that an executor is still at work",
                "With the instance that began the attempt. 409 and `appcode` 50200 if another executor \
                 has begun since.",
            )
            .parameter(job_id())
            .parameter(container_num())
            .parameter(in_path(
                "attempt",
                integer_from(1),
                "The number that the executor got.",
            )),
        ),
    ]
}

pub(super) fn schemas() -> Vec<Schema> {
    let update = Object::new("What an executor reports of its container.").always(
        "time",
        time(),
        "When the container entered the state, by the worker's clock. Also seconds since 1970, or a time \
         without offset, which is UTC.",
    );
    let update = with_report(update).maybe(
        "attempt",
        nullable(integer_from(1)),
        "The number of the executor's attempt, if it announced itself. An addition to the contract.",
    );
    let mut schemas = vec![
        ("ContainerUpdate", update.build()),
        ("ContainerUsage", usage()),
    ];
    schemas.extend(attempt_schemas());
    schemas
}

fn usage() -> Value {
    let amount = || nullable(integer_from(0));
    Object::new("What a container used, as its executor measured it.")
        .maybe("cpu_ms", amount(), "CPU time in milliseconds.")
        .maybe(
            "wall_ms",
            amount(),
            "From its start to its end, in milliseconds.",
        )
        .maybe(
            "max_memory_bytes",
            amount(),
            "The most memory it had, in bytes.",
        )
        .build()
}

fn attempt_schemas() -> Vec<Schema> {
    vec![
        (
            "AttemptNotice",
            Object::new("What an executor says of itself.")
                .always("time", time(), "The worker's clock, as in an update.")
                .always(
                    "instance",
                    text(&INSTANCE),
                    "Tells this executor process from all others: a random UUID.",
                )
                .maybe(
                    "host",
                    nullable(text(&HOST)),
                    "The worker's name, for administrators.",
                )
                .maybe(
                    "leaving",
                    boolean(),
                    "With `PUT`: the executor ends and has nothing under way to the store, so that its \
                     successor need not wait.",
                )
                .build(),
        ),
        (
            "AttemptStanding",
            Object::new("Where an executor stands.")
                .always(
                    "attempt",
                    integer_from(0),
                    "The number of the executor's attempt, from 1. If `wanted` is false: that of the last \
                     attempt, 0 if there was none.",
                )
                .always(
                    "wanted",
                    boolean(),
                    "Whether the container is still to be carried out. If not, the executor ends at once, \
                     with success: the container has ended, or the job has or is being canceled.",
                )
                .always("job_state", reference("JobState"), "The job's state.")
                .maybe(
                    "publish_after_ms",
                    integer_from(0),
                    "How long from now the executor must make nothing visible in the store, in milliseconds: \
                     an earlier attempt may still do so.",
                )
                .build(),
        ),
        (
            "Attempt",
            Object::new("An executor that announced itself for a container.")
                .always("attempt", integer_from(1), "Its number, from 1.")
                .maybe("host", string(), "The worker's name, if it told.")
                .always(
                    "started",
                    time(),
                    "When it announced itself, by the service's clock.",
                )
                .always(
                    "last_seen",
                    time(),
                    "When it was last heard of, by the service's clock.",
                )
                .build(),
        ),
    ]
}
