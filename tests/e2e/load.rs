//! Load for a service that is killed: tasks that submit jobs, report their containers' states and cancel some, and remember every answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cts_tests::service_process::{As, ServiceProcess, Tokens};
use futures::future::{join, join_all};
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Case, eventually};

mod verdict;

use verdict::Verdict;

/// Containers of the largest job.
pub(crate) const MOST_CONTAINERS: u32 = 8;
/// The service is away for seconds; a request that is not answered in this time never will be.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// A submission that died with its service is taken up by another within a minute and a half. That one may be
/// killed at it, too, and the next: services that are killed every few seconds have bad luck in a row.
const TAKEN_DEADLINE: Duration = Duration::from_secs(420);
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The service's clients: an owner of jobs, and executors.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    tokens: Tokens,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    answers: AtomicU64,
    unanswered: AtomicU64,
    unavailable: AtomicU64,
}

/// What came back at last.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Value,
    /// An earlier try had no answer, so the service may have done already what was asked.
    repeated: bool,
}

impl Client {
    pub(crate) fn new(service: &ServiceProcess) -> Self {
        Self::at(service.url(), service)
    }

    /// Clients with the service's tokens that reach it, and its like, at another address.
    pub(crate) fn at(url: &str, service: &ServiceProcess) -> Self {
        let http = cts_tests::testbed::http::client();
        Self {
            http: http.unwrap_or_else(|error| panic!("{error}")),
            url: url.to_owned(),
            tokens: service.tokens().clone(),
            counts: Arc::default(),
        }
    }

    /// Requests that were answered.
    pub(crate) fn answers(&self) -> u64 {
        self.counts.answers.load(Ordering::Relaxed)
    }

    /// Tries that were not.
    pub(crate) fn unanswered(&self) -> u64 {
        self.counts.unanswered.load(Ordering::Relaxed)
    }

    pub(crate) fn tally(&self) -> String {
        let unavailable = self.counts.unavailable.load(Ordering::Relaxed);
        format!(
            "{} requests answered, {} tries cut off, {unavailable} answered 503",
            self.answers(),
            self.unanswered()
        )
    }

