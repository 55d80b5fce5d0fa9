//! Several executors of each container, as they come and go when workers are lost and found again: a model
//! of the executors, of the messages between them and the service, and of a store that both can write to.
//! Whatever the order, a job ends once, with what the executor wrote whose reports counted, and it ends at all.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cts_shared::id::ContainerNumber;
use cts_shared::state::JobState as S;
use cts_shared::state::attempts::Announcement;
use cts_shared::state::job_flow::{
    Change, ContainerReport, Evidence, JobRecord, Refusal, Reporter, Statistics,
};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::job::S3File;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

const SUCCEEDS: [S; 5] = [
    S::JobSubmitting,
    S::JobSubmitted,
    S::UploadSubmitting,
    S::UploadSubmitted,
    S::Complete,
];
const FAILS: [S; 5] = [
    S::JobSubmitting,
    S::JobSubmitted,
    S::ErrorProcessingSubmitting,
    S::ErrorProcessingSubmitted,
    S::Error,
];

fn object(container: ContainerNumber) -> String {
    format!("bucket/out/{container}")
}

/// What an executor asks of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Announce,
    Renew,
    Report(S),
}

#[derive(Debug, Clone)]
struct Executor {
    container: ContainerNumber,
    way: [S; 5],
    /// Its attempt, once the service has told.
    number: Option<u32>,
    /// Reports that it knows to be taken.
    reported: usize,
    /// It has written its output.
    has_written: bool,
    /// It is there. One that was told to end, or has done everything, is not.
    is_alive: bool,
}

impl Executor {
    /// What it asks next, if it is its turn to ask.
    fn next_message(&self) -> Option<Message> {
        if !self.is_alive {
            return None;
        }
        if self.number.is_none() {
            return Some(Message::Announce);
        }
        let next = *self.way.get(self.reported)?;
        (next != S::Complete || self.has_written).then_some(Message::Report(next))
    }

    /// Whether it is at publishing. It may write although it has been superseded, while it does not know.
    fn may_write(&self) -> bool {
        self.is_alive
            && self.number.is_some()
            && !self.has_written
            && self.way.get(self.reported) == Some(&S::Complete)
    }
}

struct World {
    record: JobRecord,
    executors: Vec<Executor>,
    /// Sent and not yet arrived, in no order.
    under_way: Vec<(usize, Message)>,
    /// Path to checksum.
    store: HashMap<String, String>,
    /// Who the service believed when a container completed.
    winners: BTreeMap<ContainerNumber, usize>,
    notified: Vec<S>,
    second: i64,
}

impl World {
    fn new(containers: u32) -> Self {
        Self {
            record: JobRecord::new(containers, at(0)),
            executors: Vec::new(),
            under_way: Vec::new(),
            store: HashMap::new(),
            winners: BTreeMap::new(),
            notified: vec![S::Created],
            second: 0,
        }
    }

    fn now(&mut self) -> UtcTime {
        self.second += 1;
        at(self.second)
    }

    fn begin(&mut self, container: ContainerNumber, way: [S; 5]) {
        self.executors.push(Executor {
            container,
            way,
            number: None,
            reported: 0,
            has_written: false,
            is_alive: true,
        });
    }

    fn write(&mut self, index: usize) {
        let executor = &mut self.executors[index];
        executor.has_written = true;
        let path = object(executor.container);
        self.store.insert(path, index.to_string());
    }

