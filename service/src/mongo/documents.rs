//! Documents of `jobs` and `subjobs`, and what they mean.
//!
//! Documents are read through JSON, which the domain's types know how to read: a date becomes a text. Members
//! that are not known are passed over, those that are absent or null are what they are in the
//! domain when nothing is known. Times have milliseconds, as the contract says.

use jiff::Timestamp;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::attempts::AttemptRecord;
use cts_shared::state::job_flow::{ContainerRecord, JobOutcome, JobRecord, Transition};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::ContainerUsage;
use cts_shared::wire::image::JobImage;
use cts_shared::wire::job::{HtcondorDetails, JobInputPreview, S3File, SiteNotice};

use crate::job_store::{JobNotes, JobSummary, NewJob, NotifiedTransition, StoreError};

use super::numbering::History;

/// The member below which everything of ours is.
pub(super) const OURS: &str = "_cts";
/// The member of a job input that lists leave out.
const INPUT_FILES: &str = "input_files";

/// What a job came to: members of the job's document, which are left out until they are known.
const OUTCOME: [&str; 8] = [
    "cpu_hours",
    "cpu_factor",
    "max_memory",
    "output_file_count",
    "error",
    "admin_error",
    "traceback",
    "logpath",
];

/// A time as it is stored.
pub(super) fn date(time: UtcTime) -> Bson {
    DateTime::from_millis(time.timestamp().as_millisecond()).into()
}

/// Reads a document.
pub(super) fn read<T: DeserializeOwned>(what: &str, document: Document) -> Result<T, StoreError> {
    to_json(Bson::Document(document))
        .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))
        .map_err(|cause| corrupt(what, cause))
}

/// Reads many documents. One that cannot be read is named in the log and left out: it must not keep the
/// others from anybody.
pub(super) fn readable<T>(
    documents: impl IntoIterator<Item = Document>,
    read: impl Fn(Document) -> Result<T, StoreError>,
) -> Vec<T> {
    let documents = documents.into_iter();
    documents
        .filter_map(|document| {
            read(document)
                .inspect_err(|error| tracing::error!(%error, "left out of a list"))
                .ok()
        })
        .collect()
}

pub(super) fn corrupt(what: impl Into<String>, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        what: what.into(),
        cause: cause.to_string(),
    }
}

fn to_json(value: Bson) -> Result<Value, String> {
    Ok(match value {
        Bson::Double(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::String(text) => text.into(),
        Bson::Boolean(truth) => truth.into(),
        Bson::Null => Value::Null,
        Bson::DateTime(time) => Timestamp::from_millisecond(time.timestamp_millis())
            .map_err(|error| error.to_string())?
            .to_string()
            .into(),
        Bson::Array(values) => values.into_iter().map(to_json).collect::<Result<_, _>>()?,
        Bson::Document(members) => members
            .into_iter()
            .map(|(name, value)| Ok((name, to_json(value)?)))
            .collect::<Result<Map<String, Value>, String>>()?
            .into(),
        // The document's own id, which nobody here reads, and kinds the contract does not have.
        _ => Value::Null,
    })
}

/// A JSON value as it is stored.
pub(super) fn from_json(value: Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(truth) => truth.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(fraction)) => fraction.into(),
            (None, None) => Bson::Null,
        },
        Value::String(text) => text.into(),
        Value::Array(values) => Bson::Array(values.into_iter().map(from_json).collect()),
        Value::Object(members) => Bson::Document(
            members
                .into_iter()
                .map(|(name, value)| (name, from_json(value)))
                .collect(),
        ),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

// --- reading -------------------------------------------------------------------------------------

/// Reads null as what stands for an absent member.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Debug, Deserialize)]
struct StoredTransition {
    state: JobState,
    time: UtcTime,
    #[serde(default)]
    reported_time: Option<UtcTime>,
    #[serde(default)]
    trans_id: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    notif_sent: bool,
}

/// What of ours a job has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JobAdditions {
    version: i64,
    commit: Option<String>,
    commits: Vec<String>,
    pending: bool,
    input_bytes: Option<u64>,
    site_notice: Option<SiteNotice>,
    statistics_due: bool,
    outputs: Option<String>,
}

