//! What the service remembers about jobs, and the trait of whatever keeps it.
//!
//! Invariant every adapter keeps: a job, its containers and its transitions change together or not at
//! all, and once a call has returned `Ok`, the change survives the process being killed.
//!
//! The transitions are the outbox of notifications too: each is stored unsent, with an id of its own,
//! in the step that changes the state.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::attempts::AttemptRecord;
use cts_shared::state::job_flow::{Change, ContainerRecord, JobOutcome, JobRecord};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::Container;
use cts_shared::wire::image::JobImage;
use cts_shared::wire::job::{
    AdminJob, HtcondorDetails, Job, JobInputPreview, JobPreview, JobResult, JobStatus, SiteNotice,
    StateTransition,
};

use crate::error::Error;

mod counted;

pub use counted::CountedJobStore;

/// A job: what was fixed at submission, and what changes.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredJob {
    /// What was submitted, `input_files` as objects with checksums.
    pub job_input: JobInput,
    /// The image at submission.
    pub image: JobImage,
    /// Number of input files.
    pub input_file_count: u64,
    /// What changes while the job runs.
    pub summary: JobSummary,
}

/// A job as lists have it: without its files.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedJob {
    /// What was submitted, without `input_files`.
    pub job_input: JobInputPreview,
    /// The image at submission.
    pub image: JobImage,
    /// Number of input files.
    pub input_file_count: u64,
    /// What changes while the job runs, without its outputs.
    pub summary: JobSummary,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this owner.
    pub user: Option<String>,
    /// At this site.
    pub site: Option<Site>,
    /// In this state.
    pub state: Option<JobState>,
    /// Last changed at this time or later.
    pub after: Option<UtcTime>,
    /// Last changed before this time.
    pub before: Option<UtcTime>,
}

/// How long a job that another kind of service has stored is left to it, which may be submitting it.
pub const FOREIGN_FOR: Duration = Duration::from_mins(5);

/// What there is to know about a job without its input and its containers.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// The job's id.
    pub id: JobId,
    /// Its owner.
    pub user: String,
    /// Where it runs.
    pub site: Site,
    /// Its transitions, oldest first; never empty. The last one's state is the job's state.
    pub transitions: Vec<NotifiedTransition>,
    /// What it came to, as far as known.
    pub outcome: JobOutcome,
    /// What is noted on it.
    pub notes: JobNotes,
    /// Another kind of service over the same database has stored it, and no service of ours has changed it since.
    pub is_foreign: bool,
}

/// A job's state and when it was entered, with its notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifiedTransition {
    /// The state entered.
    pub state: JobState,
    /// When. Never before the previous transition's time.
    pub time: UtcTime,
    /// Id of the notification, by which consumers tell repeats: a random UUID.
    pub trans_id: String,
    /// Whether the notification is known to have arrived.
    pub notif_sent: bool,
}

/// Facts about a job that its states do not depend on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobNotes {
    /// What administrators noted on the job.
    pub admin_meta: Map<String, Value>,
    /// Whether what the job left behind at its site was removed.
    #[serde(skip)]
    pub cleaned: bool,
    /// HTCondor cluster ids, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub htcondor_cluster_ids: Vec<i64>,
    /// Bytes of the input files of the container that has most; unknown for jobs of older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_bytes: Option<u64>,
    /// What keeps the job from going on at its site, if something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_notice: Option<SiteNotice>,
}

impl JobSummary {
    /// The job's state.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.transitions
            .last()
            .map_or(JobState::Created, |transition| transition.state)
    }

    /// When the job was submitted: its first transition.
    #[must_use]
    pub fn submitted(&self) -> UtcTime {
        self.transitions.first().map_or_else(
            || UtcTime::new(jiff::Timestamp::UNIX_EPOCH),
            |first| first.time,
        )
    }

    /// Whether the other kind of service that has stored it may be submitting it just now: it takes no lease, and
    /// notes the cluster when it has its answer.
    #[must_use]
    pub fn may_be_submitted_by_another(&self, now: UtcTime) -> bool {
        self.is_foreign && self.submitted() > now.minus(FOREIGN_FOR)
    }

    fn status(&self, admin: bool) -> JobStatus {
        let transition_times = self
            .transitions
            .iter()
            .map(|transition| StateTransition {
                state: transition.state,
                time: transition.time,
                trans_id: admin.then(|| transition.trans_id.clone()),
                notif_sent: admin.then_some(transition.notif_sent),
            })
            .collect();
        JobStatus {
            id: self.id.to_string(),
            state: self.state(),
            transition_times,
            user: self.user.clone(),
            admin_meta: self.notes.admin_meta.clone(),
            // What a job waited for that completed or was canceled is of no use; what ended one in error is.
            site_notice: self
                .notes
                .site_notice
                .clone()
                .filter(|_| self.state() != JobState::Complete && !self.state().is_cancel()),
        }
    }

    /// The status view of the job's owner.
    #[must_use]
    pub fn to_status(&self) -> JobStatus {
        self.status(false)
    }
}