    /// A message arrives; its answer may be lost.
    fn arrive(
        &mut self,
        (index, message): (usize, Message),
        is_answered: bool,
    ) -> Result<(), TestCaseError> {
        let now = self.now();
        let executor = self.executors[index].clone();
        let container = executor.container;
        let before = self.record.clone();
        let outcome = match message {
            Message::Announce => {
                let announcement = Announcement {
                    instance: index.to_string(),
                    host: None,
                };
                self.record.announce(container, &announcement, now)
            }
            Message::Renew => {
                let number = executor.number.unwrap_or_default();
                self.record
                    .renew(container, number, &index.to_string(), now)
            }
            Message::Report(state) => {
                let number = executor.number.unwrap_or_default();
                let report = report(index, &executor, state, Reporter::Attempt(number));
                self.record.apply_report(container, &report)
            }
        };
        self.check_step(&before)?;
        let completed =
            |record: &JobRecord| record.container(container).unwrap().state() == S::Complete;
        if completed(&self.record) && !completed(&before) {
            self.winners.insert(container, index);
        }
        if let (Message::Report(_), Ok(change)) = (message, &outcome)
            && !change.is_empty()
        {
            let current = before.container(container).unwrap().current_attempt();
            let instance = current.map(|attempt| attempt.instance.clone());
            prop_assert_eq!(
                instance,
                Some(index.to_string()),
                "only the last one's count"
            );
        }
        match outcome {
            Ok(change) => {
                let standing = change.standing.clone();
                self.note(change);
                if is_answered {
                    self.answer(
                        index,
                        message,
                        standing.map(|one| (one.attempt, one.wanted)),
                    );
                }
            }
            Err(refusal) => {
                prop_assert_eq!(&self.record, &before, "{:?}", refusal);
                if let Refusal::ContainerState { current, .. } = refusal {
                    prop_assert!(
                        current.is_terminal(),
                        "the one that counts is not held up: {}",
                        refusal
                    );
                }
                // Both end an executor: another has taken over, or the container has ended.
                if is_answered {
                    self.executors[index].is_alive = false;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, index: usize, message: Message, standing: Option<(u32, bool)>) {
        let executor = &mut self.executors[index];
        match (message, standing) {
            (_, Some((_, false))) => executor.is_alive = false,
            (Message::Announce, Some((number, true))) => executor.number = Some(number),
            (Message::Report(state), _) => {
                let taken = executor.way.iter().position(|one| *one == state).unwrap() + 1;
                executor.reported = executor.reported.max(taken);
                executor.is_alive &= executor.reported < executor.way.len();
            }
            _ => {}
        }
    }

    /// The reconciler has looked at a container some time ago, and ends it now.
    fn end(&mut self, container: ContainerNumber, seen: Option<u32>) -> Result<(), TestCaseError> {
        let before = self.record.clone();
        let executor = Executor {
            container,
            way: FAILS,
            number: None,
            reported: 0,
            has_written: false,
            is_alive: true,
        };
        let from = Reporter::Observer { attempt: seen };
        let report = report(usize::MAX, &executor, S::Error, from);
        match self.record.apply_report(container, &report) {
            Ok(change) => {
                let current = before.container(container).unwrap().current_attempt();
                if current.map(|attempt| attempt.number) != seen {
                    prop_assert!(change.is_empty(), "it saw another executor");
                }
                self.note(change);
            }
            Err(Refusal::ContainerState { current, .. }) => prop_assert!(current.is_terminal()),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
        self.check_step(&before)
    }

    fn cancel(&mut self) -> Result<(), TestCaseError> {
        let now = self.now();
        let before = self.record.clone();
        if let Ok(change) = self.record.cancel(now) {
            self.note(change);
        }
        self.check_step(&before)
    }

    fn finish(&mut self) -> Result<(), TestCaseError> {
        let now = self.now();
        let before = self.record.clone();
        let evidence = Evidence {
            statistics: Statistics::default(),
            statistics_due: false,
            checksums: &self.store,
            log_path: "logs/job",
            logs_stored: true,
        };
        let change = self.record.finish(&evidence, now).unwrap();
        if self.record.state() == S::Complete && before.state() != S::Complete {
            for output in self.record.outcome.outputs.iter().flatten() {
                prop_assert_eq!(self.store.get(&output.file), output.crc64nvme.as_ref());
            }
        }
        self.note(change);
        self.check_step(&before)
    }

    fn note(&mut self, change: Change) {
        let states = change.transitions.iter().map(|one| one.state);
        self.notified.extend(states);
    }

    /// What no step may do, whoever takes it.
    fn check_step(&self, before: &JobRecord) -> Result<(), TestCaseError> {
        let (old, new) = (&before.transitions, &self.record.transitions);
        prop_assert_eq!(
            &new[..old.len()],
            &old[..],
            "the job's history is never rewritten"
        );
        if before.state().is_terminal() {
            prop_assert_eq!(old, new, "a job ends once");
            prop_assert_eq!(&before.outcome, &self.record.outcome);
        }
        for container in &self.record.containers {
            let instances: BTreeSet<&str> = container
                .attempts
                .iter()
                .map(|attempt| attempt.instance.as_str())
                .collect();
            prop_assert_eq!(
                instances.len(),
                container.attempts.len(),
                "one attempt each"
            );
        }
        for (old, new) in before.containers.iter().zip(&self.record.containers) {
            if before.state().is_terminal() || before.state().is_cancel() {
                prop_assert_eq!(
                    old.attempts.len(),
                    new.attempts.len(),
                    "nobody begins any more"
                );
            }
            if old.state().is_terminal() {
                prop_assert_eq!(&old.transitions, &new.transitions, "a container ends once");
                prop_assert_eq!(&old.outputs, &new.outputs);
            }
        }
        Ok(())
    }

    /// No fault any more: the batch system starts one more executor of each container that has not ended and
    /// has none, and everything under way arrives.
    ///
    /// `stopped`: those that are at publishing are stopped until the end, and publish then.
    fn settle(&mut self, stopped: bool) -> Result<(), TestCaseError> {
        let late: Vec<usize> = (0..self.executors.len())
            .filter(|index| stopped && self.executors[*index].may_write())
            .collect();
        for index in &late {
            self.executors[*index].is_alive = false;
        }
        for container in 0..u32::try_from(self.record.containers.len()).unwrap() {
            let is_served = self
                .executors
                .iter()
                .any(|one| one.is_alive && one.container == container);
            if !is_served {
                self.begin(container, SUCCEEDS);
            }
        }
        // Each round every executor gets one step ahead, or ends.
        for _round in 0..20 {
            for late in std::mem::take(&mut self.under_way) {
                self.arrive(late, true)?;
            }
            for index in 0..self.executors.len() {
                if self.executors[index].may_write() {
                    // Its gate asks first.
                    self.arrive((index, Message::Renew), true)?;
                    if self.executors[index].may_write() {
                        self.write(index);
                    }
                }
                if let Some(message) = self.executors[index].next_message() {
                    self.arrive((index, message), true)?;
                }
            }
        }
        // An executor that took a container over and was lost: its proc has left the queue.
        for container in 0..u32::try_from(self.record.containers.len()).unwrap() {
            let record = self.record.container(container).unwrap();
            let current = record.current_attempt().map(|one| one.number);
            let lost = self
                .executors
                .iter()
                .all(|one| one.container != container || !one.is_alive);
            if !record.state().is_terminal() && lost {
                self.end(container, current)?;
            }
        }
        for index in late {
            self.write(index);
        }
        self.finish()
    }
}

fn at(second: i64) -> UtcTime {
    UtcTime::new(Timestamp::from_second(second).unwrap())
}

fn report(index: usize, executor: &Executor, state: S, from: Reporter) -> ContainerReport {
    // Of the event: the same whenever it is sent again.
    let step = executor.way.iter().position(|one| *one == state);
    ContainerReport {
        state,
        time: at(i64::try_from(step.unwrap_or_default()).unwrap()),
        exit_code: Some(i64::from(executor.way == FAILS)),
        outputs: (state == S::Complete).then(|| {
            vec![S3File {
                file: object(executor.container),
                crc64nvme: Some(index.to_string()),
            }]
        }),
        admin_error: Some("it broke".to_owned()),
        traceback: None,
        usage: None,
        from,
    }
}

/// One thing that happens. Numbers choose among what is there.
#[derive(Debug, Clone, Copy)]
enum Event {
    Begin(ContainerNumber, bool),
    Send(usize),
    /// An executor asks and is answered at once, as most of the time.
    Step(usize),
    Renew(usize),
    /// Which message, and whether its answer comes back.
    Arrive(usize, bool),
    Write(usize),
    Kill(usize),
    /// The reconciler looks at a container.
    Look(ContainerNumber),
    /// The reconciler acts on what it saw last.
    Act,
    Cancel,
    Finish,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..3_u32, prop::bool::weighted(0.8)).prop_map(|(container, good)| Event::Begin(container, good)),
        40 => any::<usize>().prop_map(Event::Send),
        6 => any::<usize>().prop_map(Event::Renew),
        40 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, answered)| Event::Arrive(which, answered)),
        10 => any::<usize>().prop_map(Event::Write),
        20 => any::<usize>().prop_map(Event::Step),
        4 => any::<usize>().prop_map(Event::Kill),
        2 => (0..3_u32).prop_map(Event::Look),
        2 => Just(Event::Act),
        1 => Just(Event::Cancel),
        6 => Just(Event::Finish),
    ];
    vec(event, 0..240)
}

