//! Reference data that images may need.

use serde_json::{Value, json};

use cts_shared::job_input::rules::CHECKSUM;
use cts_shared::refdata_archive::ArchiveFormat;
use cts_shared::state::refdata::RefdataState;

use super::operation::{Access, Operation, in_path, in_query};
use super::schema::{
    Object, Schema, boolean, integer_from, list_of, nullable, reference, string, text, time, with,
    with_default, words,
};
use super::{admin, external_exec};
use crate::api::parameters::{ID, S3_PATH};

pub(super) const TAG: &str = "Reference Data";

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = public_operations();
    operations.extend(admin_operations());
    operations.push(update_operation());
    operations
}

fn public_operations() -> Vec<Operation> {
    vec![
        Operation::get("/refdata", "get_refdata")
            .about(
                Access::Anyone,
                "List the reference data",
                "What administrators have registered, at most 1000, by file, and how far it is at each site.",
            )
            .answers(reference("RefData"), "The reference data.")
            .tagged(TAG),
        Operation::get("/refdata/id/{refdata_id}", "get_refdata_by_id")
            .about(
                Access::Anyone,
                "Get reference data",
                "By its id, which images carry.",
            )
            .parameter(refdata_id())
            .answers(reference("ReferenceData"), "The reference data.")
            .tagged(TAG),
        Operation::get("/refdata/path/{s3_path}", "get_refdata_by_path")
            .about(
                Access::Anyone,
                "Find the reference data of a file",
                "By exactly that path; an empty list if it is not registered.",
            )
            .parameter(s3_path("s3_path"))
            .answers(reference("RefData"), "The reference data.")
            .tagged(TAG),
    ]
}

fn admin_operations() -> Vec<Operation> {
    let operations = vec![
        Operation::post("/admin/refdata/{refdata_s3_path}", "create_refdata")
            .about(
                Access::Admin,
                "Register reference data",
                "A file in S3 with a CRC64NVME checksum, which is staged at every site that takes jobs. A path \
                 can be registered once.",
            )
            .parameter(s3_path("refdata_s3_path"))
            .parameter(in_query(
                "crc64nvme",
                text(&CHECKSUM),
                "The checksum that the file must have.",
            ))
            .parameter(in_query(
                "unpack",
                with_default(boolean(), false),
                &format!(
                    "Unpack the file; its name ends in one of {}.",
                    ArchiveFormat::endings()
                ),
            ))
            .answers(reference("ReferenceData"), "It is being staged."),
        Operation::get("/admin/refdata/{refdata_id}", "get_refdata_admin")
            .about(
                Access::Admin,
                "Get reference data with what went wrong",
                "As `GET /refdata/id/{refdata_id}`, with what administrators need to know.",
            )
            .parameter(refdata_id())
            .answers(reference("AdminReferenceData"), "The reference data."),
        Operation::put("/admin/refdata/{refdata_id}/{cluster}/recover", "recover_refdata")
            .about(
                Access::Admin,
                "Stage reference data at a site",
                "Where it has no state, or is in state `error` and was cleaned; elsewhere `appcode` 40060, unless \
                 by `force`. The file must be as it was registered.",
            )
            .parameter(refdata_id())
            .parameter(cluster())
            .parameter(in_query(
                "force",
                with_default(boolean(), false),
                "Give up what there is, whatever its state: it becomes `error`, and begins anew.",
            ))
            .answers_nothing("It is being staged."),
        Operation::delete("/admin/refdata/{refdata_id}/{cluster}/clean", "clean_refdata")
            .about(
                Access::Admin,
                "Clean up after a staging",
                "Notes that one that has ended is cleaned. What was staged stays. Nothing happens where it is clean, \
                 or has not ended.",
            )
            .parameter(refdata_id())
            .parameter(cluster())
            .parameter(in_query(
                "force",
                with_default(boolean(), false),
                "Changes nothing here: no site has anything to remove.",
            ))
            .answers_nothing("It is clean, or has not ended."),
    ];
    let operations = operations.into_iter();
    operations
        .map(|operation| operation.tagged(admin::TAG))
        .collect()
}

fn update_operation() -> Operation {
    Operation::put(
        "/external_exec/refdata/{refdata_id}/{cluster}/update/{new_state}",
        "update_refdata",
    )
    .about(
        Access::RefdataService,
        "Report how far reference data is",
        "The same report again changes nothing and is answered with 204, too; one that the state does not allow \
         is answered with 404 and `appcode` 40060. State `error` needs an `admin_error`.",
    )
    .parameter(refdata_id())
    .parameter(cluster())
    .parameter(in_path(
        "new_state",
        reference("ReferenceDataState"),
        "The state that it entered.",
    ))
    .optional_body(
        nullable(reference("RefdataUpdate")),
        json!({"a failure": {
            "summary": RefdataState::Error.as_str(),
            "value": {"admin_error": "no space left on the device"},
        }}),
    )
    .answers_nothing("It is in that state.")
    .tagged(external_exec::TAG)
}

