//! What a store offers to be copied: to be read whole, and to be written as another is.
//!
//! What other traits have is not repeated here: a job is read by [`JobStore`], as it is served, so that a
//! copy is served the same.

use futures::future::{BoxFuture, try_join};
use serde_json::{Map, Value};

use cts_shared::id::JobId;
use cts_shared::state::job_flow::{ContainerRecord, JobOutcome, JobRecord, Statistics, Transition};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::image::Image;

use crate::image_store::ImageStore;
use crate::job_store::{JobStore, JobSummary, NewJob, StoreError, StoredJob};
use crate::lease_store::LeaseStore;
use crate::refdata_store::{Refdata, RefdataStore};
use crate::site_store::SiteStore;

/// A store that can be copied, and that can become a copy. No service may work on it meanwhile.
pub trait StoreCopy: JobStore + ImageStore + RefdataStore + SiteStore + LeaseStore {
    /// The unit of the times it keeps.
    fn time_unit(&self) -> TimeUnit;

    /// Does what the store has put off until somebody reads it. Comes before reading.
    ///
    /// # Errors
    /// When the store fails.
    fn settle(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// How much it holds.
    ///
    /// # Errors
    /// When the store fails.
    fn sizes(&self) -> BoxFuture<'_, Result<Sizes, StoreError>>;

    /// Ids of jobs as they are stored, in the order of their bytes, after `after`, at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    fn job_ids(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, StoreError>>;

    /// A job's part of the log of transitions ([`crate::outbox`]), in the log's order. A transition that
    /// another service stored and sent may be in no log; then none of those before it is.
    ///
    /// # Errors
    /// When the store fails.
    fn log_entries<'a>(
        &'a self,
        job: &'a JobSummary,
    ) -> BoxFuture<'a, Result<Vec<LogEntry>, StoreError>>;

    /// Stores a job as another store has it: whole, or as if it had never been begun.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] if there is such a job, or one of its transitions is another job's;
    /// [`StoreError::Corrupt`] if it has something that this store cannot hold; or when the store fails.
    fn insert_whole_job(&self, job: WholeJob) -> BoxFuture<'_, Result<(), StoreError>>;

    /// All images, by name; images of one name in the order of their registration. One that cannot be
    /// read is an error of its own.
    ///
    /// # Errors
    /// When the store fails.
    fn all_images(&self) -> BoxFuture<'_, Result<Vec<Result<Image, StoreError>>, StoreError>>;

    /// All reference data, by file. What cannot be read is an error of its own.
    ///
    /// # Errors
    /// When the store fails.
    fn all_refdata(&self) -> BoxFuture<'_, Result<Vec<Result<Refdata, StoreError>>, StoreError>>;

    /// The leases that were not given back.
    ///
    /// # Errors
    /// When the store fails.
    fn leases(&self) -> BoxFuture<'_, Result<Vec<KeptLease>, StoreError>>;
}

/// How exact the times in a store are. The coarser is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeUnit {
    /// Times are kept as they are.
    Microsecond,
    /// Times are cut to milliseconds.
    Millisecond,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Jobs, readable or not.
    pub jobs: u64,
    /// Transitions in the log.
    pub log: u64,
}

/// A transition in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The transition.
    pub trans_id: String,
    /// Its place in the log: greater than those of all before it. Above 0.
    pub number: i64,
    /// Whether it is to be sent once more although it was sent.
    pub resend: bool,
}

/// A lease that was not given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLease {
    /// What it is for.
    pub name: String,
    /// Who has or had it.
    pub holder: String,
    /// When it lapses; none if it has, whatever the clock says.
    pub until: Option<UtcTime>,
}

/// Everything that is remembered of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeJob {
    /// The job.
    pub job: StoredJob,
    /// Its containers, by number.
    pub containers: Vec<ContainerRecord>,
    /// Its part of the log.
    pub log: Vec<LogEntry>,
}

/// Reads everything that is remembered of a job, if there is one.
///
/// # Errors
/// [`StoreError::Corrupt`] and [`StoreError::Gone`] if something of it cannot be read, or when the store
/// fails.
pub async fn read_whole_job(
    store: &dyn StoreCopy,
    id: JobId,
) -> Result<Option<WholeJob>, StoreError> {
    let (Some(job), Some(record)) = try_join(store.job(id), store.job_record(id)).await? else {
        return Ok(None);
    };
    let log = store.log_entries(&job.summary).await?;
    Ok(Some(WholeJob {
        job,
        containers: record.containers,
        log,
    }))
}

/// A job as if it were new, for what stores make of new ones; and all else that changes while it runs, its
/// outcome included.
pub(crate) fn as_new(job: StoredJob, containers: Vec<ContainerRecord>) -> (NewJob, JobSummary) {
    let StoredJob {
        job_input,
        image,
        input_file_count: _,
        summary,
    } = job;
    let transitions = summary
        .transitions
        .iter()
        .map(|one| Transition {
            state: one.state,
            time: one.time,
            reported_time: None,
        })
        .collect();
    let job = NewJob {
        id: summary.id,
        user: summary.user.clone(),
        job_input,
        image,
        input_bytes: summary.notes.input_bytes,
        record: JobRecord {
            transitions,
            containers,
            outcome: JobOutcome::default(),
        },
    };
    (job, summary)
}

