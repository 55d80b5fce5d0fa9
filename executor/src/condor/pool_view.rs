//! What the pool's people see of a run, as attributes of the job (`condor_q -af ChirpCtsPhase`).
//!
//! Best effort: a task of its own tells the starter, a change of phase at once and everything else every
//! 15 seconds; nothing waits for it, and nothing fails because of it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::HumanBytes;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::chirp::Chirp;
use super::class_ad;
use crate::config::Lookup;
use crate::coordinator::Observer;
use crate::progress::Progress;
use crate::run_state::Phase;

/// Between two updates in one phase.
const INTERVAL: Duration = Duration::from_secs(15);
/// For the starter to take an update.
const DEADLINE: Duration = Duration::from_secs(5);
/// For the last update.
const FAREWELL: Duration = Duration::from_secs(1);
/// Of a message; the starter takes lines of up to 1024 bytes.
const MAX_MESSAGE_CHARS: usize = 160;
/// Of a container's id, as `docker ps` shows it.
const SHORT_ID_CHARS: usize = 12;

/// What is shown.
#[derive(Debug, Clone, Default)]
struct Shown {
    phase: &'static str,
    attempt: Option<u32>,
    container: Option<String>,
    message: String,
    /// Of everything that moves in this phase.
    progress: Vec<Arc<dyn Progress>>,
}

impl Shown {
    /// As `ClassAd` expressions.
    fn attributes(&self) -> Vec<(&'static str, String)> {
        // Nothing can be taken out of an ad again: what does not hold any more becomes empty.
        let progress = if self.progress.is_empty() {
            String::new()
        } else {
            let (mut done, mut total) = (0, 0);
            for now in self.progress.iter().map(|counters| counters.snapshot()) {
                done += now.bytes_done;
                total += now.bytes_total.max(now.bytes_done);
            }
            format!("{} of {}", HumanBytes(done), HumanBytes(total))
        };
        let mut attributes = vec![
            ("ChirpCtsPhase", class_ad::string(self.phase)),
            ("ChirpCtsProgress", class_ad::string(&progress)),
            ("ChirpCtsMessage", class_ad::string(&self.message)),
        ];
        if let Some(attempt) = self.attempt {
            attributes.push(("ChirpCtsAttempt", attempt.to_string()));
        }
        if let Some(container) = &self.container {
            attributes.push(("ChirpCtsContainer", class_ad::string(container)));
        }
        attributes
    }
}

/// Shows a run in its job's ad. Clones show in the same one; the default shows nowhere.
#[derive(Debug, Clone, Default)]
pub struct PoolView(Option<Arc<Showing>>);

#[derive(Debug)]
struct Showing {
    shown: watch::Sender<Shown>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl PoolView {
    /// Shows where `HTCondor` has started this process and listens; nowhere else.
    #[must_use]
    pub fn start(lookup: Lookup<'_>, job_directory: &Path) -> Self {
        let Some(chirp) = Chirp::find(lookup, job_directory) else {
            return Self::default();
        };
        let first = Shown {
            phase: word(&Phase::Staging),
            ..Shown::default()
        };
        let (shown, follower) = watch::channel(first);
        let task = Mutex::new(Some(tokio::spawn(follow(chirp, follower))));
        Self(Some(Arc::new(Showing { shown, task })))
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        if let Some(showing) = &self.0 {
            showing.shown.send_modify(change);
        }
    }

    /// The run is in another phase.
    pub fn phase(&self, phase: &Phase) {
        self.change(|shown| {
            let word = word(phase);
            if shown.phase != word {
                shown.phase = word;
                shown.progress.clear();
            }
        });
    }

    /// The attempt's number.
    pub fn attempt(&self, number: u32) {
        self.change(|shown| shown.attempt = Some(number));
    }

    /// The engine's id of the container.
    pub fn container(&self, id: &str) {
        let short = id.chars().take(SHORT_ID_CHARS).collect();
        self.change(|shown| shown.container = Some(short));
    }

    /// What the phase moves, besides what was told already.
    pub fn progress<P: Progress + 'static>(&self, counters: &Arc<P>) {
        let counters: Arc<dyn Progress> = Arc::<P>::clone(counters);
        self.change(|shown| shown.progress.push(counters));
    }

