//! What to do where the store and the pool disagree about a job: pure decisions.
//!
//! The store says what executors reported, the pool what became of the executors. A container that has not
//! ended and whose proc will not come to that by itself is ended here, with a sentence that names the
//! cause and who can help; see [`super::holds`] for procs that are held. Each decision can be taken
//! again, by any service: it says what ought to be, not what to change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use cts_shared::id::ContainerNumber;
use cts_shared::state::job_flow::{ContainerRecord, JobRecord};
use cts_shared::timestamp::UtcTime;

use super::holds::{self, Verdict};
use super::machine_ad::{MachineAd, why_nothing_fits};
use super::proc_ad::{ProcAd, ProcName, ProcStatus};

/// How long an executor may be silent beyond the time for which it may have a reason.
const SILENCE_MARGIN: Duration = Duration::from_mins(15);

/// What the decisions depend on beside the job.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Times a held proc is released.
    pub max_releases: u32,
    /// The client group that procs ask for.
    pub client_group: Option<String>,
    /// How long an idle proc may be without it being asked whether any machine fits.
    pub idle: Duration,
    /// How long an executor that renews its attempt may be silent.
    pub silence: Duration,
    /// How long `HTCondor` waits for a lost worker.
    pub lease: Duration,
}

/// How long an executor may be silent that tries to report for `trying`: it may still get through, and until its
/// lease is over `HTCondor` waits for a lost worker before it runs the proc elsewhere.
#[must_use]
pub fn longest_silence(trying: Duration, lease: Duration) -> Duration {
    trying.max(lease).saturating_add(SILENCE_MARGIN)
}

/// What is known of a job.
#[derive(Debug)]
pub struct JobFacts<'a> {
    /// Its record, read after the ads: what an executor reported before it ended is in it.
    pub record: &'a JobRecord,
    /// The clusters that the store knows, newest last.
    pub clusters: &'a [i64],
    /// Its procs in the queue; see [`own_procs`].
    pub queue: &'a [ProcAd],
    /// Its procs that have left the queue, as far as they were looked for; see [`absent_procs`].
    pub history: &'a [ProcAd],
    /// The machines of the pool; only looked for if [`needs_machines`].
    pub machines: Option<&'a [MachineAd]>,
    /// The containers that the last round [suspected](Decision::suspects).
    pub suspects: &'a BTreeSet<ContainerNumber>,
    /// How often the pool refused to release a proc.
    pub refused_releases: &'a HashMap<ProcName, u32>,
    /// Nobody could be heard before: when this service began to listen.
    pub listening_since: UtcTime,
    /// When the pool was asked for its queue. What began since, the ads do not know.
    pub asked: UtcTime,
}

/// What to do about a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// A cluster of the job that the store does not know: note it.
    pub adopt: Option<i64>,
    /// Containers to end in error.
    pub ends: Vec<End>,
    /// Held procs to try again.
    pub release: Vec<ProcName>,
    /// Procs that nobody needs any more; beside these, those of the containers that are [ended](End::proc).
    pub remove: Vec<ProcName>,
    /// What keeps the job waiting, or what ended it, for people.
    pub notice: Option<String>,
    /// Containers that the pool knows nothing of. It may be between queue and history; if it is the
    /// same in the next round, they are lost.
    pub suspects: BTreeSet<ContainerNumber>,
}

/// A container that will not end by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Which.
    pub container: ContainerNumber,
    /// The attempt that this is about: another that has begun since goes on.
    pub attempt: Option<u32>,
    /// Its proc in the queue, to be removed once the container has ended.
    pub proc: Option<ProcName>,
    /// Why, and who can help.
    pub reason: String,
}

