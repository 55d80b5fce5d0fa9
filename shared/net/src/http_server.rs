//! The HTTP/1 server: connections, their limits, and how they end.
//!
//! What belongs to one request (its body, its time) is the router's business; what a client can do to the
//! process with connections alone is bounded here.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

/// Pause after an `accept` that failed for want of something, such as file descriptors: it would fail
/// again at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What clients may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time. Further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a client may take to send the head of a request, counted from the connection's start or the
    /// end of the last answer: idle connections are closed after it, too.
    pub head_timeout: Duration,
    /// Largest head of a request in bytes; larger ones are answered with 431.
    pub max_head_bytes: usize,
    /// How long requests in progress may take to end when the server stops.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Leaves half of the usual 1024 file descriptors to the rest of the service.
            max_connections: 512,
            head_timeout: Duration::from_secs(30),
            max_head_bytes: 32 * 1024,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves requests until `stop` is cancelled. Then the port is closed, as are idle connections; requests in
/// progress are finished, and cut off when they take longer than the limit.
pub async fn serve<S>(listener: TcpListener, service: S, limits: Limits, stop: CancellationToken)
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let permits = limits.max_connections.clamp(1, Semaphore::MAX_PERMITS);
    let room = Arc::new(Semaphore::new(permits));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                tracing::error!(%error, "cannot accept connections, trying again soon");
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    () = stop.cancelled() => break,
                }
            }
        };
        let connection = serve_connection(stream, peer, service.clone(), limits, stop.clone());
        let cut = cut.clone();
        connections.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain_timeout, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "requests in progress are cut off"
        );
        cut.cancel();
        connections.wait().await;
    }
}

/// The client went away before its connection was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

async fn serve_connection<S>(
    stream: TcpStream,
    peer: SocketAddr,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    // Answers are small and written whole: nothing is gained by waiting for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            service.clone().oneshot(request)
        });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(limits.max_head_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // The client's doing: it broke off, was too slow, or does not speak HTTP.
        tracing::debug!(%error, %peer, "connection ended early");
    }
}
