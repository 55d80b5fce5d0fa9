//! Points in time as the wire carries them (contract service.md, section 1.6).
//!
//! Success bodies write UTC with `Z` and six fraction digits, or none when the fraction is zero;
//! error bodies, Kafka messages and executor reports write microseconds and `+00:00`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

    /// The same time at millisecond resolution, as the stores keep it.
    #[must_use]
    pub fn truncated_to_millis(self) -> Self {
        let millis = self.0.as_millisecond();
        Self(Timestamp::from_millisecond(millis).unwrap_or(self.0))
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
        Timestamp::deserialize(deserializer).map(Self::new)
    }
}
