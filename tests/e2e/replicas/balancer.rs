//! A load balancer for connections: each goes to the next server in turn that takes it.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// A running balancer; it ends with the test's runtime.
#[derive(Debug)]
pub(super) struct Balancer {
    address: SocketAddr,
}

impl Balancer {
    pub(super) async fn start(servers: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((mut client, _)) = listener.accept().await {
                turn += 1;
                let (before, from) = servers.split_at(turn % servers.len());
                let in_turn: Vec<SocketAddr> = from.iter().chain(before).copied().collect();
                tokio::spawn(async move {
                    for server in in_turn {
                        if let Ok(mut server) = TcpStream::connect(server).await {
                            // However it ends, both sides see the connection close.
                            let _closed = copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
            }
        });
        Self { address }
    }

    /// The address to use in place of a server's.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
