//! What it means that a proc is held, and what to do: pure judgement of its ad.
//!
//! `HTCondor` holds what it cannot carry out and waits for a person (HTCondor manual, "Job `ClassAd`
//! Attributes", `HoldReasonCode`). Nobody looks at the queue of a service, so the service decides: a cause
//! that may pass gets another try, all others end the container with a sentence for people. Another try
//! is safe because the executor that comes then takes the container over as a new attempt.

use super::proc_ad::ProcAd;

/// What to do with a held proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it try again.
    Release,
    /// End the container in error and take the proc out of the queue.
    Fail,
    /// The pool goes on by itself.
    Wait,
}

/// A held proc, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// What to do.
    pub verdict: Verdict,
    /// Cause, place, and who can do something about it.
    pub message: String,
}

/// `HoldReasonCode` 3: an expression of the submit description became true.
const JOB_POLICY: i64 = 3;

/// Judges a held proc. One that was held more than `max_releases` times is not released again; that the pool
/// refused to release it, `refused` times, counts as much.
#[must_use]
pub fn judge(ad: &ProcAd, max_releases: u32, refused: u32) -> Hold {
    let code = ad.integer("HoldReasonCode").unwrap_or(0);
    let (verdict, words) = match code {
        JOB_POLICY => judge_job_policy(ad),
        1 => (
            Verdict::Fail,
            "somebody held it by hand (condor_hold); ask the pool's administrator, then submit the job again"
                .to_owned(),
        ),
        // No description of ours says `hold = true`, and nobody would release it.
        15 => (
            Verdict::Fail,
            "a rule of the pool had it held from the start; ask the pool's administrator".to_owned(),
        ),
        16 => (
            Verdict::Wait,
            "the pool releases it when its files are there".to_owned(),
        ),
        7 | 9 | 14 | 22 => (
            Verdict::Release,
            "HTCondor cannot write into HTCondor.initialdir on the submit node; the pool's administrator must make \
             it there, writable for the account that the jobs belong to"
                .to_owned(),
        ),
        12 if is_about_reading(ad) => (
            Verdict::Release,
            "the executor ended without leaving the container's log files; its standard error, in \
             HTCondor.initialdir, says why"
                .to_owned(),
        ),
        12 => (
            Verdict::Release,
            "its output did not get back to the schedd's host; the pool's administrator must look at disk and \
             permissions of HTCondor.initialdir there"
                .to_owned(),
        ),
        13 => (
            Verdict::Release,
            "the worker did not get the executor; the service's administrator must check that the worker \
             reaches the URLs of HTCondor.executable_url_override and ExternalExecution.archive_url_override, or \
             Service.root_url"
                .to_owned(),
        ),
        26 | 27 => (
            Verdict::Fail,
            "a rule of the pool held it; ask the pool's administrator".to_owned(),
        ),
        34 => (
            Verdict::Fail,
            "the worker's limits were not enough for it; submit the job with more memory or disk".to_owned(),
        ),
        46 | 47 => (
            Verdict::Fail,
            "it took longer than the job's runtime and the time for transfers; submit the job with more \
             runtime, or with fewer files for each container"
                .to_owned(),
        ),
        _ => (
            Verdict::Release,
            "the pool's administrator must look at the worker".to_owned(),
        ),
    };
    let times = ad.integer("NumHolds").unwrap_or(1).max(1);
    let is_used_up = verdict == Verdict::Release
        && times.saturating_add(i64::from(refused)) > i64::from(max_releases);
    let verdict = if is_used_up { Verdict::Fail } else { verdict };
    let again = if is_used_up && refused > 0 {
        ", and does not release it for CTS".to_owned()
    } else if is_used_up && times > 1 {
        format!(", for the {} time", ordinal(times))
    } else {
        String::new()
    };
    let subcode = ad.integer("HoldReasonSubCode").unwrap_or(0);
    let place = ad
        .host()
        .map_or_else(String::new, |host| format!(" (last on {host})"));
    let proc = ad
        .name()
        .map_or_else(|| "a proc".to_owned(), |name| format!("proc {name}"));
    let reason = ad.text("HoldReason").unwrap_or("no reason given").trim();
    Hold {
        verdict,
        message: format!(
            "HTCondor holds {proc}{place}{again}: {} (code {code}.{subcode}): {words}",
            // HTCondor ends a list of causes with a bar.
            reason.trim_end_matches(['.', '|', ' '])
        ),
    }
}

/// Whether the worker could not read a file that the executor should have left there.
fn is_about_reading(ad: &ProcAd) -> bool {
    ad.text("HoldReason")
        .is_some_and(|reason| reason.contains("reading from file"))
}

