//! Jobs that have ended: what they used is filled in, and what they left in the pool's queue removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cts_shared::id::JobId;
use cts_shared::wire::container::ContainerUsage;

use super::{Reconciler, Round, RoundError};
use crate::condor::pool::Procs;
use crate::condor::proc_ad::{ProcAd, ProcName, ProcStatus};
use crate::condor::reconcile::{newest, own_procs};
use crate::condor::statistics::{all_held, statistics};
use crate::error::Error;
use crate::jobs;

/// What the pool does not know or tell of a job's use this long after its end, it never will.
const ACCOUNT_WITHIN: Duration = Duration::from_hours(24);

/// An ended job without a cluster may still get one for this long: it was canceled while it was being submitted.
const SUBMITTED_WITHIN: Duration = Duration::from_mins(10);

impl Reconciler {
    /// Fills in what an ended job used, once its procs have left the queue.
    pub(super) async fn account_for(
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
    pub(super) async fn remove_leftovers(
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
            self.remove(remove, "its CTS job has ended").await?;
        }
        Ok(())
    }
}
