//! The coordinating service over HTTP, as an executor talks to it about its container.

use std::sync::Arc;

use cts_net::secret::SecretSource;
use cts_net::tls::TlsError;
use cts_shared::id::{ContainerNumber, JobId, RefdataId};
use cts_shared::state::JobState;
use cts_shared::wire::attempt::{AttemptNotice, AttemptStanding};
use cts_shared::wire::container::{Container, ContainerUpdate};
use cts_shared::wire::job::AdminJob;
use cts_shared::wire::refdata::ReferenceData;
use cts_shared::wire::root::{Root, WhoAmI};
use futures::future::BoxFuture;
use reqwest::Method;
use url::Url;

use super::client::{MAX_ANSWER_BYTES, ServiceClient, parse};
use super::{Coordinator, CoordinatorError, Observer};

/// A job of 10,000 input files with the longest keys and data ids has 15 MB.
const MAX_JOB_BYTES: usize = 64 * 1024 * 1024;

/// The service at one URL, for one container of one job.
#[derive(Debug)]
pub struct HttpCoordinator {
    service: ServiceClient,
    job: JobId,
    container: ContainerNumber,
}

impl HttpCoordinator {
    /// Sets up the client; sends nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        root: Url,
        token: Arc<SecretSource>,
        job: JobId,
        container: ContainerNumber,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            service: ServiceClient::new(root, token)?,
            job,
            container,
        })
    }

    /// The same client, whose calls `observer` hears of.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.service = self.service.with_observer(observer);
        self
    }

    /// Where an executor talks about its container.
    fn external_path(&self, rest: &str) -> String {
        let (job, container) = (self.job, self.container);
        format!("/external_exec/jobs/{job}/container/{container}/{rest}")
    }

    /// Tells that this executor is there, for the first time or again.
    async fn notify(
        &self,
        method: Method,
        rest: &str,
        notice: &AttemptNotice,
    ) -> Result<AttemptStanding, CoordinatorError> {
        let path = self.external_path(rest);
        let call = format!("{method} {path}");
        let sent = self
            .service
            .send(method, &path, Some(notice), MAX_ANSWER_BYTES);
        parse(&call, &sent.await?)
    }
}

impl Coordinator for HttpCoordinator {
    fn root(&self) -> BoxFuture<'_, Result<Root, CoordinatorError>> {
        Box::pin(async move {
            let text = self.service.get("", MAX_ANSWER_BYTES).await?;
            parse("GET /", &text)
        })
    }

    fn job(&self) -> BoxFuture<'_, Result<AdminJob, CoordinatorError>> {
        Box::pin(async move {
            let path = format!("/admin/jobs/{}", self.job);
            let text = self.service.get(&path, MAX_JOB_BYTES).await?;
            AdminJob::from_json(&text).map_err(|error| CoordinatorError::Malformed {
                call: format!("GET {path}"),
                cause: error.to_string(),
            })
        })
    }

    fn refdata<'a>(
        &'a self,
        id: &'a RefdataId,
    ) -> BoxFuture<'a, Result<ReferenceData, CoordinatorError>> {
        Box::pin(async move {
            let path = format!("/refdata/id/{id}");
            let text = self.service.get(&path, MAX_ANSWER_BYTES).await?;
            parse(&format!("GET {path}"), &text)
        })
    }

    fn whoami(&self) -> BoxFuture<'_, Result<String, CoordinatorError>> {
        Box::pin(async move {
            let text = self.service.get("/whoami", MAX_ANSWER_BYTES).await?;
            parse::<WhoAmI>("GET /whoami", &text).map(|answer| answer.user)
        })
    }

    fn update<'a>(
        &'a self,
        state: JobState,
        body: &'a ContainerUpdate,
    ) -> BoxFuture<'a, Result<(), CoordinatorError>> {
        Box::pin(async move {
            let path = self.external_path(&format!("update/{state}"));
            let sent = self
                .service
                .send(Method::PUT, &path, Some(body), MAX_ANSWER_BYTES);
            sent.await.map(drop)
        })
    }

    fn announce<'a>(
        &'a self,
        notice: &'a AttemptNotice,
    ) -> BoxFuture<'a, Result<AttemptStanding, CoordinatorError>> {
        Box::pin(self.notify(Method::POST, "attempts", notice))
    }

    fn renew<'a>(
        &'a self,
        attempt: u32,
        notice: &'a AttemptNotice,
    ) -> BoxFuture<'a, Result<AttemptStanding, CoordinatorError>> {
        Box::pin(async move {
            let rest = format!("attempts/{attempt}");
            self.notify(Method::PUT, &rest, notice).await
        })
    }

    fn container_state(&self) -> BoxFuture<'_, Result<JobState, CoordinatorError>> {
        Box::pin(async move {
            let path = format!("/admin/jobs/{}/container/{}", self.job, self.container);
            let text = self.service.get(&path, MAX_ANSWER_BYTES).await?;
            parse::<Container>(&path, &text).map(|container| container.state)
        })
    }
}
