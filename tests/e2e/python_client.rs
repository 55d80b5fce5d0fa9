//! The calls of the published Python client (`cdmtaskserviceclient` 0.2.3), method by method: the same paths,
//! headers, parameters and bodies, and of the answers what the client reads.
//!
//! The client is written over the library `requests`: it sends `Authorization` with every request, on public
//! routes too, takes gzip, follows redirects, and joins its URL and a path by a slash, so that its first
//! request is for `/`. An answer from 400 to 499 must be JSON with `error`, whose `appcode` decides which
//! exception is raised.

use std::io::Read;
use std::time::Duration;

use cts_tests::service_process::{As, ServiceProcess};
use flate2::read::GzDecoder;
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Case, eventually};

const JOB_DEADLINE: Duration = Duration::from_secs(90);

/// What the client makes of an answer.
#[derive(Debug, PartialEq)]
enum Raised {
    InvalidToken,
    Unauthorized,
    IllegalParameter,
    SubmissionStructure,
    NoSuchJob,
    NoJobLogs,
    JobFlow,
    Submission,
}

/// The client of one user.
#[derive(Debug)]
struct PythonClient {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl PythonClient {
    fn new(url: &str, token: &str) -> Self {
        Self {
            http: cts_tests::testbed::http::client().unwrap(),
            url: url.to_owned(),
            token: token.to_owned(),
        }
    }

    /// One request. The body is read to its end and unpacked, as `requests` does.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Vec<u8>, Raised> {
        let url = format!("{}/{path}", self.url);
        let mut request = self
            .http
            .request(method.clone(), &url)
            .header(header::USER_AGENT, "python-requests/2.32.5")
            .header(header::ACCEPT_ENCODING, "gzip, deflate")
            .header(header::ACCEPT, "*/*")
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        } else if method == Method::PUT {
            request = request.header(header::CONTENT_LENGTH, "0");
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let zipped = response.headers().get(header::CONTENT_ENCODING).cloned();
        let mut bytes = response.bytes().await.unwrap().to_vec();
        if let Some(encoding) = zipped {
            assert_eq!(encoding, "gzip", "{url}");
            let mut unzipped = Vec::new();
            let mut decoder = GzDecoder::new(bytes.as_slice());
            decoder.read_to_end(&mut unzipped).unwrap();
            bytes = unzipped;
        }
        if status.is_client_error() {
            return Err(raised(status, &bytes));
        }
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        assert!(status.is_success(), "{method} {url}: {status} {}", text());
        Ok(bytes)
    }

