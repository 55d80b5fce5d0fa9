//! The double of the coordinating service: the two routes that the staging server calls, as strict as the existing
//! service is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

/// The token it knows the staging server by.
pub(crate) const TOKEN: &str = "TOKENOFTHEREFDATASERVER";

/// How it treats its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// A proxy answers in its place.
    Away,
    /// Updates have their effect, and their answers are lost.
    LosesAnswers,
    /// The same, and the answer to the question that follows is lost as well.
    Stumbles,
    /// It does not know the token any more.
    RefusesTheToken,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) url: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    mood: Mood,
    items: BTreeMap<String, Item>,
    /// `GET id` or `state id`, for all calls that reached it.
    calls: Vec<String>,
    failures: Vec<Value>,
    /// The next question gets no answer.
    has_stumbled: bool,
}

#[derive(Debug)]
struct Item {
    state: String,
    document: Value,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Mutex::new(Inner {
            mood: Mood::Well,
            items: BTreeMap::new(),
            calls: Vec::new(),
            failures: Vec::new(),
            has_stumbled: false,
        }));
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&inner));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/services/cts", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Registers an item for the site `kbase`, as `created`.
    pub(crate) fn register(&self, id: &str, file: &str, crc64nvme: &str, unpack: bool) {
        let document = json!({
            "id": id, "registered_by": "admin", "registered_on": "2031-01-01T00:00:00Z",
            "file": file, "crc64nvme": crc64nvme, "unpack": unpack,
        });
        let state = "created".to_owned();
        self.lock()
            .items
            .insert(id.to_owned(), Item { state, document });
    }

    pub(crate) fn remove(&self, id: &str) {
        self.lock().items.remove(id);
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    pub(crate) fn set_state(&self, id: &str, state: &str) {
        self.lock().items.get_mut(id).unwrap().state = state.to_owned();
    }

    pub(crate) fn state(&self, id: &str) -> String {
        self.lock().items[id].state.clone()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    /// The bodies of the errors that were reported.
    pub(crate) fn failures(&self) -> Vec<Value> {
        self.lock().failures.clone()
    }
}

fn error(status: u16, appcode: u32) -> Response {
    let error = json!({ "error": {
        "httpcode": status, "httpstatus": "x", "time": "2031-01-01T00:00:00.000000+00:00",
        "request_id": "r", "appcode": appcode, "apperror": "x", "message": "as the contract has it",
    }});
    (StatusCode::from_u16(status).unwrap(), Json(error)).into_response()
}

async fn answer(
    State(inner): State<Arc<Mutex<Inner>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut inner = inner.lock().unwrap();
    let path: Vec<&str> = uri.path().split('/').skip(3).collect();
    inner.calls.push(match path.as_slice() {
        [_, _, id, _, _, state] => format!("{state} {id}"),
        [_, _, id] => format!("{method} {id}"),
        other => panic!("{other:?}"),
    });
    if inner.mood == Mood::Away || std::mem::take(&mut inner.has_stumbled) {
        return (StatusCode::BAD_GATEWAY, "<html>no upstream").into_response();
    }
    let bearer = format!("Bearer {TOKEN}");
    let is_known = headers
        .get(header::AUTHORIZATION)
        .is_none_or(|given| given.to_str().unwrap() == bearer);
    if !is_known || inner.mood == Mood::RefusesTheToken {
        return error(401, 10020);
    }
    match (method.as_str(), path.as_slice()) {
        ("GET", ["refdata", "id", id]) => match inner.items.get(*id) {
            None => error(404, 40060),
            Some(item) => {
                let mut document = item.document.clone();
                document["statuses"] = json!([{
                    "cluster": "kbase", "state": item.state,
                    "transition_times": [{ "state": "created", "time": "2031-01-01T00:00:00Z" }],
                }]);
                Json(document).into_response()
            }
        },
        ("PUT", ["external_exec", "refdata", id, "kbase", "update", state]) => {
            let answer = inner.update(id, state, &body);
            inner.has_stumbled = inner.mood == Mood::Stumbles;
            if matches!(inner.mood, Mood::LosesAnswers | Mood::Stumbles) {
                return (StatusCode::GATEWAY_TIMEOUT, "<html>too slow").into_response();
            }
            answer
        }
        other => panic!("{other:?}"),
    }
}

impl Inner {
    /// A state may only be entered from the one before it, an error from everywhere but an error.
    fn update(&mut self, id: &str, state: &str, body: &[u8]) -> Response {
        let from: &[&str] = match state {
            "download_submitted" => &["created"],
            "complete" => &["download_submitted"],
            "error" => &["created", "download_submitted", "complete"],
            other => panic!("{other}"),
        };
        if state == "error" {
            let failure: Value = serde_json::from_slice(body).unwrap();
            assert!(failure["admin_error"].is_string(), "{failure}");
            self.failures.push(failure);
        } else {
            assert!(body.is_empty(), "the existing service takes no body here");
        }
        match self.items.get_mut(id) {
            Some(item) if from.contains(&item.state.as_str()) => {
                item.state = state.to_owned();
                StatusCode::NO_CONTENT.into_response()
            }
            _ => error(404, 40060),
        }
    }
}
