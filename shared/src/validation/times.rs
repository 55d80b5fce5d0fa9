//! Points in time in every form of a request (contract service.md, section 1.6).

use serde_json::Value;

use super::{Checked, Fault};
use crate::timestamp::UtcTime;

/// A time; one without an offset is UTC.
///
/// # Errors
/// With the fault, when it is none.
pub fn time(value: &Value) -> Checked<UtcTime> {
    UtcTime::parse_lenient(value).map_err(|error| {
        // The existing service tries a date last, and names the fault after that.
        let kind = match value {
            Value::String(_) | Value::Number(_) => "datetime_from_date_parsing",
            _ => "datetime_type",
        };
        Fault::new(kind, value, error.to_string()).into()
    })
}

/// A time that says its offset, or a number.
///
/// # Errors
/// With the fault, when it is none.
pub fn aware_time(value: &Value) -> Checked<UtcTime> {
    let time = time(value)?;
    if UtcTime::lacks_offset(value) {
        let message = "give the time with its offset, such as 2031-02-03T04:05:06Z";
        return Err(Fault::new("timezone_aware", value, message).into());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_time_without_offset_lacks_one() {
        for text in [
            "2031-02-03T04:05:06Z",
            "2031-02-03 04:05:06.25+01:00",
            "1600000000",
            "1600000000123",
            "-1.5",
        ] {
            assert!(aware_time(&json!(text)).is_ok(), "{text}");
        }
        for text in ["2031-02-03T04:05:06", "2031-02-03 04:05", "2031-02-03"] {
            assert!(time(&json!(text)).is_ok(), "{text}");
            let faults = aware_time(&json!(text)).unwrap_err();
            assert_eq!(faults.into_details("query")[0].kind, "timezone_aware");
        }
        for (value, kind) in [
            (json!("yesterday"), "datetime_from_date_parsing"),
            (json!(""), "datetime_from_date_parsing"),
            (json!([]), "datetime_type"),
        ] {
            let faults = aware_time(&value).unwrap_err();
            assert_eq!(faults.into_details("query")[0].kind, kind);
        }
    }
}
