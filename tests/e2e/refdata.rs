//! Reference data from its registration to the containers that read it: staged by the server, by executors, and by
//! the service for its local site; and everything that can go wrong on the way.

use std::path::Path;
use std::time::Duration;

use cts_tests::service_process::{As, Launch, OnPool};
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Case, Fault, Gate, Proxy, RefdataServer, TestService, eventually, scheduler_stays, states,
};

const STAGED_WITHIN: Duration = Duration::from_secs(180);
const JOB_DEADLINE: Duration = Duration::from_secs(300);
const MIB: usize = 1024 * 1024;

/// Where the test tool finds it.
const MOUNT_POINT: &str = "/reference";
const FIRST_LINE: &str = "uniref100.KO.1";

/// A service on the pool, and what it needs for staging.
async fn service_with(case: &Case, set: impl FnOnce(&mut OnPool)) -> TestService {
    let launch = Launch::on_pool().map(|mut launch| {
        set(launch.pool.as_mut().unwrap());
        launch
    });
    TestService::start(case, launch).await
}

/// A service on the pool with a staging server, which reaches S3 at `s3_url`.
async fn service_and_server(case: &Case, s3_url: &str) -> (TestService, RefdataServer) {
    let mut server = RefdataServer::prepare().await;
    let service = service_with(case, |pool| pool.settings = server.settings()).await;
    server.start(case, &service, s3_url).await;
    (service, server)
}

/// A gzipped archive of a tool's database, with `filler` bytes that do not compress.
fn database(filler: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content).unwrap();
    };
    let content = format!("{FIRST_LINE}\nmore\n");
    add("CheckM2_database/uniref100.KO.1.dmnd", content.as_bytes());
    add("CONTENTS.json", b"{}\n");
    add("filler", &noise(filler));
    tar.into_inner().unwrap().finish().unwrap()
}

/// Bytes that do not compress, always the same.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Stores an archive beside the case's inputs. Returns its S3 path.
async fn store(case: &Case, name: &str, content: &[u8]) -> String {
    let path = case.input_path(&format!("refdata/{name}"));
    case.store.put(&path, content).await.unwrap();
    path
}

/// Where reference data is staged, and how.
async fn staged(service: &TestService, id: &str) -> Value {
    let ended = ["complete", "error"];
    let status = service.wait_for_refdata(id, "kbase", &ended, STAGED_WITHIN);
    status.await
}

/// Waits until a server has it.
async fn done(server: &RefdataServer, id: &str) {
    eventually("staged", STAGED_WITHIN, async || {
        let status = server.status(id).await;
        let is_done = status["state"] == "done";
        is_done.then_some(()).ok_or(status.to_string())
    })
    .await;
}

/// Waits until the server shows that it downloads an object of more than so many bytes.
async fn shows_progress(server: &RefdataServer, id: &str, bytes: usize) {
    eventually("progress", STAGED_WITHIN, async || {
        let status = server.status(id).await;
        let shown = status["progress"]["object_bytes"].as_u64();
        let is_shown = shown > Some(bytes as u64);
        is_shown.then_some(()).ok_or(status.to_string())
    })
    .await;
}

fn assert_complete(status: &Value) {
    assert_eq!(status["state"], "complete", "{status}");
}

/// That it failed, and says why: each of these words.
fn assert_failed(status: &Value, words: &[&str]) {
    assert_eq!(status["state"], "error", "{status}");
    assert_eq!(status["error"], "An unexpected error occurred", "{status}");
    let text = status["admin_error"].as_str().unwrap();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
}