impl StoredJob {
    fn into_view(self, admin: bool) -> Job {
        let status = self.summary.status(admin);
        let mut outcome = self.summary.outcome;
        let outputs = outcome.outputs.take();
        Job {
            status,
            job_input: self.job_input,
            image: self.image,
            input_file_count: self.input_file_count,
            result: result_view(outcome),
            outputs,
        }
    }

    /// The owner's view.
    #[must_use]
    pub fn into_job(self) -> Job {
        self.into_view(false)
    }

    /// The view of administrators and executors.
    #[must_use]
    pub fn into_admin_job(mut self) -> AdminJob {
        let admin_error = self.summary.outcome.admin_error.take();
        let traceback = self.summary.outcome.traceback.take();
        let cleaned = self.summary.notes.cleaned;
        let cluster_id = std::mem::take(&mut self.summary.notes.htcondor_cluster_ids);
        AdminJob {
            job: self.into_view(true),
            admin_error,
            traceback,
            cleaned,
            htcondor_details: (!cluster_id.is_empty()).then_some(HtcondorDetails { cluster_id }),
        }
    }
}

impl ListedJob {
    /// The view of a list (contract service.md, section 6, "List jobs").
    #[must_use]
    pub fn into_preview(self) -> JobPreview {
        let status = self.summary.status(false);
        JobPreview {
            status,
            job_input: self.job_input,
            image: self.image,
            input_file_count: self.input_file_count,
            result: result_view(self.summary.outcome),
        }
    }
}

fn result_view(outcome: JobOutcome) -> JobResult {
    JobResult {
        cpu_hours: outcome.statistics.cpu_hours,
        cpu_factor: outcome.statistics.cpu_factor,
        max_memory: outcome.statistics.max_memory,
        output_file_count: outcome.output_file_count,
        error: outcome.error,
        logpath: outcome.logpath,
    }
}

/// A container as administrators see it.
#[must_use]
pub fn container_view(job: JobId, number: ContainerNumber, record: ContainerRecord) -> Container {
    Container {
        id: job.to_string(),
        state: record.state(),
        reported_time: record
            .transitions
            .last()
            .and_then(|last| last.reported_time),
        transition_times: record
            .transitions
            .iter()
            .map(|transition| StateTransition {
                state: transition.state,
                time: transition.time,
                trans_id: None,
                notif_sent: None,
            })
            .collect(),
        sub_id: number,
        exit_code: record.exit_code,
        outputs: record.outputs,
        admin_error: record.admin_error,
        traceback: record.traceback,
        attempts: record.attempts.iter().map(AttemptRecord::to_view).collect(),
        usage: record.usage,
    }
}

/// A job to store. Its transitions get their ids from the store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// A fresh id.
    pub id: JobId,
    /// The owner.
    pub user: String,
    /// What was submitted, `input_files` as objects with checksums.
    pub job_input: JobInput,
    /// The image at this moment.
    pub image: JobImage,
    /// Bytes of the input files of the container that has most, if known.
    pub input_bytes: Option<u64>,
    /// States and containers.
    pub record: JobRecord,
}

/// Takes a step on a job's record and returns what it changed. It sees nothing but the record and what
/// it captured, for an adapter may call it more than once (a store without transactions repeats it
/// on a fresh record when another writer was faster).
pub type JobStep = Box<dyn Fn(&mut JobRecord) -> Result<Change, Error> + Send>;

/// Keeps jobs.
pub trait JobStore: Send + Sync + std::fmt::Debug {
    /// Stores a new job with its containers, and the notifications of its transitions.
    ///
    /// # Errors
    /// When the store fails; nothing is stored then.
    fn insert_job(&self, job: NewJob) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The whole job without its containers, if there is one.
    ///
    /// # Errors
    /// When the store fails.
    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<StoredJob>, StoreError>>;

