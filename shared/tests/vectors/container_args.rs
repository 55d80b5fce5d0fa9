//! `container_args.jsonl`: the command, environment and files of one container.
//!
//! Decision 1: nothing is quoted, so `args_unquoted` and `env_unquoted` are compared. Decision 2: a
//! row whose files have a `.`, `..` or empty segment must be refused.

use cts_shared::container_args::{ContainerArgsError, container_command};
use cts_shared::file_location::RelativePath;
use cts_shared::job_input::JobInput;
use serde_json::{Value, json};

use crate::loader::{Row, equal, run};

#[test]
fn vectors() {
    run("container_args.jsonl", |row| {
        let job: JobInput = serde_json::from_value(row.input["job_input"].clone())
            .map_err(|error| format!("job input: {error}"))?;
        let unsafe_segment = job.input_files.to_files().iter().any(|file| {
            file.file
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."))
        });
        let expected = if unsafe_segment {
            json!({"error": "illegal_segment"})
        } else {
            row.expect.clone()
        };
        let actual = outcome(row, &job)
            .unwrap_or_else(|error| json!({"error": error.kind(), "message": error.to_string()}));
        for (key, actual_key) in [
            ("error", "error"),
            ("args_unquoted", "args"),
            ("env_unquoted", "env"),
            ("files", "files"),
        ] {
            equal(key, &actual[actual_key], &expected[key])?;
        }
        Ok(())
    });
}

fn outcome(row: &Row, job: &JobInput) -> Result<Value, ContainerArgsError> {
    let entrypoint: Vec<String> = serde_json::from_value(row.input["entrypoint"].clone()).unwrap();
    let container = u32::try_from(row.input["container_number"].as_u64().unwrap()).unwrap();
    let manifests: Vec<&str> = row.input["manifest_files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|path| path.as_str().unwrap())
        .collect();
    let manifest_names: Vec<RelativePath> = manifests
        .iter()
        .map(|path| RelativePath::new(path.rsplit('/').next().unwrap()).unwrap())
        .collect();
    // The rows give the manifests of all containers, and a fault in one is a fault of all.
    let complete = manifest_names.len() >= job.num_containers as usize;
    let mut own = None;
    for (number, name) in manifest_names.iter().enumerate().filter(|_| complete) {
        let number = u32::try_from(number).unwrap();
        let command = container_command(job, &entrypoint, number, Some(name))?;
        if number == container {
            own = Some(command);
        }
    }
    let command = match own {
        Some(command) => command,
        None => container_command(job, &entrypoint, container, None)?,
    };
    let files: Vec<Value> = command
        .files
        .iter()
        .map(|placed| {
            let mut file = serde_json::to_value(&placed.file).unwrap();
            file["path"] = json!(placed.location);
            file
        })
        .collect();
    let environment: Vec<String> = command.environment_assignments().collect();
    Ok(json!({"args": command.args, "env": environment, "files": files}))
}
