//! The pool by `HTCondor`'s command line.
//!
//! Each call is one process, given its arguments as they are (no shell), a deadline, and a bound on what it
//! may print. What the tools print when something is wrong differs from version to version; it is passed on,
//! and every failure but a refused submission counts as "try again".

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Semaphore;

use cts_shared::timestamp::UtcTime;

use crate::metrics::{Dependency, DependencyCalls, Outcome};

use super::machine_ad::{MACHINE_ATTRIBUTES, MachineAd};
use super::pool::{Pool, PoolError, Procs};
use super::proc_ad::{DECISIVE, PROJECTION, ProcAd, ProcName, ProcStatus};

/// How long one command may take unless told otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// Commands running at the same time. Each is a process that talks to a daemon with one thread.
const CONCURRENT: usize = 4;

/// Most that is read of a command's output: 100,000 ads of the attributes asked for.
const MAX_OUTPUT_BYTES: u64 = 512 * 1024 * 1024;

/// Most that is read of a command's complaints.
const MAX_ERROR_BYTES: u64 = 64 * 1024;

/// Procs named in one command line; the system bounds its length.
const NAMES_AT_ONCE: usize = 500;

/// How the tools are found and whom they talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// Directory of `condor_submit` and the others; those of `PATH` if absent.
    pub directory: Option<PathBuf>,
    /// The schedd's name; if absent the machine's own, or else the only one that the collector knows.
    pub schedd: Option<String>,
    /// How long one command may take, with the wait until others have ended.
    pub deadline: Duration,
}

impl Default for CommandSettings {
    fn default() -> Self {
        Self {
            directory: None,
            schedd: None,
            deadline: DEADLINE,
        }
    }
}

/// Which schedd the tools talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Schedd {
    /// This machine's: they find it without a name, also where the machine's name resolves to nothing.
    Own,
    /// That one.
    Named(String),
}

/// The command line tools.
#[derive(Debug)]
pub struct CondorCommands {
    settings: CommandSettings,
    calls: DependencyCalls,
    room: Semaphore,
    /// The schedd that the collector named first. Kept, also when it is away: the tools look its address up
    /// each time, and another schedd would truthfully say that it has none of the jobs, which would then count
    /// as lost.
    located: Mutex<Option<Schedd>>,
}

impl CondorCommands {
    /// Tools to be run; none is yet.
    #[must_use]
    pub fn new(settings: CommandSettings, calls: DependencyCalls) -> Self {
        Self {
            settings,
            calls,
            room: Semaphore::new(CONCURRENT),
            located: Mutex::new(None),
        }
    }

