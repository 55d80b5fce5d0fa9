//! The pool as tests use it: HTCondor's commands, and from outside, a job's processes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::super::process::{self, ProcessId, Seen};
use super::HtCondor;

/// For one command; they take a tenth of a second.
const COMMAND_WITHIN: Duration = Duration::from_secs(120);
/// For a daemon to end or to be back.
const DAEMON_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// A job's `ClassAd` as `condor_q -json` prints it.
pub type Ad = Map<String, Value>;

/// A command of HTCondor's did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{command}: {problem}")]
pub struct PoolError {
    command: String,
    problem: String,
}

/// The testbed's pool. Every call ends within a minute.
#[derive(Debug, Clone)]
pub struct Pool {
    htcondor: HtCondor,
}

impl Pool {
    pub(super) fn new(htcondor: HtCondor) -> Self {
        Self { htcondor }
    }

    /// One of HTCondor's commands, such as `condor_q`; it is killed when it is dropped.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.htcondor.bin_dir.join(name));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Queues the jobs of a submit description; the number of their cluster.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn submit(&self, description: &str) -> Result<u64, PoolError> {
        let printed = self
            .run_with_input("condor_submit", ["-terse"], description)
            .await?;
        // FIRST - LAST, each CLUSTER.PROC
        let cluster = printed.split('.').next().and_then(|text| text.parse().ok());
        cluster.ok_or_else(|| PoolError {
            command: "condor_submit -terse".to_owned(),
            problem: format!("printed {printed:?}"),
        })
    }

    /// Ads of the jobs in the queue that match.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub async fn q(&self, constraint: &str) -> Result<Vec<Ad>, PoolError> {
        self.ads("condor_q", constraint).await
    }

    /// Ads of the jobs that left the queue and match, the last first.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub async fn history(&self, constraint: &str) -> Result<Vec<Ad>, PoolError> {
        self.ads("condor_history", constraint).await
    }

    /// Holds all jobs of a cluster.
    ///
    /// # Errors
    /// When there are none.
    pub async fn hold(&self, cluster: u64) -> Result<(), PoolError> {
        self.act("condor_hold", cluster.to_string()).await
    }

    /// Lets all held jobs of a cluster run.
    ///
    /// # Errors
    /// When there are none.
    pub async fn release(&self, cluster: u64) -> Result<(), PoolError> {
        self.act("condor_release", cluster.to_string()).await
    }

    /// Removes all jobs of a cluster.
    ///
    /// # Errors
    /// When there are none.
    pub async fn rm(&self, cluster: u64) -> Result<(), PoolError> {
        self.act("condor_rm", cluster.to_string()).await
    }

    /// Takes a running job's slot from it: the job gets SIGTERM and is idle again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn vacate(&self, cluster: u64, proc: u64) -> Result<(), PoolError> {
        self.act("condor_vacate_job", format!("{cluster}.{proc}"))
            .await
    }

    /// Ends the scheduler; jobs that run go on. Returns when it no longer answers.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn stop_schedd(&self) -> Result<(), PoolError> {
        self.run("condor_off", ["-fast", "-schedd"]).await?;
        self.until("the scheduler to end", async || {
            if self.has_daemon("condor_schedd") {
                Err("it runs".to_owned())
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Starts the scheduler again. Returns when it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_schedd(&self) -> Result<(), PoolError> {
        self.run("condor_on", ["-schedd"]).await?;
        self.until("the scheduler to answer", async || {
            self.q("false").await.map(drop).map_err(|e| e.to_string())
        })
        .await
    }

    /// Stops the scheduler and starts it again.
    ///
    /// # Errors
    /// When it cannot be stopped or does not answer.
    pub async fn restart_schedd(&self) -> Result<(), PoolError> {
        self.stop_schedd().await?;
        self.start_schedd().await
    }

    /// What HTCondor makes of a setting when it reads this configuration in the place of its own.
    ///
    /// # Errors
    /// When it cannot be read, or the setting is not there.
    pub async fn value_in(&self, config: &Path, setting: &str) -> Result<String, PoolError> {
        let mut command = self.command("condor_config_val");
        command.env("CONDOR_CONFIG", config).arg(setting);
        self.run_command("condor_config_val", command, "").await
    }

    /// The directory that a job runs in, as seen from outside; `None` if it does not run.
    pub fn job_dir(&self, cluster: u64, proc: u64) -> Option<PathBuf> {
        let wanted = [format!("ClusterId = {cluster}"), format!("ProcId = {proc}")];
        std::fs::read_dir(&self.htcondor.execute_dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|dir| {
                let ad = std::fs::read_to_string(dir.join(".job.ad")).unwrap_or_default();
                wanted
                    .iter()
                    .all(|line| ad.lines().any(|found| found == line))
            })
    }

    /// The pid of a running job's `condor_starter`; `None` if it does not run.
    pub fn starter_of(&self, cluster: u64, proc: u64) -> Option<i32> {
        let all = process::all();
        self.starter(&all, cluster, proc).map(|starter| starter.pid)
    }

    /// The pids of what a job runs: its first process, then what that started.
    pub fn processes_of(&self, cluster: u64, proc: u64) -> Vec<i32> {
        let all = process::all();
        let Some(starter) = self.starter(&all, cluster, proc) else {
            return Vec::new();
        };
        process::with_descendants(&all, vec![starter])
            .into_iter()
            .skip(1)
            .map(|process| process.pid)
            .collect()
    }

    /// Ends a process of the pool's at once, as the kernel out of memory would.
    ///
    /// # Errors
    /// When it has ended, or is none of the pool's.
    pub fn kill(&self, pid: i32) -> Result<(), PoolError> {
        let failed = |problem: String| PoolError {
            command: format!("kill -9 {pid}"),
            problem,
        };
        let all = process::all();
        if !all
            .iter()
            .any(|seen| seen.id.pid == pid && self.contains(seen))
        {
            return Err(failed("no process of the pool".to_owned()));
        }
        let pid = Pid::from_raw(pid).ok_or_else(|| failed("no pid".to_owned()))?;
        kill_process(pid, Signal::KILL).map_err(|error| failed(error.to_string()))
    }

    /// Ends the worker and all that it runs at once, as a power cut would. HTCondor's master starts the worker
    /// again after some seconds; what it ran is lost.
    ///
    /// # Errors
    /// When there is none.
    pub fn cut_power_of_worker(&self) -> Result<(), PoolError> {
        let all = process::all();
        let startd: Vec<ProcessId> = all
            .iter()
            .filter(|seen| seen.program == "condor_startd" && self.contains(seen))
            .map(|seen| seen.id.clone())
            .collect();
        if startd.is_empty() {
            return Err(PoolError {
                command: "kill -9 condor_startd".to_owned(),
                problem: "it does not run".to_owned(),
            });
        }
        // Children first: nobody is left to tidy up, or to tell.
        for process in process::with_descendants(&all, startd).iter().rev() {
            process.signal(Signal::KILL);
        }
        Ok(())
    }

    /// The starter names the job's directory by its pid inside of the pool.
    fn starter(&self, all: &[Seen], cluster: u64, proc: u64) -> Option<ProcessId> {
        let dir = self.job_dir(cluster, proc)?;
        let inner: i32 = dir
            .file_name()?
            .to_str()?
            .strip_prefix("dir_")?
            .parse()
            .ok()?;
        all.iter()
            .filter(|seen| seen.program == "condor_starter" && self.contains(seen))
            .find(|seen| seen.innermost_pid() == Some(inner))
            .map(|seen| seen.id.clone())
    }

    fn has_daemon(&self, program: &str) -> bool {
        let all = process::all();
        all.iter()
            .any(|seen| seen.program == program && self.contains(seen))
    }

    fn contains(&self, seen: &Seen) -> bool {
        seen.root().as_ref() == Some(&self.htcondor.tree)
    }

    /// Whether the scheduler answers and the collector knows a slot.
    pub(super) async fn ready(&self) -> Result<(), PoolError> {
        self.q("false").await?;
        let slots = self.run("condor_status", ["-autoformat", "Name"]).await?;
        if slots.trim().is_empty() {
            return Err(PoolError {
                command: "condor_status".to_owned(),
                problem: "shows no slot".to_owned(),
            });
        }
        Ok(())
    }

    async fn until(
        &self,
        what: &str,
        probe: impl AsyncFn() -> Result<(), String>,
    ) -> Result<(), PoolError> {
        let deadline = Instant::now() + DAEMON_WITHIN;
        loop {
            match probe().await {
                Ok(()) => return Ok(()),
                Err(seen) if Instant::now() >= deadline => {
                    return Err(PoolError {
                        command: format!("waiting for {what}"),
                        problem: seen,
                    });
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn act(&self, name: &str, jobs: String) -> Result<(), PoolError> {
        self.run(name, [jobs]).await.map(drop)
    }

    async fn ads(&self, name: &str, constraint: &str) -> Result<Vec<Ad>, PoolError> {
        let printed = self.run(name, ["-json", "-constraint", constraint]).await?;
        if printed.trim().is_empty() {
            // condor_q prints nothing where an empty list is meant.
            return Ok(Vec::new());
        }
        serde_json::from_str(&printed).map_err(|error| PoolError {
            command: format!("{name} -json"),
            problem: format!("printed no list of ads ({error}): {printed}"),
        })
    }

    async fn run<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, PoolError> {
        self.run_with_input(name, arguments, "").await
    }

    /// What a command printed, if it ended well.
    async fn run_with_input<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String, PoolError> {
        let mut command = self.command(name);
        command.args(arguments);
        self.run_command(name, command, input).await
    }

    async fn run_command(
        &self,
        name: &str,
        mut command: Command,
        input: &str,
    ) -> Result<String, PoolError> {
        let failed = |problem: String| PoolError {
            command: name.to_owned(),
            problem,
        };
        command
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let work = async {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A command that ends without reading says why.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(COMMAND_WITHIN, work)
            .await
            .map_err(|_| failed(format!("not done within {} s", COMMAND_WITHIN.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{}: {}", output.status, said.trim())))
    }
}
