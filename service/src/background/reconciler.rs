//! Compares what the store says of the jobs at an `HTCondor` pool with what the pool says, and does what
//! [`crate::condor::reconcile`] decides. Also fills in what jobs used, once the pool knows it.
//!
//! Several services may run it: a lease lets one at a time. Everything it does can be done twice.
//!
//! Here: the rounds. `running_jobs`, `ended_jobs`: what is done about each job.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::site::Site;
use cts_shared::timestamp::UtcTime;

use crate::app::App;
use crate::condor::machine_ad::MachineAd;
use crate::condor::pool::{Pool, PoolError, Procs};
use crate::condor::proc_ad::{ProcAd, ProcName, ProcStatus};
use crate::condor::reconcile::Rules;
use crate::error::Error;
use crate::job_store::JobSummary;
use crate::lease_store::LeaseStore;
use crate::metrics::Action;
use crate::role::Role;

mod ended_jobs;
mod running_jobs;

/// The lease's name.
const LEASE: &str = "reconcile kbase";

/// A lease lapses after this many intervals without its holder.
const LEASE_INTERVALS: u32 = 3;

/// Times that the history may not be told in a round before it is not asked for any more: each may take the
/// tools' deadline.
const MAX_TIMES_WITHOUT_HISTORY: usize = 3;

/// How long the pool's commands for one job may take together.
const SLOW_COMMANDS: Duration = Duration::from_mins(5);