/// The procs in the queue that are the service's, of those that say that they are a job's: of the clusters that
/// the store knows (without any, the oldest is taken for the job's), and of the same `owners`, to whom those of
/// these clusters are added. Others are somebody else's, whatever they say.
#[must_use]
pub fn own_procs(clusters: &[i64], queue: &[ProcAd], owners: &mut BTreeSet<String>) -> Vec<ProcAd> {
    let oldest: Vec<i64> = newest(clusters, queue).into_iter().collect();
    let known = if clusters.is_empty() {
        &oldest
    } else {
        clusters
    };
    let is_known = |ad: &ProcAd| ad.cluster().is_some_and(|cluster| known.contains(&cluster));
    let named = queue.iter().filter(|ad| is_known(ad));
    // Of one that is only taken for the job's they are not remembered: it may be anybody's.
    if !clusters.is_empty() {
        owners.extend(named.filter_map(|ad| ad.text("Owner").map(ToOwned::to_owned)));
    }
    let is_own =
        |ad: &&ProcAd| is_known(ad) || ad.text("Owner").is_some_and(|owner| owners.contains(owner));
    queue.iter().filter(is_own).cloned().collect()
}

/// The procs that must be looked for where they went when they left the queue: of containers that have not ended
/// and have none in the queue.
#[must_use]
pub fn absent_procs(record: &JobRecord, cluster: i64, queue: &[ProcAd]) -> Vec<ProcName> {
    let queued = by_container(queue, cluster);
    running(record)
        .filter(|(number, _)| !queued.contains_key(number))
        .map(|(number, _)| ProcName::of_container(cluster, number))
        .collect()
}

/// Whether the machines must be looked at: a proc has been idle for long.
#[must_use]
pub fn needs_machines(queue: &[ProcAd], rules: &Rules, now: UtcTime) -> bool {
    queue.iter().any(|ad| is_idle(ad, rules, now))
}

/// Decides about a job that has not ended and is not being canceled.
#[must_use]
pub fn decide(job: &JobFacts<'_>, rules: &Rules, now: UtcTime) -> Decision {
    let mut decision = Decision::default();
    let found = newest(job.clusters, job.queue).or_else(|| newest(job.clusters, job.history));
    let Some(cluster) = found else {
        return without_cluster(job);
    };
    if job.clusters.is_empty() {
        decision.adopt = Some(cluster);
    }
    // Submitted twice: an answer of the schedd was lost.
    decision.remove.extend(
        job.queue
            .iter()
            .filter(|ad| ad.cluster() != Some(cluster))
            .filter_map(ProcAd::name),
    );
    let (queue, history) = (
        by_container(job.queue, cluster),
        by_container(job.history, cluster),
    );
    let (mut ended, mut notices) = (Vec::new(), Vec::new());
    let running: BTreeMap<ContainerNumber, &ContainerRecord> = running(job.record).collect();
    for (number, container) in &running {
        let has_begun_since = container
            .current_attempt()
            .is_some_and(|attempt| attempt.started > job.asked);
        let finding = match (history.get(number), queue.get(number)) {
            // Released or rerun meanwhile: the next round sees it.
            _ if has_begun_since => Finding::Fine,
            // In both lists for a moment: it has left.
            (Some(ad), _) => Finding::End(why_it_left(ad)),
            (None, Some(ad)) => in_queue(ad, container, job, rules, now),
            (None, None) if job.suspects.contains(number) => Finding::End(format!(
                "HTCondor knows nothing of proc {cluster}.{number} any more, neither in its queue nor in its \
                 history; the pool's administrator must look at the schedd (was its spool directory replaced?)"
            )),
            (None, None) => Finding::Suspect,
        };
        let proc = queue.get(number).and_then(|ad| ad.name());
        match finding {
            Finding::Fine => {}
            Finding::Suspect => {
                decision.suspects.insert(*number);
            }
            Finding::Notice(message) => notices.push((*number, message)),
            Finding::Release(message) => {
                decision.release.extend(proc);
                notices.push((*number, format!("{message}; it is tried again")));
            }
            Finding::End(reason) => {
                // The owner sees it there; the error's own words are for administrators.
                ended.push((*number, reason.clone()));
                decision.ends.push(End {
                    container: *number,
                    attempt: container.current_attempt().map(|attempt| attempt.number),
                    proc,
                    reason,
                });
            }
        }
    }
    // The executor ended with an error that it had reported: the proc is held for nothing.
    decision.remove.extend(
        queue
            .iter()
            .filter(|(number, ad)| {
                !running.contains_key(number) && ad.status() == Some(ProcStatus::Held)
            })
            .filter_map(|(_, ad)| ad.name()),
    );
    ended.append(&mut notices);
    decision.notice = summary(&ended);
    decision
}

