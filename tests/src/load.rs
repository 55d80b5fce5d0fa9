//! A load generator: requests over a fixed number of kept connections, each sending its next request when
//! the last one is answered.
//!
//! It is meant to cost little beside the service it loads: one task polls all connections, and an answer
//! that is no success ends the run instead of counting as a figure.

mod connection;
mod figures;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderValue;

pub use connection::Connection;
pub use figures::Figures;

/// For all requests of one run: a service that hangs must not hang the benchmark.
const DEADLINE: Duration = Duration::from_secs(600);

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// JSON; none if empty.
    pub body: Bytes,
}

impl Call {
    /// A `GET`.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: Bytes::new(),
        }
    }
}

/// Where requests go, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The service.
    pub address: SocketAddr,
    /// The value of `Authorization`; none for public routes.
    pub authorization: Option<HeaderValue>,
}

/// A run that yields no figures.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No connection.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// The service.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The request could not be made, or the connection broke.
    #[error("{method} {path}: {cause}")]
    Http {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// What happened.
        cause: String,
    },
    /// An answer that is no success.
    #[error("{method} {path}: {status} {body}")]
    Refused {
        /// Method.
        method: Method,
        /// Path.
        path: String,
        /// Status.
        status: hyper::StatusCode,
        /// What the service said.
        body: String,
    },
    /// Not done in time.
    #[error("the requests are not answered after {} s", DEADLINE.as_secs())]
    Deadline,
}

/// Sends `calls` over `connections` connections and measures each. `answered` sees every answer's body.
///
/// The connections are opened before the clock starts.
///
/// # Errors
/// At the first request that is not answered with a success.
pub async fn drive(
    target: &Target,
    connections: usize,
    calls: impl IntoIterator<Item = Call>,
    answered: impl FnMut(Bytes),
) -> Result<Figures, LoadError> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(target).await?);
    }
    let calls = RefCell::new(calls.into_iter());
    let answered = RefCell::new(answered);
    let begun = Instant::now();
    let all = open.iter_mut().map(async |connection| {
        let mut figures = Figures::default();
        loop {
            // Not in the condition of a `while let`: the borrow would last as long as its body.
            let next = calls.borrow_mut().next();
            let Some(call) = next else {
                return Ok(figures);
            };
            let sent = Instant::now();
            let body = connection.call(call).await?;
            figures.record(sent.elapsed());
            (answered.borrow_mut())(body);
        }
    });
    let all = futures::future::try_join_all(all);
    let parts = tokio::time::timeout(DEADLINE, all).await;
    let parts = parts.map_err(|_| LoadError::Deadline)??;
    let mut figures = Figures::default();
    parts.iter().for_each(|part| figures.add(part));
    figures.set_elapsed(begun.elapsed());
    Ok(figures)
}

/// The same call again and again for a while.
pub fn repeated(call: Call, during: Duration) -> impl Iterator<Item = Call> {
    let begun = Instant::now();
    std::iter::repeat(call).take_while(move |_| begun.elapsed() < during)
}
