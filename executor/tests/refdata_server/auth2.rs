//! The double of KBase auth2: three users.

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Token of the coordinating service.
pub(crate) const SERVICE: &str = "TOKENOFTHESERVICE";
/// Token of a full administrator, who is no service.
pub(crate) const ADMIN: &str = "TOKENOFANADMIN";
/// Token of somebody.
pub(crate) const USER: &str = "TOKENOFAUSER";
/// A token whose user cannot be told, for auth2 fails.
pub(crate) const UNLUCKY: &str = "TOKENOFABROKENAUTH";

/// Its address, and the calls it got.
#[derive(Debug)]
pub(crate) struct Auth2 {
    pub(crate) url: String,
    calls: Arc<AtomicUsize>,
}

impl Auth2 {
    pub(crate) async fn start() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            answer(uri.path(), &headers)
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/services/auth", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, calls }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn answer(path: &str, headers: &HeaderMap) -> Response {
    let token = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().to_owned());
    let user = match token.as_deref() {
        Some(SERVICE) => Some(("service", vec!["CDM_TASK_SERVICE_SERVER"])),
        Some(ADMIN) => Some(("admin", vec!["CTS_ADMIN"])),
        Some(USER) => Some(("user", vec!["KBASE_STAFF"])),
        Some(UNLUCKY) => return StatusCode::BAD_GATEWAY.into_response(),
        _ => None,
    };
    if path == "/services/auth/" {
        return Json(json!({ "servicename": "Authentication Service" })).into_response();
    }
    let Some((name, roles)) = user else {
        let error = json!({ "error": { "httpcode": 401, "appcode": 10020 } });
        return (StatusCode::UNAUTHORIZED, Json(error)).into_response();
    };
    Json(match path {
        "/services/auth/api/V2/token" => json!({
            "cachefor": 300_000, "expires": 9_999_999_999_000_u64, "type": "Service", "mfa": null,
            "user": name,
        }),
        "/services/auth/api/V2/me" => json!({ "user": name, "customroles": roles }),
        other => panic!("{other}"),
    })
    .into_response()
}