/// One of those that are there.
fn pick(choice: usize, from: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let count = from.clone().count();
    from.clone().nth(choice.checked_rem(count)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_job_ends_once_with_what_the_last_executor_wrote(
        containers in 1..3_u32,
        events in events(),
        stopped in any::<bool>(),
    ) {
        let mut world = World::new(containers);
        let mut seen = None;
        for event in events {
            let alive = |world: &World| -> Vec<usize> {
                (0..world.executors.len()).filter(|index| world.executors[*index].is_alive).collect()
            };
            match event {
                Event::Begin(container, good) => {
                    let of_it = world.executors.iter().filter(|one| one.is_alive && one.container == container);
                    if container < containers && of_it.count() < 3 {
                        world.begin(container, if good { SUCCEEDS } else { FAILS });
                    }
                }
                Event::Send(choice) => {
                    if let Some(index) = pick(choice, alive(&world).into_iter())
                        && let Some(message) = world.executors[index].next_message()
                    {
                        world.under_way.push((index, message));
                    }
                }
                Event::Step(choice) => {
                    if let Some(index) = pick(choice, alive(&world).into_iter())
                        && let Some(message) = world.executors[index].next_message()
                    {
                        world.arrive((index, message), true)?;
                    }
                }
                Event::Renew(choice) => {
                    if let Some(index) = pick(choice, alive(&world).into_iter())
                        && world.executors[index].number.is_some()
                    {
                        world.under_way.push((index, Message::Renew));
                    }
                }
                Event::Arrive(choice, is_answered) => {
                    if let Some(index) = pick(choice, 0..world.under_way.len()) {
                        let message = world.under_way.swap_remove(index);
                        world.arrive(message, is_answered)?;
                    }
                }
                Event::Write(choice) => {
                    let writers = alive(&world).into_iter().filter(|index| world.executors[*index].may_write());
                    let writers: Vec<usize> = writers.collect();
                    if let Some(index) = pick(choice, writers.into_iter()) {
                        world.write(index);
                    }
                }
                Event::Kill(choice) => {
                    if let Some(index) = pick(choice, alive(&world).into_iter()) {
                        world.executors[index].is_alive = false;
                    }
                }
                Event::Look(container) => {
                    if let Ok(record) = world.record.container(container) {
                        seen = Some((container, record.current_attempt().map(|one| one.number)));
                    }
                }
                Event::Act => {
                    if let Some((container, attempt)) = seen.take() {
                        world.end(container, attempt)?;
                    }
                }
                Event::Cancel => world.cancel()?,
                Event::Finish => world.finish()?,
            }
        }
        world.settle(stopped)?;

        prop_assert!(world.record.state().is_terminal(), "stuck: {:?}", world.record);
        let ends = world.record.transitions.iter().filter(|one| one.state.is_terminal());
        prop_assert_eq!(ends.count(), 1);
        let states: Vec<S> = world.record.transitions.iter().map(|one| one.state).collect();
        prop_assert_eq!(&world.notified, &states, "each transition is notified once, in order");
        if world.record.state() == S::Complete {
            let outputs: BTreeMap<String, Option<String>> = world
                .record
                .outcome
                .outputs
                .iter()
                .flatten()
                .map(|one| (one.file.clone(), one.crc64nvme.clone()))
                .collect();
            let expected: BTreeMap<String, Option<String>> = world
                .winners
                .iter()
                .map(|(container, index)| (object(*container), Some(index.to_string())))
                .collect();
            prop_assert_eq!(outputs, expected);
            prop_assert_eq!(world.winners.len(), world.record.containers.len());
        }
    }
}
