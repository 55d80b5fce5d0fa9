//! Staging by the server that the contract has for it (service.md, section 10; `openapi.refdata.json`).
//!
//! The existing service asks the server for its name when it starts, and calls the whole site unavailable if
//! that fails. Here it is asked when there is something to stage: jobs that need no reference data, or whose
//! reference data is there, have no need of that server.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use url::Url;

use cts_net::http::{BodyError, describe_transport_error, read_bounded};
use cts_net::secret::Secret;
use cts_net::tls::{TlsError, Verify, http_client_builder};
use cts_shared::wire::root::REFDATA_SERVICE_NAME;

use crate::metrics::{Dependency, DependencyCalls, Outcome};

use super::{RefdataStager, Staging, StagingError, StagingItem};

/// Longest time one call may take. The server calls this service, and its auth2, before it answers.
const CALL_WITHIN: Duration = Duration::from_secs(30);

/// How long a server that does not answer is asked again.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// The answers are small; errors have a sentence.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Most characters of an answer that are shown.
const SHOWN_CHARS: usize = 500;

/// Where the server is.
#[derive(Debug, Clone)]
pub struct ServerStagerSettings {
    /// Its root.
    pub url: Url,
    /// A token of a user with the server's CTS role.
    pub token: Secret,
    /// How long a server that does not answer is asked again.
    pub retry_for: Duration,
}

impl ServerStagerSettings {
    /// Settings for operation.
    #[must_use]
    pub const fn new(url: Url, token: Secret) -> Self {
        Self {
            url,
            token,
            retry_for: RETRY_FOR,
        }
    }
}

/// Has a server stage for the site `kbase`.
#[derive(Debug)]
pub struct ServerStager {
    settings: ServerStagerSettings,
    token: HeaderValue,
    client: reqwest::Client,
    calls: DependencyCalls,
}

/// Why a call did not succeed.
#[derive(Debug)]
enum CallError {
    /// It was not answered, or the server has a fault; trying again may help.
    Unavailable(String),
    /// It was refused.
    Refused(String),
}

#[derive(Deserialize)]
struct Root {
    service_name: String,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorDetails,
}

#[derive(Deserialize)]
struct ErrorDetails {
    message: Option<String>,
}

impl ServerStager {
    /// A client; sends nothing. Redirects are not followed: a token goes to no other host.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the token cannot be sent.
    pub fn new(settings: ServerStagerSettings, calls: DependencyCalls) -> Result<Self, TlsError> {
        let client = http_client_builder(Verify::Certificates)?
            .build()
            .map_err(|error| TlsError::new(&error))?;
        let bearer = format!("Bearer {}", settings.token.expose_secret());
        let mut token = HeaderValue::from_str(&bearer).map_err(|error| TlsError::new(&error))?;
        token.set_sensitive(true);
        Ok(Self {
            settings,
            token,
            client,
            calls,
        })
    }

    async fn request(&self, item: &StagingItem) -> Result<(), CallError> {
        self.check_name().await?;
        let url = self.url(&format!("refdata/{}/kbase", item.id));
        self.call("stage", Method::POST, &url).await.map(drop)
    }

    /// Whether this is such a server.
    async fn check_name(&self) -> Result<(), CallError> {
        let url = self.url("");
        let body = self.call("root", Method::GET, &url).await?;
        match serde_json::from_slice(&body) {
            Ok(Root { service_name }) if service_name == REFDATA_SERVICE_NAME => Ok(()),
            Ok(Root { service_name }) => Err(CallError::Refused(format!(
                "GET {url} was answered with the service name {:?} in the place of \
                 {REFDATA_SERVICE_NAME:?}; correct ExternalExecution.refserver_url",
                shown(&service_name)
            ))),
            Err(_) => Err(CallError::Refused(format!(
                "GET {url} was answered with something that is no reference data server's answer; correct \
                 ExternalExecution.refserver_url"
            ))),
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.settings.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }

    async fn call(
        &self,
        operation: &'static str,
        method: Method,
        url: &Url,
    ) -> Result<Vec<u8>, CallError> {
        let in_time = async {
            tokio::time::timeout(CALL_WITHIN, self.send(method.clone(), url))
                .await
                .unwrap_or_else(|_elapsed| {
                    let cause = format!("no answer within {} s", CALL_WITHIN.as_secs());
                    Err(unavailable(&method, url, &cause))
                })
        };
        let outcome = |error: &CallError| match error {
            CallError::Unavailable(_) => Outcome::Unavailable,
            CallError::Refused(_) => Outcome::Refused,
        };
        self.calls
            .measure(Dependency::RefdataServer, operation, in_time, outcome)
            .await
    }

    async fn send(&self, method: Method, url: &Url) -> Result<Vec<u8>, CallError> {
        let mut request = self.client.request(method.clone(), url.clone());
        if method != Method::GET {
            request = request.header(AUTHORIZATION, self.token.clone());
        }
        let response = request
            .send()
            .await
            .map_err(|error| unavailable(&method, url, &describe_transport_error(&error)))?;
        let status = response.status();
        let body = read_bounded(response, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| match error {
            BodyError::Transport(cause) => unavailable(&method, url, &cause),
            // As a proxy's page for people.
            BodyError::TooLarge { max_bytes } if may_pass(status) => {
                let cause = format!("{status} with more than {max_bytes} bytes");
                unavailable(&method, url, &cause)
            }
            BodyError::TooLarge { max_bytes } => CallError::Refused(format!(
                "{method} {url} was answered with more than {max_bytes} bytes"
            )),
        })?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let words = words(&body);
        if may_pass(status) {
            Err(CallError::Unavailable(format!(
                "the reference data server answers {method} {url} with a fault, {status}: {words}; its log says more (is \
                 its token one of a refdata service?)"
            )))
        } else {
            Err(CallError::Refused(format!(
                "the reference data server refused {method} {url} with {status}: {words}"
            )))
        }
    }
}

impl RefdataStager for ServerStager {
    fn stage(&self, item: StagingItem) -> BoxFuture<'_, Result<Staging, StagingError>> {
        async move {
            match self.request(&item).await {
                Ok(()) => Ok(Staging::HandedOver),
                Err(CallError::Refused(words)) => Err(StagingError::Failed(words)),
                Err(CallError::Unavailable(cause)) => Err(StagingError::Unavailable(cause)),
            }
        }
        .boxed()
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn ask_for(&self) -> Duration {
        self.settings.retry_for
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        self.check_name()
            .map(|answer| {
                answer.map_err(|error| match error {
                    CallError::Unavailable(cause) | CallError::Refused(cause) => cause,
                })
            })
            .boxed()
    }
}

/// Whether the same request may be answered otherwise later.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

fn unavailable(method: &Method, url: &Url, cause: &str) -> CallError {
    CallError::Unavailable(format!(
        "the reference data server does not answer {method} {url}: {cause}; start it, or correct \
         ExternalExecution.refserver_url"
    ))
}

/// What an error says to people.
fn words(body: &[u8]) -> String {
    let message = serde_json::from_slice(body)
        .ok()
        .and_then(|ErrorAnswer { error }| error.message);
    match message {
        Some(message) => shown(&message),
        None => shown(&String::from_utf8_lossy(body)),
    }
}

/// The text on one line, not too long.
fn shown(text: &str) -> String {
    let text = text.trim().chars().take(SHOWN_CHARS);
    text.map(|c| if c.is_control() { ' ' } else { c }).collect()
}
