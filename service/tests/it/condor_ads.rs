//! What the service makes of ads that a pool printed (`service/tests/data/condor/README.md`).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use cts_service::condor::holds::{Verdict, judge};
use cts_service::condor::proc_ad::{DECISIVE, ProcAd, ProcName, ProcStatus};
use cts_service::condor::reconcile::{Decision, JobFacts, Rules, decide};
use cts_service::condor::statistics::{all_held, statistics};
use cts_shared::state::job_flow::JobRecord;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::ContainerUsage;

const JOB: &str = "986e5df7-f7f3-48d3-b388-29346ddb6656";

/// A minute after the last of the ads.
const NOW: i64 = 1_795_359_873;

fn recorded(name: &str) -> ProcAd {
    let path = format!(
        "{}/tests/data/condor/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    let [ad] = serde_json::from_str(&text).unwrap();
    ad
}

fn at(second: i64) -> UtcTime {
    UtcTime::new(Timestamp::from_second(second).unwrap())
}

/// What is decided about a job of that one proc.
fn decision(queue: &[ProcAd], history: &[ProcAd]) -> Decision {
    let mut record = JobRecord::new(1, at(NOW - 600));
    let _change = record.queued(at(NOW - 600)).unwrap();
    let ad = queue.iter().chain(history).next().unwrap();
    let facts = JobFacts {
        record: &record,
        clusters: &[ad.cluster().unwrap()],
        queue,
        history,
        machines: None,
        suspects: &BTreeSet::new(),
        refused_releases: &HashMap::new(),
        listening_since: at(0),
        asked: at(NOW),
    };
    let rules = Rules {
        max_releases: 3,
        client_group: None,
        idle: Duration::from_secs(30),
        silence: Duration::from_hours(6),
        lease: Duration::from_hours(12),
    };
    decide(&facts, &rules, at(NOW))
}

#[test]
fn every_ad_names_its_job_and_status() {
    for (name, status) in [
        ("idle", ProcStatus::Idle),
        ("running", ProcStatus::Running),
        ("held_by_user", ProcStatus::Held),
        ("held_exit_1", ProcStatus::Held),
        ("held_input_404", ProcStatus::Held),
        ("held_missing_output", ProcStatus::Held),
        ("evicted_and_idle_again", ProcStatus::Idle),
        ("removed", ProcStatus::Removed),
        ("completed", ProcStatus::Completed),
    ] {
        let ad = recorded(name);
        assert_eq!(ad.status(), Some(status), "{name}");
        assert_eq!(ad.job().unwrap().to_string(), JOB);
        assert_eq!(ad.container(), Some(0));
        let host = (name != "idle").then_some("pool.example.org");
        assert_eq!(ad.host(), host, "{name}");
    }
}

#[test]
fn held_procs_are_judged_with_a_sentence() {
    for (name, verdict, sentence) in [
        (
            "held_by_user",
            Verdict::Fail,
            "HTCondor holds proc 6.0 (last on pool.example.org): via condor_hold (by user cts) \
             (code 1.0): somebody held it by hand (condor_hold); ask the pool's administrator, then submit the \
             job again",
        ),
        (
            "held_exit_1",
            Verdict::Release,
            "HTCondor holds proc 2.0 (last on pool.example.org): The job attribute OnExitHold expression \
             'ExitCode =!= 0' evaluated to TRUE (code 3.0): the executor failed and could not report why; its \
             standard error, in HTCondor.initialdir, says why",
        ),
        (
            "held_input_404",
            Verdict::Release,
            "HTCondor holds proc 4.0 (last on pool.example.org): Transfer input files failure at execution point \
             slot1_2@pool.example.org using protocol http. Details: The requested URL returned error: 404 ( URL \
             file = http://cts.example.org/nosuch/executable.sh ) (code 13.256): the worker did not get the \
             executor; the service's administrator must check that the worker reaches the URLs of \
             HTCondor.executable_url_override and ExternalExecution.archive_url_override, or Service.root_url",
        ),
        (
            "held_missing_output",
            Verdict::Release,
            "HTCondor holds proc 3.0 (last on pool.example.org): Transfer output files failure at execution point \
             slot1_1@pool.example.org while sending files to access point pool. Details: reading from file \
             /var/lib/condor/execute/dir_339/cts-986e5df7-f7f3-48d3-b388-29346ddb6656-0-container.out: (errno 2) No \
             such file or directory (code 12.2): the executor ended without leaving the container's log files; its \
             standard error, in HTCondor.initialdir, says why",
        ),
    ] {
        let hold = judge(&recorded(name), 3, 0);
        assert_eq!(hold.verdict, verdict, "{name}");
        assert_eq!(hold.message, sentence);
    }
}

#[test]
fn what_goes_on_by_itself_needs_no_decision() {
    for name in ["idle", "running", "evicted_and_idle_again"] {
        assert_eq!(
            decision(&[recorded(name)], &[]),
            Decision::default(),
            "{name}"
        );
    }
}

/// What the pool is asked for in every round is enough to decide by.
#[test]
fn the_attributes_asked_for_decide_as_all_of_them() {
    for name in [
        "idle",
        "running",
        "held_by_user",
        "held_exit_1",
        "held_input_404",
        "held_missing_output",
        "evicted_and_idle_again",
        "removed",
        "completed",
    ] {
        let whole = recorded(name);
        let part: serde_json::Map<String, serde_json::Value> = DECISIVE
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), whole.get(name)?.clone())))
            .collect();
        let part: ProcAd = serde_json::from_value(part.into()).unwrap();
        assert_eq!(decision(&[part], &[]), decision(&[whole], &[]), "{name}");
    }
}

