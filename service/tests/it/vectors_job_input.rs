//! `job_input.jsonl` through `POST /jobs`, end to end.
//!
//! An accepted row is submitted, and `GET /jobs/{id}` shows its normalised form, with the files' checksums.
//! What the row does not know of is made to fit: the image is registered, the files exist, every site
//! takes jobs of any size. What our checks after validation refuse (the image's name, mount points, places of
//! the inputs) is taken from the domain, whose own vectors and tests cover it.

use std::collections::BTreeSet;

use cts_service::image_store::Inserted;
use cts_shared::file_location::file_locations;
use cts_shared::image_name::ImageName;
use cts_shared::job_input::JobInput;
use cts_shared::mount_point::check_mount_points;
use cts_shared::s3_path::S3Path;
use cts_shared::wire::image::{Image, JobImage};
use serde_json::{Value, json};

use crate::job_input_decisions::{Decision, with_sorted_roots};
use crate::loader::{Row, equal, rows};
use crate::test_app::{Answer, CRC, DIGEST, TestApp};

#[tokio::test]
async fn every_row() {
    let app = TestApp::with_every_site();
    let mut failures = Vec::new();
    let rows = rows("job_input.jsonl");
    let mut accepted = 0;
    for row in &rows {
        let checked = match row.expect.get("normalized") {
            None => refused(&app, row).await,
            Some(normalized) => match Decision::of(row) {
                Some(decision) => decided(&app, row, &decision).await,
                None => {
                    accepted += 1;
                    submitted(&app, row, normalized).await
                }
            },
        };
        if let Err(failure) = checked {
            failures.push(format!("{}: {failure}", row.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} rows failed\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
    assert!(accepted > 100, "only {accepted} rows were submitted");
}

async fn post(app: &TestApp, row: &Row) -> Answer {
    app.call("alice", "POST", "/jobs", Some(row.input.clone()))
        .await
}

fn refusal(answer: &Answer) -> Value {
    json!({"status": answer.status.as_u16(), "appcode": answer.json()["error"]["appcode"]})
}

fn details(answer: &Answer) -> Vec<Value> {
    let details = &answer.json()["error"]["request_validation_detail"];
    details.as_array().cloned().unwrap_or_default()
}

async fn refused(app: &TestApp, row: &Row) -> Result<(), String> {
    let answer = post(app, row).await;
    equal(
        "refusal",
        &refusal(&answer),
        &json!({"status": 400, "appcode": 30010}),
    )?;
    let details = details(&answer);
    if row.expect["status"] == 500 {
        // Decision 9; the row has no places.
        return equal("has details", &details.is_empty(), &false);
    }
    let mut locs: Vec<Value> = details.iter().map(|one| one["loc"].clone()).collect();
    locs.dedup();
    let types: BTreeSet<&str> = details
        .iter()
        .filter_map(|one| one["type"].as_str())
        .collect();
    equal("places", &json!(locs), &row.expect["locs"])?;
    equal("types", &json!(types), &row.expect["types"])
}

async fn decided(app: &TestApp, row: &Row, decision: &Decision) -> Result<(), String> {
    let answer = post(app, row).await;
    match decision {
        Decision::UnsafeSegments => equal(
            "refusal",
            &refusal(&answer),
            &json!({"status": 400, "appcode": 30020}),
        ),
        Decision::MissingFormat(argument) => {
            let place = json!(["body", "params", "args", argument]);
            let named = details(&answer).iter().any(|one| {
                one["loc"]
                    .as_array()
                    .unwrap()
                    .starts_with(place.as_array().unwrap())
            });
            equal("names the argument", &named, &true)
        }
    }
}

async fn submitted(app: &TestApp, row: &Row, normalized: &Value) -> Result<(), String> {
    let expected = with_files_as_stored(normalized.clone());
    for file in expected["input_files"].as_array().unwrap() {
        let checksum = file["crc64nvme"].as_str().unwrap();
        let path = file["file"].as_str().unwrap();
        app.objects.insert(path, "x", Some(checksum));
    }
    let job_input: JobInput = serde_json::from_value(normalized.clone()).unwrap();
    if let Ok(name) = job_input.image.parse::<ImageName>() {
        register(app, name).await;
    }
    let later = refused_later(&job_input);
    let answer = post(app, row).await;
    if let Some(appcode) = later {
        return equal(
            "refusal",
            &refusal(&answer),
            &json!({"status": 400, "appcode": appcode}),
        );
    }
    equal("status", &answer.status.as_u16(), &200).map_err(|error| error + &answer.text)?;
    let id = answer.json()["job_id"].as_str().unwrap().to_owned();
    let job = app.get("alice", &format!("/jobs/{id}")).await.json();
    equal(
        "stored job",
        &with_sorted_roots(job["job_input"].clone()),
        &with_sorted_roots(expected.clone()),
    )?;
    equal(
        "number of files",
        &job["input_file_count"],
        &json!(expected["input_files"].as_array().unwrap().len()),
    )
}

/// Files as objects, each with a checksum.
fn with_files_as_stored(mut normalized: Value) -> Value {
    for file in normalized["input_files"].as_array_mut().unwrap() {
        if file.is_string() {
            *file = json!({"file": file});
        }
        let given = file.get("crc64nvme").cloned();
        file["crc64nvme"] = given.unwrap_or_else(|| json!(CRC));
    }
    normalized
}

async fn register(app: &TestApp, name: ImageName) {
    let image = Image {
        image: JobImage {
            registered_by: "admin".to_owned(),
            registered_on: app.app.clock.now(),
            name: name.name().to_owned(),
            digest: name.digest().unwrap_or(DIGEST).to_owned(),
            entrypoint: vec!["/bin/sh".to_owned()],
            tag: Some(name.tag().unwrap_or("latest").to_owned()),
            refdata_id: None,
            default_refdata_mount_point: None,
        },
        urls: None,
        usage_notes: None,
    };
    let _there_already: Inserted = app.app.images.insert_image(image).await.unwrap();
}

/// The code of a check that the row's service makes later or not at all.
fn refused_later(job_input: &JobInput) -> Option<u32> {
    if job_input.cpus > job_input.cluster.limits().cpus_per_node {
        return Some(30001);
    }
    if job_input.image.parse::<ImageName>().is_err() {
        return Some(30040);
    }
    let params = &job_input.params;
    let mounts = [
        ("input", params.input_mount_point.as_str()),
        ("output", params.output_mount_point.as_str()),
    ];
    if check_mount_points(&mounts).is_err() {
        return Some(30001);
    }
    // No room for the key of an object below it, such as the one that tries the right to write.
    if S3Path::parse(&format!("{}{}", job_input.output_dir, "x".repeat(23))).is_err() {
        return Some(30020);
    }
    let roots = job_input.input_roots.as_deref().unwrap_or_default();
    let error = file_locations(&job_input.input_files, roots).err()?;
    Some(error.error_code().code())
}
