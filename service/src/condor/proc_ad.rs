//! The `ClassAd` of one proc, as `condor_q -json` and `condor_history -json` write it.
//!
//! Attribute names are compared without regard to case (HTCondor manual, "`ClassAd` Mechanism"). Undefined
//! attributes are absent; an expression that is no literal comes as the text `/Expr(...)/`. Everything in an
//! ad may be wrong: absent and odd values are `None`.

use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};

use cts_shared::id::{ContainerNumber, JobId};

/// The attributes that the administrators' view of a container has (contract condor.md, section 5).
pub const PROJECTION: [&str; 79] = [
    "Iwd",
    "Err",
    "Out",
    "UserLog",
    "ClusterId",
    "ProcId",
    "CTSJobID",
    "CTSContainerNumber",
    "RequestCpus",
    "RequestDisk",
    "RequestMemory",
    "CpusProvisioned",
    "DiskProvisioned",
    "GPUsProvisioned",
    "CpusUsage",
    "RemoteUserCpu",
    "RemoteSysCpu",
    "CumulativeRemoteSysCpu",
    "CumulativeRemoteUserCpu",
    "DiskUsage",
    "DiskUsage_RAW",
    "ResidentSetSize",
    "ResidentSetSize_RAW",
    "ImageSize",
    "ImageSize_RAW",
    "MemoryUsage",
    "Owner",
    "User",
    "CondorVersion",
    "CondorPlatform",
    "Environment",
    "Requirements",
    "TransferInput",
    "LeaveJobInQueue",
    "Rank",
    "JobPrio",
    "JobStatus",
    "ExitCode",
    "ExitStatus",
    "JobRunCount",
    "NumRestarts",
    "NumJobStarts",
    "HoldReason",
    "HoldReasonCode",
    "VacateReason",
    "VacateReasonCode",
    "WantGracefulRemoval",
    "ConcurrencyLimits",
    "AccountingGroup",
    "JobStartDate",
    "CommittedTime",
    "CommittedSuspensionTime",
    "CompletionDate",
    "CumulativeSuspensionTime",
    "CumulativeTransferTime",
    "JobCurrentFinishTransferInputDate",
    "JobCurrentFinishTransferOutputDate",
    "JobCurrentStartDate",
    "JobCurrentStartExecutingDate",
    "JobCurrentStartTransferInputDate",
    "JobCurrentStartTransferOutputDate",
    "RemoteWallClockTime",
    "StartdPrincipal",
    "RemoteHost",
    "LastRemoteHost",
    // Beyond the contract's list: what the executors tell of themselves, and what decisions are made of.
    "ChirpCtsPhase",
    "ChirpCtsProgress",
    "ChirpCtsContainer",
    "ChirpCtsAttempt",
    "ChirpCtsMessage",
    "EnteredCurrentStatus",
    "ExitBySignal",
    "ExitSignal",
    "HoldReasonSubCode",
    "NumHolds",
    "QDate",
    "RemoveReason",
    "LastMatchTime",
    "JobDisconnectedDate",
];

/// The attributes that [`super::reconcile`] decides by. Every proc of every job is asked for these, again and
/// again; the others would be a hundred megabytes for a busy pool.
pub const DECISIVE: [&str; 23] = [
    "ClusterId",
    "ProcId",
    "CTSJobID",
    "CTSContainerNumber",
    "Owner",
    "JobStatus",
    "EnteredCurrentStatus",
    "JobCurrentStartDate",
    "JobDisconnectedDate",
    "JobLeaseDuration",
    "RemoteHost",
    "LastRemoteHost",
    "HoldReason",
    "HoldReasonCode",
    "HoldReasonSubCode",
    "NumHolds",
    "RemoveReason",
    "ExitCode",
    "ExitBySignal",
    "ExitSignal",
    "RequestCpus",
    "RequestMemory",
    "RequestDisk",
];

/// One proc.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct ProcAd(Map<String, Value>);

/// `JobStatus` (HTCondor manual, "Job `ClassAd` Attributes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcStatus {
    /// 1: waits for a machine.
    Idle,
    /// 2: the executor runs.
    Running,
    /// 3: taken out of the queue.
    Removed,
    /// 4: the executor has ended.
    Completed,
    /// 5: waits for somebody.
    Held,
    /// 6: output is on its way from the worker.
    TransferringOutput,
    /// 7: stopped for a while.
    Suspended,
}

impl ProcStatus {
    const fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Idle,
            2 => Self::Running,
            3 => Self::Removed,
            4 => Self::Completed,
            5 => Self::Held,
            6 => Self::TransferringOutput,
            7 => Self::Suspended,
            _ => return None,
        })
    }
}

