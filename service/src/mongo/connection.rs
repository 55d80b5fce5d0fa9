//! How the driver is set up. What a connection string says is kept, but for what the store relies on.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mongodb::options::{ClientOptions, Credential, Tls};
use mongodb::{Client, Database};
use secrecy::ExposeSecret;

use cts_net::tls::trust_roots_pem;

use crate::job_store::StoreError;

use super::MongoSettings;

/// For a server to be found: longer than the driver takes to notice a new primary.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(12);
/// Connections of one service. The driver's own 10 would have requests wait for each other.
const MAX_CONNECTIONS: u32 = 32;

/// A client's database, and what must live as long.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) database: Database,
    /// Hosts and ports.
    pub(super) address: String,
    _trust_roots: Option<Arc<File>>,
}

impl Connection {
    /// Sets the driver up. It connects at the first call.
    ///
    /// # Errors
    /// When the connection string is not one, or the TLS certificates it names cannot be read.
    pub(super) async fn new(settings: &MongoSettings) -> Result<Self, StoreError> {
        let mut options = ClientOptions::parse(&settings.host)
            .await
            .map_err(|error| invalid_host(&settings.host, &error))?;
        let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        let address = hosts.join(",");
        options
            .app_name
            .get_or_insert_with(|| "cts-service".to_owned());
        options.max_pool_size.get_or_insert(MAX_CONNECTIONS);
        options.retry_writes = Some(settings.retry_writes);
        options.server_selection_timeout = Some(SELECTION_TIMEOUT);
        if let Some((user, password)) = &settings.credentials {
            options.credential = Some(
                Credential::builder()
                    .username(user.clone())
                    .password(password.expose_secret().to_owned())
                    .source(settings.database.clone())
                    .build(),
            );
        }
        let trust_roots = trust(&mut options).map_err(|error| StoreError::Connect {
            address: address.clone(),
            cause: format!("cannot hold the trusted certificates in memory: {error}"),
        })?;
        let client = Client::with_options(options).map_err(|error| StoreError::Connect {
            address: address.clone(),
            cause: error.to_string(),
        })?;
        Ok(Self {
            database: client.database(&settings.database),
            address,
            _trust_roots: trust_roots.map(Arc::new),
        })
    }
}

/// Has the driver trust whom the rest of the service trusts, unless the connection string names a file: it
/// takes certificates from a file only, and its own list knows no private authority. The file is in memory,
/// and the driver reads it again whenever it finds a server.
fn trust(options: &mut ClientOptions) -> std::io::Result<Option<File>> {
    let Some(Tls::Enabled(tls)) = &mut options.tls else {
        return Ok(None);
    };
    if tls.ca_file_path.is_some() {
        return Ok(None);
    }
    let memory = rustix::fs::memfd_create("trust-roots.pem", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(trust_roots_pem().as_bytes())?;
    tls.ca_file_path = Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into());
    Ok(Some(file))
}

/// The connection string can hold a password, and the driver's words can hold parts of it.
fn invalid_host(host: &str, error: &mongodb::error::Error) -> StoreError {
    StoreError::Connect {
        address: "the configured address".to_owned(),
        cause: if host.contains('@') {
            "it is no valid connection string (in a password, encode @ / : and % as in a URL)"
                .to_owned()
        } else {
            error.to_string()
        },
    }
}
