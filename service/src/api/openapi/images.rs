//! Images that jobs may run.

use serde_json::Value;

use cts_shared::job_input::rules::IMAGE;

use super::operation::{Access, Operation, in_path};
use super::schema::{Object, Schema, list_of, nullable, reference, string, text, time, with};
use crate::api::images::USAGE_NOTES;

pub(super) const TAG: &str = "Images";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/images", "get_images")
            .about(
                Access::Anyone,
                "List the images",
                "The images that administrators have registered, at most 1000.",
            )
            .answers(reference("Images"), "The images.")
            .tagged(TAG),
        Operation::get("/images/{image_id}", "get_image")
            .about(
                Access::Anyone,
                "Get an image",
                "By digest, or by tag: `latest` if neither is given.",
            )
            .parameter(image_id())
            .answers(reference("Image"), "The image.")
            .tagged(TAG),
    ]
}

/// The image of the path.
pub(super) fn image_id() -> Value {
    with(
        in_path(
            "image_id",
            text(&IMAGE),
            "The rest of the path, slashes included: `ghcr.io/kbase/checkm2:1.0.2`.",
        ),
        "x-rest-of-path",
        true,
    )
}

/// An image as jobs carry it.
pub(super) fn job_image(description: &'static str) -> Object {
    Object::new(description)
        .always("registered_by", string(), "Who registered it.")
        .always("registered_on", time(), "When.")
        .always("name", string(), "Registry and repository.")
        .always("digest", string(), "Digest of its manifest: what is run.")
        .always(
            "entrypoint",
            list_of(string()),
            "The program that a container starts with.",
        )
        .maybe_text("tag", "The tag it was registered by.")
        .maybe_text("refdata_id", "The reference data it needs.")
        .maybe_text(
            "default_refdata_mount_point",
            "Where that reference data is in the container, unless the job says otherwise.",
        )
}

pub(super) fn schemas() -> Vec<Schema> {
    vec![
        (
            "Images",
            Object::new("Images.")
                .always("data", list_of(reference("Image")), "The images.")
                .build(),
        ),
        (
            "Image",
            job_image("A registered image.")
                .maybe(
                    "urls",
                    nullable(list_of(string())),
                    "Web pages about the tool.",
                )
                .maybe(
                    "usage_notes",
                    nullable(text(&USAGE_NOTES)),
                    "How to use it.",
                )
                .build(),
        ),
    ]
}