/// Decides about a job that has got on, so it was submitted, and of which the pool has nothing.
fn without_cluster(job: &JobFacts<'_>) -> Decision {
    let reason = "HTCondor knows nothing of the job any more, neither in its queue nor in its history, and how it \
                  was submitted was not noted; submit it again";
    let mut decision = Decision::default();
    let mut ended = Vec::new();
    for (number, container) in running(job.record) {
        if job.suspects.contains(&number) {
            ended.push((number, reason.to_owned()));
            decision.ends.push(End {
                container: number,
                attempt: container.current_attempt().map(|attempt| attempt.number),
                proc: None,
                reason: reason.to_owned(),
            });
        } else {
            decision.suspects.insert(number);
        }
    }
    decision.notice = summary(&ended);
    decision
}

/// The cluster's procs, by the container that they carry out.
fn by_container(ads: &[ProcAd], cluster: i64) -> BTreeMap<ContainerNumber, &ProcAd> {
    ads.iter()
        .filter(|ad| ad.cluster() == Some(cluster))
        .filter_map(|ad| Some((ad.container()?, ad)))
        .collect()
}

enum Finding {
    Fine,
    Suspect,
    Notice(String),
    Release(String),
    End(String),
}

/// The cluster that counts (contract condor.md, section 4): the newest that the store knows, else the oldest
/// that there is.
#[must_use]
pub fn newest(clusters: &[i64], ads: &[ProcAd]) -> Option<i64> {
    clusters
        .last()
        .copied()
        .or_else(|| ads.iter().filter_map(ProcAd::cluster).min())
}

/// The containers that have not ended.
fn running(record: &JobRecord) -> impl Iterator<Item = (ContainerNumber, &ContainerRecord)> {
    (0..)
        .zip(&record.containers)
        .filter(|(_, container)| !container.state().is_terminal())
}

fn in_queue(
    ad: &ProcAd,
    container: &ContainerRecord,
    job: &JobFacts<'_>,
    rules: &Rules,
    now: UtcTime,
) -> Finding {
    match ad.status() {
        Some(ProcStatus::Held) => {
            let refused = ad.name().and_then(|name| job.refused_releases.get(&name));
            let hold = holds::judge(ad, rules.max_releases, refused.copied().unwrap_or(0));
            match hold.verdict {
                Verdict::Release => Finding::Release(hold.message),
                Verdict::Fail => Finding::End(hold.message),
                Verdict::Wait => Finding::Notice(hold.message),
            }
        }
        Some(ProcStatus::Removed | ProcStatus::Completed) => Finding::End(why_it_left(ad)),
        Some(ProcStatus::Idle) if is_idle(ad, rules, now) => job
            .machines
            .and_then(|machines| why_nothing_fits(ad, rules.client_group.as_deref(), machines))
            .map_or(Finding::Fine, Finding::Notice),
        Some(ProcStatus::Running | ProcStatus::TransferringOutput) => {
            if let Some(reason) = silence(ad, container, job.listening_since, rules, now) {
                return Finding::End(reason);
            }
            lost_contact(ad, rules.lease).map_or(Finding::Fine, Finding::Notice)
        }
        Some(ProcStatus::Idle | ProcStatus::Suspended) | None => Finding::Fine,
    }
}

fn is_idle(ad: &ProcAd, rules: &Rules, now: UtcTime) -> bool {
    ad.status() == Some(ProcStatus::Idle)
        && ad
            .integer("EnteredCurrentStatus")
            .is_none_or(|since| since <= now.minus(rules.idle).timestamp().as_second())
}