#[test]
fn held_procs_are_released_or_end_their_containers() {
    for name in ["held_exit_1", "held_input_404", "held_missing_output"] {
        let ad = recorded(name);
        let decided = decision(std::slice::from_ref(&ad), &[]);
        assert_eq!(decided.release, [ad.name().unwrap()], "{name}");
        assert_eq!(decided.ends, [], "{name}");
        let notice = decided.notice.unwrap();
        assert!(notice.ends_with("; it is tried again"), "{notice}");
    }
    let decided = decision(&[recorded("held_by_user")], &[]);
    assert_eq!(decided.release, []);
    let proc = ProcName {
        cluster: 6,
        proc: 0,
    };
    assert_eq!(decided.ends[0].proc, Some(proc));
    // The owner is told, too.
    let told = decided.notice.unwrap();
    assert_eq!(told, format!("container 0: {}", decided.ends[0].reason));
}

#[test]
fn procs_that_left_end_their_containers_with_the_cause() {
    for (name, sentence) in [
        (
            "removed",
            "proc 6.0 (last on pool.example.org) was removed from HTCondor's queue outside CTS: via condor_rm (by \
             user cts); ask the pool's administrator, then submit the job again",
        ),
        (
            "completed",
            "the executor of proc 5.0 (last on pool.example.org) ended with exit code 0 without reporting the \
             container's end; its standard error, in HTCondor.initialdir, says more to the pool's administrator",
        ),
    ] {
        let decided = decision(&[], &[recorded(name)]);
        assert_eq!(decided.ends.len(), 1, "{name}");
        assert_eq!(decided.ends[0].reason, sentence);
        assert_eq!(decided.remove, [], "{name}");
    }
}

#[test]
fn the_view_has_evaluated_memory_and_readable_expressions() {
    let view = recorded("held_exit_1").view();
    assert_eq!(view["MemoryUsage"], 5);
    assert_eq!(view["RequestDisk"], "DiskUsage");
    let requirements = view["Requirements"].as_str().unwrap();
    assert!(
        requirements.starts_with("(regexp(\"test_cg\",CLIENTGROUP))"),
        "{requirements}"
    );
    assert_eq!(view["HoldReasonCode"], 3);
    assert_eq!(view["CTSJobID"], JOB);
    for absent in ["NumJobMatches", "LastPublicClaimId", "RemoteHost"] {
        assert_eq!(view.get(absent), None, "{absent}");
    }
}

#[test]
fn statistics_are_the_executors_and_the_containers() {
    let completed = recorded("completed");
    let alone = statistics(std::slice::from_ref(&completed), &[], 2);
    // It ran for less than a second.
    assert_eq!((alone.cpu_hours, alone.cpu_factor), (None, None));
    assert_eq!(alone.max_memory, Some(5 * 1024 * 1024));
    let mut longer = serde_json::to_value(completed.view()).unwrap();
    longer["RemoteUserCpu"] = json!(3.0);
    longer["CommittedTime"] = json!(10);
    let longer: ProcAd = serde_json::from_value(longer).unwrap();
    let usage = ContainerUsage {
        cpu_ms: Some(33_000),
        wall_ms: Some(9000),
        max_memory_bytes: Some(1000),
    };
    let both = statistics(&[longer], &[usage], 2);
    assert_eq!(both.cpu_hours, Some(0.01));
    assert_eq!(both.cpu_factor, Some(1.8));
    assert_eq!(both.max_memory, Some(1000));
    assert!(all_held(&[
        recorded("held_exit_1"),
        recorded("held_by_user")
    ]));
    assert!(!all_held(&[recorded("held_exit_1"), recorded("idle")]));
}
