//! The coordinating service as the staging server sees it: what is wanted, and how it went.

use std::sync::Arc;

use cts_net::secret::SecretSource;
use cts_net::tls::TlsError;
use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::{RefdataUpdate, ReferenceData};
use reqwest::Method;
use url::Url;

use crate::coordinator::CoordinatorError;
use crate::coordinator::client::{MAX_ANSWER_BYTES, ServiceClient, parse};

/// The service at one URL. Each call is one attempt.
#[derive(Debug)]
pub struct RefdataService(ServiceClient);

impl RefdataService {
    /// Sets up the client; sends nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(root: Url, token: Arc<SecretSource>) -> Result<Self, TlsError> {
        ServiceClient::new(root, token).map(Self)
    }

    /// `GET /refdata/id/{id}`; nothing if there is none.
    pub(super) async fn refdata(
        &self,
        id: &RefdataId,
    ) -> Result<Option<ReferenceData>, CoordinatorError> {
        let path = format!("/refdata/id/{id}");
        match self.0.get(&path, MAX_ANSWER_BYTES).await {
            Ok(text) => parse(&format!("GET {path}"), &text).map(Some),
            Err(error) if error.refusal() == Some(ErrorCode::NoSuchRefdata) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `PUT /external_exec/refdata/{id}/{site}/update/{state}`. Only an error has a body: the existing service
    /// takes none with the others.
    pub(super) async fn update(
        &self,
        id: &RefdataId,
        site: Site,
        state: RefdataState,
        failure: Option<&RefdataUpdate>,
    ) -> Result<(), CoordinatorError> {
        let path = format!("/external_exec/refdata/{id}/{site}/update/{state}");
        self.0
            .send(Method::PUT, &path, failure, MAX_ANSWER_BYTES)
            .await
            .map(drop)
    }
}
