//! Random histories: a store must answer as a model does that keeps everything in plain maps.
//!
//! The model shares the domain's steps with the store (what a report does to a job is tested in
//! `shared`); what is compared is what a store adds: that steps see the record they should, that all of
//! a change is kept and nothing of a refused one, lists, the outbox's order and marks, and that
//! it is all there after the store is opened again.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use cts_service::error::Error;
use cts_service::job_store::{JobFilter, JobStep, NewJob};
use cts_service::outbox::Unsent;
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::attempts::Announcement;
use cts_shared::state::job_flow::{
    Change, ContainerRecord, ContainerReport, Evidence, JobRecord, Refusal, Reporter, Statistics,
};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::job::S3File;

use crate::Store;
use crate::fixtures::{at, new_job};

/// Runs random histories, and compares the store with the model. `place` is where a store's data lives;
/// opening it twice in a row, the first store dropped, gives the same data.
pub(crate) fn check<P, S: Store>(
    place: impl Fn() -> std::io::Result<P>,
    open: impl AsyncFn(&P) -> S,
) {
    let ended = run(64, place, open, async |store: &S, model: &Model| {
        compare(store, model).await;
    });
    // What proptest would not notice by itself: that the histories get anywhere.
    assert!(ended > 21, "only {ended} jobs came to an end");
}

/// Runs that many random histories, and something at the end of each. Says how many jobs came to an end.
pub(crate) fn run<P, S: Store>(
    cases: u32,
    place: impl Fn() -> std::io::Result<P>,
    open: impl AsyncFn(&P) -> S,
    finally: impl AsyncFn(&S, &Model),
) -> usize {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let ended = Cell::new(0);
    proptest!(ProptestConfig::with_cases(cases), |(history in vec(operation(), 1..60))| {
        let place = place().unwrap();
        let mut store = runtime.block_on(open(&place));
        let mut model = Model::default();
        runtime.block_on(async {
            for operation in &history {
                if matches!(operation, Operation::Reopen) {
                    drop(store);
                    store = open(&place).await;
                } else {
                    apply(operation, &store, &mut model).await;
                }
            }
            finally(&store, &model).await;
        });
        ended.set(ended.get() + model.count(|job| job.record.state().is_terminal()));
    });
    ended.get()
}

/// Something that is done to a store.
#[derive(Debug, Clone)]
enum Operation {
    Insert {
        user: &'static str,
        site: Site,
        containers: u32,
    },
    Step {
        job: Index,
        step: Step,
    },
    /// A container goes through all states to a good or a bad end.
    RunContainer {
        job: Index,
        container: u32,
        good: bool,
    },
    Note {
        job: Index,
        set: Map<String, Value>,
        unset: Vec<String>,
    },
    MarkCleaned {
        job: Index,
    },
    SetSite {
        site: Site,
        active: bool,
    },
    MarkSent {
        transitions: Vec<Index>,
    },
    Resend {
        job: Index,
        state: JobState,
    },
    Reopen,
}

/// A step on a job's record, at a second.
#[derive(Debug, Clone)]
enum Step {
    Report {
        container: u32,
        state: JobState,
        second: i64,
    },
    Announce {
        container: u32,
        executor: u32,
        second: i64,
    },
    Account,
    Queue {
        second: i64,
    },
    Cancel {
        second: i64,
    },
    Fail {
        second: i64,
    },
    Finish {
        second: i64,
        stored: bool,
    },
}