impl TimeUnit {
    /// A time as it is kept.
    #[must_use]
    pub fn cut(self, time: UtcTime) -> UtcTime {
        match self {
            Self::Microsecond => time,
            Self::Millisecond => time.truncated_to_millis(),
        }
    }
}

impl WholeJob {
    /// Cuts the times that a store of this unit cuts.
    #[must_use]
    pub fn with_times_in(mut self, unit: TimeUnit) -> Self {
        let summary = &mut self.job.summary;
        for transition in &mut summary.transitions {
            transition.time = unit.cut(transition.time);
        }
        if let Some(notice) = &mut summary.notes.site_notice {
            notice.since = unit.cut(notice.since);
        }
        self.job.image.registered_on = unit.cut(self.job.image.registered_on);
        for container in &mut self.containers {
            for transition in &mut container.transitions {
                transition.time = unit.cut(transition.time);
                transition.reported_time = transition.reported_time.map(|time| unit.cut(time));
            }
        }
        self
    }

    /// The parts in which two copies differ, in words; none if they are the same.
    #[must_use]
    pub fn differences(mut self, mut other: Self) -> Vec<&'static str> {
        let (ours, theirs) = (&mut self.job.summary, &mut other.job.summary);
        let same_statistics = same_statistics(
            std::mem::take(&mut ours.outcome.statistics),
            std::mem::take(&mut theirs.outcome.statistics),
        );
        let same_meta = same_members(
            &std::mem::take(&mut ours.notes.admin_meta),
            &std::mem::take(&mut theirs.notes.admin_meta),
        );
        let parts = [
            ("owner", ours.user == theirs.user),
            ("site", ours.site == theirs.site),
            ("transitions", ours.transitions == theirs.transitions),
            ("outcome", same_statistics && ours.outcome == theirs.outcome),
            ("notes", same_meta && ours.notes == theirs.notes),
            ("job input", self.job.job_input == other.job.job_input),
            ("image", self.job.image == other.job.image),
            (
                "number of input files",
                self.job.input_file_count == other.job.input_file_count,
            ),
            ("containers", self.containers == other.containers),
            ("place in the log of transitions", self.log == other.log),
        ];
        parts
            .into_iter()
            .filter_map(|(part, is_same)| (!is_same).then_some(part))
            .collect()
    }
}

fn same_statistics(ours: Statistics, theirs: Statistics) -> bool {
    let same = |ours: Option<f64>, theirs: Option<f64>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => same_fraction(ours, theirs),
        (ours, theirs) => ours.is_none() && theirs.is_none(),
    };
    same(ours.cpu_hours, theirs.cpu_hours)
        && same(ours.cpu_factor, theirs.cpu_factor)
        && ours.max_memory == theirs.max_memory
}

/// Fractions that are kept as text come back with another last bit.
fn same_fraction(ours: f64, theirs: f64) -> bool {
    let largest = ours.abs().max(theirs.abs());
    (ours - theirs).abs() <= largest * 4.0 * f64::EPSILON
}

fn same_members(ours: &Map<String, Value>, theirs: &Map<String, Value>) -> bool {
    ours.len() == theirs.len()
        && ours.iter().all(|(name, ours)| {
            theirs
                .get(name)
                .is_some_and(|theirs| same_value(ours, theirs))
        })
}

fn same_value(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(ours), Value::Number(theirs)) => {
            ours == theirs
                // Integers beyond 64 bits with a sign are kept as fractions by some stores.
                || !(ours.is_i64() && theirs.is_i64())
                    && ours
                        .as_f64()
                        .zip(theirs.as_f64())
                        .is_some_and(|(ours, theirs)| same_fraction(ours, theirs))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(ours, theirs)| same_value(ours, theirs))
        }
        (Value::Object(ours), Value::Object(theirs)) => same_members(ours, theirs),
        _ => ours == theirs,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_the_same_up_to_the_last_bits_of_fractions() {
        let third = 1.0_f64 / 3.0;
        let noted = |number: f64| json!({"a": [1, number], "b": {"c": null}});
        assert!(same_value(&noted(third), &noted(third.next_up())));
        assert!(!same_value(&noted(third), &noted(third + 1e-12)));
        assert!(same_value(
            &json!(u64::MAX),
            &json!(18_446_744_073_709_551_615_f64)
        ));
        assert!(!same_value(&json!(i64::MAX), &json!(i64::MAX - 1)));
        assert!(!same_value(&json!({"a": 1}), &json!({"b": 1})));
        assert!(!same_value(&json!([1]), &json!([1, 1])));
        assert!(!same_value(&json!("1"), &json!(1)));
    }
}
