//! A service whose site `kbase` is over a pool in memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use cts_service::app::App;
use cts_service::background::reconciler::Reconciler;
use cts_service::background::starter::start_waiting_jobs;
use cts_service::compute_site::ComputeSite;
use cts_service::compute_site::htcondor::HtcondorSite;
use cts_service::condor::pool::Pool;
use cts_service::condor::reconcile::Rules;
use cts_service::condor::submit_description::{Extras, FileUrl, JOB_LEASE, SubmitSettings};
use cts_service::job_store::NewJob;
use cts_service::lease_store::LeaseStore;
use cts_service::sites::{SiteStatus, Sites};
use cts_service::sqlite::SqliteStore;
use cts_shared::id::JobId;
use cts_shared::job_input::JobInput;
use cts_shared::site::Site;
use cts_shared::state::job_flow::JobRecord;

use crate::pool_double::{PoolDouble, pool};
use crate::test_app::{OUTPUT_CRC, TestApp};

/// How long anything may take that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Between two rounds of a reconciler that runs.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// How long an executor may be silent.
pub(crate) const SILENCE: Duration = Duration::from_mins(15);

pub(crate) struct PoolApp {
    pub(crate) app: TestApp,
    pub(crate) pool: Arc<PoolDouble>,
}

impl PoolApp {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A service of which parts or settings are others.
    pub(crate) async fn with(customise: impl FnOnce(&mut App)) -> Self {
        let pool = pool();
        let app = TestApp::with_store(|app, store| {
            let site: Arc<dyn ComputeSite> = Arc::new(site(app, store, &pool, settings()));
            app.sites = Sites::new([(Site::Kbase, SiteStatus::Available(site))]);
            customise(app);
        });
        app.register_image().await;
        Self { app, pool }
    }

    /// The site of another service over the same store and pool.
    pub(crate) fn site(&self) -> HtcondorSite {
        site(&self.app.app, &self.app.store, &self.pool, settings())
    }

