//! The service itself, and who the caller is.

use serde_json::json;

use cts_shared::wire::root::SERVICE_NAME;

use super::operation::{Access, Operation};
use super::schema::{Object, Schema, boolean, list_of, reference, string, time, with, words};

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
                "For load balancers: asks everything that the service depends on. An addition to the \
                 contract.",
            )
            .answers(reference("Readiness"), "Everything answers.")
            .answers_as(
                "503",
                "application/json",
                reference("Readiness"),
                "Something does not answer; the body says what.",
            ),
        Operation::get("/metrics", "metrics")
            .about(
                Access::Anyone,
                "Measurements",
                "In Prometheus' text format. An addition to the contract.",
            )
            .answers_as("200", "text/plain", string(), "The measurements."),
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
                .always("ready", boolean(), "Whether every dependency answers.")
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
                .always("name", string(), "What it is.")
                .always("ok", boolean(), "Whether it answers.")
                .always(
                    "detail",
                    with(string(), "examples", json!(["answered in 3 ms"])),
                    "What was seen.",
                )
                .build(),
        ),
    ]
}
