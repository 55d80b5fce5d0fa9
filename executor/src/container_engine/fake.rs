//! A scripted engine: the double that tests of a run use in place of a real one. Part of the library
//! so that integration tests can reach it; nothing in production uses it.
//!
//! It keeps the promises of the traits: output is on disk when `wait` returns, a stopped container ends,
//! a dropped handle is removed, a removed container is gone from `list`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::logs::Tails;
use super::{
    ContainerEngine, ContainerLogs, ContainerSpec, ContainerSummary, EngineError, EngineInfo, Exit,
    LogTail, RunningContainer, Usage,
};
use crate::progress::Counters;

/// What the fake does when asked.
#[derive(Debug, Clone)]
pub struct Script {
    /// Answer to `info`.
    pub info: Result<EngineInfo, EngineError>,
    /// Answer to `has_image`; a successful pull makes it true.
    pub image_present: bool,
    /// Answer to `pull`.
    pub pull: Result<(), EngineError>,
    /// Answer to `run`, when it fails.
    pub start_error: Option<EngineError>,
    /// Files the container writes: path inside the container, and content. The path must lie below a
    /// mount that is not read-only.
    pub writes: Vec<(String, Vec<u8>)>,
    /// What it prints.
    pub stdout: Vec<u8>,
    /// What it prints as errors.
    pub stderr: Vec<u8>,
    /// How it ends.
    pub end: End,
    /// What it used.
    pub usage: Usage,
    /// Answer to `stop`, when it fails: the container runs on.
    pub stop_error: Option<EngineError>,
    /// Answer to `remove`, when it fails.
    pub remove_error: Option<EngineError>,
    /// Containers that an earlier executor left.
    pub leftovers: Vec<ContainerSummary>,
}

/// How a fake container ends.
#[derive(Debug, Clone)]
pub enum End {
    /// By itself, at once, with this code; with `oom_killed` as given.
    Exit {
        /// Exit code.
        code: u8,
        /// Whether memory ran out.
        oom_killed: bool,
    },
    /// Waiting for it fails.
    Error(EngineError),
    /// When it is stopped (code 143) or killed (code 137).
    WhenStopped,
    /// Never: once the container runs, the engine hangs and answers nothing about it any more.
    EngineHangs,
}

impl Default for Script {
    /// An image that must be pulled, a container that does nothing and succeeds.
    fn default() -> Self {
        Self {
            info: Ok(EngineInfo {
                product: "Fake".to_owned(),
                version: "1.0".to_owned(),
                api_version: "1.41".to_owned(),
                root_dir: None,
                platform: "linux/amd64".to_owned(),
                cpus: Some(2),
                memory_bytes: Some(1 << 33),
                warnings: Vec::new(),
                host: "fake://".to_owned(),
            }),
            image_present: false,
            pull: Ok(()),
            start_error: None,
            writes: Vec::new(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            end: End::Exit {
                code: 0,
                oom_killed: false,
            },
            usage: Usage::default(),
            stop_error: None,
            remove_error: None,
            leftovers: Vec::new(),
        }
    }
}

/// A call that the fake has received.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `info`
    Info,
    /// `has_image`
    HasImage(String),
    /// `pull`
    Pull(String),
    /// `run`
    Run(Box<ContainerSpec>),
    /// `stop`, of this container with this grace
    Stop(String, Duration),
    /// `kill`, of this container
    Kill(String),
    /// `remove`, of this container, by whatever path
    Remove(String),
    /// `remove_image`
    RemoveImage(String),
    /// `list`
    List(Vec<(String, String)>),
}

/// The scripted engine. Clones share one state.
#[derive(Debug, Clone)]
pub struct FakeEngine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    script: Script,
    state: Mutex<State>,
    started: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    image_present: bool,
    containers: BTreeMap<String, ContainerSummary>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hangs(&self) -> bool {
        matches!(self.script.end, End::EngineHangs) && *self.started.borrow() > 0
    }

    fn remove(&self, id: &str) -> Result<(), EngineError> {
        let mut state = self.state();
        state.calls.push(Call::Remove(id.to_owned()));
        match &self.script.remove_error {
            Some(error) => Err(error.clone()),
            None => {
                state
                    .containers
                    .retain(|key, container| key != id && container.name != id);
                Ok(())
            }
        }
    }
}

impl FakeEngine {
    /// An engine that follows `script`.
    #[must_use]
    pub fn new(script: Script) -> Self {
        let state = State {
            image_present: script.image_present,
            containers: script
                .leftovers
                .iter()
                .map(|left| (left.id.clone(), left.clone()))
                .collect(),
            ..State::default()
        };
        Self(Arc::new(Shared {
            script,
            state: Mutex::new(state),
            started: watch::Sender::new(0),
        }))
    }

