//! Checks answers against the API's own description. [`crate::test_app`] does so with every answer of
//! every test: what the document says of statuses, media types and bodies is what the service does.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use axum::http::response::Parts;
use axum::http::{Method, header};
use flate2::read::GzDecoder;
use jsonschema::{Keyword, ValidationError, Validator};
use regex::Regex;
use serde_json::{Value, json};

use cts_service::api::openapi;

/// The document that this program generates.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| openapi::document(None));

/// Where the documentation itself is served; not part of the API.
pub(crate) const DOCUMENTATION: [&str; 4] = ["/openapi.json", "/docs", "/docs/{file}", "/redoc"];

/// By schema, as text: there are few, and many operations.
static VALIDATORS: LazyLock<HashMap<String, Validator>> = LazyLock::new(|| {
    let components = closed_components();
    responses()
        .flat_map(|response| members(&response["content"]))
        .map(|(_, content)| &content["schema"])
        .map(|schema| (schema.to_string(), validator(schema, &components)))
        .collect()
});

fn validator(schema: &Value, components: &Value) -> Validator {
    let mut schema = schema.clone();
    schema["components"] = components.clone();
    jsonschema::options()
        .should_validate_formats(true)
        // The validator's own check refuses fractions, which ISO 8601 has.
        .with_format("duration", |text| text.parse::<jiff::Span>().is_ok())
        .with_keyword("pattern", |_, pattern, _| {
            let pattern = Regex::new(pattern.as_str().unwrap_or_default())
                .map_err(|error| ValidationError::custom(error.to_string()))?;
            Ok(Box::new(Pattern(pattern)))
        })
        .build(&schema)
        .unwrap_or_else(|error| panic!("{schema}: {error}"))
}

/// A pattern as the service reads it: `\w` has the letters of all scripts. In the document's dialect it
/// has those of ASCII, but the patterns are the contract's.
struct Pattern(Regex);

impl<'i> Keyword<'i> for Pattern {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) {
            Ok(())
        } else {
            Err(ValidationError::custom(format!(
                "does not match {}",
                self.0
            )))
        }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        instance.as_str().is_none_or(|text| self.0.is_match(text))
    }
}

/// The components, with no members but the described ones: what the service sends must be described,
/// though clients should not rely on there being no more.
fn closed_components() -> Value {
    let mut components = DOCUMENT["components"].clone();
    for schema in components["schemas"].as_object_mut().unwrap().values_mut() {
        if schema.get("properties").is_some() {
            schema["additionalProperties"] = json!(false);
        }
    }
    components
}

fn responses() -> impl Iterator<Item = &'static Value> {
    members(&DOCUMENT["paths"])
        .flat_map(|(_, methods)| members(methods))
        .flat_map(|(_, operation)| members(&operation["responses"]))
        .map(|(_, response)| response)
}

/// The members of an object; none of anything else.
pub(crate) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// What the body of an answer must be.
pub(crate) enum Body {
    /// There is none.
    Empty,
    /// JSON.
    Json(&'static Validator),
    /// Anything.
    Any,
}

/// What the body of an answer must be; a fault if the document has no such answer.
pub(crate) fn described_body(method: &Method, path: &str, head: &Parts) -> Result<Body, String> {
    if is_documentation(path) {
        return Ok(Body::Any);
    }
    let status = head.status;
    let operation = described_operation(&method.as_str().to_lowercase(), path);
    let operation = match operation {
        Some(operation) => operation,
        None if status.is_redirection() => return Ok(Body::Empty),
        // A browser asks whether a page may call the service.
        None if method == Method::OPTIONS && status.is_success() => return Ok(Body::Empty),
        // Unknown paths and methods have the error that all operations have.
        None if !status.is_success() => &DOCUMENT["paths"]["/"]["get"],
        None => return Err("path and method are not in the document".to_owned()),
    };
    let response = described_response(operation, status.as_u16())
        .ok_or("the status is not in the document")?;
    let Some(content) = response.get("content") else {
        return Ok(Body::Empty);
    };
    let media_type = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .ok_or("no content type")?;
    let described = content
        .get(media_type)
        .or_else(|| content.get("*/*"))
        .ok_or_else(|| format!("{media_type} is not in the document"))?;
    Ok(match media_type {
        "application/json" => Body::Json(&VALIDATORS[&described["schema"].to_string()]),
        _ => Body::Any,
    })
}

impl Body {
    /// What is wrong with a body, given as it came.
    pub(crate) fn check(&self, head: &Parts, bytes: &[u8]) -> Result<(), String> {
        match self {
            Self::Any => Ok(()),
            Self::Empty if bytes.is_empty() => Ok(()),
            Self::Empty => Err("a body where the document has none".to_owned()),
            Self::Json(validator) => {
                let bytes = decoded(head, bytes)?;
                let body = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
                check_json(validator, &body)
            }
        }
    }
}

fn decoded(head: &Parts, bytes: &[u8]) -> Result<Vec<u8>, String> {
    if !head.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(bytes.to_vec());
    }
    let mut plain = Vec::new();
    GzDecoder::new(bytes)
        .read_to_end(&mut plain)
        .map_err(|error| error.to_string())?;
    Ok(plain)
}

