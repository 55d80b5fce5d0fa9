//! The calls to KBase auth2's HTTP API and what their answers mean (contract service.md, section 8).
//!
//! Each call is one request with a deadline. What is remembered of the answers is the caller's business; the
//! client only keeps to what auth2 asks for when it wants fewer calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::Semaphore;
use url::Url;

use crate::http::{BodyError, describe_transport_error, read_bounded};
use crate::pause::Pause;
use crate::tls::{TlsError, Verify, http_client_builder};

/// Longest time one call may take, with its wait for a turn. Requests wait for it, so it is short.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Most calls at the same time: a slow auth2 is not buried under those of all who wait for it.
const MAX_CALLS: usize = 16;

/// When to ask again if auth2 does not say.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Longest time that auth2 is left alone because it asked for that.
const MAX_PAUSE: Duration = Duration::from_mins(5);

/// The largest answers are those about users with many linked accounts: some kilobytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What `GET /` of auth2 calls itself.
const SERVICE_NAME: &str = "Authentication Service";

/// auth2's code for a token that it does not know, or that has ended.
const INVALID_TOKEN: i64 = 10020;

/// auth2's code for a text that can be no user name.
const ILLEGAL_USER_NAME: i64 = 30010;

/// Why auth2 did not say what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Auth2Error {
    /// auth2 does not know the token, or it has ended.
    #[error("the token is not valid; get a new one")]
    InvalidToken,
    /// No user can have such a name.
    #[error("no user can have a name like this; check the name")]
    IllegalUserName,
    /// No answer; asking again later may help.
    #[error("{message}")]
    Unavailable {
        /// What happened to the question.
        message: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// An answer that auth2 should not give.
    #[error("{0}")]
    Unexpected(String),
}

/// Client of one auth2.
#[derive(Debug)]
pub struct Auth2 {
    client: reqwest::Client,
    root: Url,
    deadline: Duration,
    turns: Semaphore,
    /// auth2 has said that it wants no calls.
    pause: Pause,
}

/// What `GET api/V2/token` says, as far as it is used.
#[derive(Debug, Deserialize)]
pub struct TokenDetails {
    /// Milliseconds that the answer may be kept.
    cachefor: u64,
    /// End of the token, in milliseconds since 1970.
    expires: u64,
    #[serde(rename = "type")]
    kind: String,
    mfa: Option<String>,
}

/// What `GET api/V2/me` says, as far as it is used.
#[derive(Debug, Deserialize)]
pub struct Me {
    /// The user's name.
    pub user: String,
    /// The roles that were given to the user by name.
    pub customroles: Vec<String>,
}

#[derive(Deserialize)]
struct Root {
    servicename: String,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorDetails,
}

#[derive(Deserialize)]
struct ErrorDetails {
    appcode: Option<i64>,
}

impl TokenDetails {
    /// How long auth2 allows the answer to be kept.
    #[must_use]
    pub const fn cache_for(&self) -> Duration {
        Duration::from_millis(self.cachefor)
    }

    /// How long the token will be valid; no time if it has ended.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        // More than a year need not be told apart, and could not be added to a time.
        Duration::from_millis(self.expires)
            .saturating_sub(now)
            .min(Duration::from_hours(365 * 24))
    }

    fn check(self) -> Result<Self, String> {
        let kind = self.kind.to_lowercase();
        if !matches!(kind.as_str(), "login" | "agent" | "developer" | "service") {
            return Err(format!("the unknown token type {kind:?}"));
        }
        let mfa = self.mfa.as_deref().unwrap_or_default().to_lowercase();
        if !matches!(mfa.as_str(), "" | "used" | "notused" | "unknown") {
            return Err(format!("the unknown mfa state {mfa:?}"));
        }
        Ok(self)
    }
}