/// A job's document without what lists and steps do not need.
#[derive(Debug, Deserialize)]
pub(super) struct JobDocument {
    id: JobId,
    state: JobState,
    user: String,
    transition_times: Vec<StoredTransition>,
    #[serde(default, deserialize_with = "null_as_default")]
    admin_meta: Map<String, Value>,
    #[serde(default, deserialize_with = "null_as_default")]
    cleaned: bool,
    #[serde(default, deserialize_with = "null_as_default")]
    input_file_count: u64,
    #[serde(default)]
    htcondor_details: Option<HtcondorDetails>,
    job_input: Map<String, Value>,
    #[serde(default)]
    image: Option<JobImage>,
    #[serde(flatten)]
    outcome: JobOutcome,
    #[serde(default, deserialize_with = "null_as_default", rename = "_cts")]
    ours: JobAdditions,
}

impl JobDocument {
    pub(super) fn read(document: Document) -> Result<Self, StoreError> {
        let what = format!("job {}", document.get_str("id").unwrap_or("without id"));
        let mut job: Self = read(&what, document)?;
        job.outcome.statistics_due = job.ours.statistics_due;
        Ok(job)
    }

    pub(super) const fn version(&self) -> i64 {
        self.ours.version
    }

    /// Whether an update wrote this version or one of those before it, as far as they are remembered.
    pub(super) fn has_commit(&self, commit: &str) -> bool {
        self.ours.commit.as_deref() == Some(commit)
            || self.ours.commits.iter().any(|one| one == commit)
    }

    /// Whether the job is marked as one for which something is pending.
    pub(super) const fn is_marked_pending(&self) -> bool {
        self.ours.pending
    }

    /// Its transitions, to be numbered.
    pub(super) fn history(&self) -> History {
        History {
            job_id: self.id,
            user: self.user.clone(),
            transitions: self
                .transition_times
                .iter()
                .map(|one| NotifiedTransition {
                    state: one.state,
                    time: one.time,
                    trans_id: one.trans_id.clone().unwrap_or_default(),
                    notif_sent: one.notif_sent,
                })
                .collect(),
            commit: self.ours.commit.clone(),
        }
    }

    /// What was submitted as `num_containers`.
    pub(super) fn num_containers(&self) -> Option<u64> {
        self.job_input.get("num_containers")?.as_u64()
    }

    /// The documents that hold the outputs, if the job's does not.
    pub(super) fn outputs_set(&self) -> Option<&str> {
        self.ours.outputs.as_deref()
    }

    /// The filter that finds the job as long as no other step was stored.
    pub(super) fn unchanged(&self) -> Document {
        let version = match self.ours.version {
            // As the existing service writes it.
            0 => Bson::Null,
            version => version.into(),
        };
        doc! {
            "id": self.id.to_string(),
            "_cts.version": version,
            "state": self.state.as_str(),
            "transition_times": {"$size": count(self.transition_times.len())},
        }
    }

    pub(super) fn has_transition(&self, trans_id: &str) -> bool {
        self.transition_times
            .iter()
            .any(|one| one.trans_id.as_deref() == Some(trans_id))
    }

    pub(super) fn set_outputs(&mut self, outputs: Vec<S3File>) {
        self.outcome.outputs = Some(outputs);
    }

    /// The job's record, with these containers.
    pub(super) fn record(&self, containers: Vec<ContainerRecord>) -> JobRecord {
        JobRecord {
            transitions: self
                .transition_times
                .iter()
                .map(|one| Transition {
                    state: one.state,
                    time: one.time,
                    reported_time: None,
                })
                .collect(),
            containers,
            outcome: self.outcome.clone(),
        }
    }