    /// Whether the tools are there: the version they tell.
    ///
    /// # Errors
    /// When they are not.
    pub async fn version(&self) -> Result<String, PoolError> {
        let output = self.run("condor_version", Vec::new(), None).await?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Runs a tool that talks to the schedd.
    async fn ask_schedd(
        &self,
        tool: &'static str,
        arguments: Vec<OsString>,
        input: Option<String>,
    ) -> Result<Vec<u8>, PoolError> {
        let mut all = Vec::with_capacity(arguments.len() + 2);
        if let Schedd::Named(schedd) = self.schedd().await? {
            all.extend([OsString::from("-name"), schedd.into()]);
        }
        all.extend(arguments);
        self.run(tool, all, input).await
    }

    /// The schedd to talk to.
    async fn schedd(&self) -> Result<Schedd, PoolError> {
        if let Some(schedd) = &self.settings.schedd {
            return Ok(Schedd::Named(schedd.clone()));
        }
        let located = self
            .located
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(schedd) = located {
            return Ok(schedd);
        }
        let arguments = ["-schedd", "-json", "-attributes", "Name,Machine"];
        let output = self
            .run(
                "condor_status",
                arguments.map(OsString::from).to_vec(),
                None,
            )
            .await?;
        let schedds: Vec<ProcAd> = parse("condor_status", &output)?;
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let schedd = choose_schedd(&schedds, &host)?;
        *self.located.lock().unwrap_or_else(PoisonError::into_inner) = Some(schedd.clone());
        Ok(schedd)
    }

    async fn run(
        &self,
        tool: &'static str,
        arguments: Vec<OsString>,
        input: Option<String>,
    ) -> Result<Vec<u8>, PoolError> {
        let deadline = self.settings.deadline;
        let call = async {
            let _room = self
                .room
                .acquire()
                .await
                .map_err(|_| PoolError::Unavailable("the service is stopping".to_owned()))?;
            self.run_once(tool, arguments, input).await
        };
        let call = async {
            tokio::time::timeout(deadline, call)
                .await
                .unwrap_or_else(|_elapsed| {
                    Err(PoolError::TimedOut(format!(
                        "{tool} gave no answer within {} s; check the schedd and the collector",
                        deadline.as_secs_f64()
                    )))
                })
        };
        self.calls
            .measure(Dependency::Condor, tool, call, |error| match error {
                PoolError::Unavailable(_) | PoolError::TimedOut(_) => Outcome::Unavailable,
                PoolError::Refused(_) => Outcome::Refused,
            })
            .await
    }

    async fn run_once(
        &self,
        tool: &'static str,
        arguments: Vec<OsString>,
        input: Option<String>,
    ) -> Result<Vec<u8>, PoolError> {
        let program = match &self.settings.directory {
            Some(directory) => directory.join(tool),
            None => PathBuf::from(tool),
        };
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                PoolError::Unavailable(format!(
                    "cannot run {}: {error}; install HTCondor's client tools, or give their directory as \
                     HTCondor.command_dir",
                    program.display()
                ))
            })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let talk = async {
            let write = async {
                if let (Some(mut stdin), Some(input)) = (stdin, input) {
                    // A tool that ends early says why on standard error.
                    let _closed = stdin.write_all(input.as_bytes()).await;
                }
            };
            let ((), stdout, stderr) = tokio::join!(
                write,
                read(stdout, MAX_OUTPUT_BYTES),
                read(stderr, MAX_ERROR_BYTES)
            );
            Ok::<_, std::io::Error>((stdout?, stderr?, child.wait().await?))
        };
        let (stdout, stderr, status) = talk
            .await
            .map_err(|error| PoolError::Unavailable(format!("cannot read from {tool}: {error}")))?;
        if status.success() {
            // Of a line of the description that it does not know, for one.
            if tool == "condor_submit" && !stderr.iter().all(u8::is_ascii_whitespace) {
                let said = one_line(&stderr, &[]);
                tracing::warn!(said, "condor_submit has submitted a job, and complains");
            }
            return Ok(stdout);
        }
        let said = one_line(&stderr, &stdout);
        let message = format!("{tool} ended with {status}: {said}");
        Err(if tool == "condor_submit" && !may_pass(&said) {
            PoolError::Refused(message)
        } else {
            PoolError::Unavailable(message)
        })
    }

    /// Acts on procs: `condor_rm` and the like. `is_done` tells the procs on which nothing is left to be done.
    async fn act(
        &self,
        tool: &'static str,
        procs: Procs,
        reason: String,
        is_done: fn(&ProcAd) -> bool,
    ) -> Result<(), PoolError> {
        for selection in selections(&procs) {
            // A constraint and ids do not go together: ids become part of the constraint.
            let arguments = [
                "-constraint".to_owned(),
                selection.clone(),
                "-reason".to_owned(),
                reason.clone(),
            ];
            let acted = self
                .ask_schedd(tool, arguments.map(OsString::from).to_vec(), None)
                .await;
            if let Err(error) = acted {
                // The tools fail in the same words when there was nothing to do.
                if !self.query(selection, &DECISIVE).await?.iter().all(is_done) {
                    // The schedd has just answered. What had no time to be done may be done the next time.
                    return Err(match error {
                        PoolError::TimedOut(_) => error,
                        error => PoolError::Refused(error.to_string()),
                    });
                }
            }
        }
        Ok(())
    }

    async fn query(
        &self,
        constraint: String,
        attributes: &[&str],
    ) -> Result<Vec<ProcAd>, PoolError> {
        let attributes = attributes.join(",");
        let arguments = [
            "-allusers".to_owned(),
            "-json".to_owned(),
            "-attributes".to_owned(),
            attributes,
            "-constraint".to_owned(),
            constraint,
        ];
        let output = self
            .ask_schedd("condor_q", arguments.map(OsString::from).to_vec(), None)
            .await?;
        parse("condor_q", &output)
    }
}

