//! The executors' routes.

use serde_json::json;

use cts_shared::state::JobState;

use super::jobs::with_report;
use super::operation::{Access, Operation, container_num, in_path, job_id};
use super::schema::{Object, Schema, reference, string, time, with};

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
    vec![
        Operation::put(
            "/external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}",
            "update_container",
        )
        .about(
            Access::Executor,
            "Report a container's new state",
            "The report and what it means for the job are one step. The same report again changes \
             nothing and is answered with 204, too; one that the container's state does not allow is \
             answered with 404 and `appcode` 40050.",
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
    ]
}

pub(super) fn schemas() -> Vec<Schema> {
    let update = Object::new("What an executor reports of its container.").always(
        "time",
        time(),
        "When the container entered the state, by the worker's clock. Also seconds since 1970, or a time \
         without offset, which is UTC.",
    );
    vec![("ContainerUpdate", with_report(update).build())]
}