    /// All calls so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.0.state().calls.clone()
    }

    /// What `run` was asked for, in order.
    #[must_use]
    pub fn specs(&self) -> Vec<ContainerSpec> {
        self.calls()
            .into_iter()
            .filter_map(|call| match call {
                Call::Run(spec) => Some(*spec),
                _ => None,
            })
            .collect()
    }

    /// Containers that exist now: empty after a run that cleaned up.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerSummary> {
        self.0.state().containers.values().cloned().collect()
    }

    /// Waits until `count` containers have been started in all. Bound it in the test.
    pub async fn wait_started(&self, count: usize) {
        let mut started = self.0.started.subscribe();
        // The sender lives in self; the wait cannot fail while self is borrowed.
        let _ = started.wait_for(|now| *now >= count).await;
    }

    async fn start(
        &self,
        spec: ContainerSpec,
        logs: ContainerLogs,
    ) -> Result<Box<dyn RunningContainer>, EngineError> {
        let script = &self.0.script;
        let id = {
            let mut state = self.0.state();
            state.calls.push(Call::Run(Box::new(spec.clone())));
            if let Some(error) = &script.start_error {
                return Err(error.clone());
            }
            let id = format!("fake-{}", state.calls.len());
            state.containers.insert(
                id.clone(),
                ContainerSummary {
                    id: id.clone(),
                    name: spec.name.clone(),
                    state: "running".to_owned(),
                    labels: spec.labels.clone(),
                },
            );
            id
        };
        for (path, content) in &script.writes {
            write_through_mount(&spec, path, content)
                .await
                .map_err(|detail| EngineError::Refused {
                    call: "write a scripted file",
                    status: None,
                    detail: format!("{path}: {detail}"),
                })?;
        }
        let tails = logs.tails();
        let (sender, writer) = logs.start();
        sender.stdout(Bytes::from(script.stdout.clone())).await;
        sender.stderr(Bytes::from(script.stderr.clone())).await;
        drop(sender);
        let (stdout, stderr) = writer.finish().await;
        let exit = Exit {
            stdout,
            stderr,
            ..Exit::with_code(0)
        };
        let ended = watch::Sender::new(match &script.end {
            End::Exit { code, oom_killed } => Some(Ok(Exit {
                code: *code,
                oom_killed: *oom_killed,
                ..exit.clone()
            })),
            End::Error(error) => Some(Err(error.clone())),
            End::WhenStopped | End::EngineHangs => None,
        });
        self.0.started.send_modify(|count| *count += 1);
        Ok(Box::new(FakeContainer {
            engine: Arc::clone(&self.0),
            id,
            exit,
            ended,
            tails,
            removed: Mutex::new(false),
        }))
    }
}

/// Writes where the engine's host sees the container's `path`.
async fn write_through_mount(
    spec: &ContainerSpec,
    path: &str,
    content: &[u8],
) -> Result<(), String> {
    let (mount, rest) = spec
        .mounts
        .iter()
        .filter_map(|mount| {
            let rest = Path::new(path).strip_prefix(&mount.container).ok()?;
            Some((mount, rest))
        })
        .max_by_key(|(mount, _)| mount.container.len())
        .ok_or("lies below no mount")?;
    if mount.read_only {
        return Err("lies below a read-only mount".to_owned());
    }
    let target: PathBuf = mount.host.join(rest);
    if let Some(parent) = target.parent() {
        tokio::fs::create_dir_all(parent)
            .await
            .map_err(|error| error.to_string())?;
    }
    tokio::fs::write(&target, content)
        .await
        .map_err(|error| format!("{}: {error}", target.display()))
}

impl ContainerEngine for FakeEngine {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        self.0.state().calls.push(Call::Info);
        std::future::ready(self.0.script.info.clone()).boxed()
    }

    fn has_image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, EngineError>> {
        let mut state = self.0.state();
        state.calls.push(Call::HasImage(image.to_owned()));
        std::future::ready(Ok(state.image_present)).boxed()
    }

    fn pull<'a>(
        &'a self,
        image: &'a str,
        progress: &'a Counters,
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        let mut state = self.0.state();
        state.calls.push(Call::Pull(image.to_owned()));
        state.image_present |= self.0.script.pull.is_ok();
        progress.expect(1, 1);
        progress.add_bytes(1);
        progress.finish_file();
        std::future::ready(self.0.script.pull.clone()).boxed()
    }

    fn run(
        &self,
        spec: ContainerSpec,
        logs: ContainerLogs,
    ) -> BoxFuture<'_, Result<Box<dyn RunningContainer>, EngineError>> {
        self.start(spec, logs).boxed()
    }

    fn list<'a>(
        &'a self,
        labels: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<Vec<ContainerSummary>, EngineError>> {
        let mut state = self.0.state();
        state.calls.push(Call::List(labels.to_vec()));
        let found = state
            .containers
            .values()
            .filter(|container| {
                labels
                    .iter()
                    .all(|(key, value)| match container.labels.get(key) {
                        Some(found) => value.is_empty() || found == value,
                        None => false,
                    })
            })
            .cloned()
            .collect();
        std::future::ready(Ok(found)).boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        std::future::ready(self.0.remove(id)).boxed()
    }

    fn remove_image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        let mut state = self.0.state();
        state.calls.push(Call::RemoveImage(image.to_owned()));
        state.image_present = false;
        std::future::ready(Ok(())).boxed()
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        if self.0.hangs() {
            return std::future::pending().boxed();
        }
        std::future::ready(()).boxed()
    }
}

