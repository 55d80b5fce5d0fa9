//! The service itself, and who the caller is.

use cts_shared::wire::root::SERVICE_NAME;

use super::operation::{Access, Operation, in_query};
use super::schema::{
    Object, Schema, boolean, list_of, reference, string, time, with_default, words,
};

pub(super) const TAG: &str = "General";

pub(super) fn operations() -> Vec<Operation> {
    [
        Operation::get("/", "root")
            .about(
                Access::Anyone,
                "What this service is",
                "Name, version and time of the service. A cheap way to see whether you reach it.",
            )
            .answers(reference("Root"), "The service."),
        Operation::get("/whoami", "whoami")
            .about(
                Access::User,
                "Who you are",
                "The user that the token belongs to, and where its jobs may read and write.",
            )
            .answers(reference("WhoAmI"), "The user."),
        Operation::get("/livez", "livez")
            .about(
                Access::Anyone,
                "Whether the process answers",
                "For process supervisors: asks nothing but this process. An addition to the contract.",
            )
            .answers_as("200", "text/plain", string(), "It does."),
        Operation::get("/readyz", "readyz")
            .about(
                Access::Anyone,
                "Whether requests can be served",
                "For load balancers. Asks everything that the service depends on; without some of it most \
                 requests still work. An addition to the contract.",
            )
            .answers(reference("Readiness"), "They can.")
            .answers_as(
                "503",
                "application/json",
                reference("Readiness"),
                "They should go elsewhere; the body says why.",
            ),
        Operation::get("/metrics", "metrics")
            .about(
                Access::Anyone,
                "Measurements",
                "For Prometheus, in the OpenMetrics text format. An addition to the contract.",
            )
            .answers_as(
                "200",
                "application/openmetrics-text",
                string(),
                "The measurements.",
            ),
        Operation::get("/events", "events")
            .about(
                Access::User,
                "Follow jobs as they change",
                "A stream of server-sent events, one for each new state of one of your jobs. The data is \
                 a JSON object of `job_id`, `state`, `time` and `trans_id`; the id is `trans_id`, so that \
                 a browser's `EventSource` goes on where it was when the connection breaks. An addition \
                 to the contract.",
            )
            .parameter(in_query(
                "since",
                string(),
                "Id of the last transition that you know: what came after it is told first. Else only \
                 what comes from now on. The header `Last-Event-ID` goes before it.",
            ))
            .parameter(in_query(
                "all",
                with_default(boolean(), false),
                "Everybody's jobs, for administrators.",
            ))
            .answers_as("200", "text/event-stream", string(), "The stream."),
    ]
    .into_iter()
    .map(|operation| operation.tagged(TAG))
    .collect()
}

pub(super) fn schemas() -> Vec<Schema> {
    vec![
        (
            "Root",
            Object::new("What this service is.")
                .always(
                    "service_name",
                    string(),
                    &format!("Always `{SERVICE_NAME}`."),
                )
                .always("version", string(), "The service's version.")
                .always("git_hash", string(), "The commit it was built from.")
                .always("server_time", time(), "Its clock.")
                .always("notes", string(), "What its operators want to say.")
                .maybe(
                    "capabilities",
                    list_of(string()),
                    "What executors may rely on beyond the contract.",
                )
                .build(),
        ),
        (
            "WhoAmI",
            Object::new("The caller.")
                .always("user", string(), "The user's name.")
                .always(
                    "roles",
                    list_of(reference("CTSRole")),
                    "`full_admin` for administrators; other roles are not shown.",
                )
                .always(
                    "allowed_paths",
                    list_of(reference("AllowedPath")),
                    "Where jobs may read and write; empty where only S3 itself decides.",
                )
                .build(),
        ),
        ("CTSRole", words(&["full_admin"], "A role of a user.")),
        (
            "AllowedPath",
            Object::new("A place in S3 that jobs may use.")
                .always("path", string(), "Bucket, or bucket and prefix.")
                .always(
                    "perm",
                    reference("PathPermission"),
                    "What jobs may do there.",
                )
                .build(),
        ),
        (
            "PathPermission",
            words(&["write"], "`write` is reading, too."),
        ),
        (
            "Readiness",
            Object::new("Whether requests can be served.")
                .always("ready", boolean(), "Whether requests can be sent here.")
                .always(
                    "dependencies",
                    list_of(reference("Dependency")),
                    "What the service depends on.",
                )
                .build(),
        ),
        (
            "Dependency",
            Object::new("Something that the service depends on.")
                .always(
                    "name",
                    string(),
                    "`process`, `store`, `s3`, `identity`, or `site:` and its name.",
                )
                .always("ok", boolean(), "Whether it is there.")
                .always(
                    "required",
                    boolean(),
                    "Whether the service is not ready without it.",
                )
                .always("detail", string(), "What is wrong, or nothing.")
                .build(),
        ),
    ]
}
