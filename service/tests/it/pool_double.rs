//! A pool in memory: takes descriptions, and does to its procs what a test tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use cts_service::condor::machine_ad::MachineAd;
use cts_service::condor::pool::{Pool, PoolError, Procs};
use cts_service::condor::proc_ad::{ProcAd, ProcName};
use cts_shared::timestamp::UtcTime;

/// When its procs entered their states, unless a test says otherwise: the test clock's first second.
pub(crate) const ENTERED: i64 = 1_927_857_906;

/// The account to whom the service's procs belong.
const OWNER: &str = "cts";

/// What the pool is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Submit,
    Queue,
    History,
    Remove,
    Release,
    Machines,
}

/// How a submission ends.
#[derive(Debug, Clone, Default)]
enum Answer {
    #[default]
    Cluster,
    /// It is taken, and the answer does not arrive.
    Lost,
    Refused(String),
}

#[derive(Debug, Default)]
struct State {
    last_cluster: i64,
    queue: Vec<Value>,
    history: Vec<Value>,
    machines: Vec<MachineAd>,
    away: bool,
    silent: BTreeSet<Call>,
    submit_answer: Answer,
    /// Procs that cannot be released or removed.
    stubborn: Vec<ProcName>,
    /// Removed procs stay in the queue, as those do whose worker has not confirmed.
    removes_slowly: bool,
    calls: BTreeMap<Call, usize>,
    descriptions: Vec<String>,
    removed: Vec<ProcName>,
    released: Vec<ProcName>,
    pause: Option<(Call, oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

/// The double.
#[derive(Debug, Default)]
pub(crate) struct PoolDouble(Mutex<State>);

/// The next call of a kind, which waits in the middle.
pub(crate) struct Pause {
    reached: oneshot::Receiver<()>,
    go_on: oneshot::Sender<()>,
}

impl Pause {
    /// Returns when the call has come.
    pub(crate) async fn reached(&mut self) {
        tokio::time::timeout(crate::pool_app::DEADLINE, &mut self.reached)
            .await
            .expect("the call comes in time")
            .unwrap();
    }

    pub(crate) fn go_on(self) {
        self.go_on.send(()).unwrap();
    }
}

impl PoolDouble {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// No tool gets an answer.
    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// No tool for that gets an answer.
    pub(crate) fn silence(&self, call: Call) {
        self.state().silent.insert(call);
    }

    /// Submissions are taken, but nobody hears of it.
    pub(crate) fn lose_answers(&self) {
        self.state().submit_answer = Answer::Lost;
    }

    pub(crate) fn refuse(&self, words: &str) {
        self.state().submit_answer = Answer::Refused(words.to_owned());
    }

    /// Submissions are taken and answered again.
    pub(crate) fn accept(&self) {
        self.state().submit_answer = Answer::Cluster;
    }

    pub(crate) fn set_machines(&self, machines: Value) {
        self.state().machines = serde_json::from_value(machines).unwrap();
    }

    /// The pool will not let go of that proc, whoever asks.
    pub(crate) fn make_stubborn(&self, cluster: i64, proc: i64) {
        self.state().stubborn.push(ProcName { cluster, proc });
    }

    pub(crate) fn remove_slowly(&self) {
        self.state().removes_slowly = true;
    }

    /// The next call of that kind waits before the pool does anything.
    pub(crate) fn pause(&self, call: Call) -> Pause {
        let (reached_sender, reached) = oneshot::channel();
        let (go_on, go_on_receiver) = oneshot::channel();
        self.state().pause = Some((call, reached_sender, go_on_receiver));
        Pause { reached, go_on }
    }

    /// How often it was asked that.
    pub(crate) fn calls(&self, call: Call) -> usize {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// The descriptions that were taken.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.state().descriptions.clone()
    }

    /// The procs in the queue, as `cluster.proc`.
    pub(crate) fn queued(&self) -> Vec<String> {
        self.state().queue.iter().map(shown).collect()
    }

    /// The procs that the service removed.
    pub(crate) fn removed(&self) -> Vec<String> {
        self.state()
            .removed
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// The procs that the service released.
    pub(crate) fn released(&self) -> Vec<String> {
        self.state()
            .released
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// A cluster that nobody told the service of.
    pub(crate) fn put(&self, job: &str, containers: u32) -> i64 {
        self.put_as(OWNER, job, containers)
    }

    /// Another account's cluster.
    pub(crate) fn put_as(&self, owner: &str, job: &str, containers: u32) -> i64 {
        let mut state = self.state();
        state.last_cluster += 1;
        let cluster = state.last_cluster;
        let ads = (0..containers).map(|number| {
            json!({
                "ClusterId": cluster, "ProcId": number, "CTSJobID": job, "CTSContainerNumber": number,
                "JobStatus": 1, "EnteredCurrentStatus": ENTERED, "RequestCpus": 1, "RequestMemory": 1,
                "Owner": owner, "LeaveJobInQueue": false,
            })
        });
        state.queue.extend(ads);
        cluster
    }

    /// Changes attributes of a queued proc.
    #[track_caller]
    pub(crate) fn change(&self, cluster: i64, proc: i64, attributes: Value) {
        let mut state = self.state();
        let ad = state
            .queue
            .iter_mut()
            .find(|ad| ad["ClusterId"] == cluster && ad["ProcId"] == proc)
            .expect("the proc is in the queue");
        merge(ad, attributes);
    }

    #[track_caller]
    pub(crate) fn run(&self, cluster: i64, proc: i64) {
        let running = json!({
            "JobStatus": 2, "RemoteHost": "slot1@n1.example.org", "JobCurrentStartDate": ENTERED,
        });
        self.change(cluster, proc, running);
    }

    /// The proc is held, once more.
    #[track_caller]
    pub(crate) fn hold(&self, cluster: i64, proc: i64, times: u32, attributes: Value) {
        self.change(cluster, proc, json!({"JobStatus": 5, "NumHolds": times}));
        self.change(cluster, proc, attributes);
    }

    /// The proc leaves the queue for the history.
    #[track_caller]
    pub(crate) fn leave(&self, cluster: i64, proc: i64, attributes: Value) {
        let mut ad = self.take(cluster, proc);
        merge(&mut ad, attributes);
        self.state().history.push(ad);
    }

    /// The proc leaves the queue without a trace.
    #[track_caller]
    pub(crate) fn lose(&self, cluster: i64, proc: i64) {
        self.take(cluster, proc);
    }

    #[track_caller]
    fn take(&self, cluster: i64, proc: i64) -> Value {
        let mut state = self.state();
        let place = state
            .queue
            .iter()
            .position(|ad| ad["ClusterId"] == cluster && ad["ProcId"] == proc)
            .expect("the proc is in the queue");
        state.queue.remove(place)
    }

    /// Counts the call, waits where a test wants it to, and fails while the pool is away.
    async fn begin(&self, call: Call) -> Result<(), PoolError> {
        let pause = {
            let mut state = self.state();
            *state.calls.entry(call).or_default() += 1;
            state.pause.take_if(|(paused, ..)| *paused == call)
        };
        if let Some((_, reached, go_on)) = pause {
            reached.send(()).unwrap();
            go_on.await.unwrap();
        }
        if self.state().away || self.state().silent.contains(&call) {
            let words = "Failed to connect to schedd".to_owned();
            return Err(PoolError::Unavailable(words));
        }
        Ok(())
    }
}

impl Pool for PoolDouble {
    fn submit(&self, description: String) -> BoxFuture<'_, Result<i64, PoolError>> {
        async move {
            self.begin(Call::Submit).await?;
            let answer = self.state().submit_answer.clone();
            if let Answer::Refused(words) = answer {
                return Err(PoolError::Refused(words));
            }
            let value = |name: &str| {
                let line = description.lines().find(|line| line.starts_with(name));
                let (_, value) = line.unwrap().split_once(" = ").unwrap();
                value.trim_matches('"').to_owned()
            };
            let (_, numbers) = description.split_once("queue container_number from (").unwrap();
            let containers = numbers.lines().filter(|line| line.parse::<u32>().is_ok()).count();
            let job = value("+CTSJobID");
            let cluster = self.put(&job, u32::try_from(containers).unwrap());
            for proc in 0..i64::try_from(containers).unwrap() {
                let request = |name| value(name).parse::<u64>().unwrap();
                let asked = json!({
                    "RequestCpus": request("request_cpus"), "RequestMemory": request("request_memory"),
                });
                self.change(cluster, proc, asked);
            }
            self.state().descriptions.push(description);
            match answer {
                Answer::Lost => Err(PoolError::Unavailable("timed out".to_owned())),
                _ => Ok(cluster),
            }
        }
        .boxed()
    }

    fn queue(&self, procs: Procs) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>> {
        async move {
            self.begin(Call::Queue).await?;
            Ok(parsed(
                self.state().queue.iter().filter(|ad| selects(&procs, ad)),
            ))
        }
        .boxed()
    }

    fn history(
        &self,
        procs: Procs,
        since: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>> {
        async move {
            self.begin(Call::History).await?;
            // From its end, as `condor_history` does, which asks each ad whether to stop, whoever's it is.
            let since = since.timestamp().as_second();
            let left_before = |ad: &Value| {
                ad["EnteredCurrentStatus"].as_i64().unwrap() < since
                    && ad["JobStatus"] == 4
                    && ad["LeaveJobInQueue"] == false
            };
            let at_most = match &procs {
                Procs::Named(names) => names.len(),
                _ => usize::MAX,
            };
            let state = self.state();
            let read = state.history.iter().rev();
            let read = read.take_while(|ad| !left_before(ad));
            Ok(parsed(read.filter(|ad| selects(&procs, ad)).take(at_most)))
        }
        .boxed()
    }

    fn remove(&self, procs: Procs, reason: String) -> BoxFuture<'_, Result<(), PoolError>> {
        async move {
            self.begin(Call::Remove).await?;
            let (names, outcome) = self.selected(&procs);
            for name in names {
                self.state().removed.push(name);
                let gone = json!({"JobStatus": 3, "RemoveReason": reason});
                if self.state().removes_slowly {
                    self.change(name.cluster, name.proc, gone);
                } else {
                    self.leave(name.cluster, name.proc, gone);
                }
            }
            outcome
        }
        .boxed()
    }

    fn release(&self, procs: Procs, _reason: String) -> BoxFuture<'_, Result<(), PoolError>> {
        async move {
            self.begin(Call::Release).await?;
            let (names, outcome) = self.selected(&procs);
            for name in names {
                self.state().released.push(name);
                self.change(name.cluster, name.proc, json!({"JobStatus": 1}));
            }
            outcome
        }
        .boxed()
    }

    fn machines(&self) -> BoxFuture<'_, Result<Vec<MachineAd>, PoolError>> {
        async move {
            self.begin(Call::Machines).await?;
            Ok(self.state().machines.clone())
        }
        .boxed()
    }
}

impl PoolDouble {
    /// The queued procs to act on, and how that ends.
    fn selected(&self, procs: &Procs) -> (Vec<ProcName>, Result<(), PoolError>) {
        let state = self.state();
        let names = parsed(state.queue.iter().filter(|ad| selects(procs, ad)));
        let (stubborn, willing): (Vec<ProcName>, _) = names
            .iter()
            .filter_map(ProcAd::name)
            .partition(|name| state.stubborn.contains(name));
        let outcome = stubborn.first().map_or(Ok(()), |name| {
            Err(PoolError::Refused(format!("Permission denied: {name}")))
        });
        (willing, outcome)
    }
}

/// A pool of the test's own.
pub(crate) fn pool() -> Arc<PoolDouble> {
    Arc::default()
}

fn selects(procs: &Procs, ad: &Value) -> bool {
    match procs {
        Procs::All => ad.get("CTSJobID").is_some(),
        Procs::OfJob(job) => ad["CTSJobID"] == job.to_string(),
        Procs::OfClusters(clusters) => clusters.iter().any(|id| ad["ClusterId"] == *id),
        Procs::Named(names) => names
            .iter()
            .any(|name| ad["ClusterId"] == name.cluster && ad["ProcId"] == name.proc),
    }
}

fn parsed<'a>(ads: impl Iterator<Item = &'a Value>) -> Vec<ProcAd> {
    ads.map(|ad| serde_json::from_value(ad.clone()).unwrap())
        .collect()
}

fn merge(ad: &mut Value, attributes: Value) {
    let Value::Object(attributes) = attributes else {
        panic!("attributes are an object: {attributes}")
    };
    ad.as_object_mut().unwrap().extend(attributes);
}

fn shown(ad: &Value) -> String {
    format!("{}.{}", ad["ClusterId"], ad["ProcId"])
}
