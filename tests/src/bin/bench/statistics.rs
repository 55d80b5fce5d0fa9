//! Smallest, median and largest of some figures.

use std::fmt;
use std::time::Duration;

/// Smallest, median and largest of some figures. Displays as `min / median / max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    min: f64,
    median: f64,
    max: f64,
    decimals: usize,
}

impl Spread {
    /// Of `figures`, shown with `decimals` decimals; all zero where there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>, decimals: usize) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let last = sorted.len().saturating_sub(1);
        Self {
            min: at(0),
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            max: at(last),
            decimals,
        }
    }

    /// Of times, in seconds.
    pub(crate) fn secs(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::of(times.into_iter().map(|time| time.as_secs_f64()), 2)
    }

    /// Of times, in milliseconds.
    pub(crate) fn millis(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3), 1)
    }

    /// Of sizes, in MiB.
    pub(crate) fn mib(sizes: impl IntoIterator<Item = u64>) -> Self {
        // Sizes below 2^53 are exact; no figure here is shown to more than four digits.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Self::of(sizes.into_iter().map(mib), 0)
    }

    /// All figures divided by `divisor`.
    pub(crate) fn per(self, divisor: f64) -> Self {
        Self {
            min: self.min / divisor,
            median: self.median / divisor,
            max: self.max / divisor,
            ..self
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.decimals;
        let Self {
            min, median, max, ..
        } = self;
        write!(f, "{min:.digits$} / **{median:.digits$}** / {max:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between_two() {
        assert_eq!(
            Spread::of([4.0, 1.0, 2.0, 3.0], 1).to_string(),
            "1.0 / **2.5** / 4.0"
        );
        assert_eq!(Spread::of([3.0, 1.0, 2.0], 0).to_string(), "1 / **2** / 3");
        assert_eq!(Spread::of([], 0).to_string(), "0 / **0** / 0");
    }

    #[test]
    fn figures_come_in_their_units() {
        let times = [Duration::from_micros(1500)];
        assert_eq!(Spread::millis(times).median, 1.5);
        assert_eq!(Spread::mib([3 << 20]).median, 3.0);
        assert_eq!(Spread::secs([Duration::from_secs(3)]).per(2.0).median, 1.5);
    }
}
