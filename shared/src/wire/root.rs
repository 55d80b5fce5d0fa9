//! `GET /` and `GET /whoami`.

use serde::{Deserialize, Serialize};

use crate::timestamp::UtcTime;

/// The value of [`Root::service_name`]; clients check it.
pub const SERVICE_NAME: &str = "CDM Task Service";

/// The value of [`Root::service_name`] of the server that stages reference data; the service checks it.
pub const REFDATA_SERVICE_NAME: &str = "CDM Refdata Service";

/// In [`Root::capabilities`]: the same update again changes nothing and is no fault.
pub const IDEMPOTENT_UPDATES: &str = "idempotent_updates";
/// In [`Root::capabilities`]: executors announce themselves ([`crate::wire::attempt`]).
pub const ATTEMPTS: &str = "attempts";
/// In [`Root::capabilities`]: updates may carry
/// [`usage`](crate::wire::container::ContainerUpdate::usage).
pub const USAGE: &str = "usage";

/// The root answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// [`SERVICE_NAME`] or [`REFDATA_SERVICE_NAME`].
    pub service_name: String,
    /// Version of the service.
    pub version: String,
    /// Commit of the service's code.
    pub git_hash: String,
    /// The service's clock.
    pub server_time: UtcTime,
    /// Free text.
    pub notes: String,
    /// What this service can do beyond the contract; absent from the existing service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// The answer of `GET /whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The caller's user name.
    pub user: String,
    /// `full_admin` or nothing; other roles are never shown.
    pub roles: Vec<String>,
    /// Where the caller may read and write, empty when not restricted.
    pub allowed_paths: Vec<AllowedPath>,
}

/// One place a user may read and write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedPath {
    /// S3 path prefix.
    pub path: String,
    /// Always `write`.
    pub perm: String,
}

impl Root {
    /// Whether the service has an addition to the contract, by its name.
    #[must_use]
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }
}