/// What `HTCondor` does about a worker that it has lost, if it has. `configured` is the lease where the ad does not say.
fn lost_contact(ad: &ProcAd, configured: Duration) -> Option<String> {
    let since = ad.integer("JobDisconnectedDate")?;
    // The date of an earlier run stays when the proc runs again.
    if ad
        .integer("JobCurrentStartDate")
        .is_some_and(|started| since < started)
    {
        return None;
    }
    let since = Timestamp::from_second(since).ok()?;
    // That of the day on which it was submitted.
    let own = ad
        .integer("JobLeaseDuration")
        .and_then(|seconds| u64::try_from(seconds).ok());
    let lease = own.map_or(configured, Duration::from_secs);
    Some(format!(
        "HTCondor has lost contact with {} since {}; it starts the container again elsewhere if that machine has \
         not come back within {} minutes",
        ad.host().unwrap_or("its worker"),
        UtcTime::new(since),
        lease.as_secs().div_ceil(60)
    ))
}

/// Why an executor that renews its attempt is given up, if it is.
fn silence(
    ad: &ProcAd,
    container: &ContainerRecord,
    listening_since: UtcTime,
    rules: &Rules,
    now: UtcTime,
) -> Option<String> {
    let attempt = container.current_attempt()?;
    let started = ad
        .integer("JobCurrentStartDate")
        .unwrap_or(0)
        .max(attempt.last_seen.timestamp().as_second());
    let heard = started.max(listening_since.timestamp().as_second());
    if heard > now.minus(rules.silence).timestamp().as_second() {
        return None;
    }
    let host = ad
        .host()
        .or(attempt.host.as_deref())
        .unwrap_or("its worker");
    Some(format!(
        "the executor on {host} has not been heard of since {}, although HTCondor says that it runs; the pool's \
         administrator must look at that worker and its network",
        attempt.last_seen
    ))
}

/// Why a proc is not in the queue any more although its executor reported no end.
fn why_it_left(ad: &ProcAd) -> String {
    let proc = ad
        .name()
        .map_or_else(|| "a proc".to_owned(), |name| format!("proc {name}"));
    let place = ad
        .host()
        .map_or_else(String::new, |host| format!(" (last on {host})"));
    if ad.status() == Some(ProcStatus::Removed) {
        let reason = ad.text("RemoveReason").unwrap_or("no reason given").trim();
        return format!(
            "{proc}{place} was removed from HTCondor's queue outside CTS: {}; ask the pool's administrator, then \
             submit the job again",
            reason.trim_end_matches('.')
        );
    }
    let how = match (ad.boolean("ExitBySignal"), ad.integer("ExitCode")) {
        (Some(true), _) => ad.integer("ExitSignal").map_or_else(
            || "by a signal".to_owned(),
            |signal| format!("by signal {signal}"),
        ),
        (_, Some(code)) => format!("with exit code {code}"),
        (_, None) => "in an unknown way".to_owned(),
    };
    format!(
        "the executor of {proc}{place} ended {how} without reporting the container's end; its standard error, in \
         HTCondor.initialdir, says more to the pool's administrator"
    )
}

