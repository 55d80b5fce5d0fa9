//! What a client can do to the server with connections alone.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use cts_net::http_server::{Limits, serve};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server with `GET /`, and `GET /slow`, which answers when it is let.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    slow: Arc<Slow>,
}

#[derive(Default)]
struct Slow {
    entered: Notify,
    go_on: Notify,
    done: AtomicBool,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let slow = Arc::new(Slow::default());
        let (waiting, seen) = (Arc::clone(&slow), Arc::clone(&slow));
        let router =
            Router::new()
                .route(
                    "/",
                    get(move || async move {
                        format!("slow done: {}", seen.done.load(Ordering::SeqCst))
                    }),
                )
                .route(
                    "/slow",
                    get(move || async move {
                        waiting.entered.notify_one();
                        waiting.go_on.notified().await;
                        waiting.done.store(true, Ordering::SeqCst);
                        "slow"
                    }),
                );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, router, limits, stop.clone()));
        Self {
            address,
            stop,
            serving,
            slow,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ended(self) {
        in_time(self.serving).await.unwrap();
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it takes too long")
}

async fn send(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads until the text ends so, which leaves the connection open.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    in_time(async {
        while !text.ends_with(end.as_bytes()) {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "closed early");
            text.push(byte[0]);
        }
    })
    .await;
    String::from_utf8(text).unwrap()
}

/// Reads until the server closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _reset = in_time(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn slow_and_idle_clients_are_cut_off() {
    let server = Server::start(Limits {
        head_timeout: Duration::from_millis(200),
        ..Limits::default()
    })
    .await;
    let started = Instant::now();
    let mut slow = server.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nx-slow").await.unwrap();
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    send(&mut idle, "/").await;
    assert!(
        read_to(&mut idle, "false")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(!read_to_end(&mut slow).await.contains("200 OK"));
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn too_large_heads_get_431() {
    let server = Server::start(Limits {
        max_head_bytes: 8192,
        ..Limits::default()
    })
    .await;
    let request = |size: usize| {
        let filler = "x".repeat(size);
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-filler: {filler}\r\n\r\n")
    };
    for (size, status) in [(7000, "200"), (8192, "431"), (100_000, "431")] {
        let mut stream = server.connect().await;
        // It may close before it has read everything.
        let _broken = stream.write_all(request(size).as_bytes()).await;
        let mut head = [0; 12];
        in_time(stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(
            std::str::from_utf8(&head).unwrap(),
            format!("HTTP/1.1 {status}"),
            "{size}"
        );
    }
    // So do too many, however small.
    let mut stream = server.connect().await;
    let many = "a: b\r\n".repeat(200);
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_stop_finishes_requests_and_closes_idle_connections() {
    let server = Server::start(Limits::default()).await;
    let mut idle = server.connect().await;
    send(&mut idle, "/").await;
    read_to(&mut idle, "false").await;
    let mut busy = server.connect().await;
    send(&mut busy, "/slow").await;
    in_time(server.slow.entered.notified()).await;

    server.stop.cancel();
    // Long before the time after which idle connections are closed anyway.
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(!server.serving.is_finished());
    server.slow.go_on.notify_one();
    let answer = read_to_end(&mut busy).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"),
        "{answer}"
    );
    let address = server.address;
    server.ended().await;
    // A child that another test is just starting may have the listener open, too.
    crate::pool_app::eventually("nobody listens", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let server = Server::start(Limits {
        drain_timeout: Duration::from_millis(100),
        ..Limits::default()
    })
    .await;
    let mut busy = server.connect().await;
    send(&mut busy, "/slow").await;
    in_time(server.slow.entered.notified()).await;
    server.stop.cancel();
    assert_eq!(read_to_end(&mut busy).await, "");
    server.ended().await;
}

#[tokio::test]
async fn connections_over_the_bound_wait() {
    let server = Server::start(Limits {
        max_connections: 2,
        ..Limits::default()
    })
    .await;
    let mut busy = server.connect().await;
    send(&mut busy, "/slow").await;
    in_time(server.slow.entered.notified()).await;
    let mut second = server.connect().await;
    send(&mut second, "/").await;
    read_to(&mut second, "false").await;
    // The third is in the kernel's queue. The second is served meanwhile, again and again.
    let mut third = server.connect().await;
    send(&mut third, "/").await;
    for _ in 0..20 {
        send(&mut second, "/").await;
        read_to(&mut second, "false").await;
    }
    server.slow.go_on.notify_one();
    read_to(&mut busy, "slow").await;
    drop(busy);
    // Had it been served at once, the slow request would not have been done.
    read_to(&mut third, "true").await;
}
