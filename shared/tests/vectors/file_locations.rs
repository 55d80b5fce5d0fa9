//! `file_locations.jsonl`: where input files land.
//!
//! Scored by the decisions where they change what the rows show:
//! - decision 2: a file path with a `.`, `..` or empty segment is refused;
//! - decision 3: so is a file whose place is a directory of another's;
//! - decision 11: the final `/` of a root is ignored, so such a row is held against the longest
//!   matching root without it.

use cts_shared::file_location::{FileLocationError, file_locations};
use cts_shared::job_input::InputFiles;
use serde_json::{Value, json};

use crate::loader::{equal, run};

#[test]
fn vectors() {
    run("file_locations.jsonl", |row| {
        let files: InputFiles = serde_json::from_value(row.input["input_files"].clone()).unwrap();
        let roots: Vec<String> = row.input["input_roots"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|root| normalised_root(root.as_str().unwrap()))
            .collect();
        let paths: Vec<String> = files.to_files().into_iter().map(|file| file.file).collect();
        let result = file_locations(&files, &roots);
        if paths
            .iter()
            .any(|path| path.split('/').any(|part| matches!(part, "" | "." | "..")))
        {
            // Decision 2.
            return match result {
                Err(FileLocationError::UnsafePath { .. }) => Ok(()),
                other => Err(format!("an unsafe segment must be refused, got {other:?}")),
            };
        }
        let expected = if roots.iter().any(|root| root.ends_with('/')) {
            // Decision 11.
            expected_without_final_slash(&paths, &roots)
        } else {
            row.expect.clone()
        };
        let directory_clash = expected["ok"].as_array().is_some_and(|locations| {
            let locations: Vec<&str> = locations.iter().map(|l| l.as_str().unwrap()).collect();
            locations.iter().any(|one| {
                locations
                    .iter()
                    .any(|other| other.starts_with(&format!("{one}/")))
            })
        });
        match result {
            // Decision 3.
            Err(FileLocationError::FileIsDirectory { .. }) if directory_clash => Ok(()),
            _ if directory_clash => Err("a file as a directory of another must be refused".into()),
            Ok(locations) => {
                let locations: Vec<&str> = locations.iter().map(|l| l.as_str()).collect();
                equal("locations", &json!({"ok": locations}), &expected)
            }
            Err(FileLocationError::SamePlace {
                index,
                other_index,
                location,
                ..
            }) => {
                let mount_point = row.input["input_mount_point"]
                    .as_str()
                    .unwrap_or("/input_files");
                let actual = json!({
                    "error": "collision", "index": index, "other_index": other_index,
                    "path": format!("{mount_point}/{location}"),
                });
                equal("collision", &actual, &expected)
            }
            Err(other) => Err(format!("unexpected {other:?}, expected {expected}")),
        }
    });
}

/// What submission makes of a root (service.md, section 3.4), before placing begins.
fn normalised_root(root: &str) -> String {
    let root = root.trim_start();
    match root.split_once('/') {
        Some((bucket, rest)) if rest.trim().is_empty() => bucket.trim().to_owned(),
        Some(_) => root.to_owned(),
        None => root.trim().to_owned(),
    }
}

fn expected_without_final_slash(paths: &[String], roots: &[String]) -> Value {
    let locations: Vec<&str> = paths
        .iter()
        .map(|path| {
            roots
                .iter()
                .map(|root| root.strip_suffix('/').unwrap_or(root))
                .filter(|root| root.is_empty() || path.starts_with(&format!("{root}/")))
                .max_by_key(|root| root.len())
                .map_or_else(
                    || path.rsplit('/').next().unwrap(),
                    |root| {
                        if root.is_empty() {
                            path
                        } else {
                            &path[root.len() + 1..]
                        }
                    },
                )
        })
        .collect();
    for (index, location) in locations.iter().enumerate() {
        if let Some(other) = locations[..index]
            .iter()
            .position(|earlier| earlier == location)
        {
            return json!({
                "error": "collision", "index": index, "other_index": other,
                "path": format!("/input_files/{location}"),
            });
        }
    }
    json!({"ok": locations})
}