impl Pool for CondorCommands {
    fn submit(&self, description: String) -> BoxFuture<'_, Result<i64, PoolError>> {
        async move {
            let arguments = vec![OsString::from("-terse"), OsString::from("-")];
            let output = self
                .ask_schedd("condor_submit", arguments, Some(description))
                .await?;
            let text = String::from_utf8_lossy(&output);
            cluster(&text).ok_or_else(|| {
                PoolError::Unavailable(format!(
                    "condor_submit succeeded without naming a cluster: {}",
                    one_line(text.as_bytes(), &[])
                ))
            })
        }
        .boxed()
    }

    fn queue(&self, procs: Procs) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>> {
        async move {
            let mut ads = Vec::new();
            let attributes: &[&str] = match procs {
                Procs::All => &DECISIVE,
                Procs::OfJob(_) | Procs::OfClusters(_) | Procs::Named(_) => &PROJECTION,
            };
            for selection in selections(&procs) {
                ads.extend(self.query(selection, attributes).await?);
            }
            Ok(ads)
        }
        .boxed()
    }

    fn history(
        &self,
        procs: Procs,
        since: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>> {
        async move {
            let mut ads = Vec::new();
            for (selection, at_most) in bounded_selections(&procs) {
                let mut arguments = vec![
                    "-json".to_owned(),
                    "-attributes".to_owned(),
                    PROJECTION.join(","),
                    "-constraint".to_owned(),
                    selection,
                    // It is read from its end, and stops at the first ad for which this is true, whoever's.
                    "-since".to_owned(),
                    left_before(since),
                ];
                if let Some(at_most) = at_most {
                    arguments.extend(["-limit".to_owned(), at_most.to_string()]);
                }
                let arguments = arguments.into_iter().map(OsString::from).collect();
                let output = self.ask_schedd("condor_history", arguments, None).await?;
                ads.extend(parse::<ProcAd>("condor_history", &output)?);
            }
            Ok(ads)
        }
        .boxed()
    }

    fn remove(&self, procs: Procs, reason: String) -> BoxFuture<'_, Result<(), PoolError>> {
        // A removed proc stays in the queue until its worker has confirmed.
        let is_done = |ad: &ProcAd| ad.status() == Some(ProcStatus::Removed);
        self.act("condor_rm", procs, reason, is_done).boxed()
    }

    fn release(&self, procs: Procs, reason: String) -> BoxFuture<'_, Result<(), PoolError>> {
        let is_done = |ad: &ProcAd| ad.status() != Some(ProcStatus::Held);
        self.act("condor_release", procs, reason, is_done).boxed()
    }

    fn machines(&self) -> BoxFuture<'_, Result<Vec<MachineAd>, PoolError>> {
        async move {
            let arguments = [
                "-json".to_owned(),
                "-attributes".to_owned(),
                MACHINE_ATTRIBUTES.join(","),
                "-constraint".to_owned(),
                // Dynamic slots are parts of partitionable ones.
                "SlotType =!= \"Dynamic\"".to_owned(),
            ];
            let output = self
                .run(
                    "condor_status",
                    arguments.map(OsString::from).to_vec(),
                    None,
                )
                .await?;
            parse("condor_status", &output)
        }
        .boxed()
    }
}

