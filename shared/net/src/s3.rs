//! The S3 client, set up so that it works with any S3 store (AWS, Ceph, `MinIO`, `SeaweedFS`).
//!
//! - Path-style addresses; region `us-east-1`, which stores other than AWS ignore.
//! - Checksums only where the caller asks: the SDK's default (chunked trailers) is refused or
//!   mis-stored by many S3-like stores.
//! - No retries and no time limits inside the SDK: its retries end at the response headers. Callers
//!   retry the whole step, body included.
//! - Payloads are signed over http only; over https TLS protects them already, and SHA-256 costs 30
//!   times what the CRC costs.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::future;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, IdentityCache, ProvideCredentials, Region,
    RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use secrecy::ExposeSecret;
use url::Url;

use crate::secret::SecretSource;
use crate::tls::{TlsError, Verify, http_client_builder};

/// How long a TCP and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the store is and how to sign in.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The endpoint, e.g. `https://s3.example.org`.
    pub url: Url,
    /// Access key id.
    pub access_key: String,
    /// Secret key; read again by whoever meets a 403.
    pub secret: Arc<SecretSource>,
    /// Whether the store's certificate is checked.
    pub verify: Verify,
}

impl S3Settings {
    /// Whether request bodies are signed: only where TLS does not protect them.
    #[must_use]
    pub fn sign_payload(&self) -> bool {
        self.url.scheme() != "https"
    }
}

/// Builds a client. Cheap to clone, expensive to build (TLS set-up): build one and share it.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(settings: &S3Settings) -> Result<aws_sdk_s3::Client, TlsError> {
    let http = http_client_builder(settings.verify)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_only()
        .tcp_nodelay(true)
        .build()
        .map_err(|error| TlsError::new(&error))?;
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(settings.url.as_str().trim_end_matches('/'))
        .force_path_style(true)
        .credentials_provider(SourceCredentials {
            access_key: settings.access_key.clone(),
            secret: Arc::clone(&settings.secret),
        })
        // A secret that was read again must be used at once.
        .identity_cache(IdentityCache::no_cache())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(aws_sdk_s3::config::StalledStreamProtectionConfig::disabled())
        .http_client(ReqwestHttpClient(http))
        .build();
    Ok(aws_sdk_s3::Client::from_conf(config))
}

/// Credentials whose secret half is looked up for every request.
#[derive(Debug)]
struct SourceCredentials {
    access_key: String,
    secret: Arc<SecretSource>,
}

impl ProvideCredentials for SourceCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let secret = self.secret.current();
        future::ProvideCredentials::ready(Ok(Credentials::new(
            self.access_key.clone(),
            secret.expose_secret(),
            None,
            None,
            "cts-settings",
        )))
    }
}

/// Lets the SDK send its requests through the process's HTTP client: one TLS set-up, one connection
/// pool, and a certificate check that can be switched off, which the SDK's own client cannot.
#[derive(Debug, Clone)]
struct ReqwestHttpClient(reqwest::Client);

impl HttpClient for ReqwestHttpClient {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for ReqwestHttpClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?
                // A body in memory is passed on without a copy; its exact size hint keeps hyper from
                // chunked encoding, which many stores refuse.
                .map(reqwest::Body::wrap);
            let request = reqwest::Request::try_from(request)
                .map_err(|error| ConnectorError::user(error.into()))?;
            let response = client.execute(request).await.map_err(|error| {
                if error.is_timeout() {
                    ConnectorError::timeout(error.into())
                } else {
                    ConnectorError::io(error.into())
                }
            })?;
            let response = http::Response::from(response).map(SdkBody::from_body_1_x);
            response
                .try_into()
                .map_err(|error: aws_smithy_runtime_api::http::HttpError| {
                    ConnectorError::other(error.into(), None)
                })
        })
    }
}
