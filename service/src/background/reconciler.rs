//! Compares what the store says of the jobs at an `HTCondor` pool with what the pool says, and does what
//! [`crate::condor::reconcile`] decides. Also fills in what jobs used, once the pool knows it.
//!
//! Several services may run it: a lease lets one at a time. Everything it does can be done twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, ContainerReport, JobRecord, Refusal, Reporter};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::ContainerUsage;
use cts_shared::wire::job::SiteNotice;

use crate::app::App;
use crate::condor::machine_ad::MachineAd;
use crate::condor::pool::{Pool, PoolError, Procs};
use crate::condor::proc_ad::{ProcAd, ProcName, ProcStatus};
use crate::condor::reconcile::{
    Decision, End, JobFacts, Rules, decide, needs_history, needs_machines,
};
use crate::condor::statistics::{all_held, statistics};
use crate::error::Error;
use crate::job_store::JobSummary;
use crate::jobs;
use crate::jobs::finish::tells_of_an_end;
use crate::lease_store::LeaseStore;
use crate::metrics::Action;
use crate::role::Role;

/// The lease's name.
const LEASE: &str = "reconcile kbase";

/// A lease lapses after this many intervals without its holder.
const LEASE_INTERVALS: u32 = 3;

/// What the pool does not know of a job's use this long after its end, it never will.
const ACCOUNT_WITHIN: Duration = Duration::from_hours(24);

/// An ended job without a cluster may still get one for this long: it was canceled while it was being submitted.
const SUBMITTED_WITHIN: Duration = Duration::from_mins(10);

/// Jobs of a round that may fail before it is given up: one alone does not keep the others waiting, and a pool
/// that does not answer is not asked about each.
const MAX_FAILURES: usize = 10;

/// Ended jobs looked at in a round.
const ACCOUNTS: u32 = 500;

