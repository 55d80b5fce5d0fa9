//! The coordinating service over HTTP.
//!
//! Which answers are worth another try is the contract's (executor.md, section 3), with two
//! differences (sections 6.12-6.14): a site that is switched off or not available is temporary, and
//! a refused token is read from its file again.

use std::sync::Arc;
use std::time::Duration;

use cts_net::http::{describe_transport_error, read_bounded};
use cts_net::secret::SecretSource;
use cts_net::tls::{TlsError, Verify, http_client_builder};
use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId, RefdataId};
use cts_shared::state::JobState;
use cts_shared::wire::attempt::{AttemptNotice, AttemptStanding};
use cts_shared::wire::container::{Container, ContainerUpdate};
use cts_shared::wire::error::{ErrorDetail, ErrorEnvelope};
use cts_shared::wire::job::AdminJob;
use cts_shared::wire::refdata::ReferenceData;
use cts_shared::wire::root::{Root, WhoAmI};
use futures::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde::Serialize;
use url::Url;

use super::{Coordinator, CoordinatorError, Observer};

/// As the existing executor's HTTP client has it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A job of 10,000 input files with the longest keys and data ids has 15 MB.
const MAX_JOB_BYTES: usize = 64 * 1024 * 1024;
/// Everything else, error pages included.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The service at one URL, for one container of one job.
pub struct HttpCoordinator {
    client: reqwest::Client,
    root: Url,
    token: Arc<SecretSource>,
    job: JobId,
    container: ContainerNumber,
    observer: Option<Observer>,
}

impl std::fmt::Debug for HttpCoordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpCoordinator")
            .field("root", &self.root.as_str())
            .field("job", &self.job)
            .field("container", &self.container)
            .finish_non_exhaustive()
    }
}

impl HttpCoordinator {
    /// Sets up the client; sends nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        root: Url,
        token: Arc<SecretSource>,
        job: JobId,
        container: ContainerNumber,
    ) -> Result<Self, TlsError> {
        let client = http_client_builder(Verify::Certificates)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| TlsError::new(&error))?;
        Ok(Self {
            client,
            root,
            token,
            job,
            container,
            observer: None,
        })
    }

    /// The same client, whose calls `observer` hears of.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.root.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }

    /// Where an executor talks about its container.
    fn external_path(&self, rest: &str) -> String {
        let (job, container) = (self.job, self.container);
        format!("/external_exec/jobs/{job}/container/{container}/{rest}")
    }

    async fn get(&self, path: &str, max_bytes: usize) -> Result<Vec<u8>, CoordinatorError> {
        self.send(Method::GET, path, None::<&()>, max_bytes).await
    }

    /// Tells that this executor is there, for the first time or again.
    async fn notify(
        &self,
        method: Method,
        rest: &str,
        notice: &AttemptNotice,
    ) -> Result<AttemptStanding, CoordinatorError> {
        let path = self.external_path(rest);
        let call = format!("{method} {path}");
        let sent = self.send(method, &path, Some(notice), MAX_ANSWER_BYTES);
        parse(&call, &sent.await?)
    }

    /// One request; when the token is refused and its file holds another by now, a second one.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        max_bytes: usize,
    ) -> Result<Vec<u8>, CoordinatorError> {
        let result = self.send_again_with_a_new_token(method, path, body, max_bytes);
        let result = result.await;
        if let Some(observer) = &self.observer {
            observer(result.as_ref().err().filter(|error| !error.is_permanent()));
        }
        result
    }

    async fn send_again_with_a_new_token(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        max_bytes: usize,
    ) -> Result<Vec<u8>, CoordinatorError> {
        let first = self.send_once(method.clone(), path, body, max_bytes).await;
        let Err(error) = &first else { return first };
        if !error.is_about_the_token() {
            return first;
        }
        match self.token.reread() {
            Ok(true) => {
                tracing::info!("the token was refused; its file holds a new one, trying that");
                self.send_once(method, path, body, max_bytes).await
            }
            Ok(false) => first,
            Err(unreadable) => {
                tracing::warn!(%unreadable, "the refused token cannot be read again");
                first
            }
        }
    }

    async fn send_once(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        max_bytes: usize,
    ) -> Result<Vec<u8>, CoordinatorError> {
        let url = self.url(path);
        let call = format!("{method} {url}");
        let token = self.token.current();
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| CoordinatorError::TokenRefused {
                call: call.clone(),
                cause: "the token has characters that no header can carry".to_owned(),
            })?;
        bearer.set_sensitive(true);
        let mut request = self
            .client
            .request(method, url)
            .header(AUTHORIZATION, bearer);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unavailable = |cause: String| CoordinatorError::Unavailable {
            call: call.clone(),
            cause,
        };
        let response = request.send().await.map_err(|error| {
            let (call, cause) = (call.clone(), describe_transport_error(&error));
            if error.is_connect() {
                CoordinatorError::Unreachable { call, cause }
            } else {
                CoordinatorError::Unavailable { call, cause }
            }
        })?;
        let status = response.status();
        let text = read_bounded(response, max_bytes)
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        classify(&call, status, text)
    }
}

