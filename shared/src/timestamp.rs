//! Points in time as the wire carries them (contract service.md, section 1.6).
//!
//! Success bodies write UTC with `Z` and six fraction digits, or none when the fraction is zero;
//! error bodies, Kafka messages and executor reports write microseconds and `+00:00`.

use std::fmt;

use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Number, Value};

/// Numbers beyond this, either way, are milliseconds since the epoch, others seconds. The existing
/// service's validation library draws the line here (in seconds: the year 2603).
const MOST_SECONDS: i64 = 20_000_000_000;

/// 0001-01-01T00:00:00Z
const FIRST_SECOND: i64 = -62_135_596_800;

/// A UTC point in time with microsecond resolution. Serialises in the success-body form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcTime(Timestamp);

impl UtcTime {
    /// Truncates to microseconds.
    #[must_use]
    pub fn new(timestamp: Timestamp) -> Self {
        let micros = timestamp.as_microsecond();
        Self(Timestamp::from_microsecond(micros).unwrap_or(timestamp))
    }

    /// That long ago; the earliest time there is, if it were before that.
    #[must_use]
    pub fn minus(self, age: std::time::Duration) -> Self {
        Self(self.0.checked_sub(age).unwrap_or(Timestamp::MIN))
    }

    /// That long after; the latest time there is, if it were after that.
    #[must_use]
    pub fn plus(self, time: std::time::Duration) -> Self {
        Self(self.0.checked_add(time).unwrap_or(Timestamp::MAX))
    }

    /// The same time at millisecond resolution, as the stores keep it.
    #[must_use]
    pub fn truncated_to_millis(self) -> Self {
        let millis = self.0.as_millisecond();
        Self(Timestamp::from_millisecond(millis).unwrap_or(self.0))
    }

    /// Reads a time from a request: ISO 8601 with an offset, or without one and then UTC; seconds
    /// since the epoch; milliseconds since the epoch when large. Numbers may stand in texts.
    ///
    /// # Errors
    ///
    /// When it is none of these, or beyond the years 1 to 9999, which four digits can write.
    pub fn parse_lenient(value: &Value) -> Result<Self, InvalidTime> {
        let timestamp = match value {
            Value::Number(number) => from_number(number),
            Value::String(text) => {
                from_iso(text).or_else(|| from_number(&serde_json::from_str(text).ok()?))
            }
            _ => None,
        };
        timestamp
            .filter(|timestamp| timestamp.as_second() >= FIRST_SECOND)
            .map(Self::new)
            .ok_or_else(|| InvalidTime(value.clone()))
    }

    /// Whether a value that [`parse_lenient`](Self::parse_lenient) reads is a date or a time without
    /// an offset.
    #[must_use]
    pub fn lacks_offset(value: &Value) -> bool {
        value.as_str().is_some_and(|text| {
            text.parse::<Timestamp>().is_err() && text.parse::<civil::DateTime>().is_ok()
        })
    }

    /// The underlying timestamp.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        self.0
    }

    /// `2031-02-03T04:05:06.070809+00:00`: error bodies, Kafka messages, executor reports.
    #[must_use]
    pub fn to_offset_string(self) -> String {
        format!("{}+00:00", self.0.strftime("%Y-%m-%dT%H:%M:%S.%6f"))
    }
}

/// The value is not a time.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{0} is not a time; give an ISO 8601 time such as \"2031-02-03T04:05:06Z\", or seconds since \
     the epoch"
)]
pub struct InvalidTime(Value);

fn from_iso(text: &str) -> Option<Timestamp> {
    let with_offset = text.parse::<Timestamp>().ok();
    with_offset
        .or_else(|| {
            let naive: civil::DateTime = text.parse().ok()?;
            TimeZone::UTC.to_timestamp(naive).ok()
        })
        .or_else(|| end_of_time(text))
}

/// What some write for "never": the last two days of 9999, which [`Timestamp`] does not reach.
fn end_of_time(text: &str) -> Option<Timestamp> {
    let last_day = Timestamp::MAX.to_zoned(TimeZone::UTC).date();
    let date = Pieces::parse(text).ok()?.date();
    (date >= last_day).then_some(Timestamp::MAX)
}

fn from_number(number: &Number) -> Option<Timestamp> {
    if let Some(integer) = number.as_i64() {
        let is_seconds = (-MOST_SECONDS..=MOST_SECONDS).contains(&integer);
        return if is_seconds {
            Timestamp::from_second(integer).ok()
        } else {
            Timestamp::from_millisecond(integer).ok()
        };
    }
    let fractional = number.as_f64()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let is_seconds = fractional.abs() <= MOST_SECONDS as f64;
    let micros = fractional * if is_seconds { 1e6 } else { 1e3 };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded; saturates, then out of bounds"
    )]
    let micros = micros.round() as i64;
    Timestamp::from_microsecond(micros).ok()
}

impl fmt::Display for UtcTime {
    /// `2031-02-03T04:05:06.070809Z`, without the fraction when it is zero: success bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_microsecond() == 0 && self.0.subsec_millisecond() == 0 {
            write!(f, "{}Z", self.0.strftime("%Y-%m-%dT%H:%M:%S"))
        } else {
            write!(f, "{}Z", self.0.strftime("%Y-%m-%dT%H:%M:%S.%6f"))
        }
    }
}