fn check_json(validator: &Validator, body: &Value) -> Result<(), String> {
    let faults: Vec<String> = validator
        .iter_errors(body)
        .map(|fault| format!("at {:?}: {fault}", fault.instance_path().to_string()))
        .collect();
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\n{body:#}", faults.join("\n")))
    }
}

fn is_documentation(path: &str) -> bool {
    DOCUMENTATION
        .iter()
        .any(|template| matches(template, path, false))
}

/// The operation, if the document has it.
fn described_operation(method: &str, path: &str) -> Option<&'static Value> {
    members(&DOCUMENT["paths"])
        .filter(|(template, methods)| matches(template, path, takes_rest(methods)))
        .filter_map(|(template, methods)| Some((template, methods.get(method)?)))
        // `/a/b` is `/a/b` rather than `/a/{x}`.
        .min_by_key(|(template, _)| template.matches('{').count())
        .map(|(_, operation)| operation)
}

/// Whether the last parameter of the path takes all that is left of it.
pub(crate) fn takes_rest(methods: &Value) -> bool {
    members(methods)
        .flat_map(|(_, operation)| operation["parameters"].as_array().into_iter().flatten())
        .any(|parameter| parameter["x-rest-of-path"] == true)
}

fn matches(template: &str, path: &str, takes_rest: bool) -> bool {
    if takes_rest {
        return template
            .rsplit_once('{')
            .is_some_and(|(before, _)| path.starts_with(before));
    }
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if wanted == given => {}
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {}
            _ => return false,
        }
    }
}

/// What the operation answers with that status: by its number, or by its hundred.
fn described_response(operation: &Value, status: u16) -> Option<&Value> {
    let responses = &operation["responses"];
    responses
        .get(status.to_string())
        .or_else(|| responses.get(format!("{}XX", status / 100)))
}

#[test]
fn patterns_mean_what_the_service_means() {
    let validator = validator(&json!({"pattern": r"^[\w-]+$"}), &json!({}));
    for (text, expected) in [
        ("a-1_", true),
        ("\u{e9}\u{661}", true),
        ("a b", false),
        ("a\n", false),
    ] {
        assert_eq!(validator.is_valid(&json!(text)), expected, "{text:?}");
    }
}

#[test]
fn an_answer_that_is_not_described_is_noticed() {
    let answered = |method: Method, path: &str, status: u16, body: &str| {
        let response = axum::http::Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(())
            .unwrap();
        let (parts, ()) = response.into_parts();
        described_body(&method, path, &parts)
            .and_then(|expected| expected.check(&parts, body.as_bytes()))
            .is_ok()
    };
    let submitted = r#"{"job_id": "x"}"#;
    assert!(answered(Method::POST, "/jobs", 200, submitted));
    assert!(!answered(Method::POST, "/jobs", 200, r#"{"job_id": 1}"#));
    assert!(!answered(
        Method::POST,
        "/jobs",
        200,
        r#"{"job_id": "x", "more": 1}"#
    ));
    assert!(!answered(Method::POST, "/jobs", 201, submitted));
    assert!(!answered(Method::POST, "/jobs/x", 200, submitted));
    assert!(!answered(Method::POST, "/nowhere", 200, submitted));
    assert!(!answered(Method::POST, "/jobs", 404, "{}"));
    assert!(!answered(Method::PUT, "/jobs/x/cancel", 204, "{}"));
    assert!(answered(
        Method::GET,
        "/jobs/x/exit_codes",
        200,
        r#"{"exit_codes": [null, 0]}"#
    ));
    assert!(!answered(
        Method::GET,
        "/jobs/x/exit_codes/",
        200,
        r#"{"exit_codes": []}"#
    ));
}