/// Contract executor.md, section 3.
fn classify(call: &str, status: StatusCode, text: Vec<u8>) -> Result<Vec<u8>, CoordinatorError> {
    let call = call.to_owned();
    if status == StatusCode::NO_CONTENT {
        return Ok(text);
    }
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok();
    if status.is_success() {
        return if is_json {
            Ok(text)
        } else {
            Err(CoordinatorError::Unavailable {
                call,
                cause: format!("{status} without JSON"),
            })
        };
    }
    let Ok(ErrorEnvelope { error }) = serde_json::from_slice::<ErrorEnvelope>(&text) else {
        let cause = match (is_json, status.is_redirection()) {
            (_, true) => format!("{status}, a redirect; check SERVICE_ROOT_URL"),
            (true, _) => format!("{status} with JSON that is not an error of the service"),
            (false, _) => format!("{status} without JSON; is there a proxy in between?"),
        };
        return Err(CoordinatorError::Unavailable { call, cause });
    };
    let cause = explain(status, &error);
    Err(match error.appcode {
        _ if status == StatusCode::UNAUTHORIZED => CoordinatorError::TokenRefused { call, cause },
        None => CoordinatorError::Unavailable { call, cause },
        Some(code) if ErrorCode::from_code(code).is_some_and(ErrorCode::is_temporary) => {
            CoordinatorError::NotNow { call, cause }
        }
        Some(_) if status == StatusCode::SERVICE_UNAVAILABLE => {
            CoordinatorError::NotNow { call, cause }
        }
        Some(_) => CoordinatorError::Refused {
            call,
            cause,
            appcode: error.appcode,
        },
    })
}

/// The service's error in one sentence. A validation failure has no message, only details.
fn explain(status: StatusCode, error: &ErrorDetail) -> String {
    let mut words = status.to_string();
    if let (Some(code), Some(text)) = (error.appcode, &error.apperror) {
        words.push_str(&format!(", {code} {text}"));
    }
    if let Some(message) = &error.message {
        words.push_str(&format!(": {message}"));
    }
    for detail in error.request_validation_detail.iter().flatten().take(5) {
        let place: Vec<String> = detail
            .loc
            .iter()
            .map(|part| {
                part.as_str()
                    .map_or_else(|| part.to_string(), str::to_owned)
            })
            .collect();
        words.push_str(&format!("; {}: {}", place.join("."), detail.msg));
    }
    words
}

fn parse<T: serde::de::DeserializeOwned>(call: &str, text: &[u8]) -> Result<T, CoordinatorError> {
    serde_json::from_slice(text).map_err(|error| CoordinatorError::Malformed {
        call: call.to_owned(),
        cause: error.to_string(),
    })
}

