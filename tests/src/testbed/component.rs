//! What the testbed asks of each of its components, and how it brings one up.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use super::console::say;
use super::error::TestbedError;
use super::layout::Layout;
use super::process::ProcessId;

const POLL: Duration = Duration::from_millis(100);

/// One server of the testbed. Its fields are its state, stored between runs; `Default` is the
/// component before its first start.
///
/// The calls come in this order: `stop` (for what an earlier run left), `ensure_installed`,
/// `start`, `ready` until it succeeds; and `stop` in the end.
pub(super) trait Component {
    /// The component's name in messages, and of its log file.
    const NAME: &'static str;
    /// From start until it must answer.
    const READY_WITHIN: Duration;

    /// Finds or installs what it needs.
    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError>;

    /// Starts it without waiting for it.
    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError>;

    /// Asks it for something a client would ask for.
    ///
    /// # Errors
    /// What is still missing, in words.
    async fn ready(&self) -> Result<(), String>;

    /// Stops what the testbed started of it, by this run or an earlier one, and removes its data.
    /// Does nothing if there is nothing.
    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError>;

    /// Its main process, if the testbed started one.
    fn process(&self) -> Option<&ProcessId>;

    /// Where a client finds it.
    fn address(&self) -> String;
}

/// Whether `component` runs and answers.
pub(super) async fn check<C: Component>(component: &C) -> Result<(), String> {
    if component.address().is_empty() {
        return Err("not started".to_owned());
    }
    if component
        .process()
        .is_some_and(|process| !process.is_running())
    {
        return Err("its process has ended".to_owned());
    }
    tokio::time::timeout(Duration::from_secs(10), component.ready())
        .await
        .unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
}

/// Whether `component` runs and answers, though it may be busy: who starts another one removes the data of this one.
async fn is_up<C: Component>(component: &C, layout: &Layout) -> bool {
    let lives = || component.process().is_some_and(ProcessId::is_running);
    check(component).await.is_ok()
        || lives() && wait_ready(component, layout, Instant::now()).await.is_ok()
}

/// Makes `component` run: leaves a healthy one alone, else cleans up after it and starts it.
pub(super) async fn bring_up<C: Component>(
    component: &mut C,
    layout: &Layout,
) -> Result<Outcome, TestbedError> {
    if is_up(component, layout).await {
        say(format_args!(
            "{} is up already at {}",
            C::NAME,
            component.address()
        ));
        return Ok(Outcome::Reused);
    }
    component.stop(layout).await?;
    component.ensure_installed(layout).await?;
    let begun = Instant::now();
    component.start(layout).await?;
    wait_ready(component, layout, begun).await?;
    let took = begun.elapsed();
    say(format_args!(
        "{} at {} ({:.1} s)",
        C::NAME,
        component.address(),
        took.as_secs_f64()
    ));
    Ok(Outcome::Started)
}

/// Whether a component was running before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Reused,
    Started,
}

async fn wait_ready<C: Component>(
    component: &C,
    layout: &Layout,
    begun: Instant,
) -> Result<(), TestbedError> {
    loop {
        let missing = match check(component).await {
            Ok(()) => return Ok(()),
            Err(missing) => missing,
        };
        let ended = component
            .process()
            .is_some_and(|process| !process.is_running());
        if ended || begun.elapsed() >= C::READY_WITHIN {
            let waited = begun.elapsed().as_secs();
            return Err(TestbedError::new(
                C::NAME,
                format!("did not become ready in {waited} s: {missing}"),
                "read its log, then run `make testbed-down` and try again",
            )
            .with_log(&layout.log(C::NAME)));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Removes a component's data and makes its directory anew.
pub(super) fn fresh_data_dir(
    component: &'static str,
    layout: &Layout,
) -> Result<std::path::PathBuf, TestbedError> {
    remove_data_dir(component, layout)?;
    let dir = layout.data(component);
    std::fs::create_dir_all(&dir).map_err(|error| {
        TestbedError::new(
            component,
            format!("cannot create {}: {error}", dir.display()),
            "check owner and free space of the testbed directory",
        )
    })?;
    Ok(dir)
}

/// Removes a component's data.
pub(super) fn remove_data_dir(
    component: &'static str,
    layout: &Layout,
) -> Result<(), TestbedError> {
    let dir = layout.data(component);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TestbedError::new(
            component,
            format!("cannot remove {}: {error}", dir.display()),
            "remove it by hand",
        )),
        _ => Ok(()),
    }
}

/// The error of a daemon that could not be started at all.
pub(super) fn cannot_start(
    component: &'static str,
    layout: &Layout,
    error: &std::io::Error,
) -> TestbedError {
    TestbedError::new(component, format!("cannot start: {error}"), "read its log")
        .with_log(&layout.log(component))
}

/// Stops a component's process, and those that a killed run left over its data; then removes the data.
/// `is_ours` tells the component's program by its name.
pub(super) async fn stop_over_data(
    component: &'static str,
    layout: &Layout,
    process: Option<ProcessId>,
    is_ours: impl Fn(&OsStr) -> bool,
    grace: Duration,
) -> Result<(), TestbedError> {
    let data = layout.data(component);
    let ours: Vec<_> = super::process::all()
        .into_iter()
        .filter(|seen| is_ours(&seen.program) && seen.mentions(data.as_os_str()))
        .map(|seen| seen.id)
        .chain(process)
        .collect();
    stop_processes(component, &ours, grace).await?;
    remove_data_dir(component, layout)
}

/// Stops processes; those that survive SIGKILL are an error.
pub(super) async fn stop_processes(
    component: &'static str,
    processes: &[ProcessId],
    grace: Duration,
) -> Result<(), TestbedError> {
    let left = super::process::stop(processes, grace).await;
    if left.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
    Err(TestbedError::new(
        component,
        format!("processes {} do not end", pids.join(", ")),
        "look at what they wait for (/proc/PID/stack)",
    ))
}