/// A job whose containers have all ended is ended within this time by whoever took the last report, or is
/// left: the existing service may have died over the same database.
const ENDED_WITHIN: Duration = Duration::from_mins(2);

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The pool.
    #[error("HTCondor does not answer: {0}")]
    Pool(#[from] PoolError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Error),
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
        Self {
            role: Role::new(leases, Arc::clone(&app.clock), LEASE, duration),
            app,
            pool,
            rules,
            interval,
            suspects: HashMap::new(),
            leftovers: BTreeSet::new(),
        }
    }

    /// A round at once, and then one every interval, until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let round = async {
                if self.role.take().await.map_err(Error::from)? {
                    self.round().await?;
                }
                Ok::<_, RoundError>(())
            };
            tokio::select! {
                () = stop.cancelled() => break,
                outcome = round => if let Err(error) = outcome {
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

    /// Looks at every job once.
    ///
    /// # Errors
    /// When pool or store do not answer, or not about all jobs. What was done stays done.
    pub async fn round(&mut self) -> Result<(), RoundError> {
        let running = self
            .app
            .jobs
            .running_jobs(Site::Kbase)
            .await
            .map_err(Error::from)?;
        let due = self
            .app
            .jobs
            .jobs_with_statistics_due(Site::Kbase, ACCOUNTS)
            .await
            .map_err(Error::from)?;
        if running.is_empty() && due.is_empty() && self.leftovers.is_empty() {
            // An idle service does not bother the schedd.
            return Ok(());
        }
        // Before the records: what an executor reported before it ended is in them then.
        let mut queue: BTreeMap<JobId, Vec<ProcAd>> = BTreeMap::new();
        for ad in self.pool.queue(Procs::All).await? {
            if let Some(job) = ad.job() {
                queue.entry(job).or_default().push(ad);
            }
        }
        let mut machines = None;
        let mut suspects = HashMap::new();
        let mut failures = Failures::default();
        for id in &running {
            let ads = queue.remove(id).unwrap_or_default();
            match self.look_at(*id, &ads, &mut machines).await {
                Ok(suspected) if suspected.is_empty() => {}
                Ok(suspected) => {
                    suspects.insert(*id, suspected);
                }
                Err(error) => failures.note(*id, error)?,
            }
        }
        self.suspects = suspects;
        for id in due {
            if queue.get(&id).is_none_or(|ads| all_held(ads))
                && let Err(error) = self.account_for(id).await
            {
                failures.note(id, error)?;
            }
        }
        self.remove_leftovers(queue).await?;
        failures.last.map_or(Ok(()), Err)
    }

    /// Decides about a job that has not ended, and acts. The containers that the pool knows nothing of.
    async fn look_at(
        &self,
        id: JobId,
        ads: &[ProcAd],
        machines: &mut Option<Vec<MachineAd>>,
    ) -> Result<BTreeSet<ContainerNumber>, RoundError> {
        let Some((summary, record)) = self.read(id).await? else {
            return Ok(BTreeSet::new());
        };
        let now = self.app.clock.now();
        let clusters = &summary.notes.htcondor_cluster_ids;
        let is_submitted = !clusters.is_empty() || !ads.is_empty();
        if record.state().is_terminal() || record.state().is_cancel() || !is_submitted {
            return Ok(BTreeSet::new());
        }
        if is_left_unended(&record, now) {
            // Nobody listens to a service that stops; the next round tells again.
            let _nobody_listens = self.app.due_jobs.send(id);
        }
        let history = if needs_history(&record, clusters, ads) {
            self.pool.history_of(id, summary.submitted()).await?
        } else {
            Vec::new()
        };
        if machines.is_none() && needs_machines(ads, &self.rules, now) {
            *machines = Some(self.pool.machines().await?);
        }
        let none = BTreeSet::new();
        let facts = JobFacts {
            record: &record,
            clusters,
            queue: ads,
            history: &history,
            machines: machines.as_deref(),
            suspects: self.suspects.get(&id).unwrap_or(&none),
        };
        let decision = decide(&facts, &self.rules, now);
        let suspects = decision.suspects.clone();
        self.act(id, &summary, decision).await?;
        Ok(suspects)
    }

    async fn read(&self, id: JobId) -> Result<Option<(JobSummary, JobRecord)>, Error> {
        let summary = self.app.jobs.job_summary(id).await?;
        let record = self.app.jobs.job_record(id).await?;
        Ok(summary.zip(record))
    }

    async fn act(
        &self,
        id: JobId,
        summary: &JobSummary,
        decision: Decision,
    ) -> Result<(), RoundError> {
        if let Some(cluster) = decision.adopt {
            tracing::warn!(job.id = %id, cluster, "HTCondor has the job, the store did not know; adopted");
            self.app
                .jobs
                .add_htcondor_cluster(id, cluster)
                .await
                .map_err(Error::from)?;
            self.count(Action::Adopted, 1);
        }
        if summary.state() == JobState::Created
            && (decision.adopt.is_some() || !summary.notes.htcondor_cluster_ids.is_empty())
        {
            jobs::resume::note_taken(&self.app, id).await?;
        }
        let mut remove = decision.remove;
        for end in decision.ends {
            let (container, proc) = (end.container, end.proc);
            self.end(id, end).await?;
            // One that another executor has taken over goes on, and so does its proc.
            if proc.is_some() && self.has_ended(id, container).await? {
                remove.extend(proc);
            }
        }
        // People learn the cause also where the pool does not do what follows.
        self.tell(id, summary, decision.notice).await?;
        if !decision.release.is_empty() {
            tracing::warn!(job.id = %id, procs = decision.release.len(), "releasing held procs");
            let reason = "CTS lets it try again".to_owned();
            let released = decision.release.len();
            self.pool
                .release(Procs::Named(decision.release), reason)
                .await?;
            self.count(Action::Released, released);
        }
        if !remove.is_empty() {
            tracing::info!(job.id = %id, procs = remove.len(), "removing procs that nobody needs");
            let reason = "CTS does not need it any more".to_owned();
            let removed = remove.len();
            self.pool.remove(Procs::Named(remove), reason).await?;
            self.count(Action::Removed, removed);
        }
        Ok(())
    }

    /// Has the job's views say what keeps it waiting, or has ended a container of it.
    async fn tell(
        &self,
        id: JobId,
        summary: &JobSummary,
        message: Option<String>,
    ) -> Result<(), Error> {
        let told = summary.notes.site_notice.as_ref();
        if told.map(|notice| &notice.message) == message.as_ref() {
            return Ok(());
        }
        if let (Some(told), None) = (told, &message)
            && let Some(record) = self.app.jobs.job_record(id).await?
            && tells_of_an_end(told, &record)
        {
            return Ok(());
        }
        let since = self.app.clock.now();
        let notice = message.map(|message| SiteNotice { message, since });
        if let Some(notice) = &notice {
            tracing::warn!(job.id = %id, notice = notice.message, "a job waits at HTCondor, or was ended there");
        }
        self.app.jobs.set_site_notice(id, notice).await?;
        Ok(())
    }

    fn count(&self, action: Action, times: usize) {
        self.app.metrics.reconciler_actions().count(action, times);
    }

    /// Ends a container, unless it has ended or another executor has begun since.
    async fn end(&self, id: JobId, end: End) -> Result<(), Error> {
        let End {
            container,
            attempt,
            reason,
            proc: _,
        } = end;
        let report = ContainerReport {
            state: JobState::Error,
            time: self.app.clock.now(),
            exit_code: None,
            outputs: None,
            admin_error: Some(reason.clone()),
            traceback: None,
            usage: None,
            from: Reporter::Observer { attempt },
        };
        let change = jobs::change(&self.app, id, move |record| {
            match record.apply_report(container, &report) {
                Err(Refusal::ContainerState { current, .. }) if current.is_terminal() => {
                    Ok(Change::default())
                }
                outcome => outcome,
            }
        })
        .await?;
        if change.is_some_and(|change| !change.is_empty()) {
            tracing::warn!(job.id = %id, container.num = container, reason, "container ended by what HTCondor says");
            self.count(Action::Ended, 1);
        }
        Ok(())
    }

    async fn has_ended(&self, id: JobId, container: ContainerNumber) -> Result<bool, Error> {
        let record = self.app.jobs.job_record(id).await?;
        Ok(record.is_some_and(|record| {
            record
                .container(container)
                .is_ok_and(|container| container.state().is_terminal())
        }))
    }

    /// Fills in what an ended job used.
    async fn account_for(&self, id: JobId) -> Result<(), RoundError> {
        let Some(job) = self.app.jobs.job(id).await.map_err(Error::from)? else {
            return Ok(());
        };
        let Some(record) = self.app.jobs.job_record(id).await.map_err(Error::from)? else {
            return Ok(());
        };
        let now = self.app.clock.now();
        let ads = self.pool.history_of(id, job.summary.submitted()).await?;
        let known = &job.summary.notes.htcondor_cluster_ids;
        if let Some(cluster) = ads.iter().filter_map(ProcAd::cluster).min()
            && known.is_empty()
        {
            // It ended before the service learned the answer to its submission.
            self.app
                .jobs
                .add_htcondor_cluster(id, cluster)
                .await
                .map_err(Error::from)?;
        }
        let all_left = ads.len() >= record.containers.len();
        let ended = record.transitions.last().map_or(now, |last| last.time);
        let patience = if known.is_empty() {
            SUBMITTED_WITHIN
        } else {
            ACCOUNT_WITHIN
        };
        if !all_left && ended > now.minus(patience) {
            return Ok(());
        }
        let usage: Vec<ContainerUsage> = record
            .containers
            .iter()
            .filter_map(|one| one.usage)
            .collect();
        let used = (!ads.is_empty()).then(|| statistics(&ads, &usage, job.job_input.cpus));
        jobs::change(&self.app, id, move |record| Ok(record.account_for(used))).await?;
        Ok(())
    }

    /// Removes the procs of jobs that have ended: held ones at once, others when they are still there in
    /// the next round, for an executor is there for a moment after its last report.
    async fn remove_leftovers(
        &mut self,
        queue: BTreeMap<JobId, Vec<ProcAd>>,
    ) -> Result<(), RoundError> {
        let mut remove = Vec::new();
        let mut seen = BTreeSet::new();
        for (id, ads) in queue {
            let summary = self.app.jobs.job_summary(id).await.map_err(Error::from)?;
            // A job that this store does not know may be another system's in the same pool.
            if !summary.is_some_and(|summary| summary.state().is_terminal()) {
                continue;
            }
            for ad in &ads {
                let Some(name) = ad.name() else { continue };
                let is_held = ad.status() == Some(ProcStatus::Held);
                if is_held || self.leftovers.contains(&name) {
                    remove.push(name);
                } else if ad.status() != Some(ProcStatus::Removed) {
                    seen.insert(name);
                }
            }
        }
        self.leftovers = seen;
        if !remove.is_empty() {
            tracing::info!(procs = remove.len(), "removing procs of ended jobs");
            let reason = "its CTS job has ended".to_owned();
            let removed = remove.len();
            self.pool.remove(Procs::Named(remove), reason).await?;
            self.count(Action::Removed, removed);
        }
        Ok(())
    }
}

/// The jobs of a round that could not be looked after.
#[derive(Debug, Default)]
struct Failures {
    count: usize,
    last: Option<RoundError>,
}

impl Failures {
    /// Keeps the error; gives it back when there were too many.
    fn note(&mut self, id: JobId, error: RoundError) -> Result<(), RoundError> {
        self.count += 1;
        if self.count >= MAX_FAILURES {
            return Err(error);
        }
        tracing::warn!(job.id = %id, %error, "the job could not be looked after");
        self.last = Some(error);
        Ok(())
    }
}

fn is_left_unended(record: &JobRecord, now: UtcTime) -> bool {
    let last = record
        .containers
        .iter()
        .filter_map(|container| container.transitions.last())
        .map(|last| last.time)
        .max();
    record.pending().is_some() && last.is_some_and(|last| last < now.minus(ENDED_WITHIN))
}
