//! `image_names.jsonl`: image names and what they refer to.
//!
//! Decision 9: `unhandled` (500 upstream) is a parse error like the others (400, 30040).

use cts_shared::image_name::ImageName;
use serde_json::json;

use crate::loader::{equal, run};

#[test]
fn vectors() {
    run("image_names.jsonl", |row| {
        let actual = match row.input.as_str().unwrap().parse::<ImageName>() {
            Ok(image) => {
                let host_and_repository =
                    format!("{}/{}", image.registry_host(), image.repository());
                equal(
                    "host and repository",
                    &host_and_repository.as_str(),
                    &image.name(),
                )?;
                json!({
                    "ok": {"name": image.name(), "tag": image.tag(), "digest": image.digest()},
                    "registry_lookup": image.registry_lookup(),
                    "db_lookup": image.db_lookup(),
                })
            }
            Err(error) => json!({"error": error.kind()}),
        };
        let expected = match row.expect["error"].as_str() {
            None => row.expect.clone(),
            Some("unhandled") => json!({"error": "unsupported_digest"}),
            Some(kind) => json!({"error": kind}),
        };
        equal("image", &actual, &expected)
    });
}
