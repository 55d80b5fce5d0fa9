//! `kill -9` of the service, again and again, while jobs are submitted, worked off and canceled: what was
//! answered is kept, and every job ends as it must.
//!
//! The test is the executors: the site's own do nothing. `CTS_KILL_ROUNDS` says how often the service is
//! killed, `CTS_KILL_SEED` repeats the jobs and the pauses of an earlier run (the interleaving is the
//! machine's).

use std::sync::Arc;
use std::time::Duration;

use cts_tests::binaries;
use cts_tests::service_process::{As, Launch, ServiceProcess};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use tokio::task::JoinHandle;

use crate::harness::{Case, eventually};

use crate::load::{self, Client, Load, Site, from_environment, last_lines};

const ROUNDS: u32 = 24;
/// Tasks that each work off one job after the other.
const WORKERS: u64 = 6;
/// The service answers again and does some work before it is killed again.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(120);
/// How long the service works at most before it is killed.
const LONGEST_ROUND: Duration = Duration::from_millis(1500);
/// How far a start can get that is killed before it is through: about until the first answer.
const LONGEST_START: Duration = Duration::from_millis(400);
/// One start in so many is killed before it is through.
const KILLED_STARTS: u32 = 4;
const END_DEADLINE: Duration = Duration::from_secs(90);

#[expect(
    clippy::print_stdout,
    reason = "the seed is for whoever repeats a failed run"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_again_and_again_loses_nothing_it_has_answered() {
    let seed = from_environment("CTS_KILL_SEED").unwrap_or_else(rand::random);
    let rounds = from_environment("CTS_KILL_ROUNDS").unwrap_or(ROUNDS);
    println!("CTS_KILL_SEED={seed} CTS_KILL_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);

    let mut case = Case::new("service-kills", &["copy_inputs"]).await;
    for number in 0..load::MOST_CONTAINERS {
        case = case.input(&format!("{number}.txt"), b"in").await;
    }
    let dir = tempfile::Builder::new()
        .prefix("cts-e2e-kills-")
        .tempdir()
        .unwrap();
    let launch = Launch::with_idle_executor(binaries::service().unwrap(), dir.path()).unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("service.log"));
    let mut service = ServiceProcess::launch(&launch, case.testbed, &data, &log)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let image = case.testbed.images.test_tool.tagged();
    let registration = format!("/admin/images/{image}");
    let registered = service.call(As::Admin, Method::POST, &registration, None);
    registered.await.unwrap_or_else(|error| panic!("{error}"));

    let client = Client::new(&service);
    let load = Arc::new(Load::new(client.clone(), &case, Site::Local).await);
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(worker));
            tokio::spawn(Arc::clone(&load).work(rng))
        })
        .collect();
    for _ in 0..rounds {
        let before = client.answers();
        eventually("answers after a start", PROGRESS_DEADLINE, async || {
            let progress = client.answers() > before || workers.iter().any(JoinHandle::is_finished);
            progress.then_some(()).ok_or_else(|| last_lines(&log))
        })
        .await;
        if workers.iter().any(JoinHandle::is_finished) {
            // It has failed; why, is said where it is joined.
            break;
        }
        // Not to wait for anything: the moment of the kill is to be any.
        tokio::time::sleep(rng.random_range(Duration::ZERO..LONGEST_ROUND)).await;
        service.kill().await.unwrap();
        while rng.random_ratio(1, KILLED_STARTS) {
            let moment = rng.random_range(Duration::ZERO..LONGEST_START);
            let _cut_off = tokio::time::timeout(moment, service.restart()).await;
            service.kill().await.unwrap();
        }
        service
            .restart()
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", last_lines(&log)));
    }
    load.finish();
    let mut stories = Vec::new();
    for worker in workers {
        stories.extend(worker.await.unwrap());
    }

    let verdict = load::judge(&client, &stories, END_DEADLINE).await;
    for (path, checksum) in load.outputs() {
        let stored = case.store.stored_checksum(path).await.unwrap();
        assert_eq!(stored.as_ref(), Some(checksum), "{path}");
    }
    println!("{rounds} kills, {} and {verdict}", client.tally());
    assert!(
        client.unanswered() > 0,
        "no request was cut off: the kills hit nothing"
    );
    verdict.assert_saw_everything();
    service.stop().await.unwrap();
}