/// The machine's own schedd, or the only one of the pool (contract condor.md, section 1).
fn choose_schedd(schedds: &[ProcAd], host: &str) -> Result<Schedd, PoolError> {
    let mut named: Vec<(&str, Option<&str>)> = schedds
        .iter()
        .filter_map(|ad| Some((ad.text("Name")?, ad.text("Machine"))))
        .collect();
    named.sort_unstable();
    let has_own = named.iter().any(|(_, machine)| *machine == Some(host));
    match (has_own, named.as_slice()) {
        (true, _) => Ok(Schedd::Own),
        (false, [(name, _)]) => Ok(Schedd::Named((*name).to_owned())),
        (false, []) => Err(PoolError::Unavailable(
            "the pool's collector knows no schedd; its administrator must start one".to_owned(),
        )),
        (false, several) => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            Err(PoolError::Unavailable(format!(
                "the pool has several schedds ({}); give the one to use as HTCondor.schedd_name",
                names.join(", ")
            )))
        }
    }
}

/// Constraints that select the procs. Made of ids only, whose text holds nothing to quote.
fn selections(procs: &Procs) -> Vec<String> {
    let bounded = bounded_selections(procs).into_iter();
    bounded.map(|(selection, _)| selection).collect()
}

/// The same, each with the number of procs that it selects, where that is known.
fn bounded_selections(procs: &Procs) -> Vec<(String, Option<usize>)> {
    match procs {
        Procs::All => vec![("CTSJobID =!= undefined".to_owned(), None)],
        Procs::OfJob(id) => vec![(format!("CTSJobID == \"{id}\""), None)],
        Procs::OfClusters(clusters) if clusters.is_empty() => Vec::new(),
        Procs::OfClusters(clusters) => {
            let each = clusters.iter().map(|id| format!("ClusterId == {id}"));
            vec![(any_of(each), None)]
        }
        Procs::Named(names) => {
            let chunks = names.chunks(NAMES_AT_ONCE);
            chunks
                .map(|names| (named(names), Some(names.len())))
                .collect()
        }
    }
}

/// The clusters first: most ads are of none of them, and are told by one comparison.
fn named(names: &[ProcName]) -> String {
    let mut procs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for name in names {
        procs.entry(name.cluster).or_default().push(name.proc);
    }
    any_of(procs.into_iter().map(|(cluster, procs)| {
        let several = procs.len() > 1;
        let procs = any_of(procs.into_iter().map(|proc| format!("ProcId == {proc}")));
        let procs = if several { format!("({procs})") } else { procs };
        format!("(ClusterId == {cluster} && {procs})")
    }))
}

fn any_of(each: impl Iterator<Item = String>) -> String {
    each.collect::<Vec<_>>().join(" || ")
}

/// Of an ad in the history: it, and so each that was written before it, left the queue before that time. An ad
/// tells when its proc entered its last state, not when it left. Between the two is no time for one that has
/// completed, unless it was to stay in the queue; a removed one waits for its worker.
fn left_before(time: UtcTime) -> String {
    format!(
        "EnteredCurrentStatus < {} && JobStatus == 4 && unparse(LeaveJobInQueue) == \"false\"",
        time.timestamp().as_second()
    )
}

async fn read(
    pipe: Option<impl AsyncRead + Unpin>,
    max_bytes: u64,
) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(max_bytes).read_to_end(&mut bytes).await?;
        // What is too much is read and dropped: the tool must not hang on a full pipe.
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// What `condor_history` prints among the ads when it has skipped one that it could not read itself.
const SKIPPED: &str = "*** Warning: Bad history file";