    /// Sends a request until it is answered with something else than 503.
    async fn ask(&self, who: As, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let begun = Instant::now();
        let mut repeated = false;
        loop {
            let problem = match self.try_once(who, method.clone(), path, body).await {
                Ok((StatusCode::SERVICE_UNAVAILABLE, body)) => {
                    self.counts.unavailable.fetch_add(1, Ordering::Relaxed);
                    body.to_string()
                }
                Ok((status, body)) => {
                    self.counts.answers.fetch_add(1, Ordering::Relaxed);
                    return Answer {
                        status,
                        body,
                        repeated,
                    };
                }
                Err(error) => {
                    self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
                    repeated = repeated || !error.is_connect();
                    format!("{error:?}")
                }
            };
            let waited = begun.elapsed();
            assert!(
                waited < ANSWER_DEADLINE,
                "{method} {path}: no answer within {waited:?}; last seen: {problem}"
            );
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn try_once(
        &self,
        who: As,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let token = self.tokens.of(who);
        let url = format!("{}{path}", self.url);
        let mut request = self.http.request(method, url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        // Cut off in the middle of the body is not answered.
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes);
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Ok((status, body.unwrap_or_else(|_| text())))
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask(As::Admin, Method::GET, path, None).await;
        assert_eq!(answer.status, StatusCode::OK, "GET {path}: {answer:?}");
        answer.body
    }

    /// The job with administrators' details. An accepted job exists: it is a failure if it does not.
    pub(crate) async fn job(&self, id: &str) -> Value {
        self.get(&format!("/admin/jobs/{id}")).await
    }

    /// Its containers, by number.
    pub(crate) async fn containers(&self, id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/admin/jobs/{id}/container")).await;
        let list = answer.as_array().or_else(|| answer["subjobs"].as_array());
        let mut containers = list.unwrap_or_else(|| panic!("{answer}")).clone();
        containers.sort_by_key(|container| container["sub_id"].as_u64());
        containers
    }
}

/// What became of one job, as its clients saw it.
#[derive(Debug)]
pub(crate) struct JobStory {
    pub(crate) id: String,
    pub(crate) containers: Vec<ContainerStory>,
    pub(crate) cancel: Option<CancelStory>,
}

/// What became of a container.
#[derive(Debug, Default)]
pub(crate) struct ContainerStory {
    /// States whose reports were taken, in order.
    pub(crate) taken: Vec<&'static str>,
    pub(crate) exit_code: Option<i64>,
    /// The output it named with `complete`.
    pub(crate) output: Option<String>,
    /// A report was refused, which only happens when the site ended the container.
    pub(crate) refused: Option<String>,
}

/// What became of a cancel.
#[derive(Debug)]
pub(crate) struct CancelStory {
    pub(crate) accepted: bool,
    /// An earlier try had no answer.
    pub(crate) repeated: bool,
}

/// Where the jobs are to run.
#[derive(Debug)]
pub(crate) enum Site {
    /// With the service, whose executors do nothing.
    Local,
    /// On a pool: reports come only once it has the job. Its record is this file; see `replicas/pool_double.py`.
    Pool(PathBuf),
}

impl Site {
    /// Waits until executors of a job can be at work.
    async fn take(&self, job: &str) {
        let Self::Pool(record) = self else {
            return;
        };
        let begun = Instant::now();
        let has = || {
            let text = std::fs::read_to_string(record);
            text.is_ok_and(|text| text.split_whitespace().any(|word| word == job))
        };
        while !has() {
            let waited = begun.elapsed();
            assert!(
                waited < TAKEN_DEADLINE,
                "job {job} was not submitted within {waited:?}"
            );
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// The jobs' common part.
#[derive(Debug)]
pub(crate) struct Load {
    client: Client,
    submission: Value,
    /// Output of each container number, with its checksum in S3.
    outputs: BTreeMap<String, String>,
    site: Site,
    done: AtomicBool,
}

/// How a container ends.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Completes,
    ExitsWith(i64),
    /// In an error after so many reports.
    Breaks(usize),
}

const WAY_TO_COMPLETE: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];
const WAY_TO_ERROR: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "error_processing_submitting",
    "error_processing_submitted",
    "error",
];

impl Fate {
    fn any(rng: &mut StdRng, failures: bool) -> Self {
        if !failures {
            return Self::Completes;
        }
        match rng.random_range(0..6) {
            0 => Self::ExitsWith(rng.random_range(1..256)),
            1 => Self::Breaks(rng.random_range(0..4)),
            _ => Self::Completes,
        }
    }

    fn states(self) -> Vec<&'static str> {
        match self {
            Self::Completes => WAY_TO_COMPLETE.to_vec(),
            Self::ExitsWith(_) => WAY_TO_ERROR.to_vec(),
            Self::Breaks(after) => {
                let way = WAY_TO_COMPLETE.into_iter().take(after);
                way.chain(["error"]).collect()
            }
        }
    }

    fn exit_code(self) -> i64 {
        match self {
            Self::ExitsWith(code) => code,
            Self::Completes | Self::Breaks(_) => 0,
        }
    }
}

impl Load {
    /// Stores what the containers will name as their outputs.
    pub(crate) async fn new(client: Client, case: &Case, site: Site) -> Self {
        let mut submission = case.job()["job_input"].clone();
        submission["cluster"] = json!(match site {
            Site::Local => "local",
            Site::Pool(_) => "kbase",
        });
        let mut outputs = BTreeMap::new();
        for number in 0..MOST_CONTAINERS {
            let path = case.output_path(&number.to_string());
            let content = format!("output of container {number}");
            let checksum = case.store.put(&path, content.as_bytes()).await.unwrap();
            outputs.insert(path, checksum);
        }
        Self {
            client,
            submission,
            outputs,
            site,
            done: AtomicBool::new(false),
        }
    }

    /// No more jobs: those begun are worked off.
    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    /// Every output that is named, with its checksum.
    pub(crate) fn outputs(&self) -> &BTreeMap<String, String> {
        &self.outputs
    }

    /// One job after the other.
    pub(crate) async fn work(self: Arc<Self>, mut rng: StdRng) -> Vec<JobStory> {
        let mut stories = Vec::new();
        while !self.done.load(Ordering::Relaxed) {
            stories.push(self.one_job(&mut rng).await);
        }
        stories
    }

