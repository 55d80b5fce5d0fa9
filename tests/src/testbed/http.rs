//! The HTTP client of the testbed and the tests: plain HTTP on the loopback interface.

use std::error::Error as _;
use std::time::Duration;

/// A client with a deadline on every request.
///
/// # Errors
/// When it cannot be made.
pub fn client() -> Result<reqwest::Client, String> {
    // A second call changes nothing: one provider per process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        // Only plain HTTP is spoken here; without this a machine with no CA certificates is refused.
        .tls_certs_only(std::iter::empty::<reqwest::Certificate>())
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(120))
        .build()
        .map_err(|error| reason(&error))
}

/// An error with the causes that its own text leaves out.
pub fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