impl Serialize for UtcTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UtcTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse_lenient(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Option<String> {
        UtcTime::parse_lenient(value)
            .ok()
            .map(|time| time.to_string())
    }

    #[test]
    fn writes_six_digits_of_a_fraction_or_none() {
        let time = |text: &str| UtcTime::new(text.parse().unwrap());
        let fraction = time("2031-02-03T04:05:06.25Z");
        assert_eq!(fraction.to_string(), "2031-02-03T04:05:06.250000Z");
        assert_eq!(
            fraction.to_offset_string(),
            "2031-02-03T04:05:06.250000+00:00"
        );
        let whole = time("2031-02-03T04:05:06Z");
        assert_eq!(whole.to_string(), "2031-02-03T04:05:06Z");
        assert_eq!(whole.to_offset_string(), "2031-02-03T04:05:06.000000+00:00");
        assert_eq!(
            time("2031-02-03T04:05:06.0000019Z").to_string(),
            "2031-02-03T04:05:06.000001Z"
        );
        let millis = time("2031-02-03T04:05:06.0019Z").truncated_to_millis();
        assert_eq!(millis.to_string(), "2031-02-03T04:05:06.001000Z");
    }

    #[test]
    fn reads_the_forms_of_requests() {
        for (value, expected) in [
            (json!("2031-02-03T04:05:06Z"), "2031-02-03T04:05:06Z"),
            (
                json!("2031-02-03T04:05:06.070809+00:00"),
                "2031-02-03T04:05:06.070809Z",
            ),
            (
                json!("2031-02-03T04:05:06.1234567Z"),
                "2031-02-03T04:05:06.123456Z",
            ),
            (json!("2031-02-03T04:05:06+0100"), "2031-02-03T03:05:06Z"),
            (json!("2031-02-03 04:05:06-01:30"), "2031-02-03T05:35:06Z"),
            (json!("2031-02-03t04:05:06z"), "2031-02-03T04:05:06Z"),
            (json!("2031-02-03T04:05:06"), "2031-02-03T04:05:06Z"),
            (json!("2031-02-03 04:05"), "2031-02-03T04:05:00Z"),
            (json!("2031-02-03"), "2031-02-03T00:00:00Z"),
            (json!(1_600_000_000), "2020-09-13T12:26:40Z"),
            (
                json!(1_600_000_000.123_456_7),
                "2020-09-13T12:26:40.123457Z",
            ),
            (json!(1_600_000_000_123_i64), "2020-09-13T12:26:40.123000Z"),
            (json!(20_000_000_000_i64), "2603-10-11T11:33:20Z"),
            (json!(20_000_000_001_i64), "1970-08-20T11:33:20.001000Z"),
            (json!(-20_000_000_001_i64), "1969-05-14T12:26:39.999000Z"),
            (json!(-1), "1969-12-31T23:59:59Z"),
            (json!("1600000000"), "2020-09-13T12:26:40Z"),
            (json!("1600000000.5"), "2020-09-13T12:26:40.500000Z"),
            (json!("0001-01-01T00:00:00Z"), "0001-01-01T00:00:00Z"),
            (
                json!("9999-12-31T23:59:59.999999+00:00"),
                "9999-12-30T22:00:00.999999Z",
            ),
            (json!("9999-12-31"), "9999-12-30T22:00:00.999999Z"),
        ] {
            assert_eq!(read(&value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for value in [
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!(""),
            json!("yesterday"),
            json!("2031-02-30T00:00:00Z"),
            json!("2031-02-03T24:00:00"),
            json!("\"2031\""),
            json!("04:05:06"),
            json!("0000-12-31T23:59:59Z"),
            json!("-000005-01-02T03:04:05Z"),
            json!("9999-12-32T00:00:00Z"),
            json!(-300_000_000_000_000_i64),
            json!(1e20),
            json!(-1e300),
            json!(i64::MAX),
            json!(u64::MAX),
        ] {
            assert_eq!(read(&value), None, "{value}");
        }
        assert_eq!(
            UtcTime::parse_lenient(&json!("now"))
                .unwrap_err()
                .to_string(),
            "\"now\" is not a time; give an ISO 8601 time such as \"2031-02-03T04:05:06Z\", or \
             seconds since the epoch"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(
            micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000
        ) {
            let time = UtcTime::new(Timestamp::from_microsecond(micros).unwrap());
            for text in [time.to_string(), time.to_offset_string()] {
                prop_assert_eq!(UtcTime::parse_lenient(&json!(text)), Ok(time));
            }
            let json = serde_json::to_value(time).unwrap();
            prop_assert_eq!(serde_json::from_value::<UtcTime>(json).unwrap(), time);
        }

        #[test]
        fn what_is_read_is_written_so_that_it_reads_as_the_same(
            value in prop_oneof![
                any::<i64>().prop_map(Value::from),
                (-400_000_000_000_000_i64..400_000_000_000_000).prop_map(Value::from),
                "-?[0-9]{4,6}-(0[1-9]|1[0-2])-[0-3][0-9](T[0-2][0-9]:00:00Z)?".prop_map(Value::from),
            ]
        ) {
            if let Ok(time) = UtcTime::parse_lenient(&value) {
                prop_assert_eq!(UtcTime::parse_lenient(&json!(time.to_string())), Ok(time));
            }
        }

        #[test]
        fn reading_never_panics(text in any::<String>(), number in any::<f64>()) {
            let _ = UtcTime::parse_lenient(&json!(text));
            let _ = UtcTime::parse_lenient(&json!(number));
        }
    }
}
