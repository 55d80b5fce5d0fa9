//! The HTTP client of the testbed and the tests: plain HTTP on the loopback interface.

use std::error::Error as _;
use std::time::Duration;

use cts_net::tls::{Verify, http_client_builder};

/// A client with a deadline on every request.
///
/// # Errors
/// When it cannot be made.
pub fn client() -> Result<reqwest::Client, String> {
    http_client_builder(Verify::Certificates)
        .map_err(|error| error.to_string())?
        .no_proxy()
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