impl Step {
    fn take(&self, record: &mut JobRecord) -> Result<Change, Refusal> {
        match *self {
            Self::Report {
                container,
                state,
                second,
            } => record.apply_report(
                container,
                &ContainerReport {
                    state,
                    time: at(second),
                    exit_code: Some(i64::from(container % 2)),
                    outputs: Some(vec![output(container)]),
                    admin_error: Some(format!("container {container} broke")),
                    traceback: None,
                    usage: None,
                    from: record
                        .containers
                        .get(container as usize)
                        .and_then(ContainerRecord::current_attempt)
                        .map_or(Reporter::Unnumbered, |attempt| {
                            Reporter::Attempt(attempt.number)
                        }),
                },
            ),
            Self::Announce {
                container,
                executor,
                second,
            } => record.announce(
                container,
                &Announcement {
                    instance: executor.to_string(),
                    host: Some("node.example.org".to_owned()),
                },
                at(second),
            ),
            Self::Account => Ok(record.account_for(Some(Statistics {
                max_memory: Some(5),
                ..Statistics::default()
            }))),
            Self::Queue { second } => record.queued(at(second)),
            Self::Cancel { second } => record.cancel(at(second)),
            Self::Fail { second } => record.fail("users", "admins", Some("trace"), at(second)),
            Self::Finish { second, stored } => {
                let checksums: HashMap<String, String> = record
                    .merged_outputs()
                    .into_iter()
                    .filter(|_| stored)
                    .filter_map(|file| Some((file.file, file.crc64nvme?)))
                    .collect();
                record.finish(
                    &Evidence {
                        statistics: Statistics {
                            cpu_hours: Some(0.5),
                            ..Statistics::default()
                        },
                        statistics_due: second % 2 == 0,
                        checksums: &checksums,
                        log_path: "buk/logs/x",
                        logs_stored: stored,
                    },
                    at(second),
                )
            }
        }
    }
}

fn output(container: u32) -> S3File {
    S3File {
        file: format!("buk/out/{container}"),
        crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let job = any::<Index>;
    let site = || prop_oneof![Just(Site::Local), Just(Site::Kbase)];
    let note = || prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned);
    prop_oneof![
        3 => (prop_oneof![Just("alice"), Just("bob")], site(), 1..4_u32)
            .prop_map(|(user, site, containers)| Operation::Insert { user, site, containers }),
        10 => (job(), step()).prop_map(|(job, step)| Operation::Step { job, step }),
        6 => (job(), 0..3_u32, any::<bool>()).prop_map(|(job, container, good)| {
            Operation::RunContainer { job, container, good }
        }),
        2 => (job(), proptest::collection::btree_map(note(), 0..9, 0..3), vec(note(), 0..3))
            .prop_map(|(job, set, unset)| Operation::Note {
                job,
                set: set.into_iter().map(|(key, value)| (key, json!(value))).collect(),
                unset,
            }),
        1 => job().prop_map(|job| Operation::MarkCleaned { job }),
        1 => (site(), any::<bool>())
            .prop_map(|(site, active)| Operation::SetSite { site, active }),
        2 => vec(any::<Index>(), 0..5).prop_map(|transitions| Operation::MarkSent { transitions }),
        1 => (job(), state()).prop_map(|(job, state)| Operation::Resend { job, state }),
        1 => Just(Operation::Reopen),
    ]
}

