//! Watches a started container: pumps its output into the log files, waits, and says how it ended.
//!
//! An end counts only when the engine announced it over a connection that held, with an exit code that
//! the container's record confirms. Everything else is a failure of the infrastructure.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as ApiError;
use bollard::models::{ContainerState, ContainerWaitResponse};
use bollard::query_parameters::{AttachContainerOptionsBuilder, WaitContainerOptionsBuilder};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::Exit;
use super::super::logs::LogSender;
use super::{Client, ContainerLogs, EngineError, failure};

/// How often in a row a wait may break while the container is found running.
const WAIT_BREAKS: u32 = 20;
/// Longest pause between two attempts to reach an engine that went away.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// What engines report for containers whose end they missed because they were restarted.
const ENGINE_MISSED_END: u8 = 255;

/// A container's output as it comes.
pub(super) type Output = BoxStream<'static, Result<LogOutput, ApiError>>;

/// Opens the stream of what the container will print.
pub(super) async fn attach(client: &Client, id: &str) -> Result<Output, EngineError> {
    let options = AttachContainerOptionsBuilder::default()
        .stream(true)
        .stdout(true)
        .stderr(true)
        .build();
    let attaching = client.docker.attach_container(id, Some(options));
    let attached = client.ask("attach to container", attaching).await?;
    Ok(attached.output)
}

/// Watches one container.
pub(super) struct Watcher {
    client: Client,
    id: String,
    /// One while all is well; one more each time the connection to the engine broke.
    pumps: JoinSet<()>,
    /// Tells the pumps that the container has ended.
    ended: watch::Sender<bool>,
}

impl Watcher {
    pub(super) fn new(client: Client, id: String) -> Self {
        Self {
            client,
            id,
            pumps: JoinSet::new(),
            ended: watch::Sender::new(false),
        }
    }

    /// Until the container has ended and its output is on disk.
    pub(super) async fn watch(
        mut self,
        output: Output,
        logs: ContainerLogs,
    ) -> Result<Exit, EngineError> {
        let tails = logs.tails();
        let (sender, writer) = logs.start();
        self.listen(output, &sender);
        let ending = self.until_end(&sender).await;
        self.ended.send_replace(true);
        while self.pumps.join_next().await.is_some() {}
        drop(sender);
        let (stdout, stderr) = writer.finish().await;
        let ending = ending?;
        let engine_error = ending
            .engine_error
            .or_else(|| failure::init_failure(ending.code, &tails.read().stderr));
        Ok(Exit {
            code: ending.code,
            oom_killed: ending.oom_killed,
            engine_error,
            stdout,
            stderr,
        })
    }

    fn listen(&mut self, output: Output, sender: &LogSender) {
        let quiet = self.client.deadlines.output_quiet;
        let pump = pump(output, sender.clone(), self.ended.subscribe(), quiet);
        self.pumps.spawn(pump);
    }

    /// After the connection to the engine broke while the container runs on.
    async fn listen_again(&mut self, sender: &LogSender, reason: &str) {
        let note = format!(
            "the connection to the container engine broke ({reason}); output may be missing"
        );
        sender.broken(note).await;
        match attach(&self.client, &self.id).await {
            Ok(output) => self.listen(output, sender),
            Err(error) => {
                tracing::warn!(container.id = self.id, %error, "output cannot be followed any more");
            }
        }
    }