/// The list that a tool prints as JSON. `condor_q` prints nothing at all where nothing matches. An attribute that
/// cannot be read, or an ad that is none, does not keep the others from being read.
fn parse<T: DeserializeOwned>(tool: &str, output: &[u8]) -> Result<Vec<T>, PoolError> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(SKIPPED))
        .collect();
    if lines.iter().all(|line| line.trim().is_empty()) {
        return Ok(Vec::new());
    }
    let ads: Vec<Value> = match serde_json::from_str(&lines.join("\n")) {
        Ok(ads) => ads,
        Err(error) => salvage(&lines).ok_or_else(|| {
            PoolError::Unavailable(format!("{tool} did not print JSON as it should: {error}"))
        })?,
    };
    let all = ads.len();
    let mut error = None;
    let read: Vec<T> = ads
        .into_iter()
        .filter_map(|ad| {
            serde_json::from_value(ad)
                .map_err(|cause| error = Some(cause))
                .ok()
        })
        .collect();
    match error {
        Some(error) if read.is_empty() => Err(PoolError::Unavailable(format!(
            "{tool} printed no ads that can be read: {error}"
        ))),
        Some(error) => {
            tracing::warn!(tool, skipped = all - read.len(), %error, "ads that cannot be read are passed over");
            Ok(read)
        }
        None => Ok(read),
    }
}

/// The ads of a list that is no JSON as a whole, attribute by attribute: the tools print each on a line of its
/// own. None of a list that does not end: the tool was cut short.
fn salvage(lines: &[&str]) -> Option<Vec<Value>> {
    let mut lines = lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty());
    if lines.next() != Some("[") || lines.next_back() != Some("]") {
        return None;
    }
    let mut ads = Vec::new();
    for line in lines {
        let line = line.trim_end_matches(',');
        if line == "{" {
            ads.push(Map::new());
        } else if let Some(ad) = ads.last_mut() {
            match serde_json::from_str::<Map<String, Value>>(&format!("{{{line}}}")) {
                Ok(attribute) => ad.extend(attribute),
                Err(_) if matches!(line, "" | "}") => {}
                Err(error) => {
                    tracing::warn!(line, %error, "an attribute that cannot be read is passed over");
                }
            }
        }
    }
    Some(ads.into_iter().map(Value::Object).collect())
}

/// The cluster of `47.0 - 47.7`.
fn cluster(text: &str) -> Option<i64> {
    text.lines().rev().find_map(|line| {
        let (first, _last) = line.split_once(" - ")?;
        first.trim().split('.').next()?.parse().ok()
    })
}

/// Whether the complaint of `condor_submit` is that the schedd or the collector cannot be talked to now, or is
/// full for now.
fn may_pass(said: &str) -> bool {
    let said = said.to_lowercase();
    // The schedd's own reason, such as that of a SUBMIT_REQUIREMENT, comes after these words, if it gives one.
    let gives_no_reason = said.ends_with("failed to commit job submission into the queue.");
    gives_no_reason
        || [
            "connect",
            "can't find address",
            "unable to locate",
            "timed out",
            "authenticat",
            "communicat",
            "max_jobs_submitted",
            "max_jobs_per_owner",
            "no space left",
        ]
        .iter()
        .any(|words| said.contains(words))
}

