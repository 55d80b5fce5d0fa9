//! What auth2 answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::{Refusal, millis};
use super::{Fault, ROOT, Route, SharedState, Token, lock};

/// Longest user name, in characters.
const MAX_NAME_LENGTH: usize = 100;

const PAGE: &str = "<html><head><title>502 Bad Gateway</title></head>\
    <body><center><h1>502 Bad Gateway</h1></center><hr><center>nginx</center></body></html>";

pub(super) fn router(state: SharedState) -> Router {
    let routes = [
        ("", Route::Root),
        ("/", Route::Root),
        ("/api/V2/token", Route::Token),
        ("/api/V2/me", Route::Me),
        ("/api/V2/users", Route::Users),
        ("/api/V2/users/", Route::Users),
    ];
    let mut router = Router::new();
    for (path, route) in routes {
        let asked = match route {
            Route::Root => get(root),
            Route::Token => get(token),
            Route::Me => get(me),
            Route::Users => get(users),
        };
        let asked = asked.fallback(async || Refusal::MethodNotAllowed);
        let counted = (Arc::clone(&state), route);
        let asked = asked.layer(axum::middleware::from_fn_with_state(counted, count));
        router = router.route(&format!("{ROOT}{path}"), asked);
    }
    router
        .fallback(async || Refusal::NotFound)
        .with_state(state)
}

/// Counts a request, and spoils its answer if a fault is switched on.
async fn count(
    State((state, route)): State<(SharedState, Route)>,
    request: Request,
    next: Next,
) -> Response {
    let _running = Running::begin(&state, route);
    let fault = lock(&state).fault;
    match fault {
        None => next.run(request).await,
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            next.run(request).await
        }
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Failing) => Refusal::Failed.into_response(),
        Some(Fault::BadGateway) => (StatusCode::BAD_GATEWAY, Html(PAGE)).into_response(),
        Some(Fault::RateLimited(seconds)) => later(StatusCode::TOO_MANY_REQUESTS, seconds),
        Some(Fault::Unavailable(seconds)) => later(StatusCode::SERVICE_UNAVAILABLE, seconds),
        Some(Fault::CutOff) => {
            let whole = body_of(next.run(request).await).await;
            let length = [(header::CONTENT_LENGTH, whole.len().to_string())];
            (length, Body::from_stream(cut_off(first_half(&whole)))).into_response()
        }
        Some(Fault::Garbage) => {
            let whole = body_of(next.run(request).await).await;
            let json = [(header::CONTENT_TYPE, "application/json")];
            (json, first_half(&whole)).into_response()
        }
    }
}

/// A request in progress; it ends also when the client hangs up.
struct Running(SharedState);

impl Running {
    fn begin(shared: &SharedState, route: Route) -> Self {
        let mut state = lock(shared);
        *state.calls.entry(route).or_default() += 1;
        state.running += 1;
        state.most_at_once = state.most_at_once.max(state.running);
        Self(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0).running -= 1;
    }
}

fn later(status: StatusCode, seconds: Option<u64>) -> Response {
    let mut response = (status, "slow down").into_response();
    if let Some(seconds) = seconds {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

async fn body_of(response: Response) -> Bytes {
    let whole = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    whole.unwrap_or_default()
}

fn cut_off(half: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> {
    let broken = async {
        // For the half to arrive before the connection ends.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::other("cut off"))
    };
    futures::stream::iter([Ok(half)]).chain(futures::stream::once(broken))
}

fn first_half(whole: &Bytes) -> Bytes {
    whole.slice(..whole.len() / 2)
}

/// For people, unless JSON is asked for.
async fn root(headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|accepted| accepted.to_str().ok());
    if !accepted.unwrap_or_default().contains("application/json") {
        return Html("<html><body>Authentication Service</body></html>").into_response();
    }
    Json(json!({
        "version": "0.7.1",
        "servicename": "Authentication Service",
        "servertime": millis(SystemTime::now()),
        "gitcommithash": "0123456789abcdef0123456789abcdef01234567",
    }))
    .into_response()
}

/// The token that a request carries, if it is valid now. There is no scheme before it.
fn presented(headers: &HeaderMap, state: &SharedState) -> Result<Token, Refusal> {
    let text = headers.get(header::AUTHORIZATION);
    let text = text.and_then(|text| text.to_str().ok()).unwrap_or_default();
    if text.trim().is_empty() {
        return Err(Refusal::NoToken);
    }
    let token = lock(state).tokens.get(text.trim()).cloned();
    token
        .filter(|token| SystemTime::now() < token.ends())
        .ok_or(Refusal::InvalidToken)
}

async fn token(
    State(state): State<SharedState>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let token = presented(&headers, &state)?;
    let cache_for = u64::try_from(token.spec.cache_for.as_millis()).unwrap_or(u64::MAX);
    let mut answer = json!({
        "type": token.spec.kind,
        "id": token.id,
        "expires": millis(token.ends()),
        "created": millis(token.created),
        "name": null,
        "user": token.user,
        "custom": {},
        "cachefor": cache_for,
    });
    if let (Some(mfa), Value::Object(members)) = (token.spec.mfa, &mut answer) {
        members.insert("mfa".to_owned(), mfa.into());
    }
    Ok(Json(answer))
}

async fn me(State(state): State<SharedState>, headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    let token = presented(&headers, &state)?;
    let custom_roles = lock(&state).users.get(&token.user).cloned();
    // A token of nobody is none.
    let custom_roles = custom_roles.ok_or(Refusal::InvalidToken)?;
    Ok(Json(json!({
        "user": token.user,
        "anonid": uuid::Uuid::nil(),
        "local": false,
        "display": display_name(&token.user),
        "email": format!("{}@example.org", token.user),
        "created": millis(token.created),
        "lastlogin": millis(token.created),
        "customroles": custom_roles,
        "roles": [],
        "idents": [],
        "policyids": [],
    })))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    list: String,
}

/// The names are looked at before the token.
async fn users(
    State(state): State<SharedState>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Json<BTreeMap<String, String>>, Refusal> {
    let names = names(&asked.list)?;
    presented(&headers, &state)?;
    let state = lock(&state);
    let known = names
        .into_iter()
        .filter(|name| state.users.contains_key(name));
    Ok(Json(
        known
            .map(|name| (name.clone(), display_name(&name)))
            .collect(),
    ))
}

fn display_name(user: &str) -> String {
    format!("Display name of {user}")
}

/// The names of a list with commas between; empty ones at its end do not count.
fn names(list: &str) -> Result<Vec<String>, Refusal> {
    let list = list.trim_end_matches(',');
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    list.split(',').map(user_name).collect()
}

fn user_name(text: &str) -> Result<String, Refusal> {
    let name = text.trim();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fault = if name.is_empty() {
        "30000 Missing input parameter: user name".to_owned()
    } else if name.chars().count() > MAX_NAME_LENGTH {
        format!(
            "30001 Illegal input parameter: user name size greater than limit {MAX_NAME_LENGTH}"
        )
    } else if let Some(start) = name.find(|c| !fits(c)) {
        let rest = name.get(start..).unwrap_or_default();
        let illegal: String = rest.chars().take_while(|&c| !fits(c)).collect();
        let fault = format!("Illegal character in user name {name}: {illegal}");
        Refusal::IllegalUserName(fault).message()
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Refusal::IllegalUserName("Username must start with a letter".to_owned()).message()
    } else {
        return Ok(name.to_owned());
    };
    Err(Refusal::IllegalUserName(format!(
        "Illegal user name [{text}]: {fault}"
    )))
}