    /// What was submitted, as lists show it.
    pub(super) fn preview(&self) -> Result<JobInputPreview, StoreError> {
        let mut input = self.job_input.clone();
        // Read and written as what it is, for the two forms of a runtime.
        input.insert(INPUT_FILES.to_owned(), Value::Array(Vec::new()));
        let mut shown = serde_json::from_value::<JobInput>(Value::Object(input))
            .and_then(|input| serde_json::to_value(&input))
            .map_err(|error| corrupt(format!("job input of job {}", self.id), error))?;
        let mut members = std::mem::take(&mut shown)
            .as_object_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        members.shift_remove(INPUT_FILES);
        Ok(JobInputPreview(members))
    }

    /// What was submitted.
    pub(super) fn job_input(&mut self) -> Result<JobInput, StoreError> {
        serde_json::from_value(Value::Object(std::mem::take(&mut self.job_input)))
            .map_err(|error| corrupt(format!("job input of job {}", self.id), error))
    }

    pub(super) fn image(&mut self) -> Result<JobImage, StoreError> {
        self.image
            .take()
            .ok_or_else(|| corrupt(format!("job {}", self.id), "it has no image"))
    }

    pub(super) const fn input_file_count(&self) -> u64 {
        self.input_file_count
    }

    /// Where the job runs.
    pub(super) fn site(&self) -> Result<Site, StoreError> {
        let site = self.job_input.get("cluster").cloned().unwrap_or_default();
        serde_json::from_value(site)
            .map_err(|error| corrupt(format!("site of job {}", self.id), error))
    }

    pub(super) fn into_summary(self, site: Site) -> JobSummary {
        JobSummary {
            id: self.id,
            user: self.user,
            site,
            transitions: self
                .transition_times
                .into_iter()
                .map(|one| NotifiedTransition {
                    state: one.state,
                    time: one.time,
                    trans_id: one.trans_id.unwrap_or_default(),
                    notif_sent: one.notif_sent,
                })
                .collect(),
            outcome: self.outcome,
            notes: JobNotes {
                admin_meta: self.admin_meta,
                cleaned: self.cleaned,
                htcondor_cluster_ids: self
                    .htcondor_details
                    .map(|details| details.cluster_id)
                    .unwrap_or_default(),
                input_bytes: self.ours.input_bytes,
                site_notice: self.ours.site_notice,
            },
            is_foreign: self.ours.version == 0,
        }
    }
}

/// What of ours a subjob has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SubjobAdditions {
    version: i64,
    attempts: Vec<AttemptRecord>,
    usage: Option<ContainerUsage>,
    outputs: Option<String>,
}

/// A container's document.
#[derive(Debug, Deserialize)]
pub(super) struct SubjobDocument {
    sub_id: ContainerNumber,
    transition_times: Vec<StoredTransition>,
    #[serde(default)]
    exit_code: Option<i64>,
    #[serde(default)]
    outputs: Option<Vec<S3File>>,
    #[serde(default)]
    admin_error: Option<String>,
    #[serde(default)]
    traceback: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", rename = "_cts")]
    ours: SubjobAdditions,
}

impl SubjobDocument {
    pub(super) fn read(job: JobId, document: Document) -> Result<Self, StoreError> {
        read(&format!("container of job {job}"), document)
    }

    pub(super) const fn number(&self) -> ContainerNumber {
        self.sub_id
    }

    pub(super) const fn version(&self) -> i64 {
        self.ours.version
    }

    /// The documents that hold the outputs, if this one does not.
    pub(super) fn outputs_set(&self) -> Option<&str> {
        self.ours.outputs.as_deref()
    }

    pub(super) fn into_record(self, outputs: Option<Vec<S3File>>) -> ContainerRecord {
        ContainerRecord {
            transitions: self
                .transition_times
                .into_iter()
                .map(|one| Transition {
                    state: one.state,
                    time: one.time,
                    reported_time: one.reported_time,
                })
                .collect(),
            exit_code: self.exit_code,
            outputs: outputs.or(self.outputs),
            admin_error: self.admin_error,
            traceback: self.traceback,
            attempts: self.ours.attempts,
            usage: self.ours.usage,
        }
    }
}

// --- writing -------------------------------------------------------------------------------------

/// Outputs as their document holds them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StoredOutputs {
    /// In the document.
    Inline(Bson),
    /// In a set of documents of their own.
    Apart(String),
}

