//! `runtime`: how long a container may run (contract service.md, section 3.3). Microsecond
//! resolution, written as an ISO 8601 duration.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::validation::{Checked, Fault};

const MICROS_PER_SEC: i128 = 1_000_000;
const SECS_PER_MINUTE: i128 = 60;
const SECS_PER_HOUR: i128 = 3600;
const SECS_PER_DAY: i128 = 24 * SECS_PER_HOUR;

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
        let runtime = match value {
            Value::Bool(flag) => Self::from_micros(i128::from(*flag) * MICROS_PER_SEC),
            Value::Number(seconds) => Self::from_micros(micros_of_seconds(seconds)),
            Value::String(text) => text.parse(),
            _ => {
                let message = InvalidRuntime::Unreadable.to_string();
                return Err(Fault::new("time_delta_type", value, message).into());
            }
        };
        runtime.map_err(|error| {
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

fn micros_of_seconds(seconds: &serde_json::Number) -> i128 {
    if let Some(seconds) = seconds.as_i64() {
        return i128::from(seconds) * MICROS_PER_SEC;
    }
    let seconds = seconds.as_f64().unwrap_or(f64::INFINITY);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded; saturates, then out of bounds"
    )]
    let micros = (seconds * 1e6).round() as i128;
    micros
}

impl FromStr for Runtime {
    type Err = InvalidRuntime;

    fn from_str(text: &str) -> Result<Self, InvalidRuntime> {
        let (sign, unsigned) = match text.split_at_checked(1) {
            Some(("-", unsigned)) => (-1, unsigned),
            Some(("+", unsigned)) => (1, unsigned),
            _ => (1, text),
        };
        let micros = match unsigned.strip_prefix('P') {
            Some(units) => iso_micros(units),
            None => clock_micros(unsigned),
        };
        Self::from_micros(sign * micros.ok_or(InvalidRuntime::Unreadable)?)
    }
}

/// Microseconds of an ISO 8601 duration after its `P`. Units may come in any order, and repeat;
/// only the last number may have a fraction.
fn iso_micros(mut units: &str) -> Option<i128> {
    let (mut total, mut numbers, mut in_time, mut had_fraction) = (0, 0, false, false);
    while !units.is_empty() {
        if let Some(time) = units.strip_prefix('T') {
            if in_time {
                return None;
            }
            in_time = true;
            units = time;
            continue;
        }
        if had_fraction {
            return None;
        }
        let (number, rest) = split_digits(units);
        let (fraction, rest) = match rest.strip_prefix(['.', ',']) {
            Some(rest) => {
                had_fraction = true;
                split_digits(rest)
            }
            None => ("", rest),
        };
        let unit = rest.chars().next()?;
        let unit_secs = match (in_time, unit) {
            (false, 'Y') => 365 * SECS_PER_DAY,
            (false, 'M') => 30 * SECS_PER_DAY,
            (false, 'W') => 7 * SECS_PER_DAY,
            (false, 'D') => SECS_PER_DAY,
            (true, 'H') => SECS_PER_HOUR,
            (true, 'M') => SECS_PER_MINUTE,
            (true, 'S') => 1,
            _ => return None,
        };
        let unit_micros = unit_secs * MICROS_PER_SEC;
        let whole = i128::from(number.parse::<u32>().ok()?) * unit_micros;
        total += whole + rounded_fraction(fraction, unit_micros)?;
        numbers += 1;
        units = rest.strip_prefix(unit)?;
    }
    (numbers > 0).then_some(total)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// `0.<digits>` of a unit, rounded to microseconds; digits too small to matter are dropped.
fn rounded_fraction(digits: &str, unit_micros: i128) -> Option<i128> {
    const MAX_DIGITS: usize = 18;
    let digits = digits.get(..MAX_DIGITS).unwrap_or(digits);
    if digits.is_empty() {
        return Some(0);
    }
    let denominator = 10_i128.pow(u32::try_from(digits.len()).ok()?);
    let numerator = digits.parse::<i128>().ok()? * unit_micros;
    Some((2 * numerator + denominator) / (2 * denominator))
}

/// `[D day(s)|d][,][ ]HH:MM[:SS[.ffffff]]`, or days alone.
static CLOCK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?:(?<days>[0-9]+) ?[dD](?:ays?|AYS?)?,? ?)?",
        r"(?:(?<hours>[0-9]+):(?<minutes>[0-5][0-9])",
        r"(?::(?<seconds>[0-5][0-9])(?:[.,](?<fraction>[0-9]+))?)?)?$",
    ))
    .expect("the pattern is constant")
});

/// Microseconds of a clock time; digits of the fraction beyond the sixth are dropped.
fn clock_micros(text: &str) -> Option<i128> {
    let groups = CLOCK.captures(text)?;
    let group = |name| groups.name(name).map(|group| group.as_str());
    let number = |name| group(name).map_or(Some(0), |digits| digits.parse::<u32>().ok());
    if group("days").is_none() && group("hours").is_none() {
        return None;
    }
    // One digit of hours needs the seconds: `1:00:00`, but not `1:00`.
    if group("hours").is_some_and(|hours| hours.len() < 2) && group("seconds").is_none() {
        return None;
    }
    // Only without days may the hours exceed a day.
    if group("days").is_some() && number("hours")? > 23 {
        return None;
    }
    let seconds = i128::from(number("days")?) * SECS_PER_DAY
        + i128::from(number("hours")?) * SECS_PER_HOUR
        + i128::from(number("minutes")?) * SECS_PER_MINUTE
        + i128::from(number("seconds")?);
    let fraction = group("fraction").unwrap_or_default();
    let fraction = fraction.get(..6).unwrap_or(fraction);
    Some(seconds * MICROS_PER_SEC + rounded_fraction(fraction, MICROS_PER_SEC)?)
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