    async fn get(&self, path: &str) -> Result<Value, Raised> {
        let bytes = self.request(Method::GET, path, None).await?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    /// `CTSClient(token, url=...)`
    async fn connect(url: &str, token: &str) -> Result<Self, Raised> {
        let client = Self::new(url, token);
        let root = client.get("").await?;
        assert_eq!(root["service_name"], "CDM Task Service");
        let who = client.get("whoami").await?;
        assert!(who["user"].is_string(), "{who}");
        Ok(client)
    }

    /// `CTSClient.submit_job`: options that were not given are left out, `args` too may be null.
    async fn submit_job(&self, job: Value) -> Result<String, Raised> {
        let body = self.request(Method::POST, "jobs", Some(job)).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        Ok(answer["job_id"].as_str().unwrap().to_owned())
    }

    /// `Job.wait_for_completion`: its shortest pause is ten seconds, ours is shorter.
    async fn wait_for_completion(&self, id: &str) -> Value {
        eventually("the end of the job", JOB_DEADLINE, async || {
            let status = self.get(&format!("jobs/{id}/status")).await.unwrap();
            // With `wait_for_event_importer` the client looks for keys in here, whatever the state.
            assert!(status["admin_meta"].is_object(), "{status}");
            let state = status["state"].as_str().unwrap().to_owned();
            ["complete", "error"]
                .contains(&state.as_str())
                .then_some(status)
                .ok_or(state)
        })
        .await
    }

    /// `Job.print_logs`
    async fn print_logs(&self, id: &str, container: u32, stream: &str) -> Result<String, Raised> {
        let path = format!("jobs/{id}/log/{container}/{stream}");
        let bytes = self.request(Method::GET, &path, None).await?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    /// `Job.cancel`: a `PUT` without a body; the answer's body is not looked at.
    async fn cancel(&self, id: &str) -> Result<(), Raised> {
        let path = format!("jobs/{id}/cancel");
        self.request(Method::PUT, &path, None).await.map(drop)
    }

    /// `CTSClient.list_jobs`: the ids.
    async fn list_jobs(&self, parameters: &[(&str, &str)]) -> Result<Vec<String>, Raised> {
        // The order of the client, and its way to write a time: `+` and `:` are escaped.
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", "1000").extend_pairs(parameters);
        let answer = self.get(&format!("jobs?{}", query.finish())).await?;
        let jobs = answer["jobs"].as_array().unwrap();
        let ids = jobs
            .iter()
            .map(|job| job["id"].as_str().unwrap().to_owned());
        Ok(ids.collect())
    }
}

/// Which exception the client raises for an answer.
fn raised(status: StatusCode, body: &[u8]) -> Raised {
    let answer: Value = serde_json::from_slice(body).unwrap();
    let error = &answer["error"];
    let raised = match error["appcode"].as_u64() {
        Some(10020) => Raised::InvalidToken,
        Some(20000) => Raised::Unauthorized,
        Some(30001) => Raised::IllegalParameter,
        Some(30010) => {
            let detail = &error["request_validation_detail"];
            assert!(detail.is_array(), "{answer}");
            return Raised::SubmissionStructure;
        }
        Some(40040) => Raised::NoSuchJob,
        Some(40070) => Raised::NoJobLogs,
        Some(60000 | 60010 | 60020) => Raised::JobFlow,
        Some(20010 | 20020 | 30040 | 40010 | 40030) => Raised::Submission,
        _ => panic!("an answer the client does not expect: {status} {answer}"),
    };
    assert!(error["message"].is_string(), "{answer}");
    raised
}

/// A service with the test tool registered, and its directory.
async fn service(case: &Case) -> (ServiceProcess, TempDir) {
    let dir = tempfile::Builder::new()
        .prefix("cts-e2e-python-client-")
        .tempdir()
        .unwrap();
    let log = dir.path().join("service.log");
    let started = ServiceProcess::start(case.testbed, &dir.path().join("data"), &log).await;
    let service = started.unwrap_or_else(|error| panic!("{error}"));
    let path = format!("/admin/images/{}", case.testbed.images.test_tool.tagged());
    let registered = service.call(As::Admin, Method::POST, &path, None).await;
    registered.unwrap_or_else(|error| panic!("{error}"));
    (service, dir)
}

/// What `submit_job` sends for the case's image and inputs and these arguments.
fn submission(case: &Case, args: Value) -> Value {
    let input = &case.job()["job_input"];
    let files = input["input_files"].as_array().unwrap();
    let files: Vec<_> = files.iter().map(|file| file["file"].clone()).collect();
    json!({
        "cluster": "local",
        "image": input["image"],
        "params": { "args": args, "declobber": false },
        "num_containers": 1,
        "cpus": 1,
        "memory": "100MB",
        "runtime": "PT5M",
        "output_dir": input["output_dir"],
        "input_files": files,
    })
}

#[tokio::test]
async fn a_job_from_submission_to_logs() {
    let case = Case::new("python-client", &[]).await;
    let case = case.input("a.txt", b"a").await.input("b.txt", b"b").await;
    let (service, _dir) = service(&case).await;
    let url = service.url();
    let client = PythonClient::connect(url, service.token(As::User)).await;
    let client = client.unwrap();

    // `CTSClient.get_images` sorts by name and tag and prints these; all but two must be there.
    let images = client.get("images").await.unwrap();
    let image = &images["data"][0];
    for member in ["name", "tag", "digest", "registered_by", "registered_on"] {
        assert!(image[member].is_string(), "{member}: {images}");
    }
    assert!(image["entrypoint"].is_array(), "{images}");
    // `CTSClient.get_sites`
    let sites = client.get("sites").await.unwrap();
    let sites = sites["sites"].as_array().unwrap();
    let local = sites
        .iter()
        .find(|site| site["cluster"] == "local")
        .unwrap();
    assert_eq!(
        (&local["active"], &local["available"]),
        (&json!(true), &json!(true))
    );
    for site in sites {
        for member in ["cpus_per_node", "memory_per_node_gb", "max_runtime_min"] {
            assert!(site[member].is_number(), "{member}: {site}");
        }
    }

    // `CTSClient.insert_container_number` and `CTSClient.insert_files` make these two objects.
    let number = json!({ "type": "container_number", "container_num_prefix": "number_",
        "container_num_suffix": null });
    let files = json!({ "type": "input_files", "input_files_format": "space_separated_list" });
    let args = json!([
        "say",
        "hello",
        number,
        files,
        "then",
        "complain",
        "hm",
        "then",
        "copy_inputs"
    ]);
    let mut job = submission(&case, args);
    job["num_containers"] = json!(2);
    let before = Timestamp::now() - SignedDuration::from_mins(1);
    let id = client.submit_job(job).await.unwrap();
    let status = client.wait_for_completion(&id).await;
    assert_eq!(status["state"], "complete", "{status}");

    // `Job.get_job`, `Job.get_exit_codes`, `Job.print_logs`
    let job = client.get(&format!("jobs/{id}")).await.unwrap();
    assert_eq!(job["state"], "complete", "{job}");
    let mut outputs: Vec<_> = job["outputs"].as_array().unwrap().clone();
    outputs.sort_by_key(|output| output["file"].as_str().map(str::to_owned));
    let outputs: Vec<_> = outputs.iter().map(|output| &output["file"]).collect();
    assert_eq!(
        outputs,
        [&case.output_path("a.txt"), &case.output_path("b.txt")]
    );
    let codes = client.get(&format!("jobs/{id}/exit_codes")).await.unwrap();
    assert_eq!(codes, json!({ "exit_codes": [0, 0] }));
    let stdout = client.print_logs(&id, 1, "stdout").await.unwrap();
    assert_eq!(stdout, "hello number_1 /input_files/b.txt\n");
    assert_eq!(client.print_logs(&id, 1, "stderr").await.unwrap(), "hm\n");

    // `CTSClient.list_jobs`, without filters and with all of them; `datetime.isoformat()` writes the
    // offset as `+00:00`.
    assert_eq!(client.list_jobs(&[]).await.unwrap(), [id.as_str()]);
    let iso = |time: Timestamp| time.to_string().replace('Z', "+00:00");
    let (after, before) = (iso(before), iso(Timestamp::now()));
    let filters = [
        ("cluster", "local"),
        ("state", "complete"),
        ("after", &after),
        ("before", &before),
    ];
    assert_eq!(client.list_jobs(&filters).await.unwrap(), [id.as_str()]);
    let none = [("state", "error")];
    assert!(client.list_jobs(&none).await.unwrap().is_empty());
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_job_that_is_canceled() {
    let case = Case::new("python-client-cancel", &[]).await;
    let case = case.input("a.txt", b"a").await;
    let (service, _dir) = service(&case).await;
    let client = PythonClient::connect(service.url(), service.token(As::User)).await;
    let client = client.unwrap();
    let id = client
        .submit_job(submission(&case, json!(["sleep", "300"])))
        .await
        .unwrap();
    eventually("the container", JOB_DEADLINE, async || {
        let status = client.get(&format!("jobs/{id}/status")).await.unwrap();
        let running = status["state"] == "job_submitted";
        running.then_some(()).ok_or(status.to_string())
    })
    .await;
    client.cancel(&id).await.unwrap();
    eventually("the end of the job", JOB_DEADLINE, async || {
        let status = client.get(&format!("jobs/{id}/status")).await.unwrap();
        let canceled = status["state"] == "canceled";
        canceled.then_some(()).ok_or(status.to_string())
    })
    .await;
    assert_eq!(client.cancel(&id).await, Err(Raised::NoSuchJob));
    service.stop().await.unwrap();
}

#[tokio::test]
async fn every_fault_is_the_exception_it_should_be() {
    let case = Case::new("python-client-faults", &[]).await;
    let case = case.input("a.txt", b"a").await;
    let (service, _dir) = service(&case).await;
    let url = service.url();
    let client = PythonClient::connect(url, service.token(As::User)).await;
    let client = client.unwrap();

    let stranger = PythonClient::connect(url, "no-such-token").await;
    assert_eq!(stranger.unwrap_err(), Raised::InvalidToken);

    let good = submission(&case, json!([]));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut job = good.clone();
        change(&mut job);
        job
    };
    let cases = [
        // The client's default.
        (
            with(&|job| job["cluster"] = json!("perlmutter-jaws")),
            Raised::JobFlow,
        ),
        (
            with(&|job| job["memory"] = json!("10 parsecs")),
            Raised::SubmissionStructure,
        ),
        (
            with(&|job| job["cpus"] = json!(169)),
            Raised::IllegalParameter,
        ),
        (
            with(&|job| job["image"] = json!("ghcr.io/kbase/absent:1")),
            Raised::Submission,
        ),
        (
            with(&|job| job["image"] = json!("not an image")),
            Raised::Submission,
        ),
        (
            with(&|job| job["input_files"] = json!([case.input_path("absent")])),
            Raised::Submission,
        ),
    ];
    for (job, expected) in cases {
        let text = job.to_string();
        assert_eq!(client.submit_job(job).await, Err(expected), "{text}");
    }

    let absent = "jobs/5f3c6f0e-8e4a-4b0e-9d6c-000000000000";
    assert_eq!(client.get(absent).await, Err(Raised::NoSuchJob));
    let long = with(&|job| job["params"]["args"] = json!(["sleep", "300"]));
    let id = client.submit_job(long).await.unwrap();
    let admin = PythonClient::connect(url, service.token(As::Admin)).await;
    let admin = admin.unwrap();
    let not_the_owner = admin.get(&format!("jobs/{id}")).await;
    assert_eq!(not_the_owner, Err(Raised::Unauthorized));
    // It runs, or waits to.
    let no_logs = client.print_logs(&id, 0, "stdout").await;
    assert_eq!(no_logs, Err(Raised::NoJobLogs));
    service.stop().await.unwrap();
}