/// What a tool said, on one line.
fn one_line(stderr: &[u8], stdout: &[u8]) -> String {
    let said = if stderr.iter().all(u8::is_ascii_whitespace) {
        stdout
    } else {
        stderr
    };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let text = lines.join(" / ");
    if text.is_empty() {
        "it said nothing".to_owned()
    } else {
        text.chars().take(1000).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_read_from_the_terse_answer() {
        assert_eq!(cluster("47.0 - 47.7\n"), Some(47));
        assert_eq!(cluster("WARNING: something\n48.0 - 48.0\n"), Some(48));
        assert_eq!(cluster(""), None);
        assert_eq!(cluster("x.0 - y.0"), None);
    }

    #[test]
    fn nothing_is_an_empty_list() {
        assert_eq!(parse::<ProcAd>("condor_q", b"").unwrap(), []);
        assert_eq!(parse::<ProcAd>("condor_history", b"[\n]\n").unwrap(), []);
        assert!(parse::<ProcAd>("condor_q", b"Error: x").is_err());
    }

    /// Laid out as HTCondor 23 does.
    #[test]
    fn what_cannot_be_read_does_not_hide_the_rest() {
        let good = "{\n  \"ClusterId\": 47,\n  \"ProcId\": 1\n}\n";
        let names = |middle: &[u8]| {
            let output = [b"[\n", good.as_bytes(), middle, b"]\n"].concat();
            let ads = parse::<ProcAd>("condor_history", &output).unwrap();
            let names = ads.iter().map(|ad| ad.name().map(|name| name.to_string()));
            names.collect::<Vec<_>>()
        };
        let first = Some("47.1".to_owned());
        let second = Some("47.2".to_owned());
        let odd_byte =
            b",\n{\n  \"HoldReason\": \"\xff\",\n  \"ClusterId\": 47,\n  \"ProcId\": 2\n}\n";
        assert_eq!(names(odd_byte), [first.clone(), second.clone()]);
        let warning = b"\t*** Warning: Bad history file; skipping malformed ad(s)\n";
        assert_eq!(names(warning), ["47.1".to_owned()].map(Some));
        let odd_attribute =
            b",\n{\n  \"ImageSize\": nan,\n  \"ClusterId\": 47,\n  \"ProcId\": 2\n}\n";
        assert_eq!(names(odd_attribute), [first.clone(), second]);
        assert_eq!(names(b",\n7\n"), [first], "no ad");
        let cut = format!("[\n{good},\n{{\n  \"ClusterId\": 4");
        assert!(parse::<ProcAd>("condor_q", cut.as_bytes()).is_err());
        assert!(parse::<ProcAd>("condor_q", b"[7]").is_err());
    }

    #[test]
    fn the_schedd_is_the_machines_own_or_the_only_one() {
        let schedds: Vec<ProcAd> = serde_json::from_value(serde_json::json!([
            {"Name": "b", "Machine": "b.example.org"}, {"Name": "x@a", "Machine": "a.example.org"},
        ]))
        .unwrap();
        assert_eq!(choose_schedd(&schedds, "b.example.org"), Ok(Schedd::Own));
        let other = Schedd::Named("x@a".to_owned());
        assert_eq!(choose_schedd(&schedds[1..], "c"), Ok(other));
        let error = choose_schedd(&schedds, "c").unwrap_err().to_string();
        assert!(error.contains("(b, x@a); give"), "{error}");
        assert!(choose_schedd(&[], "c").is_err());
    }

    #[test]
    fn procs_are_selected_by_their_ids() {
        let name = |cluster, proc| ProcName { cluster, proc };
        assert_eq!(
            selections(&Procs::Named(vec![name(4, 0), name(5, 7)])),
            ["(ClusterId == 4 && ProcId == 0) || (ClusterId == 5 && ProcId == 7)"]
        );
        assert_eq!(
            selections(&Procs::Named(vec![name(4, 1), name(4, 0)])),
            ["(ClusterId == 4 && (ProcId == 1 || ProcId == 0))"]
        );
        assert_eq!(
            selections(&Procs::OfClusters(vec![4, 5])),
            ["ClusterId == 4 || ClusterId == 5"]
        );
        assert_eq!(selections(&Procs::OfClusters(Vec::new())), [""; 0]);
        assert_eq!(selections(&Procs::Named(Vec::new())), [""; 0]);
        let many = (0..1001).map(|proc| name(1, proc)).collect();
        assert_eq!(selections(&Procs::Named(many)).len(), 3);
    }

    #[tokio::test]
    async fn a_missing_tool_says_what_to_do() {
        let settings = CommandSettings {
            directory: Some(PathBuf::from("/nonexistent")),
            ..CommandSettings::default()
        };
        let commands = CondorCommands::new(settings, DependencyCalls::default());
        let error = commands.version().await.unwrap_err().to_string();
        assert!(error.contains("HTCondor.command_dir"), "{error}");
    }

    #[test]
    fn complaints_are_one_line() {
        assert_eq!(one_line(b"\nERROR: a\n\n b\n", b"x"), "ERROR: a / b");
        assert_eq!(one_line(b"", b" x \n"), "x");
        assert_eq!(one_line(b"", b""), "it said nothing");
    }
}
