//! What fails around the container ends in one `error` report that says what, why and what next; and
//! a container that fails ends in one that says how.

use std::collections::BTreeMap;
use std::time::Duration;

use cts_executor::container_engine::fake::{Call, End, Script};
use cts_executor::container_engine::{ContainerSummary, EngineError};
use cts_executor::object_store::{ObjectName, ObjectStore};
use serde_json::{Value, json};

use super::bed::{Bed, JOB_ID, Service, job};

async fn bed(params: &Value, script: Script) -> Bed {
    let document = job(params, &["buk/a/x"], 1, "buk/out");
    let bed = Bed::new(Service::new(document, BTreeMap::new(), false), script).await;
    bed.put("buk/a/x", b"");
    bed
}

/// The text of the one error report.
fn admin_error(bed: &Bed) -> String {
    let calls = bed.service.calls();
    let last = calls.last().unwrap();
    assert_eq!(last.short(), "error");
    assert_eq!(
        calls.iter().filter(|call| call.short() == "error").count(),
        1
    );
    last.body.as_ref().unwrap()["admin_error"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_object_is_named() {
    let document = job(&json!({}), &["buk/a/x", "buk/a/gone"], 1, "buk/out");
    let service = Service::new(document, BTreeMap::new(), false);
    let bed = Bed::new(service, Script::default()).await;
    bed.put("buk/a/x", b"");
    assert_eq!(bed.run().await.code(), 1);
    let text = admin_error(&bed);
    assert!(
        text.contains("s3://buk/a/gone") && text.contains("input_missing"),
        "{text}"
    );
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mismatch_names_the_object_and_both_checksums() {
    let bed = bed(&json!({}), Script::default()).await;
    bed.put("buk/a/x", b"123456789");
    assert_eq!(bed.run().await.code(), 1);
    let text = admin_error(&bed);
    for part in ["s3://buk/a/x", "rosUhgp5mIg=", "AAAAAAAAAAA="] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(
        !bed.path().join("__input__/x").exists(),
        "a wrong input looks finished"
    );
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_kept_on_success_and_on_every_kind_of_failure() {
    let failing: [(End, u8); 4] = [
        (
            End::Exit {
                code: 0,
                oom_killed: false,
            },
            0,
        ),
        (
            End::Exit {
                code: 3,
                oom_killed: false,
            },
            0,
        ),
        (
            End::Exit {
                code: 137,
                oom_killed: true,
            },
            0,
        ),
        (
            End::Error(EngineError::ContainerGone { id: "c".to_owned() }),
            1,
        ),
    ];
    for (end, status) in failing {
        let script = Script {
            end: end.clone(),
            stdout: b"said".to_vec(),
            stderr: b"complained".to_vec(),
            ..Script::default()
        };
        let bed = bed(&json!({}), script).await;
        assert_eq!(bed.run().await.code(), status, "{end:?}");
        let log = |name| bed.get(&format!("logs/cts/{JOB_ID}/container-0-{name}.txt"));
        assert_eq!(log("stdout").unwrap(), b"said", "{end:?}");
        assert_eq!(log("stderr").unwrap(), b"complained", "{end:?}");
        bed.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_are_not_the_tools_own_are_named_in_words() {
    for (code, oom_killed, words) in [
        (137, true, "memory limit"),
        (137, false, "signal 9"),
        (139, false, "SIGSEGV"),
        (127, false, "not found"),
        (126, false, "cannot be run"),
        (125, false, "container engine"),
    ] {
        let bed = bed(
            &json!({}),
            Script {
                end: End::Exit { code, oom_killed },
                ..Script::default()
            },
        )
        .await;
        assert_eq!(bed.run().await.code(), 0);
        let text = admin_error(&bed);
        assert!(
            text.starts_with(&format!("Container exit code: {code}: ")),
            "{text}"
        );
        assert!(text.contains(words), "{text}");
    }
}

/// Also where the engine has too much to do to stop it in time: the container is what took too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_over_its_runtime_is_stopped_and_the_report_says_so() {
    let slow = EngineError::Hung {
        host: "fake://".to_owned(),
        call: "stop container",
        after: Duration::from_secs(6),
    };
    for (stop_error, code) in [(None, 143), (Some(slow), 137)] {
        let mut document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
        document["job_input"]["runtime"] = "PT1S".into();
        let service = Service::new(document, BTreeMap::new(), false);
        let script = Script {
            end: End::WhenStopped,
            stop_error,
            ..Script::default()
        };
        let bed = Bed::new(service, script).await;
        bed.put("buk/a/x", b"");
        assert_eq!(bed.run().await.code(), 0);
        let text = admin_error(&bed);
        let expected = format!("Container exit code: {code}: ");
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.contains("runtime limit of 1 s"), "{text}");
        bed.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_executor_left_is_removed_first() {
    let left = ContainerSummary {
        id: "old".to_owned(),
        name: "cts-old".to_owned(),
        state: "running".to_owned(),
        labels: BTreeMap::from([
            ("us.kbase.cts.job".to_owned(), JOB_ID.to_owned()),
            ("us.kbase.cts.container".to_owned(), "0".to_owned()),
        ]),
    };
    let bed = bed(
        &json!({}),
        Script {
            leftovers: vec![left],
            ..Script::default()
        },
    )
    .await;
    for (directory, file) in [("__output__", "stale"), ("__input__", "stale")] {
        std::fs::create_dir(bed.path().join(directory)).unwrap();
        std::fs::write(bed.path().join(directory).join(file), "stale").unwrap();
    }
    assert_eq!(bed.run().await.code(), 0);
    let calls = bed.engine.calls();
    let removed = calls
        .iter()
        .position(|call| *call == Call::Remove("old".to_owned()));
    let started = calls.iter().position(|call| matches!(call, Call::Run(_)));
    assert!(removed.unwrap() < started.unwrap(), "{calls:?}");
    assert_eq!(
        bed.objects("buk/out"),
        Vec::<String>::new(),
        "a stale output was published"
    );
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_is_told_at_once_and_nothing_is_reported() {
    let document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
    let refused = super::bed::Answer::Error {
        status: 401,
        appcode: Some(10020),
    };
    let service = Service::new(document, BTreeMap::from([(1, refused)]), false);
    let bed = Bed::new(service, Script::default()).await;
    assert_eq!(bed.run().await.code(), 77);
    assert_eq!(bed.service.calls().len(), 1);
    assert_eq!(bed.clock.waits(), Vec::<std::time::Duration>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_lists_the_inputs_where_the_container_finds_them() {
    let params = json!({ "args": [{
        "type": "manifest_file", "manifest_file_format": "files", "manifest_file_header": "id",
        "flag": "--list"
    }] });
    let bed = bed(&params, Script::default()).await;
    assert_eq!(bed.run().await.code(), 0);
    let spec = &bed.engine.specs()[0];
    let name = spec
        .command
        .last()
        .unwrap()
        .strip_prefix("/input_files/")
        .unwrap();
    let manifest = std::fs::read_to_string(bed.path().join("__input__").join(name)).unwrap();
    assert_eq!(manifest, "id\n/input_files/x\n");
}

/// The service would wait for ever for a container whose executor cannot read the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_job_is_reported_with_the_place_of_the_fault() {
    let params = json!({ "args": [{ "type": "input_files" }] });
    let bed = bed(&params, Script::default()).await;
    assert_eq!(bed.run().await.code(), 1);
    let text = admin_error(&bed);
    assert!(text.contains("job_input.params.args[0]"), "{text}");
    assert_eq!(bed.engine.specs(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_tell_whose_the_container_is() {
    let bed = bed(&json!({}), Script::default()).await;
    assert_eq!(bed.run().await.code(), 0);
    let labels = &bed.engine.specs()[0].labels;
    assert_eq!(labels["us.kbase.cts.job"], JOB_ID);
    assert_eq!(labels["us.kbase.cts.container"], "0");
    assert_eq!(labels["us.kbase.cts.user"], "alice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_reported_as_a_bug() {
    let bed = bed(&json!({}), Script::default()).await;
    let status = bed
        .run_over(Box::new(|| panic!("as the test wants it")))
        .await;
    assert_eq!(status.code(), 1);
    let text = admin_error(&bed);
    assert!(text.contains("bug"), "{text}");
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_never_started_has_no_logs() {
    let script = Script {
        start_error: Some(EngineError::Refused {
            call: "create container",
            status: None,
            detail: "as the test wants it".to_owned(),
        }),
        ..Script::default()
    };
    let bed = bed(&json!({}), script).await;
    assert_eq!(bed.run().await.code(), 1);
    assert_eq!(bed.objects("logs"), Vec::<String>::new());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_left_behind_go_before_the_directories_they_write_to() {
    let left = ContainerSummary {
        id: "old".to_owned(),
        name: "cts-old".to_owned(),
        state: "running".to_owned(),
        labels: BTreeMap::from([
            ("us.kbase.cts.job".to_owned(), JOB_ID.to_owned()),
            ("us.kbase.cts.container".to_owned(), "0".to_owned()),
        ]),
    };
    let script = Script {
        leftovers: vec![left],
        remove_error: Some(EngineError::ContainerGone {
            id: "old".to_owned(),
        }),
        ..Script::default()
    };
    let bed = bed(&json!({}), script).await;
    std::fs::create_dir(bed.path().join("__output__")).unwrap();
    std::fs::write(bed.path().join("__output__/in-use"), "").unwrap();
    assert_eq!(bed.run().await.code(), 1);
    assert!(bed.path().join("__output__/in-use").exists());
}

/// An output directory that merely ends in the container's number is shared by all containers of a
/// job without declobber: what is open there may be another container's upload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_others_are_left_open() {
    for (declobber, left) in [(false, 1), (true, 0)] {
        let output_dir = if declobber { "buk/out" } else { "buk/out/0" };
        let params = json!({ "declobber": declobber });
        let document = job(&params, &["buk/a/x"], 1, output_dir);
        let service = Service::new(document, BTreeMap::new(), false);
        let bed = Bed::new(service, Script::default()).await;
        bed.put("buk/a/x", b"");
        let other = ObjectName::new("buk", "out/0/big");
        bed.store.create_multipart(&other).await.unwrap();
        assert_eq!(bed.run().await.code(), 0);
        assert_eq!(bed.store.open_uploads(), left, "declobber {declobber}");
    }
}
