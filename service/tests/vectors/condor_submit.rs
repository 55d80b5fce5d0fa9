//! `condor_submit.jsonl`: the submit description of a job.
//!
//! `environment` is compared as a list of assignments, names without regard to case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cts_service::condor::submit_description::{
    Extras, FileUrl, JOB_LEASE, SubmitDescription, SubmitJob, SubmitSettings,
};
use serde_json::{Value, json};

use crate::loader::{Row, equal, run};

#[test]
fn vectors() {
    run("condor_submit.jsonl", |row| {
        let job = &row.input["job"];
        let number = |name: &str| job[name].as_u64().unwrap();
        let job = SubmitJob {
            id: job["id"].as_str().unwrap().parse().unwrap(),
            user: job["user"].as_str().unwrap(),
            num_containers: u32::try_from(number("num_containers")).unwrap(),
            cpus: u32::try_from(number("cpus")).unwrap(),
            memory_bytes: number("memory"),
            runtime: Duration::ZERO,
            input_bytes: None,
        };
        let description =
            SubmitDescription::new(&settings(row), &job).map_err(|error| error.to_string())?;
        let actual: BTreeMap<String, String> = description
            .attributes()
            .map(|(name, value)| comparable(name, value.to_owned()))
            .collect();
        let expected: BTreeMap<String, String> = row.expect["submit"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), ToOwned::to_owned);
                comparable(name, value)
            })
            .collect();
        equal("submit", &actual, &expected)?;
        let items: Vec<Value> = description
            .container_numbers()
            .map(|number| json!({"container_number": number.to_string()}))
            .collect();
        equal("itemdata", &json!(items), &row.expect["itemdata"])
    });
}

/// The name in lower case, the environment's assignments sorted.
fn comparable(name: &str, value: String) -> (String, String) {
    let name = name.to_lowercase();
    if name != "environment" {
        return (name, value);
    }
    let inner = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap();
    let assignments: BTreeSet<&str> = inner.split_whitespace().collect();
    (name, assignments.into_iter().collect::<Vec<_>>().join("\n"))
}

/// The vectors' defaults, changed by the row.
fn settings(row: &Row) -> SubmitSettings {
    let text = |section: &str, name: &str| {
        row.input[section]
            .get(name)
            .and_then(Value::as_str)
            .map(ToOwned::to_owned)
    };
    let config =
        |name: &str, default: &str| text("config", name).unwrap_or_else(|| default.to_owned());
    let s3 = |name: &str, default: &str| text("s3", name).unwrap_or_else(|| default.to_owned());
    let flag = |section: &str, name: &str| row.input[section][name].as_bool().unwrap_or(false);
    let service_root_url = config("service_root_url", "https://cts.example.org/services/cts");
    let external = flag("config", "use_S3_external_url");
    SubmitSettings {
        initial_dir: config("initial_dir", "/tmp"),
        executable_url: match text("config", "executable_url_override") {
            Some(url) => FileUrl::new(&url).unwrap(),
            None => FileUrl::default_executable(&service_root_url).unwrap(),
        },
        code_archive_url: match text("config", "code_archive_url_override") {
            Some(url) => FileUrl::new(&url).unwrap(),
            None => FileUrl::default_code_archive(&service_root_url).unwrap(),
        },
        service_root_url,
        client_group: text("config", "client_group"),
        token_path: config("token_path", "/cts/cts_token"),
        s3_secret_path: config("s3_access_secret_path", "/cts/s3_secret"),
        cache_dir: config("cache_dir", "/tmp"),
        additional_path: text("config", "additional_path"),
        mount_prefix_override: text("config", "mount_prefix_override"),
        refdata_host_path: config("refdata_host_path", "/refdata/data"),
        refdata_executor_dir: None,
        s3_url: if external {
            s3("external_url", "https://s3.example.org")
        } else {
            s3("internal_url", "http://s3.internal:9000")
        },
        s3_access_key: s3("access_key", "ak"),
        s3_insecure: flag(
            "s3",
            if external {
                "insecure_external"
            } else {
                "insecure_internal"
            },
        ),
        s3_log_dir: s3("error_log_path", "logs/cts/"),
        job_lease: JOB_LEASE,
        job_update_timeout_min: row.input["config"]["job_update_timeout_min"]
            .as_u64()
            .map_or(360, |minutes| u32::try_from(minutes).unwrap()),
        log_level: row.input["log_level"].as_str().map(ToOwned::to_owned),
        extras: Extras::default(),
    }
}
