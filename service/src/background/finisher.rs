//! Ends jobs that can end, as soon as they can; see [`crate::jobs::finish`].
//!
//! Each job is ended in a task of its own: stopping an executor, or a store that does not answer for
//! one job, does not keep the others waiting.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use cts_shared::id::JobId;

use crate::app::App;
use crate::error::Error;
use crate::jobs::finish::finish_job;

/// How long a job that could not be ended waits for the next try, and how long one that nobody woke
/// us for (left over from a crash) can be overlooked.
const ROUND: Duration = Duration::from_secs(30);

/// Jobs found at a time.
const BATCH: u32 = 100;

/// Jobs that are being ended at the same time.
const CONCURRENT: usize = 64;

/// Ends jobs until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut finisher = Finisher::new(app);
    loop {
        if let Err(error) = finisher.start_due_jobs().await {
            tracing::error!(%error, "cannot look for jobs to end");
        }
        let woken = Arc::clone(&finisher.app);
        tokio::select! {
            () = stop.cancelled() => return,
            () = woken.job_pending.notified() => {}
            () = finisher.one_ended(), if finisher.is_full() => {}
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// Tries to end every job that is due, once. One that cannot be ended now is logged and stays due.
///
/// # Errors
/// When the store fails.
pub async fn finish_pending_jobs(app: &Arc<App>) -> Result<(), Error> {
    let mut finisher = Finisher::new(Arc::clone(app));
    loop {
        finisher.start_due_jobs().await?;
        if finisher.tasks.is_empty() {
            return Ok(());
        }
        while !finisher.tasks.is_empty() {
            finisher.one_ended().await;
        }
    }
}

struct Finisher {
    app: Arc<App>,
    tasks: JoinSet<(JobId, Result<(), Error>)>,
    in_progress: HashSet<JobId>,
    /// Jobs that could not be ended, and when.
    failed: HashMap<JobId, Instant>,
}

impl Finisher {
    fn new(app: Arc<App>) -> Self {
        Self {
            app,
            tasks: JoinSet::new(),
            in_progress: HashSet::new(),
            failed: HashMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= CONCURRENT
    }

    /// Starts to end the jobs that are due, are not being ended, and have not failed to just now.
    async fn start_due_jobs(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.tasks.try_join_next() {
            self.note(ended);
        }
        self.failed.retain(|_, failed| failed.elapsed() < ROUND);
        let mut after = None;
        while !self.is_full() {
            let ids = self.app.jobs.pending_jobs(after, BATCH).await?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            after = Some(*last);
            for id in ids {
                if self.is_full() {
                    break;
                }
                if !self.failed.contains_key(&id) && self.in_progress.insert(id) {
                    let app = Arc::clone(&self.app);
                    self.tasks
                        .spawn(async move { (id, finish_job(&app, id).await) });
                }
            }
        }
        Ok(())
    }

    async fn one_ended(&mut self) {
        if let Some(ended) = self.tasks.join_next().await {
            self.note(ended);
        }
    }

    fn note(&mut self, ended: Result<(JobId, Result<(), Error>), tokio::task::JoinError>) {
        match ended {
            Ok((id, outcome)) => {
                self.in_progress.remove(&id);
                if let Err(error) = outcome {
                    tracing::warn!(job.id = %id, %error, "the job cannot be ended now and is tried again");
                    self.failed.insert(id, Instant::now());
                }
            }
            // Not reached: the tasks do not panic, and nobody aborts them. The job stays in progress
            // until the next start rather than failing in a loop.
            Err(error) => tracing::error!(%error, "ending a job failed"),
        }
    }
}