fn summary(notices: &[(ContainerNumber, String)]) -> Option<String> {
    let (first, message) = notices.first()?;
    Some(match notices.len() {
        1 => format!("container {first}: {message}"),
        more => format!(
            "container {first}: {message} (and {} more containers)",
            more - 1
        ),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use cts_shared::state::JobState;
    use cts_shared::state::attempts::Announcement;
    use cts_shared::state::job_flow::{ContainerReport, Reporter};

    use super::*;

    fn at(second: i64) -> UtcTime {
        UtcTime::new(Timestamp::from_second(second).unwrap())
    }

    const NOW: i64 = 100_000;

    fn rules() -> Rules {
        Rules {
            max_releases: 2,
            client_group: None,
            idle: Duration::from_secs(30),
            silence: Duration::from_hours(6),
            lease: Duration::from_hours(12),
        }
    }

    fn ad(container: u32, status: i64, more: Value) -> ProcAd {
        let mut ad = json!({
            "ClusterId": 47, "ProcId": container, "CTSContainerNumber": container, "JobStatus": status,
            "EnteredCurrentStatus": NOW - 1000, "RequestCpus": 1,
        });
        for (name, value) in more.as_object().unwrap() {
            ad[name] = value.clone();
        }
        serde_json::from_value(ad).unwrap()
    }

    fn record(containers: u32) -> JobRecord {
        let mut record = JobRecord::new(containers, at(1));
        let _change = record.queued(at(2)).unwrap();
        record
    }

    /// Of a job whose cluster is known, and nothing else of note.
    fn facts<'a>(
        record: &'a JobRecord,
        queue: &'a [ProcAd],
        history: &'a [ProcAd],
        none: &'a (BTreeSet<ContainerNumber>, HashMap<ProcName, u32>),
    ) -> JobFacts<'a> {
        JobFacts {
            record,
            clusters: &[47],
            queue,
            history,
            machines: None,
            suspects: &none.0,
            refused_releases: &none.1,
            listening_since: at(0),
            asked: at(NOW),
        }
    }

    fn decide_with(record: &JobRecord, queue: &[ProcAd], history: &[ProcAd]) -> Decision {
        let none = Default::default();
        decide(&facts(record, queue, history, &none), &rules(), at(NOW))
    }

    #[test]
    fn what_waits_or_runs_is_left_alone() {
        let queue = [
            ad(0, 1, json!({})),
            ad(1, 2, json!({})),
            ad(2, 6, json!({})),
            ad(3, 7, json!({})),
        ];
        assert_eq!(decide_with(&record(4), &queue, &[]), Decision::default());
        assert_eq!(absent_procs(&record(4), 47, &queue), []);
        assert_eq!(
            absent_procs(&record(5), 47, &queue),
            [ProcName::of_container(47, 4)]
        );
    }

    #[test]
    fn what_left_without_a_report_ends_with_the_reason() {
        let history = [
            ad(
                0,
                3,
                json!({"RemoveReason": "via condor_rm (by user root)"}),
            ),
            ad(
                1,
                4,
                json!({"ExitCode": 0, "LastRemoteHost": "slot1@n.example.org"}),
            ),
            ad(2, 4, json!({"ExitBySignal": true, "ExitSignal": 9})),
        ];
        let decision = decide_with(&record(3), &[], &history);
        let reasons: Vec<&str> = decision
            .ends
            .iter()
            .map(|end| end.reason.as_str())
            .collect();
        assert!(
            reasons[0].contains("outside CTS: via condor_rm (by user root);"),
            "{reasons:?}"
        );
        assert!(
            reasons[1].contains("47.1 (last on n.example.org) ended with exit code 0"),
            "{reasons:?}"
        );
        assert!(reasons[2].contains("ended by signal 9"), "{reasons:?}");
        assert_eq!(decision.remove, []);
        // In the queue as removed, until the worker has confirmed.
        let queue = [ad(0, 3, json!({}))];
        assert_eq!(decide_with(&record(1), &queue, &[]).ends.len(), 1);
    }

    #[test]
    fn what_is_nowhere_is_lost_the_second_time() {
        let record = record(2);
        let queue = [ad(0, 2, json!({}))];
        let first = decide_with(&record, &queue, &[]);
        assert_eq!(first.suspects, BTreeSet::from([1]));
        assert_eq!(first.ends, []);
        let none = Default::default();
        let again = JobFacts {
            suspects: &first.suspects,
            ..facts(&record, &queue, &[], &none)
        };
        let second = decide(&again, &rules(), at(NOW));
        assert_eq!(second.ends.len(), 1);
        assert_eq!(second.ends[0].container, 1);
        assert!(second.ends[0].reason.contains("knows nothing of proc 47.1"));
        let unknown = JobFacts {
            clusters: &[],
            queue: &[],
            ..again
        };
        let second = decide(&unknown, &rules(), at(NOW));
        assert_eq!(second.suspects, BTreeSet::from([0]));
        assert!(second.ends[0].reason.contains("knows nothing of the job"));
    }

    #[test]
    fn held_procs_are_judged() {
        let held = |container, code, holds| {
            ad(
                container,
                5,
                json!({
                    "HoldReasonCode": code, "HoldReason": "because", "NumHolds": holds,
                }),
            )
        };
        let queue = [
            held(0, 1, 1),
            held(1, 13, 1),
            held(2, 13, 3),
            held(3, 16, 1),
        ];
        let decision = decide_with(&record(4), &queue, &[]);
        let proc = |proc| ProcName { cluster: 47, proc };
        let ended: Vec<(u32, Option<ProcName>)> = decision
            .ends
            .iter()
            .map(|end| (end.container, end.proc))
            .collect();
        assert_eq!(ended, [(0, Some(proc(0))), (2, Some(proc(2)))]);
        assert_eq!(decision.remove, []);
        assert_eq!(decision.release, [proc(1)]);
        let notice = decision.notice.unwrap();
        assert!(
            notice.starts_with("container 0: HTCondor holds proc 47.0"),
            "{notice}"
        );
        assert!(notice.ends_with("(and 3 more containers)"), "{notice}");
    }

    /// It was released by hand after the queue was read.
    #[test]
    fn an_attempt_that_began_since_is_not_judged_by_what_was_before() {
        let mut record = record(1);
        let held = ad(0, 5, json!({"HoldReasonCode": 1, "HoldReason": "by hand"}));
        let executor = Announcement {
            instance: "a".to_owned(),
            host: None,
        };
        let _change = record.announce(0, &executor, at(NOW - 5)).unwrap();
        let queue = [held];
        let none = Default::default();
        let asked = |second| JobFacts {
            asked: at(second),
            ..facts(&record, &queue, &[], &none)
        };
        let before = decide(&asked(NOW - 10), &rules(), at(NOW));
        assert_eq!(before, Decision::default());
        assert_eq!(decide(&asked(NOW), &rules(), at(NOW)).ends.len(), 1);
    }

    #[test]
    fn held_procs_of_ended_containers_are_removed() {
        let mut record = record(2);
        let _change = record
            .apply_report(
                0,
                &ContainerReport {
                    state: JobState::Error,
                    time: at(5),
                    exit_code: None,
                    outputs: None,
                    admin_error: Some("it broke".to_owned()),
                    traceback: None,
                    usage: None,
                    from: Reporter::Unnumbered,
                },
            )
            .unwrap();
        let queue = [ad(0, 5, json!({"HoldReasonCode": 3})), ad(1, 2, json!({}))];
        let decision = decide_with(&record, &queue, &[]);
        assert_eq!(
            decision.remove,
            [ProcName {
                cluster: 47,
                proc: 0
            }]
        );
        assert_eq!(decision.ends, []);
    }

    #[test]
    fn an_unknown_cluster_is_adopted_and_a_second_one_removed() {
        let record = record(1);
        let mut other = ad(0, 1, json!({}));
        for (clusters, adopt) in [(&[][..], Some(47)), (&[47][..], None)] {
            let queue = [ad(0, 1, json!({})), {
                other = serde_json::from_value(json!({
                    "ClusterId": 48, "ProcId": 0, "CTSContainerNumber": 0, "JobStatus": 1,
                }))
                .unwrap();
                other.clone()
            }];
            let none = Default::default();
            let facts = JobFacts {
                clusters,
                ..facts(&record, &queue, &[], &none)
            };
            let decision = decide(&facts, &rules(), at(NOW));
            assert_eq!(decision.adopt, adopt);
            assert_eq!(
                decision.remove,
                [ProcName {
                    cluster: 48,
                    proc: 0
                }]
            );
        }
        drop(other);
    }

    #[test]
    fn procs_are_the_services_by_their_cluster_or_by_its_owner() {
        let ad = |cluster: i64, owner: &str| {
            serde_json::from_value::<ProcAd>(json!({"ClusterId": cluster, "Owner": owner})).unwrap()
        };
        let queue = [ad(48, "cts"), ad(47, "cts"), ad(46, "eve"), ad(49, "eve")];
        let own = |clusters: &[i64], owners: &[&str]| {
            let mut owners = owners.iter().map(|&owner| owner.to_owned()).collect();
            let procs = own_procs(clusters, &queue, &mut owners);
            procs.iter().filter_map(ProcAd::cluster).collect::<Vec<_>>()
        };
        assert_eq!(own(&[47], &[]), [48, 47]);
        assert_eq!(own(&[5], &[]), [0; 0]);
        assert_eq!(own(&[5], &["cts"]), [48, 47]);
        assert_eq!(own(&[], &[]), [46], "the oldest is adopted");
        let mut owners = BTreeSet::new();
        let _adopted = own_procs(&[], &queue, &mut owners);
        assert_eq!(
            owners,
            BTreeSet::new(),
            "whose it is, is not known for certain"
        );
    }

    #[test]
    fn a_lost_worker_is_told_and_left_to_the_pool() {
        assert!(
            longest_silence(Duration::from_hours(6), Duration::from_hours(12))
                > Duration::from_hours(12)
        );
        assert!(
            longest_silence(Duration::from_hours(24), Duration::from_hours(12))
                > Duration::from_hours(24)
        );
        let lost = json!({"JobDisconnectedDate": NOW - 60, "RemoteHost": "slot1@n.example.org"});
        let decision = decide_with(&record(1), &[ad(0, 2, lost)], &[]);
        assert_eq!(decision.ends, []);
        let notice = decision.notice.unwrap();
        assert!(
            notice.starts_with(
                "container 0: HTCondor has lost contact with n.example.org since 1970-01-02T03:45:40"
            ),
            "{notice}"
        );
        assert!(notice.ends_with("come back within 720 minutes"), "{notice}");

        // Submitted when the lease was another; and back at work, elsewhere.
        let lost = json!({
            "JobDisconnectedDate": NOW - 60, "JobCurrentStartDate": NOW - 90, "JobLeaseDuration": 2400,
        });
        let notice = decide_with(&record(1), &[ad(0, 2, lost)], &[]).notice;
        assert!(notice.unwrap().ends_with("within 40 minutes"));
        let back = json!({"JobDisconnectedDate": NOW - 60, "JobCurrentStartDate": NOW - 30});
        assert_eq!(decide_with(&record(1), &[ad(0, 2, back)], &[]).notice, None);
    }

    #[test]
    fn silent_executors_are_given_up_and_only_if_they_could_be_heard() {
        let mut record = record(1);
        let queue = [ad(0, 2, json!({"RemoteHost": "slot1@n.example.org"}))];
        assert_eq!(
            decide_with(&record, &queue, &[]).ends,
            [],
            "it never announced itself"
        );
        let executor = Announcement {
            instance: "a".to_owned(),
            host: None,
        };
        let _change = record.announce(0, &executor, at(NOW - 7 * 3600)).unwrap();
        let decision = decide_with(&record, &queue, &[]);
        assert_eq!(decision.ends.len(), 1);
        assert_eq!(decision.ends[0].attempt, Some(1));
        assert!(
            decision.ends[0]
                .reason
                .contains("n.example.org has not been heard of since")
        );
        let none = Default::default();
        let just_started = JobFacts {
            listening_since: at(NOW - 60),
            ..facts(&record, &queue, &[], &none)
        };
        assert_eq!(decide(&just_started, &rules(), at(NOW)).ends, []);
        let _change = record.renew(0, 1, "a", at(NOW - 60)).unwrap();
        assert_eq!(decide_with(&record, &queue, &[]).ends, []);
    }

    #[test]
    fn a_request_that_nothing_fits_is_told() {
        let record = record(1);
        let machines: Vec<MachineAd> =
            serde_json::from_value(json!([{"Machine": "a", "TotalSlotCpus": 8}])).unwrap();
        for (cpus, entered, told) in [(9, NOW - 31, true), (9, NOW - 29, false), (8, 0, false)] {
            let queue = [ad(
                0,
                1,
                json!({"RequestCpus": cpus, "EnteredCurrentStatus": entered}),
            )];
            assert_eq!(
                needs_machines(&queue, &rules(), at(NOW)),
                entered <= NOW - 30
            );
            let none = Default::default();
            let facts = JobFacts {
                machines: Some(&machines),
                ..facts(&record, &queue, &[], &none)
            };
            let decision = decide(&facts, &rules(), at(NOW));
            assert_eq!(decision.notice.is_some(), told, "{cpus} {entered}");
            assert_eq!(decision.ends, [], "the pool may grow");
        }
    }
}