impl StoredOutputs {
    /// What is written to `outputs` and to our `outputs`.
    fn members(self) -> (Bson, Bson) {
        match self {
            Self::Inline(outputs) => (outputs, Bson::Null),
            Self::Apart(set) => (Bson::Null, set.into()),
        }
    }
}

/// The elements of `outputs`.
pub(super) fn output_documents(outputs: &[S3File]) -> Vec<Bson> {
    outputs
        .iter()
        .map(|output| {
            let mut document = doc! {"file": &output.file};
            if let Some(crc64nvme) = &output.crc64nvme {
                document.insert("crc64nvme", crc64nvme);
            }
            document.into()
        })
        .collect()
}

/// A job's transition, its notification unsent.
pub(super) fn job_transition(transition: &Transition, trans_id: &str) -> Document {
    doc! {
        "state": transition.state.as_str(),
        "time": date(transition.time),
        "trans_id": trans_id,
        "notif_sent": false,
        "_retry": 0_i32,
    }
}

fn container_transition(transition: &Transition) -> Bson {
    let mut document = doc! {
        "state": transition.state.as_str(),
        "time": date(transition.time),
        "_retry": 0_i32,
    };
    if let Some(reported) = transition.reported_time {
        document.insert("reported_time", date(reported));
    }
    document.into()
}

/// The time of the last transition.
pub(super) fn update_time(transitions: &[Transition]) -> Bson {
    transitions
        .last()
        .map_or(Bson::Null, |last| date(last.time))
}

