//! The guardian: a small process beside the executor that removes the container when the executor dies
//! without having done so (SIGKILL, out of memory).
//!
//! It is this program again (`cts-executor guard`), in a session of its own, without the executor's
//! environment, and waits for the other end of its standard input. A byte says that the container is gone; an end
//! without one says that the executor is.

use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::GuardArguments;
use crate::commands::{complain, connect_engine};
use crate::container_engine::EngineError;
use crate::exit::ExitStatus;
use crate::labels;
use crate::variables::{CTS_LOG_FORMAT, CTS_LOG_LEVEL};

/// What the executor says when the container is gone.
const ALL_CLEAN: &[u8] = b"\n";

/// How long the guardian tries to reach the engine.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Between its tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks that find nothing before it goes: the engine may be at creating the container still.
const LOOKS: u32 = 5;
/// For a guardian to go when it is told.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a guardian is started.
#[derive(Debug, Clone)]
pub struct GuardianProgram {
    /// This program.
    pub executable: PathBuf,
    /// Where the engine listens, if not at its usual place.
    pub docker_host: Option<String>,
}

/// A running guardian. Dropping it leaves the container to it.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
    pipe: ChildStdin,
}

impl GuardianProgram {
    /// Starts a guardian for the containers of this executor.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&self, instance: &str) -> std::io::Result<Guardian> {
        let mut command = Command::new(&self.executable);
        command.args(["guard", "--instance", instance]);
        if let Some(host) = &self.docker_host {
            command.args(["--docker-host", host]);
        }
        command.env_clear();
        for name in [CTS_LOG_LEVEL.name, CTS_LOG_FORMAT.name] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(false)
            .spawn()?;
        let pipe = process
            .stdin
            .take()
            .ok_or_else(|| std::io::Error::other("it has no standard input"))?;
        Ok(Guardian { process, pipe })
    }
}

impl Guardian {
    /// The container is gone: nothing to guard any more.
    pub async fn dismiss(mut self) {
        let farewell = async {
            // One that has been killed needs no telling.
            let _gone = self.pipe.write_all(ALL_CLEAN).await;
            drop(self.pipe);
            let _ended = self.process.wait().await;
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!("the guardian takes its time to go");
        }
    }
}

/// `cts-executor guard`.
pub async fn guard(arguments: &GuardArguments) -> ExitStatus {
    // A child is not the leader of its process group, so this does not fail; a guardian in the executor's
    // session would only be easier to kill.
    let _session = rustix::process::setsid();
    let _ignored = match ignore_signals() {
        Ok(ignored) => ignored,
        Err(error) => {
            complain(error);
            return ExitStatus::Failed;
        }
    };
    if tokio::task::spawn_blocking(last_word)
        .await
        .is_ok_and(|word| word == ALL_CLEAN)
    {
        return ExitStatus::Done;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut looks = 0;
    loop {
        match remove(arguments).await {
            Ok(0) => looks += 1,
            Ok(_) => looks = 0,
            Err(error) if Instant::now() >= deadline => {
                complain(format!(
                    "the container of a lost executor may be left: {error}"
                ));
                return ExitStatus::Failed;
            }
            Err(_) => {}
        }
        if looks >= LOOKS {
            return ExitStatus::Done;
        }
        sleep(PAUSE).await;
    }
}

/// What came before the end of standard input.
fn last_word() -> Vec<u8> {
    let mut word = Vec::new();
    // An error is an end as well.
    let _ended = std::io::stdin().read_to_end(&mut word);
    word
}

/// Signals to the executor's group or slot are not meant for the guardian. They count as ignored as long as
/// the answer lives.
fn ignore_signals() -> std::io::Result<Vec<tokio::signal::unix::Signal>> {
    [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ]
    .into_iter()
    .map(signal)
    .collect()
}

/// Removes what carries the executor's label; how many there were.
async fn remove(arguments: &GuardArguments) -> Result<usize, EngineError> {
    let engine = connect_engine(arguments.docker_host.clone(), Default::default())().await?;
    let ours = [(labels::INSTANCE.to_owned(), arguments.instance.clone())];
    let found = engine.list(&ours).await?;
    for container in &found {
        engine.remove(&container.id).await?;
        complain(format!(
            "the executor was lost, so its guardian has removed the container {}",
            container.name
        ));
    }
    Ok(found.len())
}
