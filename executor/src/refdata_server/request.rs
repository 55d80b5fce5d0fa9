//! What happens to every request before it is routed: an id, the caller's user, a log line; and what becomes of
//! errors (contract service.md, sections 1 and 2).

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cts_shared::error_code::ErrorCode;
use futures::FutureExt;
use secrecy::SecretString;
use tracing::Instrument;
use uuid::Uuid;

use super::auth::User;
use super::error::{ApiError, render};
use super::routes::Api;

/// The route that machines ask every few seconds; that all is well is worth no line each time.
pub(super) const PROBE: &str = "/livez";

/// The caller, if there was a token; a handler that needs one asks for it when it is its turn.
#[derive(Debug, Clone)]
pub(super) struct Caller(Option<User>);

impl Caller {
    /// The user; 10010 if there was no token.
    pub(super) fn user(&self) -> Result<&User, ApiError> {
        self.0.as_ref().ok_or_else(|| {
            ApiError::refused(
                ErrorCode::NoToken,
                "this endpoint needs a user: send `Authorization: Bearer <token>`",
            )
        })
    }

    /// Refuses everyone but full administrators.
    pub(super) fn require_full_admin(&self) -> Result<(), ApiError> {
        let user = self.user()?;
        if user.is_full_admin {
            return Ok(());
        }
        Err(unauthorized(user, "a full administrator"))
    }

    /// Refuses everyone but coordinating services.
    pub(super) fn require_service(&self) -> Result<(), ApiError> {
        let user = self.user()?;
        if user.is_service {
            return Ok(());
        }
        Err(unauthorized(user, "a CDM Task Service"))
    }
}

fn unauthorized(user: &User, needed: &str) -> ApiError {
    ApiError::refused(
        ErrorCode::Unauthorized,
        format!("user {} is not {needed}", user.name),
    )
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            ApiError::Internal("the request was not identified before routing".to_owned())
        })
    }
}

/// Wraps the router.
pub(super) async fn with_context(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = Uuid::new_v4().to_string();
    let span = span(&request, &request_id);
    async move {
        let is_probe = request.uri().path() == PROBE;
        let (user, response) = match authenticate(&api, request.headers()).await {
            Ok(user) => {
                if let Some(user) = &user {
                    tracing::Span::current().record("user", &user.name);
                }
                // The contract has no HEAD anywhere, the router would answer it as GET. TRACE is a method no
                // path has.
                if request.method() == Method::HEAD {
                    *request.method_mut() = Method::TRACE;
                }
                request.extensions_mut().insert(Caller(user.clone()));
                (user, run(next, request).await)
            }
            Err(error) => (None, error.into_response()),
        };
        let response = render(response, &request_id, user.as_ref(), api.clock.now());
        let status = response.status().as_u16();
        // To the microsecond.
        let elapsed_ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        if is_probe {
            tracing::debug!(http.status = status, elapsed_ms, "request");
        } else {
            tracing::info!(http.status = status, elapsed_ms, "request");
        }
        response
    }
    .instrument(span)
    .await
}

/// A panic becomes an error like any other. What it leaves half done is not looked at again: the request is over.
async fn run(next: Next, request: Request) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no text");
            ApiError::Internal(format!("a handler panicked: {text}")).into_response()
        }
    }
}

fn span(request: &Request, request_id: &str) -> tracing::Span {
    let text = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let ip = request
        .extensions()
        .get::<ConnectInfo<std::net::SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip().to_string());
    tracing::info_span!(
        "request",
        request_id,
        http.method = %request.method(),
        http.path = request.uri().path(),
        user = tracing::field::Empty,
        ip,
        x_real_ip = text("x-real-ip"),
        x_forwarded_for = text("x-forwarded-for"),
        user_agent = text(header::USER_AGENT.as_str()),
    )
}

/// The user of the `Authorization` header; none without one.
async fn authenticate(api: &Api, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let Some(value) = headers
        .get(header::AUTHORIZATION)
        .filter(|value| !value.is_empty())
    else {
        return Ok(None);
    };
    let malformed = |message: &str| ApiError::refused(ErrorCode::InvalidAuthHeader, message);
    let text = value
        .to_str()
        .map_err(|_| malformed("the Authorization header has characters outside ASCII"))?;
    let (scheme, credential) = text.split_once(' ').unwrap_or((text, ""));
    let credential = credential.trim();
    if scheme.is_empty() || credential.is_empty() {
        return Err(malformed(
            "the Authorization header must be `Bearer`, a space and the token",
        ));
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed(
            "the scheme of the Authorization header must be `Bearer`",
        ));
    }
    let token = SecretString::from(credential.to_owned());
    api.users.user(&token).await.map(Some)
}