/// Ended jobs looked at in a round.
const ACCOUNTS: u32 = 500;

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The pool.
    #[error("HTCondor does not answer: {0}")]
    Pool(#[from] PoolError),
    /// What has left the queue, only.
    #[error("HTCondor's history is not told: {0}")]
    History(PoolError),
    /// It was not told for others.
    #[error("HTCondor's history is not asked for again in this round")]
    HistoryLeft,
    /// The store.
    #[error(transparent)]
    Store(#[from] Error),
    /// The lease.
    #[error("another service looks after the jobs at HTCondor now")]
    Lost,
    /// What was read may be long out of date.
    #[error("this service stood still for a while")]
    StoodStill,
}

impl RoundError {
    /// Whether the next job would fare no better.
    fn is_about_all_jobs(&self) -> bool {
        match self {
            Self::Pool(PoolError::Unavailable(_) | PoolError::TimedOut(_))
            | Self::Store(Error::Unavailable { .. })
            | Self::Lost
            | Self::StoodStill => true,
            Self::Pool(PoolError::Refused(_))
            | Self::History(_)
            | Self::HistoryLeft
            | Self::Store(_) => false,
        }
    }
}

/// Looks after the jobs at one pool.
#[derive(Debug)]
pub struct Reconciler {
    app: Arc<App>,
    pool: Arc<dyn Pool>,
    role: Role,
    rules: Rules,
    interval: Duration,
    /// By job: containers that the pool knew nothing of in the last round.
    suspects: HashMap<JobId, BTreeSet<ContainerNumber>>,
    /// Procs of ended jobs that were in the queue in the last round.
    leftovers: BTreeSet<ProcName>,
    /// Jobs that could not be looked after in the last round.
    failed: BTreeSet<JobId>,
    /// How often the pool refused to release a proc that is held still.
    refused_releases: HashMap<ProcName, u32>,
    /// Ended jobs whose account was not there: when to ask for it again.
    ask_again: HashMap<JobId, UtcTime>,
    /// To whom the procs in clusters that the store knows belong: the accounts of this service in the pool.
    owners: BTreeSet<String>,
    /// When the lease was last taken.
    taken: UtcTime,
    /// When this service last went from job to job, unless something has failed since.
    awake: Option<UtcTime>,
    /// Executors could be heard from then on.
    listening_since: UtcTime,
    /// When the pool was last asked for its queue.
    asked: UtcTime,
}

impl Reconciler {
    /// A reconciler that has not looked yet.
    #[must_use]
    pub fn new(
        app: Arc<App>,
        pool: Arc<dyn Pool>,
        leases: Arc<dyn LeaseStore>,
        rules: Rules,
        interval: Duration,
    ) -> Self {
        let duration = interval.saturating_mul(LEASE_INTERVALS);
        let now = app.clock.now();
        Self {
            role: Role::new(leases, Arc::clone(&app.clock), LEASE, duration),
            app,
            pool,
            rules,
            interval,
            suspects: HashMap::new(),
            leftovers: BTreeSet::new(),
            failed: BTreeSet::new(),
            refused_releases: HashMap::new(),
            ask_again: HashMap::new(),
            owners: BTreeSet::new(),
            taken: now,
            awake: None,
            listening_since: now,
            asked: now,
        }
    }

    /// A round at once, and then one every interval, until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                outcome = self.round() => if let Err(error) = outcome {
                    tracing::warn!(%error, "the jobs at HTCondor could not be looked after; trying again");
                },
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.interval) => {}
            }
        }
        self.role.give_up().await;
    }

    /// Looks at every job once, if no other service does.
    ///
    /// # Errors
    /// When pool or store do not answer, or not about all jobs. What was done stays done.
    pub async fn round(&mut self) -> Result<(), RoundError> {
        match self.look_at_all().await {
            Ok(failure) => failure.map_or(Ok(()), Err),
            Err(error) => {
                // Executors may not have got through either.
                self.awake = None;
                // What is missing twice in a row must be so in two whole rounds.
                self.suspects.clear();
                Err(error)
            }
        }
    }

    /// The last failure that was about one job only.
    async fn look_at_all(&mut self) -> Result<Option<RoundError>, RoundError> {
        self.taken = self.app.clock.now();
        if !self.role.take().await.map_err(Error::from)? {
            return Ok(None);
        }
        let mut running = self
            .app
            .jobs
            .running_jobs(Site::Kbase)
            .await
            .map_err(Error::from)?;
        let mut due = self
            .app
            .jobs
            .jobs_with_statistics_due(Site::Kbase, ACCOUNTS)
            .await
            .map_err(Error::from)?;
        if running.is_empty() && due.is_empty() && self.leftovers.is_empty() {
            // An idle service does not bother the schedd.
            self.listen();
            return Ok(None);
        }
        // Before the records: what an executor reported before it ended is in them then.
        self.asked = self.app.clock.now();
        let queue = self.pool.queue(Procs::All).await?;
        self.listen();
        let held: HashSet<ProcName> = queue
            .iter()
            .filter(|ad| ad.status() == Some(ProcStatus::Held))
            .filter_map(ProcAd::name)
            .collect();
        self.refused_releases.retain(|name, _| held.contains(name));
        let mut by_job: BTreeMap<JobId, Vec<ProcAd>> = BTreeMap::new();
        for ad in queue {
            if let Some(job) = ad.job() {
                by_job.entry(job).or_default().push(ad);
            }
        }
        let mut queue = by_job;
        let mut round = Round::default();
        // What takes long for them is not taken from the others again.
        running.sort_by_key(|id| self.failed.contains(id));
        due.sort_by_key(|id| self.failed.contains(id));
        for id in running {
            self.keep().await?;
            let ads = queue.remove(&id).unwrap_or_default();
            let looked = self.look_at(id, &ads, &mut round).await;
            round.note(id, looked)?;
        }
        self.ask_again.retain(|id, _| due.contains(id));
        for id in due {
            self.keep().await?;
            let ads = queue.get(&id).map_or(&[][..], Vec::as_slice);
            let accounted = self.account_for(id, ads, &mut round).await;
            round.note(id, accounted)?;
        }
        self.remove_leftovers(queue, &mut round).await?;
        self.suspects = round.suspects;
        self.failed = round.failed;
        Ok(round.failure)
    }

    /// Notes that store and pool answer. After a time in which they may not have, executors were perhaps not
    /// heard, whatever they said: listening begins anew.
    fn listen(&mut self) {
        let now = self.app.clock.now();
        if self
            .awake
            .is_none_or(|awake| awake < now.minus(self.standstill()))
        {
            self.listening_since = now;
        }
        self.awake = Some(now);
    }

    /// A time without a round after which this service did not just wait for the next one.
    fn standstill(&self) -> Duration {
        self.interval
            .saturating_mul(LEASE_INTERVALS)
            .max(SLOW_COMMANDS)
    }

    /// Makes sure, before each job, that what was read at the round's begin still counts, and that the jobs are
    /// still this service's to look after.
    async fn keep(&mut self) -> Result<(), RoundError> {
        let now = self.app.clock.now();
        if self
            .awake
            .is_none_or(|awake| awake < now.minus(self.standstill()))
        {
            return Err(RoundError::StoodStill);
        }
        self.awake = Some(now);
        if self.taken < now.minus(self.interval) {
            if !self.role.take().await.map_err(Error::from)? {
                return Err(RoundError::Lost);
            }
            self.taken = now;
        }
        Ok(())
    }

    /// The procs that have left the queue.
    async fn history(
        &self,
        procs: Procs,
        summary: &JobSummary,
        round: &mut Round,
    ) -> Result<Vec<ProcAd>, RoundError> {
        if matches!(&procs, Procs::Named(names) if names.is_empty()) {
            return Ok(Vec::new());
        }
        if round.times_without_history >= MAX_TIMES_WITHOUT_HISTORY {
            return Err(RoundError::HistoryLeft);
        }
        let history = self.pool.history_of_job(procs, summary.submitted()).await;
        history.map_err(|error| {
            round.times_without_history += 1;
            RoundError::History(error)
        })
    }

    async fn remove(&self, procs: Vec<ProcName>, reason: &str) -> Result<(), PoolError> {
        let removed = procs.len();
        self.pool
            .remove(Procs::Named(procs), reason.to_owned())
            .await?;
        self.count(Action::Removed, removed);
        Ok(())
    }

    fn count(&self, action: Action, times: usize) {
        self.app.metrics.reconciler_actions().count(action, times);
    }
}

/// What a round has found out that is not about one job.
#[derive(Debug, Default)]
struct Round {
    /// The machines, once they were asked for; unknown if the collector does not tell.
    machines: Option<Option<Vec<MachineAd>>>,
    times_without_history: usize,
    /// By job: containers that the pool knows nothing of.
    suspects: HashMap<JobId, BTreeSet<ContainerNumber>>,
    /// The jobs that could not be looked after.
    failed: BTreeSet<JobId>,
    failure: Option<RoundError>,
}

impl Round {
    /// Keeps an error about one job to itself. One that would be the same for the next job ends the round.
    fn note(&mut self, id: JobId, outcome: Result<(), RoundError>) -> Result<(), RoundError> {
        let Err(error) = outcome else {
            return Ok(());
        };
        if error.is_about_all_jobs() {
            return Err(error);
        }
        tracing::warn!(job.id = %id, %error, "the job could not be looked after");
        if !matches!(error, RoundError::HistoryLeft) {
            self.failed.insert(id);
        }
        self.failure = Some(error);
        Ok(())
    }
}
