//! Checks answers against the API's own description. [`crate::test_app`] does so with every answer of
//! every test: what the document says of statuses, media types and bodies is what the service does.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::response::Parts;
use axum::http::{Method, header};
use jsonschema::Validator;
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
        .build(&schema)
        .unwrap_or_else(|error| panic!("{schema}: {error}"))
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

/// What is wrong with an answer by the document.
pub(crate) fn check(
    method: &Method,
    path: &str,
    answer: &Parts,
    body: &[u8],
) -> Result<(), String> {
    if is_documentation(path) {
        return Ok(());
    }
    let Some(methods) = described_path(path) else {
        // Of an unknown path, or with a slash too many.
        ensure(
            !answer.status.is_success(),
            || "the path is not in the document",
        )?;
        return check_undescribed(answer, body);
    };
    let Some(operation) = methods.get(method.as_str().to_lowercase()) else {
        ensure(
            !answer.status.is_success(),
            || "the method is not in the document",
        )?;
        return check_undescribed(answer, body);
    };
    let response = described_response(operation, answer.status.as_u16())
        .ok_or("the status is not in the document")?;
    check_body(response, answer, body)
}

/// A redirect, or the error that any path can answer with.
fn check_undescribed(answer: &Parts, body: &[u8]) -> Result<(), String> {
    if answer.status.is_redirection() {
        return ensure(body.is_empty(), || "a redirect with a body");
    }
    let any_operation = &DOCUMENT["paths"]["/"]["get"];
    let response = described_response(any_operation, answer.status.as_u16())
        .ok_or("the status is not in the document")?;
    check_body(response, answer, body)
}

fn ensure<T: Into<String>>(holds: bool, fault: impl FnOnce() -> T) -> Result<(), String> {
    if holds { Ok(()) } else { Err(fault().into()) }
}

fn is_documentation(path: &str) -> bool {
    DOCUMENTATION
        .iter()
        .any(|template| matches(template, path, false))
}

/// The methods of the path, if the document has it.
fn described_path(path: &str) -> Option<&'static Value> {
    members(&DOCUMENT["paths"])
        .filter(|(template, methods)| matches(template, path, takes_rest(methods)))
        // `/a/b` is `/a/b` rather than `/a/{x}`.
        .min_by_key(|(template, _)| template.matches('{').count())
        .map(|(_, methods)| methods)
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

fn check_body(response: &Value, answer: &Parts, body: &[u8]) -> Result<(), String> {
    let Some(content) = response.get("content") else {
        return ensure(body.is_empty(), || "a body where the document has none");
    };
    let content_type = answer
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .ok_or("no content type")?;
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let described = content
        .get(media_type)
        .or_else(|| content.get("*/*"))
        .ok_or_else(|| format!("{media_type} is not in the document"))?;
    if media_type != "application/json" {
        return Ok(());
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let faults: Vec<String> = VALIDATORS[&described["schema"].to_string()]
        .iter_errors(&body)
        .map(|fault| format!("at {:?}: {fault}", fault.instance_path().to_string()))
        .collect();
    ensure(faults.is_empty(), || {
        format!("{}\n{body:#}", faults.join("\n"))
    })
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
        check(&method, path, &parts, body.as_bytes()).is_ok()
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
