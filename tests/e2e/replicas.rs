//! Two services over one database behind a load balancer, killed in turn under load: no transition, submission or
//! notification is lost or doubled.
//!
//! The test is the executors, and the pool is a double that remembers what was submitted to it
//! (`replicas/pool_double.py`): what is tested are the services. `CTS_REPLICA_ROUNDS` says how often one is
//! killed, `CTS_KILL_SEED` repeats the jobs and the pauses of an earlier run.

mod balancer;
mod follower;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cts_tests::binaries;
use cts_tests::service_process::{As, Launch, OnPool, ServiceProcess, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::{Case, Topic, eventually};
use crate::load::{self, Client, Load, Site, from_environment, last_lines};

use balancer::Balancer;
use follower::Follower;

const ROUNDS: u32 = 100;
/// Tasks that each work off one job after the other. A submission that dies with its service waits a minute for
/// another: many wait.
const WORKERS: u64 = 24;
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
const LONGEST_ROUND: Duration = Duration::from_millis(700);
/// One time in so many the other service is killed too, before the first is back.
const BOTH: u32 = 8;
/// The last submissions wait for their lease to lapse, and for those who look for them.
const END_DEADLINE: Duration = Duration::from_secs(240);

/// A sender that died is followed by the other after ten seconds.
const SEND_DEADLINE: Duration = Duration::from_secs(60);

/// A service of which there are two.
async fn replica(
    case: &Case,
    dir: &Path,
    name: &str,
    store: &Store,
    settings: &[(&str, String)],
) -> ServiceProcess {
    let wrapper = binaries::wrapper();
    let launch = Launch {
        service: binaries::service().unwrap_or_else(|error| panic!("{error}")),
        executor: PathBuf::new(),
        options: Vec::new(),
        store: store.clone(),
        auth2: None,
        pool: Some(OnPool {
            // Nobody downloads it.
            archive: wrapper.clone(),
            wrapper,
            commands: Some(dir.join("pool")),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }),
    };
    let (data, log) = (dir.join(name), dir.join(format!("{name}.log")));
    ServiceProcess::launch(&launch, case.testbed, &data, &log)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", last_lines(&log)))
}

/// `HTCondor`'s commands. Returns the file in which the pool remembers.
fn make_pool(dir: &Path) -> PathBuf {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let pool = dir.join("pool");
    std::fs::create_dir(&pool).unwrap();
    let double = pool.join("double.py");
    // Itself, not by what the path has under that name: that may start shells that cost more than the double.
    let python = std::process::Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .unwrap();
    let python = String::from_utf8(python.stdout).unwrap();
    let script =
        include_str!("replicas/pool_double.py").replacen("/usr/bin/env python3", python.trim(), 1);
    std::fs::write(&double, script).unwrap();
    std::fs::set_permissions(&double, PermissionsExt::from_mode(0o755)).unwrap();
    for command in [
        "version", "status", "submit", "q", "history", "rm", "release",
    ] {
        symlink(&double, pool.join(format!("condor_{command}"))).unwrap();
    }
    pool.join("pool")
}

/// The clusters of each job in the pool.
fn submissions(record: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut clusters: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in std::fs::read_to_string(record).unwrap().lines() {
        if let ["submitted", cluster, job, _procs] = line.split(' ').collect::<Vec<_>>().as_slice()
        {
            let cluster = cluster.parse().unwrap();
            clusters.entry((*job).to_owned()).or_default().push(cluster);
        }
    }
    clusters
}

/// The ids of a job's transitions, in order.
fn transition_ids(job: &Value) -> Vec<&str> {
    let transitions = job["transition_times"].as_array().unwrap();
    transitions
        .iter()
        .map(|one| one["trans_id"].as_str().unwrap())
        .collect()
}

/// Waits until the topic has all these transitions, each job's in their order. A message may be there again, as
/// when a service dies before it has noted that the message arrived.
async fn sent(topic: &Topic, expected: &BTreeMap<String, Vec<String>>) -> String {
    eventually("all messages", SEND_DEADLINE, async || {
        let messages = topic.messages().await;
        let mut seen = HashSet::new();
        let mut by_job: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for message in &messages {
            let text = |name: &str| message[name].as_str().unwrap_or_default();
            if seen.insert(text("trans_id")) {
                by_job
                    .entry(text("job_id"))
                    .or_default()
                    .push(text("trans_id"));
            }
        }
        for (job, ids) in expected {
            let arrived = by_job.remove(job.as_str()).unwrap_or_default();
            if arrived != *ids {
                return Err(format!(
                    "messages about job {job}: {arrived:?}, not {ids:?}"
                ));
            }
        }
        let again = messages.len() - seen.len();
        Ok(format!(
            "{} messages, {again} of them again",
            messages.len()
        ))
    })
    .await
}

/// Waits until a job's cluster is noted: of one that ended before the answer to its submission was known, later.
async fn with_cluster(client: &Client, id: &str, cluster: u64) -> Value {
    eventually("the note of a job's cluster", END_DEADLINE, async || {
        let job = client.job(id).await;
        if job["htcondor_details"]["cluster_id"] == Value::from(vec![cluster]) {
            Ok(job)
        } else {
            Err(job.to_string())
        }
    })
    .await
}

/// Waits until it is noted that all messages about a job have arrived.
async fn notified(client: &Client, id: &str) {
    eventually(
        "the note that messages arrived",
        SEND_DEADLINE,
        async || {
            let job = client.job(id).await;
            let transitions = job["transition_times"].as_array().unwrap();
            let noted = transitions.iter().all(|one| one["notif_sent"] == true);
            noted.then_some(()).ok_or_else(|| job.to_string())
        },
    )
    .await;
}

#[expect(
    clippy::print_stdout,
    reason = "the seed is for whoever repeats a failed run"
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_killed_in_turn_lose_and_double_nothing() {
    let seed = from_environment("CTS_KILL_SEED").unwrap_or_else(rand::random);
    let rounds = from_environment("CTS_REPLICA_ROUNDS").unwrap_or(ROUNDS);
    println!("CTS_KILL_SEED={seed} CTS_REPLICA_ROUNDS={rounds}");
    let mut rng = StdRng::seed_from_u64(seed);

    let mut case = Case::new("replicas", &["copy_inputs"]).await;
    for number in 0..load::MOST_CONTAINERS {
        case = case.input(&format!("{number}.txt"), b"in").await;
    }
    let dir = tempfile::Builder::new()
        .prefix("cts-e2e-replicas-")
        .tempdir()
        .unwrap();
    let dir = dir.path();
    let record = make_pool(dir);
    let store = Store::fresh_database();
    let tokens = dir.join("a").join("tokens.toml");
    let topic = Topic::at(case.testbed.kafka.address.clone());
    let mut settings = topic.settings().to_vec();
    settings.push(("CTS_TOKEN_FILE", tokens.display().to_string()));
    let mut services = [
        replica(&case, dir, "a", &store, &settings).await,
        replica(&case, dir, "b", &store, &settings).await,
    ];
    let [a, b] = &services;
    let balancer = Balancer::start(vec![a.address(), b.address()]).await;
    let image = case.testbed.images.test_tool.tagged();
    let registration = format!("/admin/images/{image}");
    let registered = a.call(As::Admin, Method::POST, &registration, None);
    registered.await.unwrap_or_else(|error| panic!("{error}"));

    let client = Client::at(&balancer.url(), a);
    let follower = Follower::start(&balancer.url(), a.token(As::Admin)).await;
    let site = Site::Pool(record.clone());
    let load = Arc::new(Load::new(client.clone(), &case, site).await);
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(worker));
            tokio::spawn(Arc::clone(&load).work(rng))
        })
        .collect();
    follower.has_begun().await;

    for round in 0..rounds {
        let before = client.answers();
        // So that not every try of a slow request is cut off.
        eventually("answers after a start", PROGRESS_DEADLINE, async || {
            let progress = client.answers() >= before + WORKERS / 3
                || workers.iter().any(JoinHandle::is_finished);
            let logs = ["a", "b"].map(|name| last_lines(&dir.join(format!("{name}.log"))));
            progress.then_some(()).ok_or_else(|| logs.join("\n---\n"))
        })
        .await;
        if workers.iter().any(JoinHandle::is_finished) {
            // It has failed; why, is said where it is joined.
            break;
        }
        // Not to wait for anything: the moment of the kill is to be any.
        tokio::time::sleep(rng.random_range(Duration::ZERO..LONGEST_ROUND)).await;
        if round % 2 == 1 {
            services.reverse();
        }
        let [first, second] = &mut services;
        first.kill().await.unwrap();
        let both = rng.random_ratio(1, BOTH);
        if both {
            tokio::time::sleep(rng.random_range(Duration::ZERO..LONGEST_ROUND / 4)).await;
            second.kill().await.unwrap();
        }
        let restarted = first.restart().await;
        restarted.unwrap_or_else(|error| panic!("{error}\n{}", last_lines(first.log())));
        if both {
            let restarted = second.restart().await;
            restarted.unwrap_or_else(|error| panic!("{error}\n{}", last_lines(second.log())));
        }
    }
    load.finish();
    let mut stories = Vec::new();
    for worker in workers {
        stories.extend(worker.await.unwrap());
    }

    let verdict = load::judge(&client, &stories, END_DEADLINE).await;
    let clusters = submissions(&record);
    let mut expected = BTreeMap::new();
    for story in &stories {
        let submitted = clusters.get(&story.id).map(Vec::as_slice);
        let [cluster] = submitted.unwrap_or_default() else {
            panic!("job {} was submitted as {submitted:?}", story.id)
        };
        let job = with_cluster(&client, &story.id, *cluster).await;
        let ids = transition_ids(&job).into_iter().map(str::to_owned);
        expected.insert(story.id.clone(), ids.collect::<Vec<_>>());
    }
    // Also of jobs whose submission had no answer.
    for (job, clusters) in &clusters {
        assert_eq!(clusters.len(), 1, "job {job} was submitted as {clusters:?}");
        client.job(job).await;
    }
    let followed = follower.finish(&expected, END_DEADLINE).await;
    let sent = sent(&topic, &expected).await;
    for story in &stories {
        notified(&client, &story.id).await;
    }
    println!(
        "{rounds} kills, {}; {} jobs submitted; {followed}; {sent}; {verdict}",
        client.tally(),
        clusters.len()
    );
    assert!(
        client.unanswered() > 0,
        "no request was cut off: the kills hit nothing"
    );
    verdict.assert_saw_everything();
    for service in services {
        service.stop().await.unwrap();
    }
}
