//! Durations in every form of a request (contract service.md, section 3.3): a number of seconds, an
//! ISO 8601 duration, a clock time.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use super::{Checked, Fault};

pub(crate) const MICROS_PER_SEC: i128 = 1_000_000;
const SECS_PER_MINUTE: i128 = 60;
const SECS_PER_HOUR: i128 = 3600;
const SECS_PER_DAY: i128 = 24 * SECS_PER_HOUR;

/// A duration of at least `least`, which `least_text` writes in ISO 8601.
///
/// # Errors
/// With the fault, when it is none.
pub fn duration(value: &Value, least: Duration, least_text: &str) -> Checked<Duration> {
    let micros = micros(value)?;
    let duration = u64::try_from(micros).ok().map(Duration::from_micros);
    match duration {
        Some(duration) if duration >= least => Ok(duration),
        // Longer than anything lasts.
        None if micros > 0 => Ok(Duration::from_micros(u64::MAX)),
        _ => {
            let message = format!("give {least_text} or more");
            Err(Fault::new("greater_than_equal", value, message)
                .with_bound("ge", least_text)
                .into())
        }
    }
}

/// Microseconds of any duration, negative ones too.
pub(crate) fn micros(value: &Value) -> Checked<i128> {
    let fault = |kind| {
        let message = "give seconds as a number, or a duration such as \"PT1H30M\" or \"01:30:00\"";
        Fault::new(kind, value, message)
    };
    match value {
        Value::Bool(flag) => Ok(i128::from(*flag) * MICROS_PER_SEC),
        Value::Number(seconds) => Ok(micros_of_seconds(seconds)),
        Value::String(text) => {
            micros_in_text(text).ok_or_else(|| fault("time_delta_parsing").into())
        }
        _ => Err(fault("time_delta_type").into()),
    }
}

/// Microseconds of the duration in a text, if it holds one.
pub(crate) fn micros_in_text(text: &str) -> Option<i128> {
    let (sign, unsigned) = match text.split_at_checked(1) {
        Some(("-", unsigned)) => (-1, unsigned),
        Some(("+", unsigned)) => (1, unsigned),
        _ => (1, text),
    };
    let micros = match unsigned.strip_prefix('P') {
        Some(units) => iso_micros(units),
        None => clock_micros(unsigned),
    };
    Some(sign * micros?)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_a_least_and_no_most() {
        let minute = |value: Value| {
            duration(&value, Duration::from_secs(60), "PT1M")
                .map_err(|faults| faults.into_details("query").remove(0).kind)
        };
        assert_eq!(minute(json!("PT10M")), Ok(Duration::from_secs(600)));
        assert_eq!(minute(json!("01:00:00")), Ok(Duration::from_secs(3600)));
        assert_eq!(minute(json!("1 day")), Ok(Duration::from_secs(86_400)));
        assert_eq!(minute(json!("PT1M")), Ok(Duration::from_secs(60)));
        assert_eq!(
            minute(json!("P4294967295Y")),
            Ok(Duration::from_micros(u64::MAX))
        );
        for short in ["PT59.9S", "-PT10M", "-P4294967295Y"] {
            assert_eq!(minute(json!(short)), Err("greater_than_equal".to_owned()));
        }
        for unreadable in ["600", "", "ten minutes", "PT"] {
            assert_eq!(
                minute(json!(unreadable)),
                Err("time_delta_parsing".to_owned())
            );
        }
    }
}
