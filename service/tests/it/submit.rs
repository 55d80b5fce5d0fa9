//! Every check of a submission, in its order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cts_service::object_store::{
    ByteRange, MemoryObjectStore, ObjectHead, ObjectStore, ObjectStoreError, ObjectStream,
};
use cts_shared::s3_path::{Bucket, S3Path};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::test_app::{CRC, TestApp, job_input};

/// Changes of a good job, and how it is refused.
fn refusals() -> Vec<(&'static str, Value, u16, u32)> {
    vec![
        ("cpus of the node", json!({"cpus": 169}), 400, 30001),
        (
            "runtime of the site",
            json!({"cluster": "perlmutter-jaws", "runtime": "PT2866M"}),
            400,
            30001,
        ),
        (
            "memory of the node",
            json!({"cluster": "perlmutter-jaws", "memory": "493GB"}),
            400,
            30001,
        ),
        (
            "cpu hours",
            json!({"cpus": 100, "runtime": "PT2H"}),
            400,
            30001,
        ),
        ("image name", json!({"image": "Nope Nope"}), 400, 30040),
        (
            "image",
            json!({"image": "reg.example.org/kbase/sh:9"}),
            404,
            40030,
        ),
        (
            "output below the logs",
            json!({"output_dir": "cts/logs/mine"}),
            403,
            20010,
        ),
        (
            "output denied",
            json!({"output_dir": "denied/out"}),
            403,
            20010,
        ),
        (
            "output bucket",
            json!({"output_dir": "missing/out"}),
            404,
            40010,
        ),
        (
            "missing input",
            json!({"input_files": ["cts/io/in/none"]}),
            404,
            40010,
        ),
        (
            "denied input",
            json!({"input_files": ["denied/a"]}),
            403,
            20010,
        ),
        (
            "no checksum",
            json!({"input_files": ["cts/io/in/unchecked"]}),
            400,
            30001,
        ),
        (
            "wrong checksum",
            json!({"input_files": [{"file": "cts/io/in/a.txt", "crc64nvme": "AAAAAAAAAAA="}]}),
            400,
            30030,
        ),
        (
            "mount points that overlap",
            json!({"params": {"input_mount_point": "/d", "output_mount_point": "/d/out"}}),
            400,
            30001,
        ),
        (
            "a mount point of the system's",
            json!({"params": {"input_mount_point": "/proc/x"}}),
            400,
            30001,
        ),
        (
            "same place",
            json!({"input_files": ["cts/x/a.txt", "cts/y/a.txt"]}),
            400,
            30001,
        ),
        (
            "a directory of the other",
            json!({"input_files": ["cts/x/a", "cts/x/a/b"], "input_roots": ["cts"]}),
            400,
            30001,
        ),
        ("dots", json!({"input_files": ["cts/x/../a"]}), 400, 30020),
        ("site", json!({"cluster": "kbase"}), 400, 60020),
        (
            "unknown site",
            json!({"cluster": "lawrencium-jaws"}),
            400,
            60020,
        ),
    ]
}

fn changed(changes: &Value) -> Value {
    let mut job = job_input();
    for (name, value) in changes.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

async fn app() -> TestApp {
    let app = TestApp::new();
    app.register_image().await;
    app.objects.deny("denied/");
    app.objects.remove_bucket("missing");
    app.objects.insert("cts/io/in/unchecked", "x", None);
    app
}

/// Inputs that only collide.
fn insert_colliding(app: &TestApp) {
    for path in ["cts/x/a.txt", "cts/y/a.txt", "cts/x/a", "cts/x/a/b"] {
        app.objects.insert(path, "x", Some(CRC));
    }
}

#[tokio::test]
async fn each_fault_is_refused_and_leaves_no_trace() {
    let app = app().await;
    insert_colliding(&app);
    for (name, changes, status, appcode) in refusals() {
        let before = app.objects.paths();
        let answer = app
            .call("alice", "POST", "/jobs", Some(changed(&changes)))
            .await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text);
        assert_eq!(
            answer.json()["error"]["appcode"],
            appcode,
            "{name}: {}",
            answer.text
        );
        assert!(!answer.message().is_empty(), "{name}");
        assert_eq!(app.objects.paths(), before, "{name}");
    }
    let running = app
        .app
        .jobs
        .running_jobs(cts_shared::site::Site::Local)
        .await
        .unwrap();
    assert!(running.is_empty());
}