    async fn one_job(&self, rng: &mut StdRng) -> JobStory {
        let num_containers = rng.random_range(1..=MOST_CONTAINERS);
        let failures = rng.random_ratio(1, 2);
        let fates: Vec<Fate> = (0..num_containers)
            .map(|_| Fate::any(rng, failures))
            .collect();
        // Workers' clocks are wrong, some by much.
        let skews: Vec<SignedDuration> = fates
            .iter()
            .map(|_| *[0, 0, 0, -3600, 90].choose(rng).unwrap_or(&0))
            .map(SignedDuration::from_secs)
            .collect();
        let all_reports = num_containers * 5;
        let cancel_after = rng
            .random_ratio(1, 5)
            .then(|| u64::from(rng.random_range(0..all_reports)));

        let mut submission = self.submission.clone();
        submission["num_containers"] = json!(num_containers);
        let submitted = self
            .client
            .ask(As::User, Method::POST, "/jobs", Some(&submission))
            .await;
        assert_eq!(submitted.status, StatusCode::OK, "{submitted:?}");
        let id = submitted.body["job_id"].as_str().unwrap().to_owned();

        self.site.take(&id).await;

        let reports = tokio::sync::watch::Sender::new(0);
        let walks = join_all(
            (0..)
                .zip(fates.into_iter().zip(skews))
                .map(|(number, (fate, skew))| self.walk(&id, number, fate, skew, &reports)),
        );
        let (containers, cancel) = join(walks, async {
            let after = cancel_after?;
            let mut seen = reports.subscribe();
            // Fewer reports are made if containers break early.
            let reached = seen.wait_for(|made| *made >= after.min(u64::from(num_containers)));
            reached.await.unwrap();
            Some(self.cancel(&id).await)
        })
        .await;
        JobStory {
            id,
            containers,
            cancel,
        }
    }

    /// Reports a container's states to its end. Counts in `reports`.
    async fn walk(
        &self,
        job: &str,
        number: u32,
        fate: Fate,
        skew: SignedDuration,
        reports: &tokio::sync::watch::Sender<u64>,
    ) -> ContainerStory {
        let mut story = ContainerStory::default();
        for state in fate.states() {
            let mut report = json!({ "time": (Timestamp::now() + skew).to_string() });
            match state {
                "upload_submitting" | "error_processing_submitting" => {
                    report["exit_code"] = json!(fate.exit_code());
                }
                "complete" => {
                    let index = usize::try_from(number).unwrap();
                    let (path, checksum) = self.outputs.iter().nth(index).unwrap();
                    report["outputs"] = json!([{ "file": path, "crc64nvme": checksum }]);
                    story.output = Some(path.clone());
                }
                "error" => report["admin_error"] = json!("made to fail"),
                _ => {}
            }
            let path = format!("/external_exec/jobs/{job}/container/{number}/update/{state}");
            let answer = self
                .client
                .ask(As::Executor, Method::PUT, &path, Some(&report))
                .await;
            reports.send_modify(|made| *made += 1);
            match answer.status {
                StatusCode::NO_CONTENT => {
                    story.taken.push(state);
                    if let Some(code) = report["exit_code"].as_i64() {
                        story.exit_code = Some(code);
                    }
                }
                StatusCode::NOT_FOUND if answer.body["error"]["appcode"] == 40050 => {
                    story.output = None;
                    story.refused = Some(answer.body.to_string());
                    break;
                }
                _ => panic!("PUT {path}: {answer:?}"),
            }
        }
        story
    }

    async fn cancel(&self, job: &str) -> CancelStory {
        let path = format!("/jobs/{job}/cancel");
        let answer = self.client.ask(As::User, Method::PUT, &path, None).await;
        let accepted = match answer.status {
            StatusCode::NO_CONTENT => true,
            StatusCode::NOT_FOUND if answer.body["error"]["appcode"] == 40040 => false,
            _ => panic!("PUT {path}: {answer:?}"),
        };
        CancelStory {
            accepted,
            repeated: answer.repeated,
        }
    }
}

/// Compares every job with what its clients were told, once it has ended.
pub(crate) async fn judge(client: &Client, stories: &[JobStory], deadline: Duration) -> Verdict {
    let mut verdict = Verdict::default();
    for story in stories {
        let job = eventually("the end of a job", deadline, async || {
            let job = client.job(&story.id).await;
            let state = job["state"].as_str().unwrap_or_default().to_owned();
            verdict::is_terminal(&state).then_some(job).ok_or(state)
        })
        .await;
        let containers = client.containers(&story.id).await;
        verdict.judge(story, &job, &containers);
    }
    verdict
}

/// A number that a variable gives, if it is set.
pub(crate) fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let value = text.parse();
    Some(value.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The end of a service's log.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