    /// A job without input, outputs and containers, if there is one. Cheap however large the job is.
    ///
    /// # Errors
    /// When the store fails.
    fn job_summary(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobSummary>, StoreError>>;

    /// The job's states and containers, if there is such a job.
    ///
    /// # Errors
    /// When the store fails.
    fn job_record(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>>;

    /// Takes a step on a job that no other step comes between, and stores what it changed together
    /// with the notifications of new transitions. Returns what changed; `None` if there is no such
    /// job.
    ///
    /// # Errors
    /// What the step refused with (nothing is changed then), or a failure of the store.
    fn change_job(&self, id: JobId, step: JobStep) -> BoxFuture<'_, Result<Option<Change>, Error>>;

    /// Jobs for which something is [pending](JobRecord::pending), oldest id first, after `after`, at
    /// most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    fn pending_jobs(
        &self,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>>;

    /// Jobs of a site that have not ended.
    ///
    /// # Errors
    /// When the store fails.
    fn running_jobs(&self, site: Site) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>>;

    /// Jobs that were submitted before that time and that no site has taken yet, at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    fn unstarted_jobs(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(JobId, Site)>, StoreError>>;

    /// The jobs the filter lets through, last changed first (of the same time, by id), at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    fn list_jobs(
        &self,
        filter: JobFilter,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ListedJob>, StoreError>>;

    /// Sets and removes members of a job's `admin_meta`; the others stay. False if there is no such
    /// job.
    ///
    /// # Errors
    /// When the store fails.
    fn change_admin_meta(
        &self,
        id: JobId,
        set: Map<String, Value>,
        unset: Vec<String>,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Notes the cluster that `HTCondor` made of a job, as the newest. Changes nothing if it is noted
    /// already, or there is no such job.
    ///
    /// # Errors
    /// When the store fails.
    fn add_htcondor_cluster(
        &self,
        id: JobId,
        cluster: i64,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Notes what keeps a job from going on at its site, or that nothing does. Changes nothing if there
    /// is no such job.
    ///
    /// # Errors
    /// When the store fails.
    fn set_site_notice(
        &self,
        id: JobId,
        notice: Option<SiteNotice>,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ended jobs of a site whose statistics are [due](JobOutcome::statistics_due), at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    fn jobs_with_statistics_due(
        &self,
        site: Site,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>>;

    /// Jobs that ended before that time and are not cleaned, longest ended first, at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    fn jobs_to_clean(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>>;

    /// Notes that what an ended job left behind was removed. Changes nothing for other jobs.
    ///
    /// # Errors
    /// When the store fails.
    fn mark_cleaned(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// A failure of a store: never the caller's fault.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error(
        "cannot open the database {path}: {cause}; check the path, its permissions and free space"
    )]
    Open {
        /// The database file.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// The file was written by a newer service.
    #[error(
        "the database has schema version {found}, this program knows versions up to {known}; \
         use the program that wrote it or a newer one"
    )]
    TooNew {
        /// Version in the file.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// An operation failed.
    #[error("cannot {action} in the database: {cause}")]
    Failed {
        /// What was being done: verb and object.
        action: &'static str,
        /// What the database said.
        cause: String,
    },
    /// A record holds something this program does not understand.
    #[error("the database holds an unreadable {what}: {cause}")]
    Corrupt {
        /// Which record.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The database server cannot be reached or its settings are wrong.
    #[error(
        "cannot open the database at {address}: {cause}; check the server, its address and the credentials"
    )]
    Connect {
        /// Hosts and ports.
        address: String,
        /// What went wrong.
        cause: String,
    },
    /// The database does not answer, or cannot write now; the same operation may succeed later. It may
    /// have been carried out.
    #[error("cannot {action}: the database does not answer: {cause}")]
    Unavailable {
        /// What was being done: verb and object.
        action: &'static str,
        /// What the driver said.
        cause: String,
    },
    /// There is such a record already.
    #[error("cannot {action}: there is such a record already: {cause}")]
    Duplicate {
        /// What was being done: verb and object.
        action: &'static str,
        /// What the database said.
        cause: String,
    },
    /// Part of a record is not there any more.
    #[error("the database lacks {what}; it was removed by hand, or a backup was restored in part")]
    Gone {
        /// Which part of which record.
        what: String,
    },
    /// The store was closed: the service is stopping.
    #[error("the database is closed because the service is stopping")]
    Closed,
}
