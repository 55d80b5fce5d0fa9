//! What a run came to.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency that is told apart; above it, all count as this.
const LONGEST: Duration = Duration::from_secs(600);
/// Latencies are kept to three digits.
const DIGITS: u8 = 3;

/// How many requests in what time, and how long each took.
#[derive(Debug, Clone)]
pub struct Figures {
    latencies: Histogram<u64>,
    elapsed: Duration,
}

impl Default for Figures {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("ten minutes in nanoseconds fit");
        Self {
            latencies: Histogram::new_with_max(longest, DIGITS).expect("the bounds are in order"),
            elapsed: Duration::ZERO,
        }
    }
}

impl Figures {
    /// Requests that something else has made.
    pub fn of(latencies: impl IntoIterator<Item = Duration>, elapsed: Duration) -> Self {
        let mut figures = Self::default();
        latencies
            .into_iter()
            .for_each(|latency| figures.record(latency));
        figures.set_elapsed(elapsed);
        figures
    }

    /// One request.
    pub(super) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanos);
    }

    pub(super) fn set_elapsed(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// Takes over the requests of another run, which came after this one, and its time.
    pub fn add(&mut self, other: &Self) {
        self.latencies
            .add(&other.latencies)
            .expect("all histograms have the same bounds");
        self.elapsed += other.elapsed;
    }

    /// Requests.
    pub fn count(&self) -> u64 {
        self.latencies.len()
    }

    /// From the first request to the last answer.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Requests answered in a second, over all connections; 0 if there were none.
    #[expect(clippy::cast_precision_loss, reason = "nobody waits for 2^53 requests")]
    pub fn per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds == 0.0 {
            return 0.0;
        }
        self.count() as f64 / seconds
    }

    /// The latency that this share of the requests, 0 to 1, did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_after_each_other_add_up() {
        let run = |millis: [u64; 2], secs| {
            let mut figures = Figures::default();
            for millis in millis {
                figures.record(Duration::from_millis(millis));
            }
            figures.set_elapsed(Duration::from_secs(secs));
            figures
        };
        let mut all = run([1, 2], 1);
        all.add(&run([3, 100], 3));
        assert_eq!((all.count(), all.per_second()), (4, 1.0));
        assert_eq!(all.quantile(0.5).as_millis(), 2);
        assert_eq!(all.quantile(1.0).as_millis(), 100);
    }

    #[test]
    fn nothing_is_no_division_by_zero() {
        assert_eq!(Figures::default().per_second(), 0.0);
    }
}
