//! The existing service's conversations with its clients and executors, replayed: same requests,
//! same statuses and bodies.
//!
//! What differs on purpose: the site is `local`, ids and times are new, the service's version and
//! commit are its own, HTCondor's statistics and cluster id are absent, notifications are not sent
//! (no sender yet), and administrators get a better error text.

use serde_json::Value;

use crate::test_app::{OUTPUT_CRC, TestApp};

const REGISTRY: &str = "<REGISTRY>";

/// The recording in this test's terms.
fn transcript(text: &str) -> Value {
    let text = text
        .replace(REGISTRY, "reg.example.org")
        .replace("\"kbase\"", "\"local\"");
    serde_json::from_str(&text).unwrap()
}

/// Members that cannot be or need not be the same, taken out.
fn comparable(value: &Value, recorded_id: &str, id: &str) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .filter(|(name, _)| {
                    !matches!(
                        name.as_str(),
                        "time"
                            | "trans_id"
                            | "notif_sent"
                            | "registered_on"
                            | "registered_by"
                            | "server_time"
                            | "version"
                            | "git_hash"
                            | "capabilities"
                            | "cpu_factor"
                            | "cpu_hours"
                            | "max_memory"
                            | "htcondor_details"
                            | "admin_error"
                            | "reported_time"
                    )
                })
                .map(|(name, value)| (name.clone(), comparable(value, recorded_id, id)))
                .collect(),
        ),
        Value::Array(items) => items
            .iter()
            .map(|item| comparable(item, recorded_id, id))
            .collect(),
        Value::String(text) => Value::from(text.replace(recorded_id, id)),
        other => other.clone(),
    }
}

async fn replay(recording: &str) {
    let transcript = transcript(recording);
    let recorded_id = transcript["job_id"].as_str().unwrap();
    let app = TestApp::new();
    app.register_image().await;
    app.objects
        .insert("cts/io/out/g-success/out.txt", "x", Some(OUTPUT_CRC));
    let mut id = String::new();
    let empty = Vec::new();
    let requests = |name: &str| transcript[name].as_array().unwrap_or(&empty).clone();
    for request in requests("client_requests") {
        let body = request["request_body"].clone();
        assert_eq!(request["path"], "/jobs");
        id = app.submit_job(body).await;
        // The recorded executor starts when the site has the job.
        while app.state(&id).await == "created" {
            tokio::task::yield_now().await;
        }
    }
    for request in requests("executor_requests") {
        let path = request["path"].as_str().unwrap().replace(recorded_id, &id);
        if path.starts_with("/external_exec/files/") {
            // Downloads of the worker's program, which belong to the HTCondor site.
            continue;
        }
        let method = request["method"].as_str().unwrap();
        let body = (!request["request_body"].is_null()).then(|| request["request_body"].clone());
        let answer = app.call("executor", method, &path, body).await;
        assert_eq!(
            Value::from(answer.status.as_u16()),
            request["status"],
            "{path}: {}",
            answer.text
        );
        assert_eq!(
            comparable(&answer.json(), recorded_id, &id),
            comparable(&request["response_body"], recorded_id, &id),
            "{path}"
        );
    }
    app.finish_jobs().await;
    for (name, user, path) in [
        ("user_job", "alice", format!("/jobs/{id}")),
        ("user_status", "alice", format!("/jobs/{id}/status")),
        ("user_exit_codes", "alice", format!("/jobs/{id}/exit_codes")),
        ("admin_job", "admin", format!("/admin/jobs/{id}")),
        (
            "admin_containers",
            "admin",
            format!("/admin/jobs/{id}/container"),
        ),
    ] {
        let answer = app.get(user, &path).await.expect(200);
        assert_eq!(
            comparable(&answer.json(), recorded_id, &id),
            comparable(&transcript["final"][name], recorded_id, &id),
            "{name}"
        );
    }
    // Each notification that was sent is in the outbox, in order.
    let sent: Vec<Value> = requests("kafka")
        .iter()
        .map(|one| one["value"]["state"].clone())
        .collect();
    let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
    let stored: Vec<Value> = job["transition_times"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].clone())
        .collect();
    assert_eq!(stored, sent);
}

#[tokio::test]
async fn success() {
    replay(include_str!("transcripts/success.json")).await;
}

#[tokio::test]
async fn container_fail() {
    replay(include_str!("transcripts/container_fail.json")).await;
}
