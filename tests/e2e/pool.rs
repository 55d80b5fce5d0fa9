//! The testbed's HTCondor pool does what the service's tests rely on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cts_tests::testbed::htcondor::{Ad, Pool};
use serde_json::json;

use crate::harness::{eventually, scheduler_alone, scheduler_stays, testbed};

/// A job that starts at once and has little to do.
const SOON: Duration = Duration::from_secs(180);
const REMOVED: u64 = 3;
const COMPLETED: u64 = 4;
const HELD: u64 = 5;

/// One job with a shell script; its files are in a directory of its own.
struct ShellJob {
    pool: Pool,
    dir: PathBuf,
    cluster: u64,
}

impl ShellJob {
    /// `name` is the test's own.
    async fn submit(name: &str, script: &str) -> Self {
        let testbed = testbed().await;
        let htcondor = &testbed.htcondor;
        let name = format!("{name}-{}", uuid::Uuid::new_v4());
        let dir = htcondor.share_dir(&name).unwrap();
        let script_path = htcondor
            .share_file(&format!("{name}/job.sh"), script.as_bytes())
            .unwrap();
        let pool = htcondor.pool();
        let description = format!(
            "executable = /bin/bash\n\
             transfer_executable = false\n\
             arguments = {script}\n\
             initialdir = {dir}\n\
             output = out\n\
             error = err\n\
             log = log\n\
             should_transfer_files = yes\n\
             when_to_transfer_output = on_exit_or_evict\n\
             request_cpus = 1\n\
             request_memory = 100\n\
             on_exit_hold = ExitCode =!= 0\n\
             want_graceful_removal = true\n\
             queue\n",
            script = script_path.display(),
            dir = dir.display(),
        );
        let cluster = pool.submit(&description).await.unwrap();
        Self { pool, dir, cluster }
    }

    fn constraint(&self) -> String {
        format!("ClusterId == {}", self.cluster)
    }

    async fn in_queue_with_status(&self, status: u64) -> Ad {
        eventually(&format!("JobStatus {status}"), SOON, async || {
            let ads = self.pool.q(&self.constraint()).await.unwrap();
            let found = ads.iter().find(|ad| ad["JobStatus"] == json!(status));
            found.cloned().ok_or_else(|| format!("{ads:?}"))
        })
        .await
    }

    async fn in_history(&self) -> Ad {
        eventually("in the history", SOON, async || {
            let mut ads = self.pool.history(&self.constraint()).await.unwrap();
            ads.pop().ok_or_else(|| "nothing".to_owned())
        })
        .await
    }

