//! How values are written into a submit description so that they cannot become anything else.
//!
//! The rules are those of the manual's [`condor_submit`] page: macros, strings, and the new syntax of
//! `environment`.
//!
//! [`condor_submit`]: https://htcondor.readthedocs.io/en/latest/man-pages/condor_submit.html

use crate::condor::submit_description::SubmitError;

/// The right side of one line, quoted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubmitValue(String);

/// A dollar sign that begins no macro.
const DOLLAR: &str = "$(DOLLAR)";

impl SubmitValue {
    /// Text of this program, in which macros are meant.
    pub(super) fn trusted(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Text as it stands, without line breaks; macros do not expand.
    pub(super) fn text(attribute: &'static str, text: &str) -> Result<Self, SubmitError> {
        check_text(attribute, text)?;
        // At the end of a line it would join the next line to this one.
        if text.ends_with('\\') {
            return Err(SubmitError::Value {
                attribute,
                value: text.to_owned(),
            });
        }
        Ok(Self(text.replace('$', DOLLAR)))
    }

    /// A `ClassAd` string.
    pub(super) fn string(attribute: &'static str, text: &str) -> Result<Self, SubmitError> {
        check_text(attribute, text)?;
        let escaped = text
            .replace('\\', r"\\")
            .replace('"', "\\\"")
            .replace('$', DOLLAR);
        Ok(Self(format!("\"{escaped}\"")))
    }

    /// The quoted text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// A concurrency limit as `condor_submit` takes one: the name of an attribute, or two with a dot in between.
    pub(super) fn limit(attribute: &'static str, text: &str) -> Result<Self, SubmitError> {
        let (first, second) = text.split_once('.').unwrap_or((text, "_"));
        if !is_attribute_name(first) || !is_attribute_name(second) {
            return Err(SubmitError::Limit {
                attribute,
                value: text.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_attribute_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().all(plain) && text.starts_with(|c: char| !c.is_ascii_digit())
}

/// Refuses line breaks and the like, and `$$`, which is expanded when a proc is matched to a machine
/// and cannot be escaped in all places.
fn check_text(attribute: &'static str, text: &str) -> Result<(), SubmitError> {
    if text.contains(char::is_control) || text.contains("$$") {
        return Err(SubmitError::Value {
            attribute,
            value: text.to_owned(),
        });
    }
    Ok(())
}

/// The value of `environment`, in the manual's new syntax: the whole in double quotes, each of which
/// inside is doubled; a value with blanks or quotes in single quotes, each of which inside is doubled.
#[derive(Debug, Default)]
pub(super) struct Environment {
    assignments: Vec<String>,
}

impl Environment {
    /// Sets a variable to a value that reaches the executor as it stands.
    pub(super) fn set(&mut self, name: &'static str, value: &str) -> Result<(), SubmitError> {
        check_text(name, value)?;
        let value = value.replace('$', DOLLAR).replace('"', "\"\"");
        let quoted = if value.contains([' ', '\'']) {
            format!("'{}'", value.replace('\'', "''"))
        } else {
            value
        };
        self.assignments.push(format!("{name}={quoted}"));
        Ok(())
    }

    /// Sets a variable if there is a value.
    pub(super) fn set_optional(
        &mut self,
        name: &'static str,
        value: Option<&str>,
    ) -> Result<(), SubmitError> {
        value.map_or(Ok(()), |value| self.set(name, value))
    }

    /// A value of this program, in which macros are meant.
    pub(super) fn set_trusted(&mut self, name: &'static str, value: &str) {
        self.assignments.push(format!("{name}={value}"));
    }

    /// The attribute's value.
    pub(super) fn into_value(self) -> SubmitValue {
        SubmitValue::trusted(format!("\"{}\"", self.assignments.join(" ")))
    }
}