    async fn until_end(&mut self, sender: &LogSender) -> Result<Ending, EngineError> {
        let unknown = |id: &str, detail: String| EngineError::ExitUnknown {
            id: id.to_owned(),
            detail,
        };
        let mut broke = false;
        let mut breaks_in_a_row = 0;
        loop {
            let waited_since = Instant::now();
            let reason = match wait_once(&self.client, &self.id).await? {
                Waited::Ended { code, engine_error } => {
                    let reached = reach(&self.client, &self.id, "its end was announced").await?;
                    if reached.engine_was_away {
                        // An engine that shuts down closes its door, then stops its containers, and still
                        // announces their ends to who was waiting.
                        return Err(unknown(
                            &self.id,
                            format!("the engine shut down as it announced exit code {code}"),
                        ));
                    }
                    return Ending::believe(code, engine_error, &reached.state, broke)
                        .map_err(|detail| unknown(&self.id, detail));
                }
                Waited::Broken(reason) => reason,
            };
            tracing::warn!(
                container.id = self.id,
                reason,
                "wait for the container broke"
            );
            broke = true;
            if waited_since.elapsed() > self.client.deadlines.check_interval {
                breaks_in_a_row = 0;
            }
            breaks_in_a_row += 1;
            let state = reach(&self.client, &self.id, &reason).await?.state;
            if !is_running(&state) {
                // Engines stop or kill containers when they shut down, and invent codes for ends that they
                // missed. None of that says anything about the tool, not even a 0.
                let code = code_text(state.exit_code);
                return Err(unknown(
                    &self.id,
                    format!(
                        "the connection to the engine broke ({reason}) and the container was found ended with code {code}"
                    ),
                ));
            }
            if breaks_in_a_row > WAIT_BREAKS {
                return Err(unknown(
                    &self.id,
                    format!(
                        "{breaks_in_a_row} waits in a row broke, the last one because: {reason}"
                    ),
                ));
            }
            self.listen_again(sender, &reason).await;
        }
    }
}

/// Moves output to the log files until the stream ends. Some engines leave it open after the container's
/// end: then until nothing has come for `quiet`.
async fn pump(
    mut output: Output,
    sender: LogSender,
    mut end: watch::Receiver<bool>,
    quiet: Duration,
) {
    loop {
        let next = if *end.borrow_and_update() {
            match tokio::time::timeout(quiet, output.next()).await {
                Ok(next) => next,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                next = output.next() => next,
                _ = end.changed() => continue,
            }
        };
        match next {
            Some(Ok(LogOutput::StdErr { message })) => sender.stderr(message).await,
            Some(Ok(
                LogOutput::StdOut { message }
                | LogOutput::Console { message }
                | LogOutput::StdIn { message },
            )) => sender.stdout(message).await,
            Some(Err(error)) => {
                sender
                    .broken(format!("the container's output broke off: {error}"))
                    .await;
                return;
            }
            None => return,
        }
    }
}

/// How a container ended, as far as the engine says.
struct Ending {
    code: u8,
    oom_killed: bool,
    engine_error: Option<String>,
}

/// What came of one wait.
enum Waited {
    /// The engine announced the end with this code.
    Ended {
        code: i64,
        engine_error: Option<String>,
    },
    /// No announcement, and why.
    Broken(String),
}

impl Ending {
    /// Only a code that the wait and the container's record agree on counts.
    fn believe(
        waited: i64,
        engine_error: Option<String>,
        state: &ContainerState,
        broke: bool,
    ) -> Result<Self, String> {
        let recorded = state.exit_code;
        let code = u8::try_from(waited)
            .ok()
            .filter(|_| recorded == Some(waited))
            .filter(|_| !is_running(state));
        let Some(code) = code else {
            return Err(format!(
                "the engine announced exit code {waited} and recorded {}",
                code_text(recorded)
            ));
        };
        if broke && code == ENGINE_MISSED_END {
            return Err(format!(
                "the engine was restarted and reports code {code}, which it does when it missed the end"
            ));
        }
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            code,
            oom_killed: state.oom_killed.unwrap_or(false),
            engine_error: said(engine_error).or_else(|| said(state.error.clone())),
        })
    }
}

fn code_text(code: Option<i64>) -> String {
    code.map_or_else(|| "none".to_owned(), |code| code.to_string())
}

fn is_running(state: &ContainerState) -> bool {
    state.running.unwrap_or(false) || state.paused.unwrap_or(false)
}

