//! A DNS server that knows one name (RFC 1035, section 4: the messages).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;

/// Resolvers ask no other.
const PORT: u16 = 53;
const HEADER_BYTES: usize = 12;
/// Type and class at the end of a question.
const TYPE_AND_CLASS_BYTES: usize = 4;
const TYPE_A: u16 = 1;

/// A running name server; it ends with the test's runtime.
#[derive(Debug)]
pub(super) struct NameServer {
    address: SocketAddr,
    was_asked: Arc<AtomicBool>,
}

impl NameServer {
    /// Says that `host` is 127.0.0.1, and of all other names that they do not exist.
    pub(super) async fn start(host: &'static str) -> Self {
        let socket = bind().await;
        let address = socket.local_addr().unwrap();
        let was_asked = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&was_asked);
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = answer(&buffer[..length], host) {
                    asked.store(true, Ordering::Relaxed);
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        Self { address, was_asked }
    }

    /// The text of `/etc/resolv.conf` that names this server.
    pub(super) fn resolv_conf(&self) -> String {
        format!("nameserver {}\n", self.address.ip())
    }

    /// Whether it answered a question.
    pub(super) fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Relaxed)
    }
}

/// The port is given, so tests that run side by side take an address each: all of 127.0.0.0/8 is
/// this machine.
async fn bind() -> UdpSocket {
    let mut last = None;
    for number in 1..=254 {
        let address = (Ipv4Addr::new(127, 77, 53, number), PORT);
        match UdpSocket::bind(address).await {
            Ok(socket) => return socket,
            Err(error) => last = Some(error),
        }
    }
    panic!("no address of 127.77.53.0/24 has UDP port {PORT} to spare: {last:?}");
}

/// The reply to a query with one question; none to anything else.
fn answer(query: &[u8], host: &str) -> Option<Vec<u8>> {
    let (header, question) = query.split_at_checked(HEADER_BYTES)?;
    let name_end = question.iter().position(|byte| *byte == 0)? + 1;
    let (name, rest) = question.split_at_checked(name_end)?;
    let kind = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
    let known = name.eq_ignore_ascii_case(&encoded(host));
    let has_answer = known && kind == TYPE_A;

    let mut reply = header.get(..2)?.to_vec();
    // A response, recursion desired and available; NXDOMAIN for what is not known.
    reply.extend([0x81, if known { 0x80 } else { 0x83 }]);
    // One question, at most one answer, nothing else.
    reply.extend([0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    reply.extend_from_slice(question.get(..name_end + TYPE_AND_CLASS_BYTES)?);
    if has_answer {
        // The name at offset 12, type A, class IN, a minute to live, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some(reply)
}

/// A name as labels, each after its length, with an empty one at the end.
fn encoded(host: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in host.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
