//! The contract's transcripts of the existing system: the executor's requests of a success and of a
//! failing container, compared with ours for the same job.

use std::collections::BTreeMap;

use cts_executor::container_engine::fake::{End, Script};
use serde_json::{Value, json};

use super::bed::{Bed, Call, Service};

/// The transcript's job document as the executor got it, its requests after that, and its id.
fn transcript(name: &str) -> (Value, Vec<Value>, String) {
    let path = format!(
        "{}/tests/transcripts/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let transcript: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let requests: Vec<Value> = transcript["executor_requests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|request| request["who"] == "executor")
        .cloned()
        .collect();
    let id = transcript["job_id"].as_str().unwrap().to_owned();
    (requests[1]["response_body"].clone(), requests, id)
}

/// Method, path below the root and body without the varying time.
fn comparable(method: &Value, path: &str, body: Option<&Value>) -> Value {
    let mut body = body.cloned().unwrap_or(Value::Null);
    if let Some(body) = body.as_object_mut() {
        assert!(body.remove("time").is_some());
    }
    json!([method, path.trim_end_matches('/'), body])
}

async fn replay(name: &str, script: Script) {
    let (document, requests, id) = transcript(name);
    let service = Service::new(document, BTreeMap::new(), true);
    let mut bed = Bed::new(service, script).await;
    bed.set("JOB_ID", id.as_str());
    bed.set("S3_ERROR_LOG_PATH", format!("logs/{id}"));
    // The transcript's input, with its checksum.
    bed.store.create_bucket("cts");
    bed.put("cts/io/in/a.txt", b"hello input\n");
    let status = bed.run().await;
    let calls = bed.service.calls();
    let ours: Vec<Value> = calls
        .iter()
        .map(|call: &Call| {
            let path = call.path.strip_prefix("/services/cts").unwrap();
            comparable(&json!(call.method), path, call.body.as_ref())
        })
        .collect();
    let theirs: Vec<Value> = requests
        .iter()
        .map(|request| {
            let body = Some(&request["request_body"]).filter(|body| !body.is_null());
            comparable(&request["method"], request["path"].as_str().unwrap(), body)
        })
        .collect();
    assert_eq!(ours, theirs, "{name}");
    assert_eq!(status.code(), 0);
    assert_eq!(bed.engine.containers(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success() {
    let script = Script {
        writes: vec![("/output_files/out.txt".to_owned(), b"hello\n".to_vec())],
        ..Script::default()
    };
    replay("success", script).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn container_fail() {
    let script = Script {
        end: End::Exit {
            code: 3,
            oom_killed: false,
        },
        ..Script::default()
    };
    replay("container_fail", script).await;
}
