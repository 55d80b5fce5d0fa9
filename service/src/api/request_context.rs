//! What happens to every request before it is routed: an id, the caller's user, a log line.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use secrecy::SecretString;
use tracing::Instrument;
use uuid::Uuid;

use cts_shared::error_code::ErrorCode;

use crate::app::App;
use crate::error::Error;
use crate::identity::{Role, User};

use super::error::{ApiError, render};

/// Routes that machines ask every few seconds; that all is well is worth no line each time.
const PROBES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// The caller, if there was a token; a handler that needs one asks for it when it is its turn.
#[derive(Debug, Clone)]
pub struct Caller(Option<Identified>);

#[derive(Debug, Clone)]
struct Identified {
    user: User,
    token: SecretString,
}

impl Caller {
    /// The user.
    ///
    /// # Errors
    /// 10010 if there was no token.
    pub fn user(&self) -> Result<&User, Error> {
        self.identified().map(|identified| &identified.user)
    }

    /// The user's token, for questions asked in their name.
    ///
    /// # Errors
    /// 10010 if there was no token.
    pub fn token(&self) -> Result<&SecretString, Error> {
        self.identified().map(|identified| &identified.token)
    }

    fn identified(&self) -> Result<&Identified, Error> {
        self.0.as_ref().ok_or_else(|| {
            Error::refused(
                ErrorCode::NoToken,
                "this endpoint needs a user: send `Authorization: Bearer <token>`",
            )
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            ApiError::from(Error::Internal(
                "the request was not identified before routing".to_owned(),
            ))
        })
    }
}

/// Wraps the router: gives the request an id that its log lines and error body carry, finds out who
/// is calling, and renders errors.
pub async fn with_context(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let _in_flight = app.metrics.request_begins();
    let method = request.method().clone();
    let request_id = Uuid::new_v4().to_string();
    let span = request_span(&request, &request_id);
    async move {
        let (user, response) = match authenticate(&app, request.headers()).await {
            Ok(identified) => {
                let user = identified.as_ref().map(|caller| caller.user.clone());
                if let Some(user) = &user {
                    tracing::Span::current().record("user", &user.name);
                }
                // The contract has no HEAD anywhere, the router would answer it as GET. TRACE is a
                // method no path has.
                if request.method() == Method::HEAD {
                    *request.method_mut() = Method::TRACE;
                }
                request.extensions_mut().insert(Caller(identified));
                (user, next.run(request).await)
            }
            Err(error) => (None, ApiError::from(error).into_response()),
        };
        let route = response.extensions().get::<MatchedPath>().cloned();
        let response = render(response, &request_id, user.as_ref(), &*app.clock);
        let elapsed = started.elapsed();
        let route = route.as_ref().map(MatchedPath::as_str);
        app.metrics
            .request_answered(&method, route, response.status(), elapsed);
        let status = response.status();
        // To the microsecond.
        let elapsed_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
        if status.is_success() && route.is_some_and(|route| PROBES.contains(&route)) {
            tracing::debug!(http.status = status.as_u16(), elapsed_ms, "request");
        } else {
            tracing::info!(http.status = status.as_u16(), elapsed_ms, "request");
        }
        response
    }
    .instrument(span)
    .await
}

/// Wraps every route, in the router: notes on the answer which one it was, and turns a panic into an error
/// like any other.
pub async fn with_route(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    // What a panic leaves half done is not looked at again: the request is over.
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no text");
            ApiError::from(Error::Internal(format!("a handler panicked: {text}"))).into_response()
        }
    };
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

fn request_span(request: &Request, request_id: &str) -> tracing::Span {
    let text = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let ip = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
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

/// The user of the `Authorization` header; none without one. Refuses administrators without the staff
/// and NERSC roles.
async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Option<Identified>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    if value.is_empty() {
        return Ok(None);
    }
    let malformed = |message: &str| Error::refused(ErrorCode::InvalidAuthHeader, message);
    let text = value
        .to_str()
        .map_err(|_| malformed("the Authorization header has characters outside ASCII"))?;
    let (scheme, credential) = text.split_once(' ').unwrap_or((text, ""));
    let credential = credential.trim_start();
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
    let token = SecretString::from(credential.trim_end().to_owned());
    let user = app.identity.user(&token).await?;
    // On every endpoint, also the public ones (contract section 1.2).
    if user.has(Role::FullAdmin) && !(user.has(Role::KbaseStaff) && user.has(Role::NerscAccount)) {
        return Err(Error::refused(
            ErrorCode::Unauthorized,
            format!(
                "administrator {} must also be KBase staff and have a NERSC account",
                user.name
            ),
        ));
    }
    Ok(Some(Identified { user, token }))
}
