//! The contract's `executor_calls.jsonl`: complete runs, call by call. Set `CTS_VECTORS_DIR` to run
//! another directory of the same format.
//!
//! What differs from the existing executor on purpose, as the vectors' own README allows and
//! `decisions.md` wants, is stated by rule in [`expected_calls`] and below it.

use std::collections::BTreeMap;

use cts_executor::container_engine::EngineError;
use cts_executor::container_engine::fake::{End, Script};
use serde_json::{Value, json};

use super::bed::{Answer, Bed, Call, JOB_ID, Service, job};
use super::loader::{self, Row};

/// Site inactive or unavailable: the existing executor gives up, ours waits (executor.md, 6.14).
fn is_temporary(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Error {
            appcode: Some(60010 | 60020),
            ..
        }
    )
}

fn answers(input: &Value) -> BTreeMap<usize, Answer> {
    let Some(responses) = input["responses"].as_object() else {
        return BTreeMap::new();
    };
    responses
        .iter()
        .map(|(number, response)| {
            let status = u16::try_from(response["status"].as_u64().unwrap()).unwrap();
            let appcode = response["appcode"]
                .as_u64()
                .map(|code| u32::try_from(code).unwrap());
            let answer = match response["html"].as_bool() {
                Some(true) => Answer::Html { status },
                _ => Answer::Error { status, appcode },
            };
            (number.parse().unwrap(), answer)
        })
        .collect()
}

/// A call with what varies replaced by the vectors' placeholders.
fn masked(call: &Call, error_text: bool) -> Value {
    let mut value = json!({ "method": call.method, "path": call.path, "auth": call.auth });
    if let Some(mut body) = call.body.clone() {
        let time = body["time"].as_str().unwrap();
        assert!(
            time.ends_with("+00:00") && time.len() == "2031-01-01T00:00:00.000000+00:00".len(),
            "{time}"
        );
        body["time"] = "<time>".into();
        if let Some(trace) = body.get("traceback") {
            assert!(!trace.as_str().unwrap().trim().is_empty());
            body["traceback"] = "<traceback>".into();
        }
        if let Some(text) = body.get("admin_error") {
            assert!(!text.as_str().unwrap().trim().is_empty());
            if error_text {
                body["admin_error"] = "<error text>".into();
            }
        }
        value["body"] = body;
    }
    value
}

/// Signals and the engine's own codes come with words (issue: "named in words in the report").
fn without_explanation(mut call: Value) -> Value {
    if let Some(text) = call["body"]["admin_error"].as_str()
        && let Some(code) = text.strip_prefix("Container exit code: ")
        && let Some((code, _words)) = code.split_once(": ")
    {
        call["body"]["admin_error"] = format!("Container exit code: {code}").into();
    }
    call
}

/// What differs on purpose for a whole row.
enum Difference {
    None,
    /// A call that the existing executor does not repeat is repeated, after which all goes well.
    Repeats(usize),
    /// A missing exit status is a failure of the infrastructure (`decisions.md`, row 10).
    MissingExitStatus,
}

fn difference(input: &Value, answers: &BTreeMap<usize, Answer>) -> Difference {
    if input["exit_code"] == -1 {
        return Difference::MissingExitStatus;
    }
    match answers.iter().next() {
        // The first two GETs are tried again unless the service refuses (executor.md, 6.16).
        Some((number @ (1 | 2), Answer::Error { appcode: None, .. })) => {
            Difference::Repeats(*number)
        }
        Some((number, answer)) if is_temporary(answer) => Difference::Repeats(*number),
        _ => Difference::None,
    }
}

fn script(input: &Value) -> Script {
    let output_mount = input["params"]["output_mount_point"]
        .as_str()
        .unwrap_or("/output_files");
    let writes = input["outputs"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, content)| {
            let path = format!("{}/{name}", output_mount.trim_end_matches('/'));
            (path, content.as_str().unwrap().as_bytes().to_vec())
        });
    let end = match (
        input["container_raises"].as_bool(),
        input["exit_code"].as_i64().unwrap(),
    ) {
        (Some(true), _) | (_, -1) => End::Error(EngineError::ExitUnknown {
            id: "c".to_owned(),
            detail: "as the test wants it".to_owned(),
        }),
        (_, code) => End::Exit {
            code: u8::try_from(code).unwrap(),
            oom_killed: false,
        },
    };
    Script {
        writes: writes.collect(),
        stdout: b"o".to_vec(),
        stderr: b"e".to_vec(),
        end,
        ..Script::default()
    }
}