/// Held by the submit description: the executor ended with another status than 0, or the proc is too old.
fn judge_job_policy(ad: &ProcAd) -> (Verdict, String) {
    let reason = ad.text("HoldReason").unwrap_or_default().to_lowercase();
    if !reason.contains("exit") {
        return (
            Verdict::Fail,
            "it has been there for longer than any job may; submit the job with fewer files for each container"
                .to_owned(),
        );
    }
    if ad.boolean("ExitBySignal") == Some(true) {
        let signal = ad.integer("ExitSignal").map_or_else(
            || "a signal".to_owned(),
            |number| format!("signal {number}"),
        );
        return (
            Verdict::Release,
            format!(
                "the executor was killed by {signal}; if that happens again, the pool's administrator must find \
                 out who does it (9 is often the kernel, for want of memory)"
            ),
        );
    }
    // docs/executor.md, "Exit status"
    let words = match ad.integer("ExitCode") {
        Some(75) => {
            "the worker could not reach the service; the service's administrator must check that it is up and \
             that the worker reaches Service.root_url"
        }
        Some(77) => {
            return (
                Verdict::Fail,
                "the service refused the executor's request or its token; the last lines of its standard error, in \
                 HTCondor.initialdir, say which. A valid token belongs into the file of HTCondor.token_path on every \
                 worker"
                    .to_owned(),
            );
        }
        Some(78) => {
            "a setting of the executor is wrong on this worker; its standard error, in HTCondor.initialdir, says \
             which"
        }
        _ => {
            "the executor failed and could not report why; its standard error, in HTCondor.initialdir, says why"
        }
    };
    (Verdict::Release, words.to_owned())
}

fn ordinal(number: i64) -> String {
    let suffix = match (number % 10, number % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn held(code: i64, reason: &str, more: Value) -> ProcAd {
        let mut ad = json!({
            "ClusterId": 47, "ProcId": 3, "JobStatus": 5, "HoldReasonCode": code, "HoldReasonSubCode": 0,
            "HoldReason": reason, "LastRemoteHost": "slot1@node7.example.org", "NumHolds": 1,
        });
        for (name, value) in more.as_object().unwrap() {
            ad[name] = value.clone();
        }
        serde_json::from_value(ad).unwrap()
    }

    #[test]
    fn the_message_names_cause_place_code_and_who_can_help() {
        let ad = held(1, "via condor_hold (by user alice).", json!({}));
        let hold = judge(&ad, 2, 0);
        assert_eq!(hold.verdict, Verdict::Fail);
        assert_eq!(
            hold.message,
            "HTCondor holds proc 47.3 (last on node7.example.org): via condor_hold (by user alice) (code 1.0): \
             somebody held it by hand (condor_hold); ask the pool's administrator, then submit the job again"
        );
    }

    #[test]
    fn what_may_pass_is_tried_again_but_not_for_ever() {
        let exit = "The job attribute OnExitHold expression 'ExitCode =!= 0' evaluated to TRUE";
        for (code, reason, more) in [
            (13, "Transfer input files failure", json!({})),
            (12, "Transfer output files failure", json!({})),
            (6, "Failed to execute", json!({})),
            (3, exit, json!({"ExitCode": 1})),
            (3, exit, json!({"ExitCode": 75})),
            (3, exit, json!({"ExitBySignal": true, "ExitSignal": 9})),
            (999, "new in a later version", json!({})),
        ] {
            for (holds, expected) in [
                (1, Verdict::Release),
                (2, Verdict::Release),
                (3, Verdict::Fail),
            ] {
                let mut more = more.clone();
                more["NumHolds"] = json!(holds);
                let hold = judge(&held(code, reason, more), 2, 0);
                assert_eq!(hold.verdict, expected, "{code} {holds}");
                assert_eq!(hold.message.contains("for the 3rd time"), holds == 3);
            }
            let hold = judge(&held(code, reason, json!({})), 0, 0);
            assert_eq!(hold.verdict, Verdict::Fail, "no releases wanted");
        }
    }

    #[test]
    fn a_refused_release_counts() {
        let ad = held(13, "Transfer input files failure", json!({}));
        assert_eq!(judge(&ad, 2, 1).verdict, Verdict::Release);
        let hold = judge(&ad, 2, 2);
        assert_eq!(hold.verdict, Verdict::Fail);
        assert!(
            hold.message
                .contains("does not release it for CTS: Transfer input"),
            "{}",
            hold.message
        );
    }

    #[test]
    fn what_lacks_on_the_submit_node_is_told_of_it() {
        for code in [7, 9, 14, 22] {
            let hold = judge(&held(code, "Failed to open", json!({})), 2, 0);
            assert_eq!(hold.verdict, Verdict::Release);
            assert!(
                hold.message.contains("on the submit node"),
                "{}",
                hold.message
            );
        }
    }

    #[test]
    fn what_does_not_pass_fails_at_once() {
        let exit = "The job attribute OnExitHold expression 'ExitCode =!= 0' evaluated to TRUE";
        for (code, reason, more, expected) in [
            (3, exit, json!({"ExitCode": 77}), "or its token"),
            (15, "submitted on hold", json!({}), "held from the start"),
            (
                3,
                "PERIODIC_HOLD (RemoteWallClockTime > 604800)",
                json!({}),
                "longer than any job",
            ),
            (26, "SYSTEM_PERIODIC_HOLD", json!({}), "a rule of the pool"),
            (
                34,
                "Error from slot1: memory usage exceeded request_memory",
                json!({}),
                "more memory",
            ),
            (
                47,
                "The job exceeded allowed execute duration",
                json!({}),
                "more runtime",
            ),
        ] {
            let hold = judge(&held(code, reason, more), 9, 0);
            assert_eq!(hold.verdict, Verdict::Fail, "{code}");
            assert!(hold.message.contains(expected), "{}", hold.message);
        }
        assert_eq!(
            judge(&held(16, "Spooling input data files", json!({})), 0, 0).verdict,
            Verdict::Wait
        );
        assert!(
            judge(&ProcAd::default(), 0, 0)
                .message
                .contains("no reason given")
        );
    }
}
