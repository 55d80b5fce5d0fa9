//! Ends jobs that can end, as soon as they can; see [`crate::jobs::finish`].
//!
//! Each job is ended in a task of its own: stopping an executor, or a store that does not answer for
//! one job, does not keep the others waiting.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use cts_shared::id::JobId;

use crate::app::App;
use crate::error::Error;
use crate::jobs::finish::finish_job;

/// How long a job that could not be ended waits for the next try. Also between two looks into the
/// store, for what was left over from a crash.
const ROUND: Duration = Duration::from_secs(30);

/// Jobs found at a time.
const BATCH: u32 = 1000;

/// Jobs that are being ended at the same time.
const CONCURRENT: usize = 64;

/// Those who notice that a job can be ended tell the finisher by its id. Unbounded: each job is told
/// once or twice in its life, and what is told is in the store anyway.
pub type DueJobs = mpsc::UnboundedSender<JobId>;

/// Ends jobs until told to stop: those it is told of, and those it finds in the store.
pub async fn run(app: Arc<App>, mut due: mpsc::UnboundedReceiver<JobId>, stop: CancellationToken) {
    let mut finisher = Finisher::new(app);
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(id) = due.recv() => finisher.add(id),
            Some(ended) = finisher.tasks.join_next() => finisher.note(ended),
            _ = rounds.tick() => {
                if let Err(error) = finisher.find_due_jobs().await {
                    tracing::error!(%error, "cannot look for jobs to end");
                }
            }
        }
        finisher.start();
    }
}

/// Tries to end every job that is due, once. One that cannot be ended now is logged and stays due.
///
/// # Errors
/// When the store fails.
pub async fn finish_pending_jobs(app: &Arc<App>) -> Result<(), Error> {
    let mut finisher = Finisher::new(Arc::clone(app));
    finisher.find_due_jobs().await?;
    finisher.start();
    while let Some(ended) = finisher.tasks.join_next().await {
        finisher.note(ended);
        finisher.start();
    }
    Ok(())
}

type Ended = Result<(JobId, Result<(), Error>), JoinError>;

struct Finisher {
    app: Arc<App>,
    waiting: VecDeque<JobId>,
    tasks: JoinSet<(JobId, Result<(), Error>)>,
    /// The jobs that wait or are being ended; true if more was heard of one meanwhile.
    known: HashMap<JobId, bool>,
    /// Jobs that could not be ended, and when.
    failed: HashMap<JobId, Instant>,
}

impl Finisher {
    fn new(app: Arc<App>) -> Self {
        Self {
            app,
            waiting: VecDeque::new(),
            tasks: JoinSet::new(),
            known: HashMap::new(),
            failed: HashMap::new(),
        }
    }

    /// Adds the jobs that are due by the store and have not failed to end just now.
    async fn find_due_jobs(&mut self) -> Result<(), Error> {
        self.failed.retain(|_, failed| failed.elapsed() < ROUND);
        let mut after = None;
        loop {
            let ids = self.app.jobs.pending_jobs(after, BATCH).await?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            after = Some(*last);
            for id in ids {
                if !self.known.contains_key(&id) && !self.failed.contains_key(&id) {
                    self.add(id);
                }
            }
        }
    }

    fn add(&mut self, id: JobId) {
        match self.known.entry(id) {
            Entry::Occupied(mut known) => *known.get_mut() = true,
            Entry::Vacant(unknown) => {
                unknown.insert(false);
                self.waiting.push_back(id);
            }
        }
    }

    /// Starts to end as many of the jobs that wait as there is room for.
    fn start(&mut self) {
        while self.tasks.len() < CONCURRENT
            && let Some(id) = self.waiting.pop_front()
        {
            let app = Arc::clone(&self.app);
            self.tasks
                .spawn(async move { (id, finish_job(&app, id).await) });
        }
    }

    fn note(&mut self, ended: Ended) {
        match ended {
            Ok((id, outcome)) => {
                let heard_more = self.known.remove(&id) == Some(true);
                match outcome {
                    Ok(()) if heard_more => self.add(id),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(job.id = %id, %error, "the job cannot be ended now and is tried again");
                        self.failed.insert(id, Instant::now());
                    }
                }
            }
            // Not reached: the tasks do not panic, and nobody aborts them. The job stays known, until
            // the next start, rather than failing in a loop.
            Err(error) => tracing::error!(%error, "ending a job failed"),
        }
    }
}