impl Coordinator for HttpCoordinator {
    fn root(&self) -> BoxFuture<'_, Result<Root, CoordinatorError>> {
        Box::pin(async move {
            let text = self.get("", MAX_ANSWER_BYTES).await?;
            parse("GET /", &text)
        })
    }

    fn job(&self) -> BoxFuture<'_, Result<AdminJob, CoordinatorError>> {
        Box::pin(async move {
            let path = format!("/admin/jobs/{}", self.job);
            let text = self.get(&path, MAX_JOB_BYTES).await?;
            AdminJob::from_json(&text).map_err(|error| CoordinatorError::Malformed {
                call: format!("GET {path}"),
                cause: error.to_string(),
            })
        })
    }

    fn refdata<'a>(
        &'a self,
        id: &'a RefdataId,
    ) -> BoxFuture<'a, Result<ReferenceData, CoordinatorError>> {
        Box::pin(async move {
            let path = format!("/refdata/id/{id}");
            let text = self.get(&path, MAX_ANSWER_BYTES).await?;
            parse(&format!("GET {path}"), &text)
        })
    }

    fn whoami(&self) -> BoxFuture<'_, Result<String, CoordinatorError>> {
        Box::pin(async move {
            let text = self.get("/whoami", MAX_ANSWER_BYTES).await?;
            parse::<WhoAmI>("GET /whoami", &text).map(|answer| answer.user)
        })
    }

    fn update<'a>(
        &'a self,
        state: JobState,
        body: &'a ContainerUpdate,
    ) -> BoxFuture<'a, Result<(), CoordinatorError>> {
        Box::pin(async move {
            let path = self.external_path(&format!("update/{state}"));
            self.send(Method::PUT, &path, Some(body), MAX_ANSWER_BYTES)
                .await
                .map(drop)
        })
    }

    fn announce<'a>(
        &'a self,
        notice: &'a AttemptNotice,
    ) -> BoxFuture<'a, Result<AttemptStanding, CoordinatorError>> {
        Box::pin(self.notify(Method::POST, "attempts", notice))
    }

    fn renew<'a>(
        &'a self,
        attempt: u32,
        notice: &'a AttemptNotice,
    ) -> BoxFuture<'a, Result<AttemptStanding, CoordinatorError>> {
        Box::pin(async move {
            let rest = format!("attempts/{attempt}");
            self.notify(Method::PUT, &rest, notice).await
        })
    }

    fn container_state(&self) -> BoxFuture<'_, Result<JobState, CoordinatorError>> {
        Box::pin(async move {
            let path = format!("/admin/jobs/{}/container/{}", self.job, self.container);
            let text = self.get(&path, MAX_ANSWER_BYTES).await?;
            parse::<Container>(&path, &text).map(|container| container.state)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(status: u16, text: &str) -> Result<Vec<u8>, CoordinatorError> {
        classify(
            "PUT /x",
            StatusCode::from_u16(status).unwrap(),
            text.as_bytes().to_vec(),
        )
    }

    fn envelope(status: u16, appcode: Option<u32>) -> String {
        let mut error = serde_json::json!({
            "httpcode": status, "httpstatus": "x", "time": "t", "message": "because"
        });
        if let Some(code) = appcode {
            error["appcode"] = code.into();
            error["apperror"] = "Name of the code".into();
        }
        serde_json::json!({ "error": error }).to_string()
    }

    #[test]
    fn success_is_204_or_200_with_json() {
        assert!(classified(204, "").is_ok());
        assert!(classified(200, "{}").is_ok());
        assert!(classified(200, "<html>").unwrap_err().is_ambiguous());
    }

    #[test]
    fn what_the_service_did_not_say_is_tried_again() {
        for (status, text) in [
            (500, envelope(500, None)),
            (405, envelope(405, None)),
            (502, "<html>bad gateway".to_owned()),
            (404, "<html>".to_owned()),
            (400, "{\"detail\": \"proxy\"}".to_owned()),
            (307, String::new()),
        ] {
            let error = classified(status, &text).unwrap_err();
            assert!(
                error.is_ambiguous() && !error.is_permanent(),
                "{status} {text}: {error}"
            );
        }
    }

    #[test]
    fn an_application_code_is_final_unless_it_is_temporary() {
        let refused = classified(404, &envelope(404, Some(40050))).unwrap_err();
        assert!(refused.is_permanent());
        assert_eq!(
            refused.to_string(),
            "the service refuses PUT /x: 404 Not Found, 40050 Name of the code: because"
        );
        for code in [60010, 60020] {
            let error = classified(400, &envelope(400, Some(code))).unwrap_err();
            assert!(!error.is_permanent() && !error.is_ambiguous());
        }
    }

    #[test]
    fn a_validation_failure_is_final_and_names_the_place() {
        let text = r#"{"error": {"httpcode": 400, "httpstatus": "Bad Request", "time": "t",
            "appcode": 30010, "apperror": "Request validation failed",
            "request_validation_detail": [{"type": "missing", "loc": ["body", "time"], "msg": "needed"}]}}"#;
        let error = classified(400, text).unwrap_err();
        assert!(error.is_permanent());
        assert!(
            error.to_string().ends_with("; body.time: needed"),
            "{error}"
        );
    }
}
