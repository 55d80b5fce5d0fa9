//! A TCP proxy that breaks the connection to the S3 server in a chosen way.
//!
//! Signed requests pass unchanged: they are signed for the proxy's address, and the server checks
//! the signature with the host name the client used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::eventually;

/// What is broken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// After that many bytes to the client, over all connections, nothing more arrives.
    StallDownload { after: usize },
    /// After that many bytes to the server, over all connections, nothing more arrives.
    StallUpload { after: usize },
    /// Each occurrence of the text on its way to the client has one bit flipped.
    Corrupt { text: &'static [u8] },
}

/// A running proxy; it ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    faults: Arc<AtomicUsize>,
    healed: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy to the server at `url` (`http://host:port`).
    pub(crate) async fn start(url: &str, fault: Fault) -> Self {
        let server = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(AtomicUsize::new(0));
        let healed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&faults);
        let is_healed = Arc::clone(&healed);
        tokio::spawn(async move {
            let passed = Arc::new(AtomicUsize::new(0));
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let pipe = |direction| Pipe {
                    direction,
                    fault,
                    passed: Arc::clone(&passed),
                    faults: Arc::clone(&seen),
                    healed: Arc::clone(&is_healed),
                };
                tokio::spawn(pipe(Direction::Up).run(from_client, to_server));
                tokio::spawn(pipe(Direction::Down).run(from_server, to_client));
            }
        });
        Self {
            address,
            faults,
            healed,
        }
    }

    /// Breaks nothing from now on. What is stalled stays so.
    pub(crate) fn heal(&self) {
        self.healed.store(true, Ordering::SeqCst);
    }

    /// The address to use in place of the server's.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the fault has struck.
    pub(crate) async fn struck(&self) {
        eventually("the proxy's fault", Duration::from_secs(300), async || {
            if self.faults.load(Ordering::SeqCst) > 0 {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        })
        .await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

#[derive(Debug)]
struct Pipe {
    direction: Direction,
    fault: Fault,
    passed: Arc<AtomicUsize>,
    faults: Arc<AtomicUsize>,
    healed: Arc<AtomicBool>,
}

impl Pipe {
    async fn run(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let Some(chunk) = buffer.get_mut(..length) else {
                return;
            };
            let fault = (!self.healed.load(Ordering::SeqCst)).then_some(self.fault);
            match (fault, self.direction) {
                (Some(Fault::StallDownload { after }), Direction::Down)
                | (Some(Fault::StallUpload { after }), Direction::Up) => {
                    self.stall(length, after).await
                }
                (Some(Fault::Corrupt { text }), Direction::Down) => self.corrupt(chunk, text),
                _ => {}
            }
            if to.write_all(chunk).await.is_err() {
                return;
            }
        }
        // The other end sees the end of the stream too.
        let _ = to.shutdown().await;
    }

    /// Never returns once the limit is passed. Both ends stay open: a stall, no broken connection.
    async fn stall(&self, length: usize, after: usize) {
        if self.passed.fetch_add(length, Ordering::SeqCst) + length > after {
            self.faults.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }

    fn corrupt(&self, chunk: &mut [u8], text: &[u8]) {
        while let Some(at) = chunk.windows(text.len()).position(|part| part == text) {
            if let Some(byte) = chunk.get_mut(at) {
                *byte ^= 1;
            }
            self.faults.fetch_add(1, Ordering::SeqCst);
        }
    }
}