async fn replay(row: &Row) {
    let (name, input, expect) = (row.name.as_str(), &row.input, &row.expect);
    assert_eq!(input["job_id"], JOB_ID);
    let files: Vec<&str> = input["input_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f.as_str().unwrap())
        .collect();
    let mut document = job(
        &input["params"],
        &files,
        input["num_containers"].as_u64().unwrap(),
        input["output_dir"].as_str().unwrap(),
    );
    if let Some(refdata_id) = input.get("refdata_id") {
        document["image"]["refdata_id"] = refdata_id.clone();
        document["image"]["default_refdata_mount_point"] = "/refd".into();
    }
    let answers = answers(input);
    let difference = difference(input, &answers);
    let service = Service::new(document, answers, false);
    let mut bed = Bed::new(service, script(input)).await;
    bed.set("CONTAINER_NUMBER", input["container_number"].to_string());
    bed.set(
        "S3_ERROR_LOG_PATH",
        input["s3_error_log_path"].as_str().unwrap(),
    );
    if let Some(minutes) = input.get("timeout_min") {
        bed.set("JOB_UPDATE_TIMEOUT_MIN", minutes.to_string());
    }
    for file in files {
        bed.put(
            file,
            if input["corrupt"] == true {
                b"other bytes"
            } else {
                b""
            },
        );
    }

    let status = bed.run().await;

    bed.assert_nothing_left();
    check_calls(name, &bed.service.calls(), expect, &difference);
    let succeeds = match difference {
        Difference::None => expect["exit_status"] == 0,
        Difference::Repeats(_) => true,
        Difference::MissingExitStatus => false,
    };
    assert_eq!(status.code() == 0, succeeds, "{name}: {status:?}");
    if let Difference::None = difference {
        check_container(name, &bed, &expect["container"]);
        check_objects(name, &bed, input, &expect["s3"]);
        let expected: Vec<f64> = expect["waits_sec"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w.as_f64().unwrap())
            .collect();
        let waits: Vec<f64> = bed
            .clock
            .waits()
            .iter()
            .map(|wait| wait.as_secs_f64())
            .collect();
        assert_eq!(waits.len(), expected.len(), "{name}: {waits:?}");
        for (wait, expected) in waits.iter().zip(&expected) {
            // Shortened at random by at most a fifth.
            assert!(
                (0.8 * expected..=*expected).contains(wait),
                "{name}: {wait} {expected}"
            );
        }
    }
}

fn check_calls(name: &str, calls: &[Call], expect: &Value, difference: &Difference) {
    let expected = expect["http"].as_array().unwrap();
    match difference {
        Difference::None => {
            let is_error_text = |index: usize| {
                expected
                    .get(index)
                    .is_some_and(|c| c["body"]["admin_error"] == "<error text>")
            };
            let calls: Vec<Value> = calls
                .iter()
                .enumerate()
                .map(|(index, call)| without_explanation(masked(call, is_error_text(index))))
                .collect();
            assert_eq!(&calls, expected, "{name}");
        }
        Difference::Repeats(number) => {
            let ordinary = [
                "GET",
                "GET",
                "job_submitting",
                "job_submitted",
                "upload_submitting",
                "upload_submitted",
                "complete",
            ];
            let mut expected: Vec<&str> = ordinary.to_vec();
            expected.insert(number - 1, ordinary[number - 1]);
            let short: Vec<String> = calls.iter().map(Call::short).collect();
            assert_eq!(short, expected, "{name}");
        }
        Difference::MissingExitStatus => {
            let short: Vec<String> = calls.iter().map(Call::short).collect();
            assert_eq!(
                short,
                ["GET", "GET", "job_submitting", "job_submitted", "error"],
                "{name}"
            );
        }
    }
}

fn check_container(name: &str, bed: &Bed, expect: &Value) {
    let specs = bed.engine.specs();
    let Some(expect) = expect.as_object() else {
        assert!(specs.is_empty(), "{name}: a container was started");
        return;
    };
    let [spec] = specs.as_slice() else {
        panic!("{name}: {} containers", specs.len())
    };
    assert_eq!(spec.image, expect["image"].as_str().unwrap(), "{name}");
    assert_eq!(json!(spec.command), expect["command"], "{name}");
    assert_eq!(json!(spec.environment), expect["env"], "{name}");
    let root = bed.path();
    let mounts: Vec<Value> = spec
        .mounts
        .iter()
        .map(|mount| {
            let host = mount
                .host
                .to_string_lossy()
                .replace(root.to_str().unwrap(), "<cwd>");
            // Inputs are mounted read-only by us, read-write by the existing executor (6.4).
            let is_input = host == "<cwd>/__input__";
            assert!(!is_input || mount.read_only, "{name}");
            json!({
                "host": host, "container": mount.container,
                "read_write": is_input || !mount.read_only,
            })
        })
        .collect();
    assert_eq!(json!(mounts), expect["mounts"], "{name}");
    for (stream, content) in [("stdout", "o"), ("stderr", "e")] {
        let log = root.join(expect[stream].as_str().unwrap());
        assert_eq!(std::fs::read_to_string(log).unwrap(), content, "{name}");
    }
}

/// Every object that the existing executor writes is there with its content; beside those there are
/// only the logs, which ours keeps in every case (`decisions.md`, row 14).
fn check_objects(name: &str, bed: &Bed, input: &Value, expect: &Value) {
    let root = bed.path();
    let mut expected = Vec::new();
    for operation in expect.as_array().unwrap() {
        let (path, local) = (
            operation["path"].as_str().unwrap(),
            operation["local"].as_str().unwrap(),
        );
        let on_disk = std::fs::read(root.join(local)).ok();
        if operation["op"] == "get" {
            let corrupt = input["corrupt"] == true;
            assert_eq!(on_disk.is_none(), corrupt, "{name}: {local}");
        } else {
            assert_eq!(bed.get(path), on_disk, "{name}: {path}");
            assert!(bed.get(path).is_some(), "{name}: {path} is missing");
            expected.push(path.to_owned());
        }
    }
    let logs = input["s3_error_log_path"]
        .as_str()
        .unwrap()
        .trim_matches('/');
    let is_log = |path: &String| path.starts_with(logs);
    let outputs: Vec<String> = bed
        .objects("")
        .into_iter()
        .filter(|path| {
            !is_log(path)
                && !input["input_files"]
                    .as_array()
                    .unwrap()
                    .contains(&json!(path))
        })
        .collect();
    expected.retain(|path| !is_log(path));
    expected.sort();
    assert_eq!(outputs, expected, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors() {
    for row in loader::rows("executor_calls.jsonl") {
        replay(&row).await;
    }
}