/// A job as `CheckM2`'s: genomes by data ids in a manifest that a variable names, several containers, each with its
/// number as an argument and a directory of its own for its outputs.
async fn checkm2_case(name: &str, genomes: usize, containers: u32) -> (Case, Value) {
    let mut case = Case::new(name, &["copy_inputs"])
        .await
        .containers(containers)
        .declobber();
    for genome in 0..genomes {
        let content = format!(">genome {genome}\nACGT\n");
        case = case
            .input(&format!("{genome}.fna"), content.as_bytes())
            .await;
    }
    let mut input = case.job()["job_input"].clone();
    for (genome, file) in input["input_files"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .enumerate()
    {
        file["data_id"] = json!(format!("GCF_{genome}"));
    }
    input["params"]["environment"] = json!({
        "MANIFEST": {"type": "manifest_file", "manifest_file_format": "data_ids"},
    });
    input["params"]["args"] = json!([
        "annotate",
        format!("{MOUNT_POINT}/CheckM2_database/uniref100.KO.1.dmnd"),
        {"type": "container_number", "container_num_prefix": "part-"},
    ]);
    (case, input)
}

async fn submit(service: &TestService, input: &Value, site: &str) -> String {
    let mut body = input.clone();
    body["cluster"] = json!(site);
    let submitted = service.call(As::User, Method::POST, "/jobs", Some(&body));
    submitted.await["job_id"].as_str().unwrap().to_owned()
}

/// That the job completed, and its outputs name every genome once, each beside the reference.
async fn assert_annotated(case: &Case, job: &Value, genomes: usize, containers: u32) {
    assert_eq!(states(job).last(), Some(&"complete"), "{job}");
    assert_eq!(
        job["outputs"].as_array().unwrap().len(),
        containers as usize,
        "{job}"
    );
    let mut lines = Vec::new();
    for container in 0..containers {
        let name = format!("{container}/annotated-part-{container}.tsv");
        let output = case.store.get(&case.output_path(&name)).await.unwrap();
        let output = output.unwrap_or_else(|| panic!("{name} is missing: {job}"));
        lines.extend(
            String::from_utf8(output.to_vec())
                .unwrap()
                .lines()
                .map(str::to_owned),
        );
    }
    lines.sort();
    let expected: Vec<String> = (0..genomes)
        .map(|genome| format!("GCF_{genome} {FIRST_LINE}"))
        .collect();
    assert_eq!(lines, expected);
}

/// The application code of a refused submission.
async fn refusal(service: &TestService, input: &Value) -> Value {
    let http = cts_tests::testbed::http::client().unwrap();
    let request = http
        .post(format!("{}/jobs", service.url()))
        .bearer_auth(service.token(As::User))
        .json(input);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["error"].clone()
}

#[tokio::test]
async fn a_job_reads_what_the_server_staged() {
    let _scheduler = scheduler_stays().await;
    let (case, mut input) = checkm2_case("refdata-server", 5, 3).await;
    input["cluster"] = json!("kbase");
    let archive = store(&case, "CheckM2_db.tar.gz", &database(MIB)).await;
    let mut server = RefdataServer::prepare().await;
    let service = service_with(&case, |pool| pool.settings = server.settings()).await;

    // Not staged yet: there is no server.
    let id = service.register_refdata(&archive, true).await;
    service.register_image_with(&case, &id, MOUNT_POINT).await;
    let refused = refusal(&service, &input).await;
    assert_eq!(refused["appcode"], 30400, "{refused}");

    server.start(&case, &service, &case.testbed.s3.url).await;
    assert_complete(&staged(&service, &id).await);
    let status = server.status(&id).await;
    assert_eq!(status["state"], "done", "{status}");
    assert_eq!(
        status["files"][0],
        json!({
            "file": "CONTENTS.json", "size": 3,
            "md5": "8a80554c91d9fca8acb82f023de02f11", "crc64nvme": cts_tests::object_store::crc64nvme(b"{}\n"),
        }),
        "{status}"
    );
    assert_read_only(&server.tree(&id));

    let job = submit(&service, &input, "kbase").await;
    let job = service.end_of(&job, JOB_DEADLINE).await;
    assert_annotated(&case, &job, 5, 3).await;

    // The container sees it and cannot change it, whoever it is.
    input["params"]["environment"] = json!({});
    input["params"]["args"] = json!(["touch", format!("{MOUNT_POINT}/filler")]);
    input["num_containers"] = json!(1);
    let filler = server.tree(&id).join("filler");
    let before = std::fs::metadata(&filler).unwrap();
    let id = submit(&service, &input, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job).last(), Some(&"error"), "{job}");
    let codes = format!("/jobs/{id}/exit_codes");
    let codes = service.call(As::User, Method::GET, &codes, None).await;
    assert_eq!(codes, json!({"exit_codes": [1]}));
    let log = format!("/jobs/{id}/log/0/stderr");
    let log = service.text(As::User, &log).await.unwrap();
    assert!(log.contains("Read-only file system"), "{log}");
    let after = std::fs::metadata(&filler).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
}