    /// What the script wrote into a file of its directory.
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// Waits until the script wrote these lines.
    async fn says(&self, name: &str, lines: &str) {
        eventually(&format!("{lines:?} in {name}"), SOON, async || {
            let text = self.read(name);
            if text.trim_end() == lines {
                Ok(())
            } else {
                Err(text)
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_job_runs_as_the_pools_user_and_may_open_the_engines_socket() {
    let _scheduler = scheduler_stays().await;
    let script = "echo user=$(id -un)\n\
                  echo scratch=$_CONDOR_SCRATCH_DIR\n\
                  echo engine=$(curl -sS --unix-socket /var/run/docker.sock http://localhost/_ping)\n";
    let job = ShellJob::submit("plain", script).await;
    let ad = job.in_history().await;

    let output = job.read("out");
    assert_eq!(ad["JobStatus"], json!(COMPLETED), "{ad:?}");
    assert_eq!(ad["ExitCode"], json!(0), "{ad:?}");
    let line = |name: &str| {
        let found = output.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("no {name} in {output:?}; {}", job.read("err")))
    };
    assert_eq!(line("user="), "cts");
    assert_eq!(line("engine="), "OK");
    // MOUNT_PREFIX_OVERRIDE gives the engine the directories that jobs see.
    let testbed = testbed().await;
    let (inside, outside) = testbed
        .htcondor
        .mount_prefix_override
        .split_once(':')
        .unwrap();
    assert!(
        line("scratch=").starts_with(&format!("{inside}/dir_")),
        "{output}"
    );
    assert_eq!(outside, testbed.htcondor.execute_dir.to_str().unwrap());
}

#[tokio::test]
async fn a_vacated_job_gets_sigterm_and_runs_again() {
    let _scheduler = scheduler_stays().await;
    // Written to the shared directory: what a vacated job prints is not brought back.
    let script = "cd $(dirname $0)\n\
                  trap 'echo SIGTERM >> signals; exit 143' TERM\n\
                  echo started >> runs\n\
                  sleep 600 & wait\n";
    let job = ShellJob::submit("vacate", script).await;
    job.says("runs", "started").await;
    job.pool.vacate(job.cluster, 0).await.unwrap();
    job.says("signals", "SIGTERM").await;
    job.says("runs", "started\nstarted").await;
    job.pool.rm(job.cluster).await.unwrap();
    let ad = job.in_history().await;
    assert_eq!(ad["JobStatus"], json!(REMOVED), "{ad:?}");
}

#[tokio::test]
async fn a_job_is_held_and_released() {
    let _scheduler = scheduler_stays().await;
    let job = ShellJob::submit("hold", "exit 3\n").await;
    let ad = job.in_queue_with_status(HELD).await;
    assert_eq!(ad["ExitCode"], json!(3), "{ad:?}");
    job.pool.release(job.cluster).await.unwrap();
    eventually("held again after another run", SOON, async || {
        let ads = job.pool.q(&job.constraint()).await.unwrap();
        let again = ads
            .iter()
            .find(|ad| ad["NumJobStarts"] == json!(2) && ad["JobStatus"] == json!(HELD));
        again.map(drop).ok_or_else(|| format!("{ads:?}"))
    })
    .await;
    job.pool.rm(job.cluster).await.unwrap();
    job.in_history().await;
}

#[tokio::test]
async fn a_killed_starter_costs_a_run_and_not_the_job() {
    let _scheduler = scheduler_stays().await;
    let script = "cd $(dirname $0)\necho started >> runs\nexec sleep 600\n";
    let job = ShellJob::submit("starter", script).await;
    job.says("runs", "started").await;
    let starter = job.pool.starter_of(job.cluster, 0).unwrap();
    assert!(!job.pool.processes_of(job.cluster, 0).is_empty());
    assert!(job.pool.job_dir(job.cluster, 0).unwrap().is_dir());
    job.pool.kill(starter).unwrap();
    job.says("runs", "started\nstarted").await;
    job.pool.rm(job.cluster).await.unwrap();
    job.in_history().await;
}

#[tokio::test]
async fn a_job_runs_on_while_the_scheduler_is_away() {
    let _scheduler = scheduler_alone().await;
    let script = "cd $(dirname $0)\necho started >> runs\nuntil [ -e go ]; do sleep 0.2; done\n";
    let job = ShellJob::submit("scheduler", script).await;
    job.says("runs", "started").await;
    job.pool.stop_schedd().await.unwrap();
    let refused = job.pool.q(&job.constraint()).await.unwrap_err().to_string();
    assert!(refused.contains("Can't find address"), "{refused}");
    job.pool.start_schedd().await.unwrap();
    std::fs::write(job.dir.join("go"), "").unwrap();
    let ad = job.in_history().await;
    assert_eq!(ad["JobStatus"], json!(COMPLETED), "{ad:?}");
    assert_eq!(job.read("runs"), "started\n", "it ran once");
}

#[tokio::test]
async fn the_configuration_for_administrators_is_understood() {
    let htcondor = &testbed().await.htcondor;
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../condor/config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    // After HTCondor's own, as in a directory of configuration.
    let mut all = "include : /etc/condor/condor_config\n".to_owned();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let content = std::fs::read(&file).unwrap();
        let shared = htcondor.share_file(name, &content).unwrap();
        all.push_str(&format!("include : {}\n", shared.display()));
    }
    let all = htcondor.share_file("all.conf", all.as_bytes()).unwrap();
    let pool = htcondor.pool();
    let value = async |setting| {
        let value = pool.value_in(&all, setting).await.unwrap();
        value.trim().to_owned()
    };
    assert_eq!(value("CLIENTGROUP").await, "\"kbase\"");
    // What was there stays: attributes, the worker's own rules.
    assert_eq!(
        value("STARTD_ATTRS").await.matches("CLIENTGROUP").count(),
        2
    );
    assert_eq!(
        value("START").await,
        "(True) && (TARGET.CTSJobID =?= UNDEFINED || MY.CtsExecutorHealthy =?= True)"
    );
    assert_eq!(value("STARTD_CRON_JOBLIST").await, "CTS_DOCTOR CTS_REAP");
    assert_eq!(value("MachineMaxVacateTime").await, "120");
    assert_eq!(value("MAXJOBRETIREMENTTIME").await, "43200");
    assert_eq!(value("MAX_HISTORY_ROTATIONS").await, "10");
    assert_eq!(value("CONCURRENCY_LIMIT_DEFAULT").await, "200");
    let missing = pool.value_in(&all, "CTS_NO_SUCH_SETTING").await;
    assert!(missing.is_err(), "{missing:?}");
}