impl Auth2 {
    /// A client; sends nothing. Redirects are not followed: a token goes to no other host.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(root: Url, deadline: Duration) -> Result<Self, TlsError> {
        let client = http_client_builder(Verify::Certificates)?
            .build()
            .map_err(|error| TlsError::new(&error))?;
        Ok(Self {
            client,
            root,
            deadline,
            turns: Semaphore::new(MAX_CALLS),
            pause: Pause::default(),
        })
    }

    /// `GET api/V2/token`
    ///
    /// # Errors
    /// As [`Auth2Error`] says.
    pub async fn token(&self, token: &SecretString) -> Result<TokenDetails, Auth2Error> {
        let url = self.url("api/V2/token");
        let details: TokenDetails = self.get(&url, Some(token)).await?;
        details.check().map_err(|what| unexpected(&url, &what))
    }

    /// `GET api/V2/me`
    ///
    /// # Errors
    /// As [`Auth2Error`] says.
    pub async fn me(&self, token: &SecretString) -> Result<Me, Auth2Error> {
        self.get(&self.url("api/V2/me"), Some(token)).await
    }

    /// `GET api/V2/users/?list=`: which of the names exist.
    ///
    /// # Errors
    /// As [`Auth2Error`] says.
    pub async fn existing_users(
        &self,
        names: &str,
        token: &SecretString,
    ) -> Result<BTreeSet<String>, Auth2Error> {
        let mut url = self.url("api/V2/users/");
        url.query_pairs_mut().append_pair("list", names);
        let users: BTreeMap<String, IgnoredAny> = self.get(&url, Some(token)).await?;
        Ok(users.into_keys().collect())
    }

    /// `GET /`: whether this is an auth2.
    ///
    /// # Errors
    /// As [`Auth2Error`] says; [`Auth2Error::Unexpected`] if it is something else.
    pub async fn check_service_name(&self) -> Result<(), Auth2Error> {
        let url = self.url("");
        let root: Root = self.get(&url, None).await?;
        if root.servicename == SERVICE_NAME {
            Ok(())
        } else {
            Err(unexpected(
                &url,
                &format!("the service name {:?}", root.servicename),
            ))
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.root.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }

    async fn get<T: DeserializeOwned>(
        &self,
        url: &Url,
        token: Option<&SecretString>,
    ) -> Result<T, Auth2Error> {
        tokio::time::timeout(self.deadline, self.take_turn(url, token))
            .await
            .unwrap_or_else(|_elapsed| Err(unavailable(url, "no answer in time", ASK_AGAIN_AFTER)))
    }

    async fn take_turn<T: DeserializeOwned>(
        &self,
        url: &Url,
        token: Option<&SecretString>,
    ) -> Result<T, Auth2Error> {
        // It is never closed; without a turn the deadline ends the wait.
        let _turn = self.turns.acquire().await;
        if let Some(rest) = self.pause.rest() {
            return Err(unavailable(url, "it asked for fewer calls", rest));
        }
        self.call(url, token).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        url: &Url,
        token: Option<&SecretString>,
    ) -> Result<T, Auth2Error> {
        // Without it, auth2 answers some paths with pages for people.
        let mut request = self
            .client
            .get(url.clone())
            .header(ACCEPT, "application/json");
        if let Some(token) = token {
            // No token of auth2 has characters that a header cannot carry.
            let mut value = HeaderValue::from_str(token.expose_secret())
                .map_err(|_| Auth2Error::InvalidToken)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(|error| {
            unavailable(url, &describe_transport_error(&error), ASK_AGAIN_AFTER)
        })?;
        let status = response.status();
        let wanted_pause = wanted_pause(status, response.headers());
        if let Some(pause) = wanted_pause {
            self.pause.begin(pause);
        }
        let body = read_bounded(response, MAX_ANSWER_BYTES)
            .await
            .map_err(|error| match error {
                BodyError::Transport(cause) => unavailable(url, &cause, ASK_AGAIN_AFTER),
                BodyError::TooLarge { max_bytes } => {
                    unexpected(url, &format!("more than {max_bytes} bytes"))
                }
            })?;
        if status != StatusCode::OK {
            let retry_after = wanted_pause.unwrap_or(ASK_AGAIN_AFTER);
            return Err(classify(url, status, &body, retry_after));
        }
        // The text of a parse error can quote the answer, so it is left out.
        serde_json::from_slice(&body)
            .map_err(|_| unexpected(url, "something that is not the JSON it should be"))
    }
}

/// How long auth2, or a proxy before it, wants no calls. A date is not understood: nobody sends one.
fn wanted_pause(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
    seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_PAUSE))
}

/// What an answer that is not 200 means.
fn classify(url: &Url, status: StatusCode, body: &[u8], retry_after: Duration) -> Auth2Error {
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return unavailable(url, &status.to_string(), retry_after);
    }
    let appcode = serde_json::from_slice(body)
        .ok()
        .and_then(|ErrorAnswer { error }| error.appcode);
    match appcode {
        Some(INVALID_TOKEN) => Auth2Error::InvalidToken,
        Some(ILLEGAL_USER_NAME) => Auth2Error::IllegalUserName,
        Some(code) => unexpected(url, &format!("{status}, application code {code}")),
        None if status.is_redirection() => unexpected(
            url,
            &format!("{status}, a redirect; check the URL of auth2 in the configuration"),
        ),
        None => unexpected(url, &status.to_string()),
    }
}

fn unavailable(url: &Url, cause: &str, retry_after: Duration) -> Auth2Error {
    // As the header will say it, rounded up.
    let begun_second = u64::from(retry_after.subsec_nanos() > 0);
    let retry_after = Duration::from_secs(retry_after.as_secs() + begun_second);
    Auth2Error::Unavailable {
        message: format!(
            "KBase auth2 does not answer GET {url}: {cause}; try again in {} s",
            retry_after.as_secs()
        ),
        retry_after,
    }
}

fn unexpected(url: &Url, what: &str) -> Auth2Error {
    Auth2Error::Unexpected(format!("KBase auth2 answered GET {url} with {what}"))
}
