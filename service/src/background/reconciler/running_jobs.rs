//! Jobs that have not ended: what the pool says of them is compared with the store's record, and acted on.

use std::collections::BTreeSet;
use std::time::Duration;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, ContainerReport, JobRecord, Refusal, Reporter};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::job::SiteNotice;

use super::{Reconciler, Round, RoundError};
use crate::condor::machine_ad::MachineAd;
use crate::condor::pool::{PoolError, Procs};
use crate::condor::proc_ad::ProcAd;
use crate::condor::reconcile::{
    Decision, End, JobFacts, absent_procs, decide, needs_machines, newest, own_procs,
};
use crate::error::Error;
use crate::job_store::JobSummary;
use crate::jobs;
use crate::jobs::finish::tells_of_an_end;
use crate::metrics::Action;

/// A job whose containers have all ended is ended within this time by whoever took the last report, or is
/// left: the existing service may have died over the same database.
const ENDED_WITHIN: Duration = Duration::from_mins(2);

impl Reconciler {
    /// Decides about a job that has not ended, and acts.
    pub(super) async fn look_at(
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
            && (ads.is_empty() || summary.may_be_submitted_by_another(now))
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
            asked: self.asked,
        };
        let decision = decide(&facts, &self.rules, now);
        if !decision.suspects.is_empty() {
            round.suspects.insert(id, decision.suspects.clone());
        }
        self.act(id, &summary, decision).await
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
            self.remove(remove, "CTS does not need it any more").await?;
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
