//! Shows progress: a bar per phase on a terminal, a log line every few seconds elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

use crate::progress::{Progress, Snapshot};
use crate::telemetry::Screen;

/// Between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at the counters on a terminal.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// Shows the progress of phases.
#[derive(Debug, Clone)]
pub struct Display {
    screen: Option<Screen>,
}

/// One phase on display; dropped when it ends.
#[derive(Debug)]
pub struct Phase {
    task: tokio::task::JoinHandle<()>,
    bar: Option<ProgressBar>,
    counters: Arc<dyn Progress>,
    name: &'static str,
    start: Instant,
}

impl Display {
    /// Shows phases on this screen.
    #[must_use]
    pub const fn new(screen: Screen) -> Self {
        Self {
            screen: Some(screen),
        }
    }

    /// Shows nothing: for tests.
    #[must_use]
    pub const fn none() -> Self {
        Self { screen: None }
    }

    /// Starts showing a phase, e.g. `download`.
    #[must_use]
    pub fn phase<P: Progress + 'static>(&self, name: &'static str, counters: Arc<P>) -> Phase {
        let counters: Arc<dyn Progress> = counters;
        let start = Instant::now();
        let bar = self.screen.as_ref().and_then(Screen::bars).map(|bars| {
            let bar = bars.add(ProgressBar::new(0));
            bar.set_style(style());
            bar.set_prefix(name);
            bar
        });
        let shown = Arc::clone(&counters);
        let task = match bar.clone() {
            Some(bar) => tokio::spawn(async move {
                loop {
                    update(&bar, shown.snapshot());
                    tokio::time::sleep(BAR_INTERVAL).await;
                }
            }),
            None => tokio::spawn(async move {
                loop {
                    tokio::time::sleep(LOG_INTERVAL).await;
                    log(name, shown.snapshot(), start.elapsed());
                }
            }),
        };
        Phase {
            task,
            bar,
            counters,
            name,
            start,
        }
    }
}

impl Phase {
    /// Says in one log line what the phase moved.
    pub fn finish(self) {
        let Snapshot {
            bytes_done,
            files_done,
            retries,
            ..
        } = self.counters.snapshot();
        tracing::info!(
            files = files_done,
            bytes = bytes_done,
            seconds = self.start.elapsed().as_secs_f64(),
            retries,
            "{} finished",
            self.name
        );
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    // A wrong template shows in the first test run; the default bar is good enough to go on with.
    ProgressStyle::with_template(
        "{prefix:>9} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta} left",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("=> ")
}

fn update(bar: &ProgressBar, now: Snapshot) {
    bar.set_length(now.bytes_total.max(now.bytes_done));
    bar.set_position(now.bytes_done);
    bar.set_message(files(now));
}

fn files(now: Snapshot) -> String {
    format!(
        "{}/{} files",
        now.files_done,
        now.files_total.max(now.files_done)
    )
}

/// Rounds down; a whole number of bytes a second is fine enough.
fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
}

fn log(name: &str, now: Snapshot, elapsed: Duration) {
    let rate = per_second(now.bytes_done, elapsed);
    let left = now.bytes_total.saturating_sub(now.bytes_done);
    let time_left = match left.checked_div(rate) {
        Some(seconds) if left > 0 => {
            format!(
                ", about {} left",
                HumanDuration(Duration::from_secs(seconds))
            )
        }
        _ => String::new(),
    };
    let retries = match now.retries {
        0 => String::new(),
        count => format!(", {count} retries"),
    };
    tracing::info!(
        "{name}: {} of {}, {}, {}/s{time_left}{retries}",
        HumanBytes(now.bytes_done),
        HumanBytes(now.bytes_total.max(now.bytes_done)),
        files(now),
        HumanBytes(rate),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_do_not_overflow_or_divide_by_zero() {
        assert_eq!(per_second(1000, Duration::ZERO), 1_000_000);
        assert_eq!(per_second(u64::MAX, Duration::from_millis(1)), u64::MAX);
        assert_eq!(per_second(3000, Duration::from_secs(3)), 1000);
    }
}