/// One wait, until the engine announces the end or the connection breaks. From time to time the container is
/// looked at: an announcement can get lost where the connection dies without a sign.
async fn wait_once(client: &Client, id: &str) -> Result<Waited, EngineError> {
    // "not-running" also answers for a container that has ended already, so that nothing is missed
    // between start and here; "next-exit" would wait for ever then.
    let mut answers = std::pin::pin!(announcements(client, id, "not-running"));
    let interval = client.deadlines.check_interval;
    loop {
        match tokio::time::timeout(interval, answers.next()).await {
            Ok(answer) => return heard(id, answer),
            Err(_still_waiting) => {}
        }
        match inspect(client, id).await {
            Ok(state) if is_running(&state) => {}
            Ok(_) => {
                let grace = client.deadlines.output_quiet;
                return match tokio::time::timeout(grace, answers.next()).await {
                    Ok(answer) => heard(id, answer),
                    Err(_) => Ok(Waited::Broken(
                        "the engine did not announce the end".to_owned(),
                    )),
                };
            }
            Err(error @ EngineError::ContainerGone { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(container.id = id, %error, "running container could not be checked");
            }
        }
    }
}

/// Waits for a removal that is under way.
pub(super) async fn until_removed(client: &Client, id: &str) -> Result<(), EngineError> {
    let call = "remove container";
    let mut answers = std::pin::pin!(announcements(client, id, "removed"));
    let announced = async { Ok(answers.next().await) };
    let answer = client
        .within(call, client.deadlines.change, announced)
        .await?;
    let problem = match heard(id, answer) {
        Ok(Waited::Ended { engine_error, .. }) => engine_error.filter(|text| !text.is_empty()),
        Ok(Waited::Broken(why)) => Some(why),
        Err(EngineError::ContainerGone { .. }) => None,
        Err(error) => return Err(error),
    };
    match problem {
        None => Ok(()),
        Some(detail) => Err(EngineError::Refused {
            call,
            status: None,
            detail,
        }),
    }
}

/// What the engine says when the condition has come, once.
fn announcements(
    client: &Client,
    id: &str,
    condition: &str,
) -> impl Stream<Item = Result<ContainerWaitResponse, ApiError>> + use<> {
    let options = WaitContainerOptionsBuilder::default()
        .condition(condition)
        .build();
    client.docker.wait_container(id, Some(options))
}

fn heard(
    id: &str,
    answer: Option<Result<ContainerWaitResponse, ApiError>>,
) -> Result<Waited, EngineError> {
    match answer {
        Some(Ok(response)) => Ok(Waited::Ended {
            code: response.status_code,
            engine_error: response.error.and_then(|error| error.message),
        }),
        // The library makes an error of every code but 0.
        Some(Err(ApiError::DockerContainerWaitError { error, code })) => Ok(Waited::Ended {
            code,
            engine_error: Some(error),
        }),
        Some(Err(ApiError::DockerResponseServerError {
            status_code: 404, ..
        })) => Err(EngineError::ContainerGone { id: id.to_owned() }),
        Some(Err(error)) => Ok(Waited::Broken(error.to_string())),
        None => Ok(Waited::Broken(
            "the engine closed the connection".to_owned(),
        )),
    }
}

async fn inspect(client: &Client, id: &str) -> Result<ContainerState, EngineError> {
    let inspecting = client.docker.inspect_container(id, None);
    match client.ask("inspect container", inspecting).await {
        Ok(found) => Ok(found.state.unwrap_or_default()),
        Err(EngineError::Refused {
            status: Some(404), ..
        }) => Err(EngineError::ContainerGone { id: id.to_owned() }),
        Err(error) => Err(error),
    }
}

/// A container's state, once the engine answered.
struct Reached {
    state: ContainerState,
    /// The engine had to come back first.
    engine_was_away: bool,
}

/// The container's state, from an engine that may have to come back first.
async fn reach(client: &Client, id: &str, reason: &str) -> Result<Reached, EngineError> {
    let since = Instant::now();
    let bound = client.deadlines.engine_return;
    let mut pause = Duration::from_millis(100);
    let mut engine_was_away = false;
    loop {
        let error = match inspect(client, id).await {
            Err(error @ EngineError::ContainerGone { .. }) => return Err(error),
            Err(error) => error,
            Ok(state) => {
                return Ok(Reached {
                    state,
                    engine_was_away,
                });
            }
        };
        engine_was_away |= matches!(error, EngineError::Unreachable { .. });
        let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
        if since.elapsed() + jittered >= bound {
            return Err(EngineError::Lost {
                host: client.host.to_string(),
                id: id.to_owned(),
                after: since.elapsed(),
                detail: format!("{reason}; {error}"),
            });
        }
        tokio::time::sleep(jittered).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
