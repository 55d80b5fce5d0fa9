//! Pieces of schemas.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;
use serde_json::{Map, Value, json};

use cts_shared::validation::scalars::TextRule;

/// A component and its name.
pub(super) type Schema = (&'static str, Value);

/// The component of that name.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn string() -> Value {
    json!({"type": "string"})
}

pub(super) fn boolean() -> Value {
    json!({"type": "boolean"})
}

pub(super) fn integer() -> Value {
    json!({"type": "integer"})
}

pub(super) fn number() -> Value {
    json!({"type": "number"})
}

/// A date and time with its offset.
pub(super) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// A duration as its text: `PT10M`.
pub(super) fn iso_8601(duration: Duration) -> String {
    SignedDuration::try_from(duration)
        .unwrap_or(SignedDuration::MAX)
        .to_string()
}

/// An ISO 8601 duration.
pub(super) fn duration() -> Value {
    json!({"type": "string", "format": "duration"})
}

pub(super) fn integer_from(least: u64) -> Value {
    json!({"type": "integer", "minimum": least})
}

pub(super) fn integer_within<T: Serialize>(range: &RangeInclusive<T>) -> Value {
    json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})
}

pub(super) fn string_of_length(length: &RangeInclusive<usize>) -> Value {
    let schema = match *length.start() {
        0 => string(),
        least => with(string(), "minLength", least),
    };
    with(schema, "maxLength", *length.end())
}

/// A text as a rule has it.
pub(super) fn text(rule: &TextRule) -> Value {
    let schema = string_of_length(rule.length());
    match rule.pattern() {
        Some(pattern) => with(schema, "pattern", pattern),
        None => schema,
    }
}

pub(super) fn list_of(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// One of a closed set of words.
pub(super) fn words<T: Serialize>(words: &[T], description: &str) -> Value {
    json!({"type": "string", "enum": words, "description": description})
}

/// The schema, or null.
pub(super) fn nullable(schema: Value) -> Value {
    one_of([schema, json!({"type": "null"})])
}

/// Any of some schemas.
pub(super) fn one_of<const N: usize>(schemas: [Value; N]) -> Value {
    json!({"anyOf": schemas.as_slice()})
}

/// The schema with one more keyword.
pub(super) fn with(mut schema: Value, keyword: &str, value: impl Into<Value>) -> Value {
    if let Value::Object(keywords) = &mut schema {
        keywords.insert(keyword.to_owned(), value.into());
    }
    schema
}

/// The schema, and what stands for it when it is left out.
pub(super) fn with_default(schema: Value, default: impl Into<Value>) -> Value {
    with(schema, "default", default)
}

/// The schema of an object, member by member.
#[derive(Debug, Clone)]
pub(super) struct Object {
    description: &'static str,
    members: Map<String, Value>,
    required: Vec<&'static str>,
    closed: bool,
}

impl Object {
    pub(super) fn new(description: &'static str) -> Self {
        Self {
            description,
            members: Map::new(),
            required: Vec::new(),
            closed: false,
        }
    }

    /// A member that is always there.
    pub(super) fn always(mut self, name: &'static str, schema: Value, description: &str) -> Self {
        self.required.push(name);
        self.maybe(name, schema, description)
    }

    /// A member that may be absent.
    pub(super) fn maybe(mut self, name: &'static str, schema: Value, description: &str) -> Self {
        self.members
            .insert(name.to_owned(), with(schema, "description", description));
        self
    }

    /// A text that may be absent.
    pub(super) fn maybe_text(self, name: &'static str, description: &str) -> Self {
        self.maybe(name, nullable(string()), description)
    }

    /// Other members are refused.
    pub(super) fn closed(mut self) -> Self {
        self.closed = true;
        self
    }

    /// The schema.
    pub(super) fn build(self) -> Value {
        let mut schema = json!({
            "type": "object",
            "description": self.description,
            "properties": self.members,
        });
        if !self.required.is_empty() {
            schema = with(schema, "required", self.required);
        }
        if self.closed {
            schema = with(schema, "additionalProperties", false);
        }
        schema
    }
}