/// That nobody but root could change a staged tree.
fn assert_read_only(tree: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut open = vec![tree.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode();
        assert_eq!(mode & 0o7222, 0, "{}: {mode:o}", path.display());
        if metadata.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[tokio::test]
async fn without_a_server_executors_stage_once_for_all() {
    let _scheduler = scheduler_stays().await;
    let (case, input) = checkm2_case("refdata-self", 4, 4).await;
    let archive = store(&case, "db.tar.gz", &database(4 * MIB)).await;
    let pool = &case.testbed.htcondor;
    let root = pool
        .share_dir(&format!("refdata-{}", uuid::Uuid::new_v4()))
        .unwrap();
    let service = service_with(&case, |pool| {
        pool.settings = [
            ("KBCTS_REFDATA_STAGED_BY_EXECUTORS", "true".to_owned()),
            ("KBCTS_REFDATA_HOST_PATH", root.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
    })
    .await;
    let id = service.register_refdata(&archive, true).await;
    // Nothing has to be staged beforehand.
    assert_complete(&staged(&service, &id).await);
    assert!(!root.join(&id).exists());
    service.register_image_with(&case, &id, MOUNT_POINT).await;

    let job = submit(&service, &input, "kbase").await;
    let job = service.end_of(&job, JOB_DEADLINE).await;
    assert_annotated(&case, &job, 4, 4).await;
    assert_read_only(&root.join(&id));
    let staged_at = root
        .join(&id)
        .symlink_metadata()
        .unwrap()
        .modified()
        .unwrap();

    // Checked before it is trusted: once it has been changed, no container gets it.
    let again = submit(&service, &input, "kbase").await;
    let again = service.end_of(&again, JOB_DEADLINE).await;
    assert_annotated(&case, &again, 4, 4).await;
    let still = root
        .join(&id)
        .symlink_metadata()
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(staged_at, still, "staged once for all");
    std::fs::write(root.join(&id).join("filler"), b"changed").unwrap();
    let damaged = submit(&service, &input, "kbase").await;
    let damaged = service.end_of(&damaged, JOB_DEADLINE).await;
    assert_eq!(states(&damaged).last(), Some(&"error"), "{damaged}");
    let why = service.containers(damaged["id"].as_str().unwrap()).await;
    let why = why[0]["admin_error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(why.contains("filler"), "{why}");
    std::fs::remove_dir_all(&root).unwrap();
}

#[tokio::test]
async fn the_local_site_stages_for_itself() {
    let (case, input) = checkm2_case("refdata-local", 3, 2).await;
    let archive = store(&case, "db.tar.gz", &database(MIB)).await;
    let service = TestService::start(&case, Launch::development()).await;
    let id = service.register_refdata(&archive, true).await;
    let ended = ["complete", "error"];
    let status = service.wait_for_refdata(&id, "local", &ended, STAGED_WITHIN);
    assert_complete(&status.await);
    service.register_image_with(&case, &id, MOUNT_POINT).await;
    let job = submit(&service, &input, "local").await;
    let job = service.end_of(&job, JOB_DEADLINE).await;
    assert_annotated(&case, &job, 3, 2).await;
    service.stop().await;
}

#[tokio::test]
async fn a_damaged_archive_is_found_out() {
    let case = Case::new("refdata-damaged", &["copy_inputs"]).await;
    // Not compressed, and so nobody but the checksum sees the flipped bit.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(11);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b"DAMAGE-THIS"[..])
        .unwrap();
    let archive = store(&case, "db.tar", &tar.into_inner().unwrap()).await;
    let fault = Fault::Corrupt {
        text: b"DAMAGE-THIS",
    };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let (service, server) = service_and_server(&case, &proxy.url()).await;
    let id = service.register_refdata(&archive, true).await;
    let status = staged(&service, &id).await;
    let registered = case.store.stored_checksum(&archive).await.unwrap().unwrap();
    assert_failed(&status, &[&archive, &registered]);
    assert_eq!(server.names(), Vec::<String>::new(), "nothing is left");
    assert!(!server.tree(&id).exists());
}

#[tokio::test]
async fn hostile_members_are_refused_by_name() {
    let case = Case::new("refdata-hostile", &["copy_inputs"]).await;
    let (service, server) = service_and_server(&case, &case.testbed.s3.url).await;
    let outside = server.tree("escaped");
    let mut header = tar::Header::new_gnu();
    // Written as bytes: the library would not let it through.
    let name = b"../escaped";
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
    header.set_size(5);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    tar.append(&header, &b"owned"[..]).unwrap();
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let archive = store(&case, "hostile.tar.gz", &archive).await;
    let id = service.register_refdata(&archive, true).await;
    assert_failed(&staged(&service, &id).await, &["../escaped", &archive]);
    assert!(!outside.exists());
    assert_eq!(server.names(), Vec::<String>::new(), "nothing is left");
}

#[tokio::test]
async fn a_full_disk_is_named_and_left_clean() {
    let case = Case::new("refdata-full", &["copy_inputs"]).await;
    let mut server = RefdataServer::prepare().await;
    let service = service_with(&case, |pool| pool.settings = server.settings()).await;
    let s3 = &case.testbed.s3.url;
    server.start_on_small_disk(&case, &service, s3, 24).await;

    // Too large as it is: found before a byte is written.
    let large = store(&case, "large.tar.gz", &database(32 * MIB)).await;
    let id = service.register_refdata(&large, true).await;
    assert_failed(&staged(&service, &id).await, &["space", &large]);

    // Small when packed: found out on the way.
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(64 * MIB as u64);
    let zeros = std::io::Read::take(std::io::repeat(0), 64 * MIB as u64);
    tar.append_data(&mut header, "zeros", zeros).unwrap();
    let bomb = tar.into_inner().unwrap().finish().unwrap();
    let bomb = store(&case, "zeros.tar.gz", &bomb).await;
    let id = service.register_refdata(&bomb, true).await;
    assert_failed(&staged(&service, &id).await, &["space", &bomb]);
    assert_eq!(server.names(), Vec::<String>::new(), "nothing is left");

    // The server goes on.
    let small = store(&case, "small.tar.gz", &database(MIB)).await;
    let id = service.register_refdata(&small, true).await;
    assert_complete(&staged(&service, &id).await);
    assert_eq!(server.names(), [id]);
}

#[tokio::test]
async fn a_killed_server_begins_again() {
    let case = Case::new("refdata-killed", &["copy_inputs"]).await;
    let fault = Fault::StallDownload { after: 2 * MIB };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let (service, mut server) = service_and_server(&case, &proxy.url()).await;
    let archive = store(&case, "db.tar.gz", &database(8 * MIB)).await;
    let id = service.register_refdata(&archive, true).await;
    service
        .wait_for_refdata(&id, "kbase", &["download_submitted"], STAGED_WITHIN)
        .await;
    proxy.struck().await;
    shows_progress(&server, &id, 8 * MIB).await;
    server.kill().await;
    assert!(!server.tree(&id).exists(), "half a tree looks finished");
    assert_eq!(
        service.refdata_at(&id, "kbase").await["state"],
        "download_submitted"
    );

    proxy.heal();
    server.restart().await;
    assert_complete(&staged(&service, &id).await);
    assert_eq!(server.names(), std::slice::from_ref(&id));
    let files = server.status(&id).await["files"].as_array().unwrap().len();
    assert_eq!(files, 3);
}

#[tokio::test]
async fn the_end_is_reported_when_the_service_is_back() {
    let case = Case::new("refdata-away", &["copy_inputs"]).await;
    let fault = Fault::StallDownload { after: 2 * MIB };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let (mut service, mut server) = service_and_server(&case, &proxy.url()).await;
    let archive = store(&case, "db.tar.gz", &database(8 * MIB)).await;
    let id = service.register_refdata(&archive, true).await;
    service
        .wait_for_refdata(&id, "kbase", &["download_submitted"], STAGED_WITHIN)
        .await;
    proxy.struck().await;
    shows_progress(&server, &id, 8 * MIB).await;
    service.kill().await.unwrap();
    // The stalled connections are given up by the kill only: the next ones get through.
    server.kill().await;
    proxy.heal();
    server.restart().await;
    done(&server, &id).await;
    // Not even the server's own end loses the report.
    server.kill().await;
    server.restart().await;
    service.restart().await.unwrap();
    assert_complete(&staged(&service, &id).await);
}

#[tokio::test]
async fn two_servers_asked_at_once_stage_once() {
    let case = Case::new("refdata-twice", &["copy_inputs"]).await;
    let archive = store(&case, "db.tar.gz", &database(8 * MIB)).await;
    let mut one = RefdataServer::prepare().await;
    let mut other = RefdataServer::prepare_beside(&one).await;
    // The service itself reaches neither of them.
    let away = Gate::to(1).await;
    away.close();
    let mut settings = one.settings();
    settings[0].1 = format!("http://{}", away.address());
    let service = service_with(&case, |pool| pool.settings = settings).await;
    one.start(&case, &service, &case.testbed.s3.url).await;
    other.start(&case, &service, &case.testbed.s3.url).await;
    let id = service.register_refdata(&archive, true).await;

    let answers: [(u16, Option<u64>); 4] =
        tokio::join!(one.ask(&id), other.ask(&id), one.ask(&id), other.ask(&id)).into();
    let taken = answers.iter().filter(|(status, _)| *status == 204).count();
    assert!(taken >= 1, "{answers:?}");
    for answer in answers {
        assert!(
            matches!(answer, (204, None) | (400, Some(30400))),
            "{answer:?}"
        );
    }
    assert_complete(&staged(&service, &id).await);
    for server in [&one, &other] {
        done(server, &id).await;
        assert_eq!(server.names(), std::slice::from_ref(&id));
    }
    let logs = format!("{}\n{}", one.log(), other.log());
    assert_eq!(logs.matches("was_there=false").count(), 1, "{logs}");
}