impl ProcAd {
    /// The attribute's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            self.0
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        })
    }

    /// A whole number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_i64()
    }

    /// A text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// A truth value.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// What the proc is doing.
    #[must_use]
    pub fn status(&self) -> Option<ProcStatus> {
        ProcStatus::from_number(self.integer("JobStatus")?)
    }

    /// `ClusterId`
    #[must_use]
    pub fn cluster(&self) -> Option<i64> {
        self.integer("ClusterId")
    }

    /// The job it belongs to, if it is one of this service's.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        JobId::from_str(self.text("CTSJobID")?).ok()
    }

    /// The container it carries out.
    #[must_use]
    pub fn container(&self) -> Option<ContainerNumber> {
        ContainerNumber::try_from(self.integer("CTSContainerNumber")?).ok()
    }

    /// `ClusterId.ProcId`, by which people name it.
    #[must_use]
    pub fn name(&self) -> Option<ProcName> {
        Some(ProcName {
            cluster: self.cluster()?,
            proc: self.integer("ProcId")?,
        })
    }

    /// The machine it runs on, or ran on last, without the slot's name.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let slot = self
            .text("RemoteHost")
            .or_else(|| self.text("LastRemoteHost"))?;
        Some(slot.rsplit('@').next().unwrap_or(slot))
    }

    /// The administrators' view: the contract's attributes, expressions as text, `MemoryUsage` evaluated.
    #[must_use]
    pub fn view(&self) -> Map<String, Value> {
        PROJECTION
            .iter()
            .filter_map(|name| {
                let value = if *name == "MemoryUsage" {
                    self.memory_usage_mib().map(Value::from)
                } else {
                    self.get(name).map(without_marks)
                };
                Some(((*name).to_owned(), value?))
            })
            .collect()
    }

    /// Largest memory in MiB, rounded up, if it was measured.
    #[must_use]
    pub fn memory_usage_mib(&self) -> Option<u64> {
        match self.get("MemoryUsage")? {
            // The command line tools print an expression as text instead of evaluating it. The one
            // HTCondor sets is ((ResidentSetSize + 1023) / 1024).
            Value::String(expression) if expression.contains("ResidentSetSize") => self
                .get("ResidentSetSize")?
                .as_u64()
                .map(|kib| kib.div_ceil(1024)),
            Value::Number(mib) => match mib.as_u64() {
                Some(mib) => Some(mib),
                None => mib.as_f64().and_then(whole),
            },
            _ => None,
        }
    }
}

/// The number rounded up, if it is one that memory can have.
fn whole(number: f64) -> Option<u64> {
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the guard leaves whole numbers from 0 to 2^53"
    )]
    (0.0..LARGEST)
        .contains(&number)
        .then(|| number.ceil() as u64)
}

/// An expression's text without the marks that tell it from a string.
fn without_marks(value: &Value) -> Value {
    let inner = value
        .as_str()
        .and_then(|text| text.strip_prefix("/Expr("))
        .and_then(|text| text.strip_suffix(")/"));
    inner.map_or_else(|| value.clone(), Value::from)
}

/// One proc's name: `47.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcName {
    /// The cluster.
    pub cluster: i64,
    /// The proc in it.
    pub proc: i64,
}

impl ProcName {
    /// The proc of a cluster that carries out that container: they have the same numbers (contract condor.md,
    /// section 2).
    #[must_use]
    pub fn of_container(cluster: i64, container: ContainerNumber) -> Self {
        Self {
            cluster,
            proc: i64::from(container),
        }
    }
}

impl std::fmt::Display for ProcName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.cluster, self.proc)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ad(value: Value) -> ProcAd {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_have_no_case_and_odd_values_are_none() {
        let ad = ad(json!({
            "jobstatus": 5, "clusterid": 47, "ProcId": "x", "CTSContainerNumber": -1, "CTSJobID": "nope",
            "RemoteHost": 7, "LastRemoteHost": "slot1_2@node7.example.org",
        }));
        assert_eq!(ad.status(), Some(ProcStatus::Held));
        assert_eq!(ad.cluster(), Some(47));
        assert_eq!(ad.name(), None);
        assert_eq!(ad.container(), None);
        assert_eq!(ad.job(), None);
        assert_eq!(ad.host(), Some("node7.example.org"));
        assert_eq!(ProcAd::default().status(), None);
    }

    #[test]
    fn the_view_has_the_contracts_attributes() {
        let ad = ad(json!({
            "ClusterId": 47, "ProcId": 0, "MemoryUsage": "/Expr(( ( ResidentSetSize + 1023 ) / 1024 ))/",
            "ResidentSetSize": 2049, "Requirements": "/Expr((TARGET.Arch == \"X86_64\"))/", "Secret": "x",
        }));
        assert_eq!(
            Value::Object(ad.view()),
            json!({
                "ClusterId": 47, "ProcId": 0, "ResidentSetSize": 2049, "MemoryUsage": 3,
                "Requirements": "(TARGET.Arch == \"X86_64\")",
            })
        );
    }
}