#[tokio::test]
async fn of_two_faults_the_earlier_check_speaks() {
    let app = app().await;
    insert_colliding(&app);
    let faults = refusals();
    for pair in faults.windows(2) {
        let [(first, changes, status, appcode), (second, more, ..)] = pair else {
            continue;
        };
        if changes.get("input_files").is_some() && more.get("input_files").is_some() {
            // One list cannot have both faults.
            continue;
        }
        let mut job = changed(more);
        for (name, value) in changes.as_object().unwrap() {
            job[name] = value.clone();
        }
        let answer = app.call("alice", "POST", "/jobs", Some(job)).await;
        assert_eq!(
            answer.status.as_u16(),
            *status,
            "{first}, {second}: {}",
            answer.text
        );
        assert_eq!(
            answer.json()["error"]["appcode"],
            *appcode,
            "{first}, {second}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn trouble_with_s3_is_not_the_callers_fault() {
    let app = app().await;
    app.objects.set_down(true);
    let answer = app
        .call("alice", "POST", "/jobs", Some(job_input()))
        .await
        .expect_error(503, None::<u32>);
    assert!(answer.headers.contains_key("retry-after"));
    assert!(
        answer.message().contains("does not answer"),
        "{}",
        answer.text
    );
    app.objects.set_down(false);
    app.submit_job(job_input()).await;
}

/// Stores objects, and answers a PUT only when told to.
#[derive(Debug)]
struct SlowPuts {
    objects: Arc<MemoryObjectStore>,
    stored: Semaphore,
    answers: Semaphore,
}

impl ObjectStore for SlowPuts {
    fn head<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<ObjectHead, ObjectStoreError>> {
        self.objects.head(path)
    }

    fn get<'a>(
        &'a self,
        path: &'a S3Path,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<ObjectStream, ObjectStoreError>> {
        self.objects.get(path, range)
    }

    fn put<'a>(
        &'a self,
        path: &'a S3Path,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        async move {
            self.objects.put(path, body).await?;
            self.stored.add_permits(1);
            let _answered = self.answers.acquire().await;
            Ok(())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        async move {
            self.objects.delete(path).await?;
            self.stored.add_permits(1);
            Ok(())
        }
        .boxed()
    }

    fn ensure_bucket<'a>(
        &'a self,
        bucket: &'a Bucket,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        self.objects.ensure_bucket(bucket)
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_no_test_object_behind() {
    let store = Arc::new(SlowPuts {
        objects: Arc::new(MemoryObjectStore::default()),
        stored: Semaphore::new(0),
        answers: Semaphore::new(0),
    });
    let app = TestApp::with(|app| app.object_store = Arc::clone(&store) as _);
    app.register_image().await;
    let changed = async || store.stored.acquire().await.unwrap().forget();
    tokio::select! {
        answer = app.call("alice", "POST", "/jobs", Some(job_input())) => panic!("{answer:?}"),
        () = changed() => {}
    }
    assert_eq!(store.objects.paths().len(), 1);
    store.answers.add_permits(1);
    tokio::time::timeout(Duration::from_secs(10), changed())
        .await
        .unwrap();
    assert!(store.objects.paths().is_empty());
}

#[tokio::test]
async fn allowed_paths_bind_inputs_and_outputs() {
    let app = TestApp::with_allowed_paths(&["cts/io", "other"]);
    app.register_image().await;
    let post = async |changes: Value| {
        app.call("alice", "POST", "/jobs", Some(changed(&changes)))
            .await
    };
    post(json!({"output_dir": "cts/elsewhere"}))
        .await
        .expect_error(403, 20010);
    post(json!({"input_files": ["cts/elsewhere/a"]}))
        .await
        .expect_error(403, 20010);
    post(json!({"output_dir": "other/x"})).await.expect(200);
    assert!(
        app.objects.puts().is_empty(),
        "no write test where paths are allowed"
    );
    let me = app.get("alice", "/whoami").await.json();
    assert_eq!(
        me["allowed_paths"],
        json!([{"path": "cts/io/", "perm": "write"}, {"path": "other/", "perm": "write"}])
    );
}

#[tokio::test]
async fn the_stored_job_has_the_checksums_of_its_objects() {
    let app = app().await;
    app.objects
        .insert("cts/io/in/b.txt", "b", Some("AAAAAAAAAAA="));
    let mut job = job_input();
    job["input_files"] = json!(["cts/io/in/a.txt", "cts/io/in/b.txt"]);
    let id = app.submit_job(job).await;
    let job = app
        .get("alice", &format!("/jobs/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        job["job_input"]["input_files"],
        json!([
            {"file": "cts/io/in/a.txt", "crc64nvme": CRC},
            {"file": "cts/io/in/b.txt", "crc64nvme": "AAAAAAAAAAA="},
        ])
    );
    assert_eq!(job["input_file_count"], 2);
    assert_eq!(job["image"]["tag"], "1");
    // The object that tried the output directory is gone.
    assert_eq!(app.objects.puts().len(), 1);
    assert_eq!(
        app.objects.paths(),
        ["cts/io/in/a.txt", "cts/io/in/b.txt", "cts/io/in/unchecked"]
    );
}

#[tokio::test]
async fn a_job_with_ten_thousand_inputs_is_accepted() {
    let app = app().await;
    let files: Vec<String> = (0..10_000)
        .map(|number| format!("cts/io/many/{number}"))
        .collect();
    for file in &files {
        app.objects.insert(file, "x", Some(CRC));
    }
    let mut job = job_input();
    job["input_files"] = json!(files);
    job["num_containers"] = json!(1000);
    let id = app.submit_job(job).await;
    let job = app
        .get("executor", &format!("/admin/jobs/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        job["job_input"]["input_files"].as_array().unwrap().len(),
        10_000
    );
}

#[tokio::test]
async fn in_test_mode_jobs_are_stored_and_not_started() {
    let app = TestApp::with(|app| app.config.start_jobs = false);
    app.register_image().await;
    let answer = app
        .call("alice", "POST", "/jobs", Some(job_input()))
        .await
        .expect(200);
    let id = answer.json()["job_id"].as_str().unwrap().to_owned();
    // What was started in the background has its turn.
    tokio::task::yield_now().await;
    assert_eq!(app.state(&id).await, "created");
}

#[tokio::test]
async fn a_command_that_linux_cannot_start_is_refused() {
    let app = app().await;
    let mut job = job_input();
    let argument = "a".repeat(1024);
    job["params"] = json!({"args": vec![&argument; 2048]});
    app.submit_job(job.clone()).await;
    job["params"]["environment"] = json!({"X": "y"});
    let answer = app.call("alice", "POST", "/jobs", Some(job)).await;
    let answer = answer.expect_error(400, 30001);
    assert!(answer.message().contains("2097154"), "{}", answer.text);
}

/// What only this service checks comes after what the existing one checks, too.
#[tokio::test]
async fn the_contracts_checks_come_first() {
    let app = app().await;
    app.objects.insert("cts/io/in/b/a.txt", "x", Some(CRC));
    let mut job = job_input();
    job["input_files"] = json!(["cts/io/in/a.txt", "cts/io/in/b/a.txt", "cts/io/in/none.txt"]);
    job["params"] = json!({"input_mount_point": "/etc"});
    let submit =
        async |job: &serde_json::Value| app.call("alice", "POST", "/jobs", Some(job.clone())).await;
    submit(&job).await.expect_error(404, 40010);
    app.objects.insert("cts/io/in/none.txt", "x", Some(CRC));
    let mounts = submit(&job).await.expect_error(400, 30001);
    assert!(mounts.message().contains("/etc"), "{}", mounts.text);
    job["params"] = json!({});
    let places = submit(&job).await.expect_error(400, 30001);
    assert!(places.message().contains("a.txt"), "{}", places.text);
}