    pub(crate) fn leases(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.app.store.clone())
    }

    pub(crate) fn reconciler(&self) -> Reconciler {
        self.reconciler_every(INTERVAL)
    }

    pub(crate) fn reconciler_every(&self, interval: Duration) -> Reconciler {
        let rules = Rules {
            max_releases: 2,
            client_group: None,
            idle: INTERVAL,
            silence: SILENCE,
            lease: SILENCE,
        };
        Reconciler::new(
            Arc::clone(&self.app.app),
            Arc::clone(&self.pool) as Arc<dyn Pool>,
            self.leases(),
            rules,
            interval,
        )
    }

    /// A job of alice's for the pool.
    pub(crate) fn job_input(&self, containers: u32) -> Value {
        let mut job = self.app.job_input(containers);
        job["cluster"] = json!("kbase");
        job
    }

    /// Submits a job; its site may not have it yet.
    pub(crate) async fn submit(&self, containers: u32) -> String {
        let job = Some(self.job_input(containers));
        let answer = self
            .app
            .call("alice", "POST", "/jobs", job)
            .await
            .expect(200);
        answer.json()["job_id"].as_str().unwrap().to_owned()
    }

    /// Submits a job and waits until the pool has it.
    pub(crate) async fn submitted(&self, containers: u32) -> String {
        let job = self.submit(containers).await;
        self.wait_for_state(&job, "download_submitted").await;
        job
    }

    /// A stored job that nobody has begun to hand to the pool.
    pub(crate) async fn stored(&self, user: &str, containers: u32) -> JobId {
        let image = self.app.get("", "/images/reg.example.org/kbase/sh:1").await;
        let mut image = image.expect(200).json();
        for member in ["urls", "usage_notes"] {
            image.as_object_mut().unwrap().remove(member);
        }
        let id = JobId::new(uuid::Uuid::new_v4());
        let job = NewJob {
            id,
            user: user.to_owned(),
            job_input: JobInput::from_json(&self.job_input(containers)).unwrap(),
            image: serde_json::from_value(image).unwrap(),
            input_bytes: None,
            record: JobRecord::new(containers, self.app.app.clock.now()),
        };
        self.app.app.jobs.insert_job(job).await.unwrap();
        id
    }

    /// What the starter does again and again.
    pub(crate) async fn start_waiting(&self) {
        start_waiting_jobs(&self.app.app, Duration::ZERO)
            .await
            .unwrap();
    }

    pub(crate) async fn wait_for_state(&self, job: &str, state: &str) {
        eventually(&format!("job {job} is {state}"), async || {
            self.app.state(job).await == state
        })
        .await;
    }

    /// The job as administrators see it.
    pub(crate) async fn job(&self, job: &str) -> Value {
        let path = format!("/admin/jobs/{job}");
        self.app.get("admin", &path).await.expect(200).json()
    }

    pub(crate) async fn clusters(&self, job: &str) -> Value {
        self.job(job).await["htcondor_details"]["cluster_id"].clone()
    }

    /// What the job's owner is told that it waits for; empty if nothing.
    pub(crate) async fn notice(&self, job: &str) -> String {
        let status = self.app.get("alice", &format!("/jobs/{job}/status")).await;
        let status = status.expect(200).json();
        let message = status["site_notice"]["message"].as_str();
        message.unwrap_or_default().to_owned()
    }

    /// A container as administrators see it.
    pub(crate) async fn container(&self, job: &str, number: u32) -> Value {
        let path = format!("/admin/jobs/{job}/container/{number}");
        self.app.get("admin", &path).await.expect(200).json()
    }

    pub(crate) async fn container_state(&self, job: &str, number: u32) -> String {
        let container = self.container(job, number).await;
        container["state"].as_str().unwrap().to_owned()
    }

    /// An executor announces itself; the number of its attempt.
    pub(crate) async fn announce(&self, job: &str, container: u32, instance: &str) -> u64 {
        let path = format!("/external_exec/jobs/{job}/container/{container}/attempts");
        let body =
            json!({"time": "2031-02-03T04:06:00Z", "instance": instance, "host": "n1.example.org"});
        let answer = self
            .app
            .call("executor", "POST", &path, Some(body))
            .await
            .expect(200);
        answer.json()["attempt"].as_u64().unwrap()
    }

    /// An executor without attempts reports all states of a good run.
    pub(crate) async fn complete(&self, job: &str, container: u32, usage: Option<Value>) {
        let output = "cts/io/out/f";
        self.app.objects.insert(output, "x", Some(OUTPUT_CRC));
        let states = [
            "job_submitting",
            "job_submitted",
            "upload_submitting",
            "upload_submitted",
            "complete",
        ];
        for state in states {
            let mut body = json!({
                "time": "2031-02-03T04:06:00Z",
                "exit_code": 0,
                "outputs": [{"file": output, "crc64nvme": OUTPUT_CRC}],
            });
            if let Some(usage) = &usage {
                body["usage"] = usage.clone();
            }
            self.app
                .update(job, container, state, body)
                .await
                .expect(204);
        }
    }

    /// The owner cancels the job.
    pub(crate) async fn cancel(&self, job: &str) {
        let path = format!("/jobs/{job}/cancel");
        self.app.call("alice", "PUT", &path, None).await.expect(204);
    }

    /// What administrators are told of why the job failed.
    pub(crate) async fn admin_error(&self, job: &str) -> String {
        let job = self.job(job).await;
        job["admin_error"].as_str().unwrap_or_default().to_owned()
    }
}

/// The site over the pool.
pub(crate) fn site(
    app: &App,
    store: &SqliteStore,
    pool: &Arc<PoolDouble>,
    settings: SubmitSettings,
) -> HtcondorSite {
    HtcondorSite::new(
        settings,
        Arc::clone(pool) as Arc<dyn Pool>,
        Arc::clone(&app.jobs),
        Arc::new(store.clone()),
        Arc::clone(&app.clock),
    )
}

fn settings() -> SubmitSettings {
    let root = "https://cts.example.org";
    SubmitSettings {
        initial_dir: "/condor/logs".to_owned(),
        service_root_url: root.to_owned(),
        executable_url: FileUrl::default_executable(root).unwrap(),
        code_archive_url: FileUrl::default_code_archive(root).unwrap(),
        client_group: None,
        token_path: "/cts/token".to_owned(),
        s3_secret_path: "/cts/secret".to_owned(),
        cache_dir: "/tmp".to_owned(),
        additional_path: None,
        mount_prefix_override: None,
        refdata_host_path: "/refdata".to_owned(),
        refdata_executor_dir: None,
        s3_url: "http://s3.example.org".to_owned(),
        s3_access_key: "ak".to_owned(),
        s3_insecure: false,
        s3_log_dir: "cts/logs".to_owned(),
        job_update_timeout_min: 345,
        job_lease: JOB_LEASE,
        log_level: None,
        extras: Extras::default(),
    }
}

/// Waits until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}
