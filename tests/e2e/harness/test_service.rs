//! A service of the test's own, and the jobs it is given.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use cts_tests::binaries::MissingBinary;
use cts_tests::service_process::{As, Launch, ServiceProcess};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Case, eventually};

/// A running service and the directory of its data.
#[derive(Debug)]
pub(crate) struct TestService {
    process: ServiceProcess,
    _dir: TempDir,
}

impl TestService {
    pub(crate) async fn start(case: &Case, launch: Result<Launch, MissingBinary>) -> Self {
        let launch = launch.unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::Builder::new()
            .prefix("cts-e2e-service-")
            .tempdir()
            .unwrap();
        let log = dir.path().join("service.log");
        let started =
            ServiceProcess::launch(&launch, case.testbed, &dir.path().join("data"), &log).await;
        Self {
            process: started.unwrap_or_else(|error| panic!("{error}")),
            _dir: dir,
        }
    }

    /// A request that succeeds.
    pub(crate) async fn call(
        &self,
        who: As,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Value {
        let answer = self.process.call(who, method, path, body).await;
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Registers the case's image.
    pub(crate) async fn register_image(&self, case: &Case) {
        let image = format!("/admin/images/{}", case.testbed.images.test_tool.tagged());
        self.call(As::Admin, Method::POST, &image, None).await;
    }

    /// Registers the case's image, which needs reference data, mounted there unless a job says otherwise.
    pub(crate) async fn register_image_with(&self, case: &Case, refdata: &str, mount_point: &str) {
        let image = format!(
            "/admin/images/{}?refdata_id={refdata}&default_refdata_mount_point={mount_point}",
            case.testbed.images.test_tool.tagged()
        );
        self.call(As::Admin, Method::POST, &image, None).await;
    }

    /// Registers an object as reference data. Returns its id.
    pub(crate) async fn register_refdata(&self, path: &str, unpack: bool) -> String {
        let request = format!("/admin/refdata/{path}?unpack={unpack}");
        let registered = self.call(As::Admin, Method::POST, &request, None).await;
        registered["id"].as_str().unwrap().to_owned()
    }

    /// The administrators' view of reference data at a site.
    pub(crate) async fn refdata_at(&self, id: &str, site: &str) -> Value {
        let path = format!("/admin/refdata/{id}");
        let refdata = self.call(As::Admin, Method::GET, &path, None).await;
        let statuses = refdata["statuses"].as_array().unwrap();
        let status = statuses.iter().find(|status| status["cluster"] == site);
        status
            .unwrap_or_else(|| panic!("no {site}: {refdata}"))
            .clone()
    }

    /// Waits until reference data is in one of the states at a site, and returns its status there.
    pub(crate) async fn wait_for_refdata(
        &self,
        id: &str,
        site: &str,
        states: &[&str],
        deadline: Duration,
    ) -> Value {
        eventually("the state of the reference data", deadline, async || {
            let status = self.refdata_at(id, site).await;
            let state = status["state"].as_str().unwrap_or_default().to_owned();
            if states.contains(&state.as_str()) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
        .await
    }

    /// Registers the image and submits the case's job to a site. Returns its id.
    pub(crate) async fn submit(&self, case: &Case, site: &str) -> String {
        self.register_image(case).await;
        self.submit_again(case, site).await
    }

    /// Submits a job whose image is registered.
    pub(crate) async fn submit_again(&self, case: &Case, site: &str) -> String {
        let mut body = case.job()["job_input"].clone();
        body["cluster"] = json!(site);
        let submitted = self
            .call(As::User, Method::POST, "/jobs", Some(&body))
            .await;
        submitted["job_id"].as_str().unwrap().to_owned()
    }

    /// The administrators' view of a job.
    pub(crate) async fn job(&self, id: &str) -> Value {
        self.call(As::Admin, Method::GET, &format!("/admin/jobs/{id}"), None)
            .await
    }

    /// The administrators' view of a job's containers.
    pub(crate) async fn containers(&self, id: &str) -> Vec<Value> {
        let path = format!("/admin/jobs/{id}/container");
        let answer = self.call(As::Admin, Method::GET, &path, None).await;
        answer["subjobs"].as_array().unwrap().clone()
    }

    /// Waits until the job is in one of the states, and returns it.
    pub(crate) async fn wait_for(&self, id: &str, states: &[&str], deadline: Duration) -> Value {
        eventually("the job's state", deadline, async || {
            let job = self.job(id).await;
            let state = job["state"].as_str().unwrap_or_default().to_owned();
            if states.contains(&state.as_str()) {
                Ok(job)
            } else {
                Err(job.to_string())
            }
        })
        .await
    }

    /// Waits until the job has ended, and returns it.
    pub(crate) async fn end_of(&self, id: &str, deadline: Duration) -> Value {
        self.wait_for(id, &["complete", "error", "canceled"], deadline)
            .await
    }

    pub(crate) async fn stop(self) {
        let stopped = self.process.stop().await;
        stopped.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Deref for TestService {
    type Target = ServiceProcess;

    fn deref(&self) -> &ServiceProcess {
        &self.process
    }
}

impl DerefMut for TestService {
    fn deref_mut(&mut self) -> &mut ServiceProcess {
        &mut self.process
    }
}

/// The states of a job that completes.
pub(crate) const GOOD_STATES: [&str; 7] = [
    "created",
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];

/// The states that a job entered.
pub(crate) fn states(job: &Value) -> Vec<&str> {
    let transitions = job["transition_times"].as_array().unwrap();
    transitions
        .iter()
        .map(|transition| transition["state"].as_str().unwrap())
        .collect()
}