/// The document of a new job.
pub(super) fn new_job(
    job: &NewJob,
    trans_ids: &[String],
    commit: &str,
) -> Result<Document, StoreError> {
    let record = &job.record;
    let transitions: Vec<Document> = record
        .transitions
        .iter()
        .zip(trans_ids)
        .map(|(transition, trans_id)| job_transition(transition, trans_id))
        .collect();
    let mut ours = doc! {
        "version": 1_i64,
        "commit": commit,
        "commits": [commit],
        "pending": record.pending().is_some(),
        "unlogged": true,
    };
    if let Some(bytes) = job.input_bytes {
        ours.insert("input_bytes", i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    Ok(doc! {
        "id": job.id.to_string(),
        "state": record.state().as_str(),
        "transition_times": transitions,
        "user": &job.user,
        "admin_meta": {},
        "job_input": job_input(job)?,
        "image": image(&job.image),
        "input_file_count": count(job.job_input.input_files.len()),
        "cleaned": false,
        "_update_time": update_time(&record.transitions),
        "_retry": 0_i32,
        OURS: ours,
    })
}

/// What was submitted, with the runtime as seconds.
fn job_input(job: &NewJob) -> Result<Bson, StoreError> {
    let mut input = serde_json::to_value(&job.job_input)
        .map_err(|error| corrupt(format!("job input of job {}", job.id), error))?;
    if let Some(members) = input.as_object_mut() {
        let seconds = job.job_input.runtime.duration().as_secs_f64();
        members.insert("runtime".to_owned(), seconds.into());
    }
    Ok(from_json(input))
}

/// A job's image, without what is absent.
fn image(image: &JobImage) -> Document {
    let mut document = doc! {
        "registered_by": &image.registered_by,
        "registered_on": date(image.registered_on),
        "name": &image.name,
        "digest": &image.digest,
        "entrypoint": &image.entrypoint,
    };
    for (name, value) in [
        ("tag", &image.tag),
        ("refdata_id", &image.refdata_id),
        (
            "default_refdata_mount_point",
            &image.default_refdata_mount_point,
        ),
    ] {
        if let Some(value) = value {
            document.insert(name, value);
        }
    }
    document
}

/// The document of a container of a new job.
pub(super) fn new_subjob(
    job: JobId,
    number: ContainerNumber,
    container: &ContainerRecord,
) -> Document {
    let transitions: Vec<Bson> = container
        .transitions
        .iter()
        .map(container_transition)
        .collect();
    doc! {
        "id": job.to_string(),
        "sub_id": i64::from(number),
        "state": container.state().as_str(),
        "transition_times": transitions,
        "exit_code": container.exit_code,
        "outputs": Bson::Null,
        "admin_error": &container.admin_error,
        "traceback": &container.traceback,
        "_update_time": update_time(&container.transitions),
    }
}

/// What an update of a job sets and removes for what the job came to.
pub(super) fn outcome_update(
    id: JobId,
    outcome: &JobOutcome,
    outputs: Option<StoredOutputs>,
) -> Result<(Document, Document), StoreError> {
    let without_outputs = JobOutcome {
        outputs: None,
        ..outcome.clone()
    };
    let mut members = match serde_json::to_value(&without_outputs) {
        Ok(Value::Object(members)) => members,
        Ok(_) => Map::new(),
        Err(error) => return Err(corrupt(format!("outcome of job {id}"), error)),
    };
    let (mut set, mut unset) = (Document::new(), Document::new());
    for name in OUTCOME {
        match members.shift_remove(name) {
            Some(value) => set.insert(name, from_json(value)),
            None => unset.insert(name, ""),
        };
    }
    set.insert("_cts.statistics_due", outcome.statistics_due);
    if let Some(outputs) = outputs {
        for (name, value) in ["outputs", "_cts.outputs"]
            .into_iter()
            .zip(<[Bson; 2]>::from(outputs.members()))
        {
            match value {
                Bson::Null => unset.insert(name, ""),
                value => set.insert(name, value),
            };
        }
    }
    Ok((set, unset))
}

/// What is to be written to a container's document, as the job's document carries it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Redo {
    number: i64,
    version: i64,
    base_state: String,
    base_transitions: i64,
    set: Document,
    transitions: NewTransitions,
}

/// What becomes of a container's `transition_times`.
#[derive(Debug, Clone, PartialEq)]
enum NewTransitions {
    /// They are added.
    Push(Vec<Bson>),
    /// They are all there are: old ones were forgotten.
    Replace(Vec<Bson>),
}

impl Redo {
    /// From one record of a container to the next, written by the step that makes the job's `version`.
    pub(super) fn new(
        number: ContainerNumber,
        version: i64,
        before: &ContainerRecord,
        after: &ContainerRecord,
        outputs: Option<StoredOutputs>,
    ) -> Result<Self, StoreError> {
        let documents = |new: &[Transition]| new.iter().map(container_transition).collect();
        let transitions = after
            .transitions
            .strip_prefix(before.transitions.as_slice())
            .map_or_else(
                || NewTransitions::Replace(documents(&after.transitions)),
                |new| NewTransitions::Push(documents(new)),
            );
        let json = |value: Result<Value, serde_json::Error>| {
            value
                .map(from_json)
                .map_err(|error| corrupt(format!("container {number}"), error))
        };
        let mut set = doc! {
            "state": after.state().as_str(),
            "exit_code": after.exit_code,
            "admin_error": &after.admin_error,
            "traceback": &after.traceback,
            "_update_time": update_time(&after.transitions),
            "_cts.attempts": json(serde_json::to_value(&after.attempts))?,
            "_cts.usage": json(serde_json::to_value(after.usage))?,
        };
        if let Some(outputs) = outputs {
            let (inline, apart) = outputs.members();
            set.insert("outputs", inline);
            set.insert("_cts.outputs", apart);
            let files = after.outputs.as_ref().map(|outputs| count(outputs.len()));
            set.insert("output_file_count", files);
        }
        Ok(Self {
            number: number.into(),
            version,
            base_state: before.state().as_str().to_owned(),
            base_transitions: count(before.transitions.len()),
            set,
            transitions,
        })
    }

    /// As the job's document carries it. Its names have dots, which are not read as paths inside a value.
    pub(super) fn to_document(&self) -> Document {
        let (name, transitions) = match &self.transitions {
            NewTransitions::Push(new) => ("push", new),
            NewTransitions::Replace(all) => ("replace", all),
        };
        doc! {
            "sub_id": self.number,
            "version": self.version,
            "base_state": &self.base_state,
            "base_transitions": self.base_transitions,
            "set": self.set.iter().map(|(name, value)| {
                Bson::Document(doc! {"name": name, "value": value})
            }).collect::<Vec<_>>(),
            name: transitions,
        }
    }

    /// Takes it out of a job's document.
    pub(super) fn take(job: &mut Document) -> Result<Option<Self>, StoreError> {
        let Some(redo) = job
            .get_document_mut(OURS)
            .ok()
            .and_then(|ours| ours.remove("redo"))
        else {
            return Ok(None);
        };
        let read = || -> Option<Self> {
            let redo = redo.as_document()?;
            let mut set = Document::new();
            for member in redo.get_array("set").ok()? {
                let member = member.as_document()?;
                set.insert(member.get_str("name").ok()?, member.get("value")?.clone());
            }
            let transitions = match redo.get_array("push") {
                Ok(new) => NewTransitions::Push(new.clone()),
                Err(_) => NewTransitions::Replace(redo.get_array("replace").ok()?.clone()),
            };
            Some(Self {
                number: redo.get_i64("sub_id").ok()?,
                version: redo.get_i64("version").ok()?,
                base_state: redo.get_str("base_state").ok()?.to_owned(),
                base_transitions: redo.get_i64("base_transitions").ok()?,
                set,
                transitions,
            })
        };
        let id = job.get_str("id").unwrap_or("without id");
        read()
            .map(Some)
            .ok_or_else(|| corrupt(format!("job {id}"), "a member of _cts.redo is missing"))
    }

    /// The filter that finds the container's document as long as this is not written; not one that the
    /// existing service has changed since.
    pub(super) fn filter(&self, job: JobId) -> Document {
        doc! {
            "id": job.to_string(),
            "sub_id": self.number,
            "state": &self.base_state,
            "transition_times": {"$size": self.base_transitions},
            "$or": [
                {"_cts.version": Bson::Null},
                {"_cts.version": {"$lt": self.version}},
            ],
        }
    }

    /// The update that writes it.
    pub(super) fn update(&self) -> Document {
        let mut set = self.set.clone();
        set.insert("_cts.version", self.version);
        match &self.transitions {
            NewTransitions::Push(new) => doc! {
                "$set": set, "$push": {"transition_times": {"$each": new}},
            },
            NewTransitions::Replace(all) => {
                set.insert("transition_times", all);
                doc! {"$set": set}
            }
        }
    }

    /// Does to a document that was read what [`update`](Self::update) does to the stored one. False if it is
    /// written already, or the document is another container's.
    pub(super) fn apply(&self, subjob: &mut Document) -> bool {
        let version = subjob
            .get_document(OURS)
            .and_then(|ours| ours.get_i64("version"))
            .unwrap_or_default();
        let transitions = subjob.get_array("transition_times").map(Vec::len);
        let is_base = number_of(subjob) == Some(self.number)
            && version < self.version
            && subjob
                .get_str("state")
                .is_ok_and(|state| state == self.base_state)
            && transitions.is_ok_and(|length| count(length) == self.base_transitions);
        if !is_base {
            return false;
        }
        if let Ok(transitions) = subjob.get_array_mut("transition_times") {
            match &self.transitions {
                NewTransitions::Push(new) => transitions.extend(new.iter().cloned()),
                NewTransitions::Replace(all) => transitions.clone_from(all),
            }
        }
        if !subjob.contains_key(OURS) {
            subjob.insert(OURS, Document::new());
        }
        for (name, value) in &self.set {
            match name.split_once('.') {
                None => subjob.insert(name, value.clone()),
                Some((_, name)) => subjob
                    .get_document_mut(OURS)
                    .ok()
                    .and_then(|ours| ours.insert(name, value.clone())),
            };
        }
        if let Ok(ours) = subjob.get_document_mut(OURS) {
            ours.insert("version", self.version);
        }
        true
    }
}

/// A container's number; drivers write it as either kind of integer.
fn number_of(subjob: &Document) -> Option<i64> {
    match subjob.get("sub_id")? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        _ => None,
    }
}
