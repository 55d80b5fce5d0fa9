//! `runtime`: how long a container may run (contract service.md, section 3.3). Microsecond
//! resolution, written as an ISO 8601 duration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::validation::durations::{MICROS_PER_SEC, micros, micros_in_text};
use crate::validation::{Checked, Fault};

/// Longest time one container may run: 1 s to 10065 min, default 60 s.
///
/// Reads a number of seconds, an ISO 8601 duration or a clock time such as `1 day, 01:30:00`;
/// writes an ISO 8601 duration such as `P1DT1H30M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Runtime(Duration);

impl Default for Runtime {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

/// The runtime cannot be read or is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRuntime {
    /// No duration.
    #[error("give seconds as a number, or a duration such as \"PT1H30M\" or \"01:30:00\"")]
    Unreadable,
    /// Less than [`Runtime::MIN`].
    #[error("give a runtime of 1 second or more")]
    TooShort,
    /// More than [`Runtime::MAX`].
    #[error("give a runtime of 10065 minutes (P6DT23H45M) or less")]
    TooLong,
}

impl Runtime {
    /// Shortest runtime of a container.
    pub const MIN: Self = Self(Duration::from_secs(1));

    /// Longest runtime of a container at any site.
    pub const MAX: Self = Self(Duration::from_mins(10_065));

    /// A runtime of `micros` microseconds.
    fn from_micros(micros: i128) -> Result<Self, InvalidRuntime> {
        if micros < MICROS_PER_SEC {
            return Err(InvalidRuntime::TooShort);
        }
        let micros = u64::try_from(micros).map_err(|_| InvalidRuntime::TooLong)?;
        let runtime = Self(Duration::from_micros(micros));
        if runtime > Self::MAX {
            Err(InvalidRuntime::TooLong)
        } else {
            Ok(runtime)
        }
    }

    /// The runtime as a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Reads a JSON value.
    pub(super) fn check(value: &Value) -> Checked<Self> {
        Self::from_micros(micros(value)?).map_err(|error| {
            let fault = |kind| Fault::new(kind, value, error.to_string());
            match error {
                InvalidRuntime::Unreadable => fault("time_delta_parsing"),
                InvalidRuntime::TooShort => {
                    fault("greater_than_equal").with_bound("ge", Self::MIN.to_string())
                }
                InvalidRuntime::TooLong => {
                    fault("less_than_equal").with_bound("le", Self::MAX.to_string())
                }
            }
            .into()
        })
    }
}

impl FromStr for Runtime {
    type Err = InvalidRuntime;

    fn from_str(text: &str) -> Result<Self, InvalidRuntime> {
        Self::from_micros(micros_in_text(text).ok_or(InvalidRuntime::Unreadable)?)
    }
}

impl fmt::Display for Runtime {
    /// Days, hours, minutes and seconds, those that are zero left out: `P1DT2H`, `PT1M0.5S`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total_secs, micros) = (self.0.as_secs(), self.0.subsec_micros());
        let (days, secs_of_day) = (total_secs / 86_400, total_secs % 86_400);
        f.write_str("P")?;
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if secs_of_day > 0 || micros > 0 {
            f.write_str("T")?;
        }
        for (amount, unit) in [(secs_of_day / 3600, 'H'), (secs_of_day / 60 % 60, 'M')] {
            if amount > 0 {
                write!(f, "{amount}{unit}")?;
            }
        }
        match (secs_of_day % 60, micros) {
            (0, 0) => Ok(()),
            (secs, 0) => write!(f, "{secs}S"),
            (secs, micros) => {
                write!(
                    f,
                    "{secs}.{}S",
                    format!("{micros:06}").trim_end_matches('0')
                )
            }
        }
    }
}

impl Serialize for Runtime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Runtime {
    /// Takes every form a submission may have; the service's store holds seconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::check(&value).map_err(|faults| {
            de::Error::custom(
                faults
                    .most_telling()
                    .map_or("invalid runtime", Fault::message),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_as_upstream_does() {
        for (text, expected) in [
            ("1:00:00", "PT1H"),
            ("01:00", "PT1H"),
            ("12:34:56.1234567", "PT12H34M56.123456S"),
            ("12:34:56,5", "PT12H34M56.5S"),
            ("00:00:59.9999999", "PT59.999999S"),
            ("100:00", "P4DT4H"),
            ("1d", "P1D"),
            ("1 Day", "P1D"),
            ("1 days", "P1D"),
            ("1 day, ", "P1D"),
            ("+1 day", "P1D"),
            ("1 day,01:00", "P1DT1H"),
            ("1d01:00", "P1DT1H"),
            ("1 DAYS, 023:59", "P1DT23H59M"),
            ("1 day 1:00:00", "P1DT1H"),
            ("PT1.S", "PT1S"),
            ("PT1,5S", "PT1.5S"),
            ("P1.5DT", "P1DT12H"),
            ("PT1H1H", "PT2H"),
            ("PT1M1H", "PT1H1M"),
            ("PT1.9999999S", "PT2S"),
            ("PT1.0000005S", "PT1.000001S"),
            ("PT1H30M0.123456789S", "PT1H30M0.123457S"),
            ("P0.1W", "PT16H48M"),
        ] {
            let runtime: Runtime = text.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert_eq!(runtime.to_string(), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for text in [
            "",
            "60",
            "1:00",
            "1:0",
            "12:34:5",
            "12:60",
            "12:34:60",
            "1 dayss",
            "1 da",
            "d",
            "1 day,  01:00",
            "1  day",
            "1 day 1:00",
            "1 day 24:00",
            "1 dayS",
            "1 day -01:00",
            "P",
            "PT",
            "+PT",
            "P1",
            "PT1",
            "PT.5S",
            "P1.5DT1H",
            "PT1.5H1M",
            "PTT1H",
            "P1DT1HT1M",
            "P1HT",
            "PT1D",
            "pt1h",
            "PT4294967296S",
            "PT99999999999S",
            " 00:01:00",
            "00:01:00 ",
            "01:00.5",
            "01:00:00.",
            "1:1:00",
            "\u{661}d",
            "é",
            "-é",
        ] {
            assert_eq!(
                text.parse::<Runtime>(),
                Err(InvalidRuntime::Unreadable),
                "{text:?}"
            );
        }
        assert_eq!("-1 day".parse::<Runtime>(), Err(InvalidRuntime::TooShort));
        assert_eq!(
            "PT0.9999994S".parse::<Runtime>(),
            Err(InvalidRuntime::TooShort)
        );
        assert_eq!("P1Y".parse::<Runtime>(), Err(InvalidRuntime::TooLong));
        assert_eq!(
            "4294967295d".parse::<Runtime>(),
            Err(InvalidRuntime::TooLong)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(micros in 1_000_000_i128..=603_900_000_000) {
            let runtime = Runtime::from_micros(micros).unwrap();
            prop_assert_eq!(runtime.to_string().parse::<Runtime>(), Ok(runtime));
        }

        #[test]
        fn reading_never_panics(text in "[-+]?[PT0-9.,:dDayHMSW ]{0,24}|\\PC*") {
            let _ = text.parse::<Runtime>();
        }
    }
}
