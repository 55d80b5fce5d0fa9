//! Messages about jobs, as those see them who read the topic.

use std::collections::HashSet;
use std::time::Duration;

use cts_tests::service_process::{As, Launch};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Case, GOOD_STATES, OwnBroker, TestService, Topic, eventually, states};

const JOB_DEADLINE: Duration = Duration::from_secs(90);
/// A sender tries again after ten seconds at the latest, and a new one takes over after that time.
const SEND_DEADLINE: Duration = Duration::from_secs(45);

async fn case(name: &str) -> Case {
    let case = Case::new(name, &["copy_inputs"]).await;
    case.input("a.txt", b"a").await
}

async fn service(case: &Case, topic: &Topic) -> TestService {
    let launch = Launch::development().map(|launch| Launch {
        options: topic.options(),
        ..launch
    });
    TestService::start(case, launch).await
}

/// The messages that there must be about a job: one a transition, in order.
fn expected(job: &Value) -> Vec<Value> {
    let transitions = job["transition_times"].as_array().unwrap();
    transitions
        .iter()
        .map(|transition| {
            let time: Timestamp = transition["time"].as_str().unwrap().parse().unwrap();
            json!({
                "job_id": job["id"],
                "state": transition["state"],
                "time": time.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string(),
                "trans_id": transition["trans_id"],
            })
        })
        .collect()
}

/// The messages about a job, each where it first came.
fn about(job: &Value, messages: &[Value]) -> Vec<Value> {
    let mut seen = HashSet::new();
    messages
        .iter()
        .filter(|message| message["job_id"] == job["id"])
        .filter(|message| seen.insert(message["trans_id"].to_string()))
        .cloned()
        .collect()
}

fn notified(job: &Value) -> Vec<bool> {
    let transitions = job["transition_times"].as_array().unwrap();
    transitions
        .iter()
        .map(|transition| transition["notif_sent"].as_bool().unwrap())
        .collect()
}

/// Waits until the service has noted that all messages about the job have arrived.
async fn all_notified(service: &TestService, id: &str) -> Value {
    eventually("all messages about a job", SEND_DEADLINE, async || {
        let job = service.job(id).await;
        if notified(&job).into_iter().all(|sent| sent) {
            Ok(job)
        } else {
            Err(job["transition_times"].to_string())
        }
    })
    .await
}

/// The value of one of the service's metrics.
async fn metric(service: &TestService, name: &str) -> f64 {
    let text = service.text(As::User, "/metrics").await;
    let text = text.unwrap_or_else(|error| panic!("{error}"));
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

async fn metric_becomes(service: &TestService, name: &str, wanted: f64) {
    eventually(name, SEND_DEADLINE, async || {
        let value = metric(service, name).await;
        let reached = (value - wanted).abs() < 0.5;
        if reached {
            Ok(())
        } else {
            Err(value.to_string())
        }
    })
    .await;
}

/// Waits until the service says that Kafka is there, or that it is not: its answers are seconds old. It is ready in
/// any case.
async fn kafka_is_there(service: &TestService, expected: bool) {
    eventually("what is said of Kafka", SEND_DEADLINE, async || {
        // A store that is busy is asked again.
        let report = service.text(As::User, "/readyz").await;
        let report = report.map_err(|error| error.to_string())?;
        let report: Value = serde_json::from_str(&report).unwrap();
        let dependencies = report["dependencies"].as_array().unwrap();
        let kafka = dependencies.iter().find(|one| one["name"] == "kafka");
        if kafka.unwrap()["ok"] == json!(expected) {
            Ok(())
        } else {
            Err(report.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn every_transition_of_a_job_is_a_message() {
    let case = case("notifications").await;
    let topic = Topic::at(case.testbed.kafka.address.clone());
    let service = service(&case, &topic).await;
    let id = service.submit(&case, "local").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job), GOOD_STATES, "{job}");
    let job = all_notified(&service, &id).await;
    assert_eq!(topic.messages().await, expected(&job));
    kafka_is_there(&service, true).await;
    metric_becomes(&service, "cts_outbox_unsent_transitions", 0.0).await;

    // An administrator wants one once more.
    let path = format!("/admin/jobs/{id}/notify?state=complete");
    service.call(As::Admin, Method::PUT, &path, None).await;
    let mut twice = expected(&job);
    twice.extend(twice.last().cloned());
    eventually("the message again", SEND_DEADLINE, async || {
        let messages = topic.messages().await;
        if messages == twice {
            Ok(())
        } else {
            Err(json!(messages).to_string())
        }
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn jobs_run_while_kafka_is_away_and_are_told_of_in_order_when_it_is_back() {
    let case = case("notifications-away").await;
    let broker = OwnBroker::start(&case).await;
    let topic = Topic::at(broker.gate.address());
    let service = service(&case, &topic).await;
    let before = service.submit(&case, "local").await;
    service.end_of(&before, JOB_DEADLINE).await;
    all_notified(&service, &before).await;

    broker.gate.close();
    let mut ids = vec![before];
    for _ in 0..3 {
        let id = service.submit_again(&case, "local").await;
        let job = service.end_of(&id, JOB_DEADLINE).await;
        assert_eq!(states(&job), GOOD_STATES, "{job}");
        assert_eq!(notified(&job), [false; GOOD_STATES.len()]);
        ids.push(id);
    }
    let waiting = f64::from(u32::try_from(3 * GOOD_STATES.len()).unwrap());
    metric_becomes(&service, "cts_outbox_unsent_transitions", waiting).await;
    kafka_is_there(&service, false).await;

    broker.gate.open();
    let mut jobs = Vec::new();
    for id in &ids {
        jobs.push(all_notified(&service, id).await);
    }
    let messages = topic.messages().await;
    for job in &jobs {
        assert_eq!(about(job, &messages), expected(job));
    }
    metric_becomes(&service, "cts_outbox_unsent_transitions", 0.0).await;
    kafka_is_there(&service, true).await;
    service.stop().await;
}

#[tokio::test]
async fn a_service_killed_while_kafka_is_away_sends_everything_after_its_start() {
    let case = case("notifications-killed").await;
    let broker = OwnBroker::start(&case).await;
    let topic = Topic::at(broker.gate.address());
    broker.gate.close();
    let mut service = service(&case, &topic).await;
    let mut ids = vec![service.submit(&case, "local").await];
    service.end_of(&ids[0], JOB_DEADLINE).await;
    // In the middle of a job.
    ids.push(service.submit_again(&case, "local").await);
    service.kill().await.unwrap();
    service.restart().await.unwrap();
    service.end_of(&ids[1], JOB_DEADLINE).await;

    broker.gate.open();
    let mut jobs = Vec::new();
    for id in &ids {
        jobs.push(all_notified(&service, id).await);
    }
    let messages = topic.messages().await;
    for job in &jobs {
        assert_eq!(about(job, &messages), expected(job));
    }
    service.stop().await;
}