fn state() -> impl Strategy<Value = JobState> {
    proptest::sample::select(JobState::ALL.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let second = || 0..100_i64;
    prop_oneof![
        6 => (0..4_u32, state(), second())
            .prop_map(|(container, state, second)| Step::Report { container, state, second }),
        1 => (0..4_u32, 0..3_u32, second())
            .prop_map(|(container, executor, second)| Step::Announce { container, executor, second }),
        1 => Just(Step::Account),
        2 => second().prop_map(|second| Step::Queue { second }),
        1 => second().prop_map(|second| Step::Cancel { second }),
        1 => second().prop_map(|second| Step::Fail { second }),
        4 => (second(), any::<bool>())
            .prop_map(|(second, stored)| Step::Finish { second, stored }),
    ]
}

/// What a store should hold.
#[derive(Debug, Default)]
pub(crate) struct Model {
    jobs: Vec<ModelJob>,
    /// All transitions in the order they were stored in: the job's index, and the transition's in it.
    transitions: Vec<(usize, usize)>,
    /// Of `transitions`, by index.
    sent: BTreeSet<usize>,
    resend: BTreeSet<usize>,
    inactive: BTreeSet<Site>,
}

#[derive(Debug)]
struct ModelJob {
    new: NewJob,
    record: JobRecord,
    meta: BTreeMap<String, Value>,
    cleaned: bool,
}

impl ModelJob {
    fn updated(&self) -> UtcTime {
        self.record.transitions.last().unwrap().time
    }
}

impl Model {
    fn count(&self, condition: impl Fn(&ModelJob) -> bool) -> usize {
        self.jobs.iter().filter(|job| condition(job)).count()
    }

    fn remember_transitions(&mut self, job: usize, before: usize) {
        for index in before..self.jobs[job].record.transitions.len() {
            self.transitions.push((job, index));
        }
    }

    /// Takes a step; a refused one leaves everything as it was.
    fn step(&mut self, job: usize, step: &Step) -> Result<Change, Refusal> {
        let mut record = self.jobs[job].record.clone();
        let change = step.take(&mut record)?;
        let before = self.jobs[job].record.transitions.len();
        self.jobs[job].record = record;
        // What the job's own history keeps of a transition.
        for transition in &mut self.jobs[job].record.transitions {
            transition.reported_time = None;
        }
        self.remember_transitions(job, before);
        Ok(change)
    }

    fn ids(&self, mut chosen: Vec<&ModelJob>) -> Vec<JobId> {
        chosen.sort_by_key(|job| job.new.id.to_string());
        chosen.iter().map(|job| job.new.id).collect()
    }
}

async fn apply(operation: &Operation, store: &impl Store, model: &mut Model) {
    let pick = |index: &Index| (!model.jobs.is_empty()).then(|| index.index(model.jobs.len()));
    match operation {
        Operation::Insert {
            user,
            site,
            containers,
        } => {
            let mut new = new_job(*containers);
            new.user = (*user).to_owned();
            new.job_input.cluster = *site;
            store.insert_job(new.clone()).await.unwrap();
            model.jobs.push(ModelJob {
                record: new.record.clone(),
                new,
                meta: BTreeMap::new(),
                cleaned: false,
            });
            model.remember_transitions(model.jobs.len() - 1, 0);
        }
        Operation::Step { job, step } => {
            if let Some(job) = pick(job) {
                take_step(store, model, job, step.clone()).await;
            }
        }
        Operation::RunContainer {
            job,
            container,
            good,
        } => {
            let Some(job) = pick(job) else { return };
            let end: &[JobState] = if *good {
                &[
                    JobState::UploadSubmitting,
                    JobState::UploadSubmitted,
                    JobState::Complete,
                ]
            } else {
                &[JobState::Error]
            };
            let states = [JobState::JobSubmitting, JobState::JobSubmitted];
            for (second, state) in (50..).zip(states.iter().chain(end)) {
                let step = Step::Report {
                    container: *container,
                    state: *state,
                    second,
                };
                take_step(store, model, job, step).await;
            }
        }
        Operation::Note { job, set, unset } => {
            let Some(job) = pick(job) else { return };
            let job = &mut model.jobs[job];
            assert!(
                store
                    .change_admin_meta(job.new.id, set.clone(), unset.clone())
                    .await
                    .unwrap()
            );
            job.meta.extend(set.clone());
            job.meta.retain(|key, _| !unset.contains(key));
        }
        Operation::MarkCleaned { job } => {
            let Some(job) = pick(job) else { return };
            let job = &mut model.jobs[job];
            store.mark_cleaned(job.new.id).await.unwrap();
            job.cleaned |= job.record.state().is_terminal();
        }
        Operation::SetSite { site, active } => {
            store.set_site_active(*site, *active).await.unwrap();
            if *active {
                model.inactive.remove(site);
            } else {
                model.inactive.insert(*site);
            }
        }
        Operation::MarkSent { transitions } => {
            if model.transitions.is_empty() {
                return;
            }
            let chosen: BTreeSet<usize> = transitions
                .iter()
                .map(|index| index.index(model.transitions.len()))
                .collect();
            let events = store
                .events_after(None, None, u32::MAX)
                .await
                .unwrap()
                .unwrap();
            let ids = chosen.iter().map(|index| events[*index].trans_id.clone());
            store.mark_sent(ids.collect()).await.unwrap();
            model.resend.retain(|index| !chosen.contains(index));
            model.sent.extend(chosen);
        }
        Operation::Resend { job, state } => {
            let Some(job) = pick(job) else { return };
            let found = (0..model.transitions.len()).rev().find(|index| {
                let (owner, transition) = model.transitions[*index];
                owner == job && model.jobs[job].record.transitions[transition].state == *state
            });
            let asked = store.resend(model.jobs[job].new.id, *state).await.unwrap();
            assert_eq!(asked, found.is_some());
            model.resend.extend(found);
        }
        Operation::Reopen => {}
    }
}

async fn take_step(store: &impl Store, model: &mut Model, job: usize, step: Step) {
    let expected = model.step(job, &step);
    let taken: JobStep = Box::new(move |record| {
        step.take(record)
            .map_err(|refusal| Error::Internal(refusal.to_string()))
    });
    let changed = store.change_job(model.jobs[job].new.id, taken).await;
    match (expected, changed) {
        (Ok(expected), Ok(Some(changed))) => assert_eq!(changed, expected),
        (Err(refusal), Err(error)) => assert_eq!(error.to_string(), refusal.to_string()),
        (expected, changed) => panic!("expected {expected:?}, got {changed:?}"),
    }
}

/// Asks the store for everything.
pub(crate) async fn compare(store: &impl Store, model: &Model) {
    for job in &model.jobs {
        compare_job(store, job).await;
    }
    let of = |condition: &dyn Fn(&ModelJob) -> bool| {
        model.ids(model.jobs.iter().filter(|job| condition(job)).collect())
    };
    let sorted = |mut ids: Vec<JobId>| {
        ids.sort_by_key(ToString::to_string);
        ids
    };
    assert_eq!(
        store.pending_jobs(None, 1000).await.unwrap(),
        of(&|job| job.record.pending().is_some())
    );
    for site in [Site::Local, Site::Kbase] {
        assert_eq!(
            store.jobs_with_statistics_due(site, 1000).await.unwrap(),
            of(&|job| { job.new.job_input.cluster == site && job.record.outcome.statistics_due })
        );
        assert_eq!(
            sorted(store.running_jobs(site).await.unwrap()),
            of(&|job| job.new.job_input.cluster == site && !job.record.state().is_terminal())
        );
    }
    let unstarted = store.unstarted_jobs(at(1000), 1000).await.unwrap();
    assert_eq!(
        sorted(unstarted.into_iter().map(|(id, _)| id).collect()),
        of(&|job| job.record.state() == JobState::Created)
    );
    assert_eq!(
        sorted(store.jobs_to_clean(at(60), 1000).await.unwrap()),
        of(&|job| job.record.state().is_terminal() && !job.cleaned && job.updated() < at(60))
    );
    assert_eq!(store.inactive_sites().await.unwrap(), model.inactive);
    compare_lists(store, model).await;
    compare_outbox(store, model).await;
}

async fn compare_job(store: &impl Store, job: &ModelJob) {
    let id = job.new.id;
    assert_eq!(
        store.job_record(id).await.unwrap().as_ref(),
        Some(&job.record)
    );
    let stored = store.job(id).await.unwrap().unwrap();
    assert_eq!(stored.job_input, job.new.job_input);
    assert_eq!(stored.image, job.new.image);
    let summary = stored.summary;
    assert_eq!(summary.user, job.new.user);
    assert_eq!(summary.outcome, job.record.outcome);
    assert_eq!(summary.notes.cleaned, job.cleaned);
    let meta: BTreeMap<String, Value> = summary.notes.admin_meta.into_iter().collect();
    assert_eq!(meta, job.meta);
    let stored: Vec<_> = summary
        .transitions
        .iter()
        .map(|one| (one.state, one.time))
        .collect();
    let expected: Vec<_> = job
        .record
        .transitions
        .iter()
        .map(|one| (one.state, one.time))
        .collect();
    assert_eq!(stored, expected);
}

async fn compare_lists(store: &impl Store, model: &Model) {
    let filters = [
        JobFilter::default(),
        JobFilter {
            user: Some("alice".to_owned()),
            ..JobFilter::default()
        },
        JobFilter {
            site: Some(Site::Kbase),
            after: Some(at(30)),
            ..JobFilter::default()
        },
        JobFilter {
            user: Some("bob".to_owned()),
            site: Some(Site::Local),
            state: Some(JobState::DownloadSubmitted),
            after: Some(at(5)),
            before: Some(at(70)),
        },
    ];
    for filter in filters {
        let fits = |job: &&ModelJob| {
            filter
                .user
                .as_ref()
                .is_none_or(|user| job.new.user == *user)
                && filter
                    .site
                    .is_none_or(|site| job.new.job_input.cluster == site)
                && filter.state.is_none_or(|state| job.record.state() == state)
                && filter.after.is_none_or(|time| job.updated() >= time)
                && filter.before.is_none_or(|time| job.updated() < time)
        };
        let mut expected: Vec<&ModelJob> = model.jobs.iter().filter(fits).collect();
        expected.sort_by_key(|job| (std::cmp::Reverse(job.updated()), job.new.id.to_string()));
        let expected: Vec<JobId> = expected.iter().map(|job| job.new.id).collect();
        let listed = store.list_jobs(filter, 1000).await.unwrap();
        let listed: Vec<JobId> = listed.iter().map(|job| job.summary.id).collect();
        assert_eq!(listed, expected);
    }
}

async fn compare_outbox(store: &impl Store, model: &Model) {
    let events = store
        .events_after(None, None, u32::MAX)
        .await
        .unwrap()
        .unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.job_id, event.user.clone(), event.state, event.time))
        .collect();
    let expected: Vec<_> = model
        .transitions
        .iter()
        .map(|(job, transition)| {
            let job = &model.jobs[*job];
            let transition = &job.record.transitions[*transition];
            (
                job.new.id,
                job.new.user.clone(),
                transition.state,
                transition.time,
            )
        })
        .collect();
    assert_eq!(told, expected);
    let chosen = |condition: &dyn Fn(usize) -> bool| -> Vec<_> {
        (0..events.len())
            .filter(|index| condition(*index))
            .map(|index| events[index].clone())
            .collect()
    };
    let unsent = chosen(&|index| !model.sent.contains(&index));
    assert_eq!(
        store.to_send(None, u32::MAX).await.unwrap(),
        chosen(&|index| !model.sent.contains(&index) || model.resend.contains(&index))
    );
    assert_eq!(
        store.unsent(None).await.unwrap(),
        Unsent {
            transitions: u64::try_from(unsent.len()).unwrap(),
            jobs: u64::try_from(
                unsent
                    .iter()
                    .map(|event| event.job_id)
                    .collect::<std::collections::HashSet<_>>()
                    .len()
            )
            .unwrap(),
            oldest: unsent.iter().map(|event| event.time).min(),
        }
    );
    if let Some(middle) = events.get(events.len() / 2) {
        let after = store
            .events_after(
                Some(middle.trans_id.clone()),
                Some("alice".to_owned()),
                u32::MAX,
            )
            .await
            .unwrap()
            .unwrap();
        let expected = chosen(&|index| index > events.len() / 2 && events[index].user == "alice");
        assert_eq!(after, expected);
    }
}
