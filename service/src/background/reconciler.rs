//! Compares what the store says of the jobs at an `HTCondor` pool with what the pool says, and does what
//! [`crate::condor::reconcile`] decides. Also fills in what jobs used, once the pool knows it.
//!
//! Several services may run it: a lease lets one at a time. Everything it does can be done twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    Decision, End, JobFacts, Rules, absent_procs, decide, needs_machines, newest, own_procs,
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

/// What the pool does not know or tell of a job's use this long after its end, it never will.
const ACCOUNT_WITHIN: Duration = Duration::from_hours(24);

/// An ended job without a cluster may still get one for this long: it was canceled while it was being submitted.
const SUBMITTED_WITHIN: Duration = Duration::from_mins(10);

/// Times that the history may not be told in a round before it is not asked for any more: each may take the
/// tools' deadline.
const MAX_TIMES_WITHOUT_HISTORY: usize = 3;

/// How long the pool's commands for one job may take together.
const SLOW_COMMANDS: Duration = Duration::from_mins(5);

/// A job that another service stored is left to it for this long, as by
/// [`JobStore::unstarted_jobs`](crate::job_store::JobStore::unstarted_jobs).
const SUBMITTED_BY_ANOTHER_WITHIN: Duration = Duration::from_mins(5);

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
            Self::Pool(PoolError::Unavailable(_))
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

    /// Decides about a job that has not ended, and acts.
    async fn look_at(
        &mut self,
        id: JobId,
        ads: &[ProcAd],
        round: &mut Round,
    ) -> Result<(), RoundError> {
        let Some((summary, record)) = self.read(id).await? else {
            return Ok(());
        };
        let now = self.app.clock.now();
        if record.state().is_terminal() || record.state().is_cancel() {
            return Ok(());
        }
        let clusters = &summary.notes.htcondor_cluster_ids;
        if record.state() == JobState::Created
            && clusters.is_empty()
            && (ads.is_empty() || self.is_anothers(id, &summary, now).await?)
        {
            // Whoever submits it finds out.
            return Ok(());
        }
        if is_left_unended(&record, now) {
            // Nobody listens to a service that stops; the next round tells again.
            let _nobody_listens = self.app.due_jobs.send(id);
        }
        let ads = own_procs(clusters, ads, &mut self.owners);
        let absent = match newest(clusters, &ads) {
            Some(cluster) => Procs::Named(absent_procs(&record, cluster, &ads)),
            None => Procs::OfJob(id),
        };
        let history = self.history(absent, &summary, round).await?;
        if needs_machines(&ads, &self.rules, now) && round.machines.is_none() {
            round.machines = Some(self.machines().await);
        }
        let none = BTreeSet::new();
        let facts = JobFacts {
            record: &record,
            clusters,
            queue: &ads,
            history: &history,
            machines: round
                .machines
                .as_ref()
                .and_then(|machines| machines.as_deref()),
            suspects: self.suspects.get(&id).unwrap_or(&none),
            refused_releases: &self.refused_releases,
            listening_since: self.listening_since,
        };
        let decision = decide(&facts, &self.rules, now);
        if !decision.suspects.is_empty() {
            round.suspects.insert(id, decision.suspects.clone());
        }
        self.act(id, &summary, decision).await
    }

    /// Whether the service that stored the job, the existing one over the same database, may be submitting it just
    /// now: it takes no lease, and notes the cluster when it has its answer.
    async fn is_anothers(
        &self,
        id: JobId,
        summary: &JobSummary,
        now: UtcTime,
    ) -> Result<bool, Error> {
        if summary.submitted() < now.minus(SUBMITTED_BY_ANOTHER_WITHIN) {
            return Ok(false);
        }
        let ours = self.app.jobs.unstarted_jobs(now, u32::MAX).await?;
        Ok(!ours.iter().any(|(ours, _)| *ours == id))
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

    /// The pool's machines, if it tells: they are for a notice only.
    async fn machines(&self) -> Option<Vec<MachineAd>> {
        match self.pool.machines().await {
            Ok(machines) => Some(machines),
            Err(error) => {
                tracing::warn!(%error, "whether any machine fits the jobs that wait is not known");
                None
            }
        }
    }

    async fn read(&self, id: JobId) -> Result<Option<(JobSummary, JobRecord)>, Error> {
        let summary = self.app.jobs.job_summary(id).await?;
        let record = self.app.jobs.job_record(id).await?;
        Ok(summary.zip(record))
    }

    async fn act(
        &mut self,
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
        let mut refused = None;
        let release = decision.release;
        if !release.is_empty() {
            tracing::warn!(job.id = %id, procs = release.len(), "releasing held procs");
            let reason = "CTS lets it try again".to_owned();
            match self
                .pool
                .release(Procs::Named(release.clone()), reason)
                .await
            {
                Ok(()) => self.count(Action::Released, release.len()),
                Err(error @ PoolError::Refused(_)) => {
                    for name in release {
                        *self.refused_releases.entry(name).or_default() += 1;
                    }
                    refused = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !remove.is_empty() {
            tracing::info!(job.id = %id, procs = remove.len(), "removing procs that nobody needs");
            let reason = "CTS does not need it any more".to_owned();
            let removed = remove.len();
            self.pool.remove(Procs::Named(remove), reason).await?;
            self.count(Action::Removed, removed);
        }
        refused.map_or(Ok(()), |error| Err(error.into()))
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

    /// Fills in what an ended job used, once its procs have left the queue.
    async fn account_for(
        &mut self,
        id: JobId,
        ads: &[ProcAd],
        round: &mut Round,
    ) -> Result<(), RoundError> {
        let now = self.app.clock.now();
        if self.ask_again.get(&id).is_some_and(|time| now < *time) {
            return Ok(());
        }
        let Some(job) = self.app.jobs.job(id).await.map_err(Error::from)? else {
            return Ok(());
        };
        let Some(record) = self.app.jobs.job_record(id).await.map_err(Error::from)? else {
            return Ok(());
        };
        let ended = record.transitions.last().map_or(now, |last| last.time);
        let known = &job.summary.notes.htcondor_cluster_ids;
        if !all_held(&own_procs(known, ads, &mut self.owners)) {
            return Ok(());
        }
        let patience = if known.is_empty() {
            SUBMITTED_WITHIN
        } else {
            ACCOUNT_WITHIN
        };
        let is_last_time = ended <= now.minus(patience);
        let procs = known.last().map_or(Procs::OfJob(id), |cluster| {
            let containers = (0..).zip(&record.containers);
            Procs::Named(
                containers
                    .map(|(number, _)| ProcName::of_container(*cluster, number))
                    .collect(),
            )
        });
        let mut ads = match self.history(procs, &job.summary, round).await {
            Err(RoundError::History(error)) if is_last_time => {
                tracing::warn!(job.id = %id, %error, "what the job used stays unknown");
                Vec::new()
            }
            ads => ads?,
        };
        let cluster = newest(known, &ads);
        ads.retain(|ad| ad.cluster() == cluster);
        if let Some(cluster) = cluster
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
        if !all_left && !is_last_time {
            // The history may be large: after as long again as it is missing now.
            let waited = now
                .timestamp()
                .duration_since(ended.timestamp())
                .unsigned_abs();
            self.ask_again
                .insert(id, now.plus(waited).min(ended.plus(patience)));
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
        round: &mut Round,
    ) -> Result<(), RoundError> {
        let mut seen = BTreeSet::new();
        for (id, ads) in queue {
            self.keep().await?;
            let removed = self.remove_leftovers_of(id, &ads, &mut seen).await;
            round.note(id, removed)?;
        }
        self.leftovers = seen;
        Ok(())
    }

    async fn remove_leftovers_of(
        &mut self,
        id: JobId,
        ads: &[ProcAd],
        seen: &mut BTreeSet<ProcName>,
    ) -> Result<(), RoundError> {
        let summary = self.app.jobs.job_summary(id).await.map_err(Error::from)?;
        // A job that this store does not know may be another system's in the same pool.
        let Some(summary) = summary.filter(|summary| summary.state().is_terminal()) else {
            return Ok(());
        };
        let mut remove = Vec::new();
        for ad in own_procs(&summary.notes.htcondor_cluster_ids, ads, &mut self.owners) {
            let Some(name) = ad.name() else { continue };
            let is_held = ad.status() == Some(ProcStatus::Held);
            if is_held || self.leftovers.contains(&name) {
                remove.push(name);
            } else if ad.status() != Some(ProcStatus::Removed) {
                seen.insert(name);
            }
        }
        if !remove.is_empty() {
            tracing::info!(job.id = %id, procs = remove.len(), "removing procs of an ended job");
            let reason = "its CTS job has ended".to_owned();
            let removed = remove.len();
            self.pool.remove(Procs::Named(remove), reason).await?;
            self.count(Action::Removed, removed);
        }
        Ok(())
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

fn is_left_unended(record: &JobRecord, now: UtcTime) -> bool {
    let last = record
        .containers
        .iter()
        .filter_map(|container| container.transitions.last())
        .map(|last| last.time)
        .max();
    record.pending().is_some() && last.is_some_and(|last| last < now.minus(ENDED_WITHIN))
}