/// The reference data of the path.
pub(super) fn refdata_id() -> Value {
    in_path("refdata_id", text(&ID), "The reference data's id.")
}

fn cluster() -> Value {
    in_path("cluster", reference("Cluster"), "The site.")
}

fn s3_path(name: &str) -> Value {
    let description =
        "The rest of the path: bucket, slash, key, as in `refdata/checkm2/db.tar.gz`.";
    with(
        in_path(name, text(&S3_PATH), description),
        "x-rest-of-path",
        true,
    )
}

pub(super) fn schemas() -> Vec<Schema> {
    vec![
        (
            "RefData",
            Object::new("Reference data.")
                .always("data", list_of(reference("ReferenceData")), "By file.")
                .build(),
        ),
        (
            "ReferenceData",
            refdata("Registered reference data.", "ReferenceDataStatus"),
        ),
        (
            "AdminReferenceData",
            refdata(
                "Registered reference data as administrators see it.",
                "AdminReferenceDataStatus",
            ),
        ),
        (
            "ReferenceDataStatus",
            status("How far reference data is at a site.").build(),
        ),
        (
            "AdminReferenceDataStatus",
            status("How far reference data is at a site, with what went wrong.")
                .maybe(
                    "cleaned",
                    with_default(boolean(), false),
                    "Whether its staging was cleaned up after.",
                )
                .maybe(
                    "nersc_download_task_id",
                    nullable(list_of(string())),
                    "Transfers to NERSC.",
                )
                .maybe_text("admin_error", "What went wrong, for administrators.")
                .maybe_text("traceback", "Where in the program it went wrong.")
                .maybe(
                    "progress",
                    reference("StagingProgress"),
                    "How far the staging is, where this service's own machine does it.",
                )
                .build(),
        ),
        (
            "StagingProgress",
            Object::new("How much of a staging has been done.")
                .always(
                    "downloaded_bytes",
                    integer_from(0),
                    "Bytes of the file that have arrived.",
                )
                .always(
                    "object_bytes",
                    integer_from(0),
                    "Size of the file in bytes; 0 while it is not known.",
                )
                .always(
                    "unpacked_bytes",
                    integer_from(0),
                    "Bytes that have been written.",
                )
                .always(
                    "unpacked_files",
                    integer_from(0),
                    "Files that have been written.",
                )
                .always(
                    "bytes_per_second",
                    integer_from(0),
                    "Bytes of the file per second, lately.",
                )
                .build(),
        ),
        (
            "ReferenceDataState",
            words(&RefdataState::ALL, "State of reference data at a site."),
        ),
        (
            "RefDataStateTransition",
            Object::new("A state, and when it was entered.")
                .always("state", reference("ReferenceDataState"), "The state.")
                .always("time", time(), "When.")
                .build(),
        ),
        (
            "RefdataUpdate",
            Object::new("What went wrong.")
                .maybe_text(
                    "admin_error",
                    "For administrators; needed with state `error`.",
                )
                .maybe_text("traceback", "Where in the program it went wrong.")
                .build(),
        ),
    ]
}

fn refdata(description: &'static str, status: &str) -> Value {
    Object::new(description)
        .always("id", string(), "Its id.")
        .always("registered_by", string(), "Who registered it.")
        .always("registered_on", time(), "When.")
        .always("file", text(&S3_PATH), "The file: bucket and key.")
        .maybe(
            "crc64nvme",
            nullable(text(&CHECKSUM)),
            "The file's checksum when it was registered, in base64.",
        )
        .maybe(
            "unpack",
            with_default(boolean(), false),
            "Whether it is unpacked.",
        )
        .always(
            "statuses",
            list_of(reference(status)),
            "How far it is at each site.",
        )
        .closed()
        .build()
}

fn status(description: &'static str) -> Object {
    Object::new(description)
        .always("cluster", reference("Cluster"), "The site.")
        .always("state", reference("ReferenceDataState"), "The state.")
        .always(
            "transition_times",
            list_of(reference("RefDataStateTransition")),
            "The states it had, oldest first.",
        )
        .maybe_text("error", "That it could not be staged.")
}