    /// What is wrong; nothing, when it is empty.
    pub fn message(&self, message: &str) {
        let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
        if let Some(showing) = &self.0
            && showing.shown.borrow().message != message
        {
            showing.shown.send_modify(|shown| shown.message = message);
        }
    }

    /// Shows since when the service is waited for, and why.
    #[must_use]
    pub fn observe_service(&self) -> Observer {
        let view = self.clone();
        let waiting_since = Mutex::new(None);
        Box::new(move |trouble| {
            let mut since = waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
            match trouble {
                None => {
                    if since.take().is_some() {
                        view.message("");
                    }
                }
                Some(error) => {
                    let since = since.get_or_insert_with(Timestamp::now);
                    view.message(&format!(
                        "waiting for the service since {since:.0}: {error}"
                    ));
                }
            }
        })
    }

    /// The run has ended: says so, unless the starter takes its time.
    pub async fn end(&self) {
        let Some(showing) = &self.0 else { return };
        showing.shown.send_modify(|shown| shown.phase = ENDED);
        let task = showing
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            // Told or not: nothing depends on it.
            let _told = timeout(FAREWELL, task).await;
        }
    }
}

const ENDED: &str = "ended";

const fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Staging | Phase::Starting => "staging",
        Phase::Running => "running",
        Phase::Publishing => "publishing",
        Phase::SavingLogs { .. } => "saving_logs",
        Phase::Ended(_) => ENDED,
    }
}

/// Tells the starter what is new, until the run has ended.
async fn follow(chirp: Chirp, mut shown: watch::Receiver<Shown>) {
    let mut told = Vec::new();
    loop {
        let now = shown.borrow_and_update().clone();
        let attributes = now.attributes();
        let news: Vec<_> = attributes
            .iter()
            .filter(|attribute| !told.contains(*attribute))
            .cloned()
            .collect();
        if !news.is_empty() {
            match timeout(DEADLINE, chirp.set_job_attributes(&news)).await {
                Ok(Ok(())) => told = attributes,
                Ok(Err(error)) => tracing::debug!("the job's ad is not up to date: {error}"),
                Err(_) => tracing::debug!("the job's ad is not up to date: the starter hangs"),
            }
        }
        if now.phase == ENDED {
            return;
        }
        let next_phase = shown.wait_for(|shown| shown.phase != now.phase);
        // Whichever comes first: it is looked at afresh.
        if let Ok(Err(_nobody_shows)) = timeout(INTERVAL, next_phase).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Counters;
    use crate::refdata::StagingCounters;

    #[test]
    fn progress_is_what_has_moved_of_what_is_known() {
        let counters = Arc::new(Counters::default());
        counters.expect(2, 10 << 30);
        counters.add_bytes(1 << 30);
        let refdata = Arc::new(StagingCounters::default());
        let mut shown = Shown {
            phase: "staging",
            progress: vec![counters, Arc::<StagingCounters>::clone(&refdata) as _],
            ..Shown::default()
        };
        let progress = |shown: &Shown| {
            let attributes = shown.attributes();
            let found = attributes
                .iter()
                .find(|(name, _)| *name == "ChirpCtsProgress");
            found.unwrap().1.clone()
        };
        assert_eq!(progress(&shown), "\"1.00 GiB of 10.00 GiB\"");
        refdata.set_object_bytes(4 << 30);
        refdata.add_downloaded(2 << 30);
        assert_eq!(progress(&shown), "\"3.00 GiB of 14.00 GiB\"");
        shown.progress.clear();
        assert_eq!(progress(&shown), "\"\"");
    }
}