#[derive(Debug)]
struct FakeContainer {
    engine: Arc<Shared>,
    id: String,
    /// The end that a stop or kill leads to, but for the code.
    exit: Exit,
    ended: watch::Sender<Option<Result<Exit, EngineError>>>,
    tails: Tails,
    removed: Mutex<bool>,
}

impl FakeContainer {
    fn end_with(&self, code: u8) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(Ok(Exit {
                    code,
                    ..self.exit.clone()
                }));
            }
            first
        });
    }

    fn remove_once(&self) -> Result<(), EngineError> {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        if *removed {
            return Ok(());
        }
        *removed = true;
        self.end_with(137);
        self.engine.remove(&self.id)
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        // As with a real engine: nobody is left to tell of a failure, and `containers` shows it.
        let _ = self.remove_once();
    }
}

impl RunningContainer for FakeContainer {
    fn id(&self) -> &str {
        &self.id
    }

    fn wait(&self) -> BoxFuture<'_, Result<Exit, EngineError>> {
        let mut ended = self.ended.subscribe();
        async move {
            let found = ended.wait_for(Option::is_some).await;
            match found.ok().and_then(|end| end.clone()) {
                Some(end) => end,
                None => Err(EngineError::ContainerGone {
                    id: self.id.clone(),
                }),
            }
        }
        .boxed()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), EngineError>> {
        let call = Call::Stop(self.id.clone(), grace);
        self.engine.state().calls.push(call);
        if self.engine.hangs() {
            return std::future::pending().boxed();
        }
        if let Some(error) = &self.engine.script.stop_error {
            return std::future::ready(Err(error.clone())).boxed();
        }
        self.end_with(143);
        std::future::ready(Ok(())).boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.engine.state().calls.push(Call::Kill(self.id.clone()));
        if self.engine.hangs() {
            return std::future::pending().boxed();
        }
        self.end_with(137);
        std::future::ready(Ok(())).boxed()
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        if self.engine.hangs() {
            return std::future::pending().boxed();
        }
        std::future::ready(self.remove_once()).boxed()
    }

    fn usage(&self) -> Usage {
        self.engine.script.usage
    }

    fn log_tail(&self) -> LogTail {
        self.tails.read()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mount;
    use super::*;

    fn spec(host: &Path) -> ContainerSpec {
        ContainerSpec {
            name: "cts-test".to_owned(),
            image: "r/x@sha256:aa".to_owned(),
            command: vec!["tool".to_owned()],
            environment: Vec::new(),
            mounts: vec![Mount {
                host: host.to_owned(),
                container: "/out".to_owned(),
                read_only: false,
            }],
            cpus: 1.0,
            memory_bytes: 1 << 20,
            pids_limit: 10,
            labels: BTreeMap::from([("job".to_owned(), "j".to_owned())]),
            stop_grace: Duration::from_secs(1),
        }
    }

    fn logs(directory: &Path) -> ContainerLogs {
        ContainerLogs::create(&directory.join("o"), &directory.join("e"), 1 << 20).unwrap()
    }

    #[tokio::test]
    async fn follows_its_script() {
        let directory = tempfile::tempdir().unwrap();
        let engine = FakeEngine::new(Script {
            writes: vec![("/out/d/r.txt".to_owned(), b"1".to_vec())],
            stderr: b"oops".to_vec(),
            end: End::Exit {
                code: 3,
                oom_killed: false,
            },
            ..Script::default()
        });
        let container = engine
            .run(spec(directory.path()), logs(directory.path()))
            .await
            .unwrap();
        let exit = container.wait().await.unwrap();
        assert_eq!((exit.code, exit.stderr.printed_bytes), (3, 4));
        assert_eq!(container.log_tail().stderr, "oops");
        let written = std::fs::read(directory.path().join("d/r.txt")).unwrap();
        assert_eq!(written, b"1");
        assert_eq!(engine.containers().len(), 1);
        drop(container);
        assert_eq!(engine.containers(), []);
    }

    #[tokio::test]
    async fn runs_until_it_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let engine = FakeEngine::new(Script {
            end: End::WhenStopped,
            ..Script::default()
        });
        let container = engine
            .run(spec(directory.path()), logs(directory.path()))
            .await
            .unwrap();
        assert!(container.wait().now_or_never().is_none());
        container.stop(Duration::from_secs(1)).await.unwrap();
        assert_eq!(container.wait().await.unwrap().code, 143);
        container.remove().await.unwrap();
        assert_eq!(engine.containers(), []);
    }
}
