//! `memory`: bytes, or a number with a unit (contract service.md, section 3.3).

use serde_json::Value;

use super::rules::{MEMORY_BYTES, MEMORY_QUANTITY};
use crate::validation::scalars::{any_integer, integer_in_text, within};
use crate::validation::{Checked, Fault};

/// Checks an amount of memory; gives bytes.
pub(super) fn memory(value: &Value) -> Checked<u64> {
    let bytes = match value {
        Value::String(text) => match integer_in_text(text) {
            Some(bytes) => Some(bytes),
            None => quantity(value, text)?,
        },
        _ => any_integer(value).ok(),
    };
    let bytes = bytes.filter(|bytes| *bytes >= 0).ok_or_else(|| {
        Fault::new(
            "byte_size",
            value,
            "give bytes, or a number with a unit such as \"10GB\"",
        )
    })?;
    within(value, bytes, MEMORY_BYTES)
}

/// Reads a number with a unit; nothing if there is no number.
fn quantity(value: &Value, text: &str) -> Checked<Option<i128>> {
    let Some(groups) = MEMORY_QUANTITY.captures(text) else {
        return Ok(None);
    };
    let unit = groups.get(2).map_or("b", |unit| unit.as_str());
    let bytes_per_unit = bytes_per_unit(&unit.to_lowercase()).ok_or_else(|| {
        let message =
            format!("{unit:?} is not a unit; use B, KB, MB, GB, TB, PB, EB or KiB, MiB, GiB, TiB");
        Fault::new("byte_size_unit", value, message)
    })?;
    let digits: Option<String> = groups[1].chars().map(to_ascii_digit).collect();
    let number: Option<f64> = digits.and_then(|digits| digits.parse().ok());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "truncates by the rule, saturates beyond"
    )]
    Ok(number.map(|number| (number * bytes_per_unit) as i128))
}

/// Bytes of a unit, which is in lower case.
fn bytes_per_unit(unit: &str) -> Option<f64> {
    let (prefix, unit_bytes) = match unit.strip_suffix("bit") {
        Some(prefix) => (prefix, 0.125),
        None => (unit.strip_suffix('b').unwrap_or(unit), 1.0),
    };
    // The short forms without the b are powers of 1000 only: "k", but not "ki".
    if !unit.ends_with('b') && !unit.ends_with("bit") && prefix.len() != 1 {
        return None;
    }
    let (letter, base) = match prefix.strip_suffix('i') {
        Some(letter) => (letter, 1024_f64),
        None => (prefix, 1000_f64),
    };
    let power = match letter {
        "" if base == 1000.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return None,
    };
    Some(unit_bytes * base.powi(power))
}

/// The ASCII form of a decimal digit of any script; a period stays.
fn to_ascii_digit(c: char) -> Option<char> {
    if c == '.' || c.is_ascii_digit() {
        return Some(c);
    }
    // Unicode lays out the digits of a script in one run, 0 to 9; runs can follow each other.
    let digits_before = (0..u32::from(c))
        .rev()
        .map_while(char::from_u32)
        .take_while(|before| is_decimal_digit(*before))
        .count();
    char::from_digit(u32::try_from(digits_before % 10).ok()?, 10)
}

fn is_decimal_digit(c: char) -> bool {
    use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
    c.general_category() == GeneralCategory::DecimalNumber
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Bytes, or the kind of fault.
    fn bytes(value: &Value) -> Result<u64, String> {
        memory(value).map_err(|faults| faults.into_details("body")[0].kind.clone())
    }

    #[test]
    fn reads_what_upstream_reads() {
        for (value, expected) in [
            (json!("10MB"), 10_000_000),
            (json!("1.5 GB"), 1_500_000_000),
            (json!(".5gb"), 500_000_000),
            (json!("1GiB"), 1 << 30),
            (json!("1m"), 1_000_000),
            (json!("16Mbit"), 2_000_000),
            (json!("8000kibit"), 1_024_000),
            (json!("0.0000005EiB"), 576_460_752_303),
            (json!("999999.9999999999999"), 1_000_000),
            (json!("1.0000009MB"), 1_000_000),
            (json!("10000000."), 10_000_000),
            (json!("10000000.5"), 10_000_000),
            (json!("+10000000"), 10_000_000),
            (json!("10_000_000"), 10_000_000),
            (json!("10 MB spare"), 10_000_000),
            (json!("\u{661}\u{660}MB"), 10_000_000),
            (json!("\u{1d7f5}\u{1d7ce}MB"), 90_000_000),
            (json!(1e7), 10_000_000),
        ] {
            assert_eq!(bytes(&value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for (value, kind) in [
            (json!(-5), "byte_size"),
            (json!(-1e30), "byte_size"),
            (json!(1.5), "byte_size"),
            (json!("-10MB"), "byte_size"),
            (json!("+10MB"), "byte_size"),
            (json!("."), "byte_size"),
            (json!("\u{1c}10MB"), "byte_size"),
            (json!(null), "byte_size"),
            (json!("1Ki"), "byte_size_unit"),
            (json!("1ib"), "byte_size_unit"),
            (json!("1i"), "byte_size_unit"),
            (json!("1Mebibit"), "byte_size_unit"),
            (json!("1_0MB"), "byte_size_unit"),
            (json!("10MBé"), "byte_size_unit"),
            (json!("1e7"), "byte_size_unit"),
            (json!("10,000,000"), "greater_than_equal"),
            (json!("1"), "greater_than_equal"),
            (json!("1EB"), "less_than_equal"),
            (json!(1e30), "less_than_equal"),
            (
                json!("1000000000000000000000000000000000000000000"),
                "less_than_equal",
            ),
        ] {
            assert_eq!(bytes(&value), Err(kind.to_owned()), "{value}");
        }
    }
}
