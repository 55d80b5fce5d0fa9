//! The error envelope and its codes (contract service.md, section 2).

use std::fmt::Write;

use cts_shared::error_code::ErrorCode;

use super::schema::{Object, Schema, integer, list_of, nullable, one_of, reference, string, time};

/// What is common to all errors, with the table of codes.
pub(super) fn about() -> String {
    let mut text = "\
# Errors

Every error has one form, see `ClientError`. Programs act on `appcode`, people read `message`; \
`request_validation_detail` lists the faults of a request instead, each with its place. Quote the \
`request_id` when you ask for help.

503 has the header `Retry-After`: S3, the database or the identity provider does not answer, and the same \
request may succeed after that many seconds.

| appcode | apperror | status |
|---|---|---|
"
    .to_owned();
    for code in ErrorCode::ALL {
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "| {} | {} | {} |",
            code.code(),
            code.apperror(),
            code.http_status()
        );
    }
    text
}

pub(super) fn schemas() -> Vec<Schema> {
    let envelope = |detail: &str, description: &'static str| {
        Object::new(description)
            .always("error", reference(detail), "The error.")
            .build()
    };
    let detail = |description: &'static str| {
        Object::new(description)
            .always("httpcode", integer(), "The HTTP status code.")
            .always("httpstatus", string(), "The HTTP status in words.")
            .always("time", time(), "When it happened.")
            .maybe_text("request_id", "The request's id, as in the service's logs.")
    };
    vec![
        (
            "ClientError",
            envelope("ClientErrorDetail", "Why a request was refused."),
        ),
        (
            "ClientErrorDetail",
            detail("Members that do not apply are absent.")
                .maybe_text(
                    "message",
                    "What is wrong with what, for people. Absent where there are validation details.",
                )
                .maybe(
                    "appcode",
                    nullable(integer()),
                    "What is wrong, for programs; the description of this API has the table.",
                )
                .maybe_text("apperror", "The fixed text of `appcode`.")
                .maybe(
                    "request_validation_detail",
                    nullable(list_of(reference("RequestValidationDetail"))),
                    "The faults of the request, with `appcode` 30010 only.",
                )
                .build(),
        ),
        (
            "RequestValidationDetail",
            Object::new("One fault of a request.")
                .always(
                    "loc",
                    list_of(one_of([string(), integer()])),
                    "Where: `body`, `path` or `query`, then names of members and places in lists.",
                )
                .always("msg", string(), "What to do about it.")
                .always(
                    "type",
                    string(),
                    "The kind of fault, such as `missing` or `greater_than_equal`.",
                )
                .maybe(
                    "input",
                    // Whatever was given.
                    serde_json::json!({}),
                    "What was given, if it is short.",
                )
                .maybe(
                    "ctx",
                    nullable(serde_json::json!({"type": "object"})),
                    "The bound that was broken.",
                )
                .build(),
        ),
        (
            "ServerError",
            envelope("ServerErrorDetail", "A fault of the service."),
        ),
        (
            "ServerErrorDetail",
            detail("A fault of the service.")
                .always(
                    "message",
                    nullable(string()),
                    "What happened; the cause is told to administrators only.",
                )
                .build(),
        ),
    ]
}
