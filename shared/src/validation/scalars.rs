//! Numbers, booleans, texts: lenient as the existing service is (contract service.md, section 3.2).

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::{LazyLock, OnceLock};

use regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::{Number, Value};

use super::{Checked, Fault, Faults};

/// A number in a text: no exponent; a fraction only of zeros.
static INTEGER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?$").expect("the pattern is constant")
});

/// An integer within bounds: an integral number, a boolean, or a text that holds an integer.
///
/// # Errors
/// With the fault, when it is none.
pub fn integer<T>(value: &Value, range: RangeInclusive<T>) -> Checked<T>
where
    T: Copy + Display + Into<i128> + Into<Value> + TryFrom<i128>,
{
    within(value, any_integer(value)?, range)
}

/// Checks that `number`, read from `value`, is within bounds.
pub(crate) fn within<T>(value: &Value, number: i128, range: RangeInclusive<T>) -> Checked<T>
where
    T: Copy + Display + Into<i128> + Into<Value> + TryFrom<i128>,
{
    let (least, most) = range.into_inner();
    if number < least.into() {
        let message = format!("give {least} or more");
        return Err(Fault::new("greater_than_equal", value, message)
            .with_bound("ge", least)
            .into());
    }
    T::try_from(number)
        .ok()
        .filter(|_| number <= most.into())
        .ok_or_else(|| {
            let message = format!("give {most} or less");
            Fault::new("less_than_equal", value, message)
                .with_bound("le", most)
                .into()
        })
}

/// An integer of any size; those beyond 128 bits become the largest or smallest.
pub(crate) fn any_integer(value: &Value) -> Checked<i128> {
    let fault = |kind, message: &str| Faults::from(Fault::new(kind, value, message));
    match value {
        Value::Bool(flag) => Ok(i128::from(*flag)),
        Value::Number(number) => integral(number)
            .ok_or_else(|| fault("int_from_float", "give a number without a fraction")),
        Value::String(text) => {
            integer_in_text(text).ok_or_else(|| fault("int_parsing", "give an integer"))
        }
        _ => Err(fault("int_type", "give an integer")),
    }
}

/// The integer that `text` holds, if it does.
pub(crate) fn integer_in_text(text: &str) -> Option<i128> {
    let digits = INTEGER
        .captures(text.trim())?
        .get(1)?
        .as_str()
        .replace('_', "");
    let beyond = if digits.starts_with('-') {
        i128::MIN
    } else {
        i128::MAX
    };
    Some(digits.parse().unwrap_or(beyond))
}

/// The number as an integer, if it has no fraction.
fn integral(number: &Number) -> Option<i128> {
    if let Some(integer) = number.as_i64() {
        return Some(i128::from(integer));
    }
    let float = number.as_f64()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates; the bounds refuse it then"
    )]
    (float.fract() == 0.0).then_some(float as i128)
}

/// A boolean, 1 or 0, or one of the usual words.
///
/// # Errors
/// With the fault, when it is none.
pub fn boolean(value: &Value) -> Checked<bool> {
    let word = match value {
        Value::Bool(flag) => return Ok(*flag),
        Value::String(text) => text.to_ascii_lowercase(),
        Value::Number(number) => integral(number).map_or_else(String::new, |n| n.to_string()),
        _ => String::new(),
    };
    match word.as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => {
            let has_words = value.is_string() || !word.is_empty();
            let kind = if has_words {
                "bool_parsing"
            } else {
                "bool_type"
            };
            Err(Fault::new(kind, value, "give true or false").into())
        }
    }
}

/// An integer from `least`; those too large for the type become its largest value.
///
/// # Errors
/// With the fault, when it is none.
pub fn at_least(value: &Value, least: u64) -> Checked<u64> {
    within(
        value,
        any_integer(value)?.min(u64::MAX.into()),
        least..=u64::MAX,
    )
}

/// What a text must be: its length in code points, and perhaps a pattern.
#[derive(Debug)]
pub struct TextRule {
    length: RangeInclusive<usize>,
    pattern: Option<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    text: &'static str,
    /// Made from `text` at the first use.
    regex: OnceLock<Regex>,
    /// What it means in words, as the end of "give ...".
    meaning: &'static str,
}

impl TextRule {
    /// Only the length matters.
    #[must_use]
    pub const fn of_length(length: RangeInclusive<usize>) -> Self {
        Self {
            length,
            pattern: None,
        }
    }

    /// Length and pattern matter. `meaning` says the pattern in words, as the end of "give ...".
    ///
    /// `pattern` must be a regular expression that compiles: the first check would panic.
    #[must_use]
    pub const fn of_pattern(
        length: RangeInclusive<usize>,
        pattern: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self {
            length,
            pattern: Some(Pattern {
                text: pattern,
                regex: OnceLock::new(),
                meaning,
            }),
        }
    }

    /// Allowed number of code points.
    #[must_use]
    pub const fn length(&self) -> &RangeInclusive<usize> {
        &self.length
    }

    /// The pattern, if there is one.
    #[must_use]
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_ref().map(|pattern| pattern.text)
    }

    /// Checks a text.
    ///
    /// # Errors
    /// With the fault, when it is none.
    pub fn check(&self, value: &Value) -> Checked<String> {
        let text = any_text(value)?;
        let length = text.chars().count();
        if length > *self.length.end() {
            let most = *self.length.end();
            let message = format!("give at most {most} characters");
            let fault = Fault::new("string_too_long", value, message);
            return Err(fault.with_bound("max_length", most).into());
        }
        if length < *self.length.start() {
            let least = *self.length.start();
            let message = format!("give at least {least} characters");
            let fault = Fault::new("string_too_short", value, message);
            return Err(fault.with_bound("min_length", least).into());
        }
        if let Some(pattern) = &self.pattern
            && !pattern.regex().is_match(text)
        {
            let message = format!("give {}", pattern.meaning);
            let fault = Fault::new("string_pattern_mismatch", value, message);
            return Err(fault.with_bound("pattern", pattern.text).into());
        }
        Ok(text.to_owned())
    }
}

impl Pattern {
    fn regex(&self) -> &Regex {
        self.regex
            .get_or_init(|| Regex::new(self.text).expect("the pattern is constant"))
    }
}

/// Any text; nothing else becomes one.
///
/// # Errors
/// With the fault, when it is none.
pub fn any_text(value: &Value) -> Checked<&str> {
    value
        .as_str()
        .ok_or_else(|| Fault::new("string_type", value, "give a text").into())
}

/// One of a closed set of words; `words` lists them for the message.
///
/// # Errors
/// With the fault, when it is none.
pub fn word<T: DeserializeOwned>(value: &Value, words: &str) -> Checked<T> {
    let message = || format!("give one of {words}");
    T::deserialize(value).map_err(|_| Fault::new("enum", value, message()).into())
}

/// Whatever a type's own deserialisation takes.
pub(crate) fn by_serde<T: DeserializeOwned>(value: &Value) -> Checked<T> {
    T::deserialize(value)
        .map_err(|error| Fault::new("value_error", value, error.to_string()).into())
}
