//! The pool by its command line, with shell scripts as the tools.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cts_service::condor::commands::{CommandSettings, CondorCommands};
use cts_service::condor::pool::{Pool, PoolError, Procs};
use cts_service::condor::proc_ad::ProcName;
use cts_service::condor::start_up::StartUp;
use cts_service::metrics::DependencyCalls;
use cts_service::sites::{SiteGate, SiteStatus, Sites};
use cts_shared::site::Site;
use cts_shared::timestamp::UtcTime;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::installed::install;
use crate::test_app::RecordingSite;

/// A directory with tools of the test's own. Each notes the arguments of its last call, one a line with
/// its end marked.
struct Tools(tempfile::TempDir);

impl Tools {
    fn new(tools: &[(&str, &str)]) -> Self {
        let tools_dir = Self(tempfile::tempdir().unwrap());
        for (name, script) in tools {
            tools_dir.put(name, script);
        }
        tools_dir
    }

    fn directory(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn put(&self, name: &str, script: &str) {
        let directory = self.directory().display();
        let text = format!(
            "#!/bin/sh\ncd '{directory}' && printf '%s|\\n' \"$@\" > {name}.arguments\n{script}\n"
        );
        install(&self.path(name), &text);
    }

    fn commands(&self) -> CondorCommands {
        self.commands_with(|_| {})
    }

    fn commands_with(&self, change: impl FnOnce(&mut CommandSettings)) -> CondorCommands {
        let mut settings = CommandSettings {
            directory: Some(self.directory().to_owned()),
            schedd: Some("schedd.example.org".to_owned()),
            deadline: Duration::from_secs(20),
        };
        change(&mut settings);
        CondorCommands::new(settings, DependencyCalls::default())
    }

    /// The arguments of a tool's last call.
    fn arguments(&self, tool: &str) -> Vec<String> {
        let noted = self.read(&format!("{tool}.arguments"));
        let each = noted.strip_suffix("|\n").unwrap().split("|\n");
        each.map(ToOwned::to_owned).collect()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

fn one() -> Procs {
    Procs::Named(vec![ProcName {
        cluster: 47,
        proc: 3,
    }])
}

const ONE: &str = "(ClusterId == 47 && ProcId == 3)";

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, PoolError>) -> String {
    match result {
        Err(PoolError::Unavailable(message) | PoolError::TimedOut(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_description_goes_to_the_tool_as_it_stands() {
    let tools = Tools::new(&[(
        "condor_submit",
        "cat > description; echo 'WARNING: x' >&2; echo '47.0 - 47.7'",
    )]);
    // More than a pipe holds, with everything that a shell would change.
    let description = format!("a = \"$HOME `id` \\\n'é\n{}", "x".repeat(300_000));
    let cluster = tools.commands().submit(description.clone()).await;
    assert_eq!(cluster, Ok(47));
    assert!(tools.read("description") == description);
    assert_eq!(
        tools.arguments("condor_submit"),
        ["-name", "schedd.example.org", "-terse", "-"]
    );
}

#[tokio::test]
async fn a_refused_description_is_told_from_a_schedd_that_is_away() {
    for (said, is_refused) in [
        ("ERROR: Parse error in expression", true),
        ("ERROR: Can't find address of schedd x", false),
        ("ERROR: Failed to connect to queue manager", false),
        (
            "ERROR: Failed to create cluster / ERROR: Number of submitted jobs would exceed MAX_JOBS_SUBMITTED",
            false,
        ),
        (
            "ERROR: Failed to commit job submission into the queue.",
            false,
        ),
        (
            "ERROR: Failed to commit job submission into the queue. / ERROR: Jobs must ask for less than 1 TB of disk",
            true,
        ),
    ] {
        let script = format!("echo; echo \"{said}\" >&2; exit 1");
        let tools = Tools::new(&[("condor_submit", &script)]);
        // The tool ends without having read all of it.
        let description = "x".repeat(300_000);
        let error = tools.commands().submit(description).await.unwrap_err();
        assert_eq!(
            matches!(error, PoolError::Refused(_)),
            is_refused,
            "{error}"
        );
        assert!(error.to_string().ends_with(said), "{error}");
    }
    let tools = Tools::new(&[("condor_submit", "echo 'Submitting job(s).'")]);
    let error = unavailable(tools.commands().submit(String::new()).await);
    assert!(
        error.contains("without naming a cluster: Submitting job(s)."),
        "{error}"
    );
}

/// Contract service.md, section 6: what is not there at the start is looked for again.
#[tokio::test]
async fn a_site_is_opened_once_its_tools_and_its_directory_are_there() {
    let tools = Tools::new(&[]);
    let initial_dir = tools.path("logs/cts");
    let start_up = StartUp::new(
        Arc::new(tools.commands()),
        initial_dir.display().to_string(),
        Duration::from_millis(5),
    );
    let missing = start_up.check().await.unwrap_err();
    assert!(missing.contains("cannot run"), "{missing}");
    assert!(missing.contains("HTCondor.command_dir"), "{missing}");

    let site = Arc::new(RecordingSite::default());
    let gate = Arc::new(SiteGate::new(site, Some(missing)));
    let sites = Sites::new([(Site::Kbase, SiteStatus::Gated(Arc::clone(&gate)))]);
    let reason = || {
        let available = sites.available(Site::Kbase).map(drop);
        available.map_or_else(|error| error.to_string(), |()| "available".to_owned())
    };
    assert!(reason().contains("site kbase is unavailable: cannot run"));

    let stop = CancellationToken::new();
    let opening = start_up.open(&gate, &stop);
    let come_late = async {
        std::fs::write(tools.path("logs"), "in the way").unwrap();
        tools.put("condor_version", "echo '$CondorVersion: 23.0.0 $'");
        crate::pool_app::eventually("the directory is missed", async || {
            reason().contains("HTCondor.initialdir: cannot make")
        })
        .await;
        std::fs::remove_file(tools.path("logs")).unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), async {
        tokio::join!(opening, come_late)
    })
    .await
    .unwrap();
    assert_eq!(reason(), "available");
    assert!(initial_dir.is_dir());
    // It is not looked at for ever.
    stop.cancel();
    gate.close("gone".to_owned());
    start_up.open(&gate, &stop).await;
    assert!(gate.is_closed());
}

#[tokio::test]
async fn queue_and_history_are_asked_for_ids_and_attributes() {
    let ads = r#"echo '[ {"ClusterId": 47, "ProcId": 3, "JobStatus": 2} ]'"#;
    let tools = Tools::new(&[("condor_q", ads), ("condor_history", ads)]);
    let commands = tools.commands();
    let queued = commands.queue(Procs::All).await.unwrap();
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].name().unwrap().to_string(), "47.3");
    let arguments = tools.arguments("condor_q");
    assert_eq!(
        arguments[..5],
        [
            "-name",
            "schedd.example.org",
            "-allusers",
            "-json",
            "-attributes"
        ]
    );
    assert!(
        arguments[5].starts_with("ClusterId,ProcId,"),
        "{arguments:?}"
    );
    assert_eq!(arguments[6..], ["-constraint", "CTSJobID =!= undefined"]);

    let since = UtcTime::new(Timestamp::from_second(1234).unwrap());
    let job = "986e5df7-f7f3-48d3-b388-29346ddb6656";
    let of_job = Procs::OfJob(job.parse().unwrap());
    assert_eq!(commands.history(of_job, since).await.unwrap().len(), 1);
    let arguments = tools.arguments("condor_history");
    let constraint = format!("CTSJobID == \"{job}\"");
    // Tried with HTCondor 23.9.6: an ad written late, of a proc that was kept in the queue, does not stop it.
    let left_before =
        "EnteredCurrentStatus < 1234 && JobStatus == 4 && unparse(LeaveJobInQueue) == \"false\"";
    assert_eq!(
        arguments[5..],
        ["-constraint", &constraint, "-since", left_before]
    );
    assert_eq!(commands.history(one(), since).await.unwrap().len(), 1);
    let arguments = tools.arguments("condor_history");
    assert_eq!(
        arguments[5..],
        ["-constraint", ONE, "-since", left_before, "-limit", "1"],
        "each proc is there once"
    );
    // No procs are no question.
    std::fs::remove_file(tools.path("condor_q.arguments")).unwrap();
    assert_eq!(
        commands.queue(Procs::Named(Vec::new())).await,
        Ok(Vec::new())
    );
    assert!(!tools.path("condor_q.arguments").exists());
}

/// As HTCondor 23 prints it: `condor_q` prints nothing, `condor_history` an empty list.
#[tokio::test]
async fn no_match_is_no_failure() {
    let tools = Tools::new(&[("condor_q", ""), ("condor_history", "printf '[\\n]\\n'")]);
    let commands = tools.commands();
    assert_eq!(commands.queue(one()).await, Ok(Vec::new()));
    let since = UtcTime::new(Timestamp::UNIX_EPOCH);
    assert_eq!(commands.history(one(), since).await, Ok(Vec::new()));
}

#[tokio::test]
async fn reasons_are_arguments_and_no_shell_text() {
    let tools = Tools::new(&[("condor_rm", ""), ("condor_release", "")]);
    let commands = tools.commands();
    let reason = "it's \"done\"; $(touch shell) `touch shell`\nreally";
    commands.remove(one(), reason.to_owned()).await.unwrap();
    commands.release(one(), reason.to_owned()).await.unwrap();
    for tool in ["condor_rm", "condor_release"] {
        assert_eq!(
            tools.arguments(tool),
            [
                "-name",
                "schedd.example.org",
                "-constraint",
                ONE,
                "-reason",
                reason
            ]
        );
    }
    assert!(!tools.path("shell").exists());
}

/// `condor_rm` says the same whether nothing matched or the schedd did not answer.
#[tokio::test]
async fn an_action_that_failed_is_done_if_nothing_is_left_to_do() {
    let complaint = "echo \"Couldn't find/remove all jobs matching constraint\" >&2; exit 1";
    let in_queue = |status: u32| {
        format!("echo '[{{\"ClusterId\": 47, \"ProcId\": 3, \"JobStatus\": {status}}}]'")
    };
    let away = "echo 'Failed to connect' >&2; exit 1";
    let tools = Tools::new(&[("condor_rm", complaint), ("condor_release", complaint)]);
    let commands = tools.commands();
    for (queue, is_removed, is_released) in [
        (String::new(), true, true),
        (in_queue(1), false, true),
        (in_queue(2), false, true),
        (in_queue(3), true, true),
        (in_queue(5), false, false),
        (away.to_owned(), false, false),
    ] {
        tools.put("condor_q", &queue);
        let removed = commands.remove(one(), "x".to_owned()).await;
        assert_eq!(removed.is_ok(), is_removed, "{queue}: {removed:?}");
        if let Err(error) = removed {
            let is_refused = matches!(error, PoolError::Refused(_));
            assert_eq!(is_refused, queue != away, "{error}");
        }
        let released = commands.release(one(), "x".to_owned()).await;
        assert_eq!(released.is_ok(), is_released, "{queue}: {released:?}");
    }
}

/// Each refusal counts towards giving a held proc up.
#[tokio::test]
async fn what_had_no_time_to_be_done_was_not_refused() {
    let queue = "echo '[{\"ClusterId\": 47, \"ProcId\": 3, \"JobStatus\": 5}]'";
    let tools = Tools::new(&[("condor_release", "exec sleep 600"), ("condor_q", queue)]);
    let commands = tools.commands_with(|settings| settings.deadline = Duration::from_secs(2));
    let released = commands.release(one(), "x".to_owned()).await;
    let Err(PoolError::TimedOut(error)) = released else {
        panic!("{released:?}");
    };
    assert!(error.contains("condor_release gave no answer"), "{error}");
}

#[tokio::test]
async fn a_tool_that_hangs_is_given_up_and_killed() {
    let tools = Tools::new(&[("condor_q", "echo $$ > pid; exec sleep 600")]);
    // Within it the tool must have said which process it is.
    let commands = tools.commands_with(|settings| settings.deadline = Duration::from_secs(5));
    let error = unavailable(commands.queue(one()).await);
    assert_eq!(
        error,
        "condor_q gave no answer within 5 s; check the schedd and the collector"
    );
    let process = PathBuf::from("/proc").join(tools.read("pid").trim());
    crate::pool_app::eventually("the tool is gone", async || !process.exists()).await;
}

/// A call that waits for others to end waits no longer than one that runs.
#[tokio::test]
async fn many_calls_to_a_pool_that_hangs_end_together() {
    let tools = Tools::new(&[("condor_q", "exec sleep 600")]);
    let commands = tools.commands_with(|settings| settings.deadline = Duration::from_secs(1));
    let started = Instant::now();
    let calls = (0..60).map(|_| commands.queue(one()));
    for outcome in futures::future::join_all(calls).await {
        unavailable(outcome);
    }
    // One after the other, four at a time, they would take 15 s.
    assert!(
        started.elapsed() < Duration::from_secs(14),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn much_output_is_read_to_its_end() {
    let ads = "awk 'BEGIN { print \"[\"; for (i = 0; i < 100000; i++) printf \"%s{\\\"ClusterId\\\": 1, \\\"ProcId\\\": %d, \\\"Owner\\\": \\\"somebody with a long name\\\"}\\n\", (i ? \",\" : \"\"), i; print \"]\" }'";
    let complaints =
        "awk 'BEGIN { for (i = 0; i < 100000; i++) print \"WARNING: something is odd\" }' >&2";
    let script = format!("{complaints}; {ads}");
    let tools = Tools::new(&[("condor_q", &script)]);
    let procs = tools.commands().queue(Procs::All).await.unwrap();
    assert_eq!(procs.len(), 100_000);
    tools.put("condor_q", &format!("{complaints}; exit 1"));
    let error = unavailable(tools.commands().queue(Procs::All).await);
    assert!(
        error.contains("WARNING: something is odd / WARNING"),
        "{error}"
    );
    assert!(error.len() < 1200, "{}", error.len());
}

#[tokio::test]
async fn what_is_no_answer_is_said() {
    for (script, expected) in [
        (
            "echo '-- Failed to fetch ads'",
            "condor_q did not print JSON as it should",
        ),
        (
            "printf '[{\"ClusterId\": 47'",
            "condor_q did not print JSON as it should",
        ),
        (
            "echo '{\"ClusterId\": 47}'",
            "condor_q did not print JSON as it should",
        ),
        (
            "printf '\\377\\376'",
            "condor_q did not print JSON as it should",
        ),
        ("echo '[7]'", "condor_q printed no ads that can be read"),
        (
            "exit 3",
            "condor_q ended with exit status: 3: it said nothing",
        ),
        ("kill -9 $$", "condor_q ended with signal: 9"),
    ] {
        let tools = Tools::new(&[("condor_q", script)]);
        let error = unavailable(tools.commands().queue(one()).await);
        assert!(error.contains(expected), "{error}");
    }
    let tools = Tools::new(&[]);
    std::fs::write(tools.path("condor_q"), "#!/bin/sh\n").unwrap();
    let error = unavailable(tools.commands().queue(one()).await);
    assert!(error.contains("condor_q: Permission denied"), "{error}");
    assert!(error.contains("HTCondor.command_dir"), "{error}");
}

#[tokio::test]
async fn the_collector_is_asked_for_the_schedd_once() {
    let tools = Tools::new(&[
        (
            "condor_status",
            "echo x >> asked; echo '[{\"Name\": \"only\", \"Machine\": \"other.example.org\"}]'",
        ),
        ("condor_q", ""),
    ]);
    let commands = tools.commands_with(|settings| settings.schedd = None);
    for _ in 0..2 {
        commands.queue(one()).await.unwrap();
    }
    assert_eq!(
        tools.arguments("condor_status"),
        ["-schedd", "-json", "-attributes", "Name,Machine"]
    );
    assert_eq!(
        tools.arguments("condor_q")[..3],
        ["-name", "only", "-allusers"]
    );
    assert_eq!(tools.read("asked"), "x\n");
    tools.put("condor_q", "echo 'Failed to connect' >&2; exit 1");
    unavailable(commands.queue(one()).await);
    tools.put("condor_q", "");
    tools.put(
        "condor_status",
        "echo '[{\"Name\": \"new\", \"Machine\": \"other.example.org\"}]'",
    );
    commands.queue(one()).await.unwrap();
    assert_eq!(
        tools.arguments("condor_q")[..2],
        ["-name", "only"],
        "another's queue is empty: every job would count as lost"
    );

    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let own = format!("echo '[{{\"Name\": \"x\", \"Machine\": \"{host}\"}}, {{\"Name\": \"y\"}}]'");
    tools.put("condor_status", &own);
    let commands = tools.commands_with(|settings| settings.schedd = None);
    commands.queue(one()).await.unwrap();
    assert_eq!(
        tools.arguments("condor_q")[0],
        "-allusers",
        "its own needs no name"
    );
    tools.put(
        "condor_status",
        "echo '[{\"Name\": \"x\"}, {\"Name\": \"y\"}]'",
    );
    let commands = tools.commands_with(|settings| settings.schedd = None);
    let error = unavailable(commands.queue(one()).await);
    assert!(error.contains("several schedds (x, y)"), "{error}");
}

#[tokio::test]
async fn machines_are_the_collectors() {
    let tools = Tools::new(&[(
        "condor_status",
        "echo '[{\"Machine\": \"n1\", \"TotalSlotCpus\": 8, \"CLIENTGROUP\": \"njs\"}]'",
    )]);
    let machines = tools.commands().machines().await.unwrap();
    assert_eq!(machines[0].machine.as_deref(), Some("n1"));
    assert_eq!(machines[0].total_slot_cpus, Some(8.0));
    assert_eq!(
        tools.arguments("condor_status"),
        [
            "-json",
            "-attributes",
            "Machine,TotalSlotCpus,TotalSlotMemory,TotalSlotDisk,CLIENTGROUP,CtsExecutorHealthy,CtsExecutorProblem",
            "-constraint",
            "SlotType =!= \"Dynamic\"",
        ]
    );
}

#[tokio::test]
async fn the_version_is_its_first_line() {
    let tools = Tools::new(&[("condor_version", "echo '$CondorVersion: 23 $'; echo x")]);
    let version = tools.commands().version().await;
    assert_eq!(version.as_deref(), Ok("$CondorVersion: 23 $"));
}
