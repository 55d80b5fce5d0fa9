//! Requests to the coordinating service, whatever they are about.
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
use cts_shared::wire::error::{ErrorDetail, ErrorEnvelope};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::{CoordinatorError, Observer};

/// As the existing executor's HTTP client has it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Every answer but a job's document, error pages included.
pub(crate) const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The service at one URL. Redirects are not followed: the token goes to no other host.
pub(crate) struct ServiceClient {
    client: reqwest::Client,
    root: Url,
    /// None for what everybody may ask.
    token: Option<Arc<SecretSource>>,
    observer: Option<Observer>,
}

impl std::fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceClient")
            .field("root", &self.root.as_str())
            .finish_non_exhaustive()
    }
}

impl ServiceClient {
    /// Sets up the client; sends nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(root: Url, token: Arc<SecretSource>) -> Result<Self, TlsError> {
        Self::with_token(root, Some(token))
    }

    /// A client for what everybody may ask.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn anonymous(root: Url) -> Result<Self, TlsError> {
        Self::with_token(root, None)
    }

    fn with_token(root: Url, token: Option<Arc<SecretSource>>) -> Result<Self, TlsError> {
        let client = http_client_builder(Verify::Certificates)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| TlsError::new(&error))?;
        Ok(Self {
            client,
            root,
            token,
            observer: None,
        })
    }

    /// The same client, whose calls `observer` hears of.
    pub(super) fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.root.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url
    }

    /// `GET`: the answer's body.
    pub(crate) async fn get(
        &self,
        path: &str,
        max_bytes: usize,
    ) -> Result<Vec<u8>, CoordinatorError> {
        self.send(Method::GET, path, None::<&()>, max_bytes).await
    }

    /// One request; when the token is refused and its file holds another by now, a second one.
    pub(crate) async fn send(
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
        let Some(token) = &self.token else {
            return first;
        };
        match token.reread() {
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
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.token {
            let token = token.current();
            let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
                .map_err(|_| CoordinatorError::TokenRefused {
                    call: call.clone(),
                    cause: "the token has characters that no header can carry".to_owned(),
                })?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
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

/// The answer to a call as what it should be.
pub(crate) fn parse<T: DeserializeOwned>(call: &str, text: &[u8]) -> Result<T, CoordinatorError> {
    serde_json::from_slice(text).map_err(|error| CoordinatorError::Malformed {
        call: call.to_owned(),
        cause: error.to_string(),
    })
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
