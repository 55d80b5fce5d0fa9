//! What a job used, from the `ClassAds` of its procs (contract condor.md, section 6).

use cts_shared::state::job_flow::Statistics;
use serde::Deserialize;
use serde_json::Value;

/// `JobStatus` of a job that is held.
const HELD: i64 = 5;

const BYTES_PER_MIB: u64 = 1024 * 1024;

const SECONDS_PER_HOUR: f64 = 3600.0;

/// The attributes of one proc that statistics are made of, as `condor_q -json` and
/// `condor_history -json` write them. Absent and odd values count as zero.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcAd {
    /// 1 idle, 2 running, 3 removed, 4 completed, 5 held, 6 transferring output, 7 suspended.
    pub job_status: Option<i64>,
    /// User CPU seconds.
    remote_user_cpu: Value,
    /// System CPU seconds.
    remote_sys_cpu: Value,
    /// Wall clock seconds of runs that were not lost.
    committed_time: Value,
    /// MiB, or the expression over `ResidentSetSize` that pools define it as.
    memory_usage: Value,
    /// KiB.
    resident_set_size: Value,
}

impl ProcAd {
    /// Largest memory in MiB, rounded up, if it was measured.
    fn memory_usage_mib(&self) -> Option<u64> {
        match &self.memory_usage {
            // The command line tools print an expression as text instead of evaluating it. The one
            // HTCondor sets is ((ResidentSetSize + 1023) / 1024).
            Value::String(expression) if expression.contains("ResidentSetSize") => self
                .resident_set_size
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

fn seconds(value: &Value) -> f64 {
    value
        .as_f64()
        .filter(|seconds| *seconds > 0.0)
        .unwrap_or(0.0)
}

/// The statistics of a job over the ads of its procs, from queue and history together. `cpus` is
/// what the job asked for each container.
#[must_use]
pub fn statistics(ads: &[ProcAd], cpus: u32) -> Statistics {
    let cpu_seconds: f64 = ads
        .iter()
        .map(|ad| seconds(&ad.remote_user_cpu) + seconds(&ad.remote_sys_cpu))
        .sum();
    let reserved: f64 = ads
        .iter()
        .map(|ad| seconds(&ad.committed_time))
        .sum::<f64>()
        * f64::from(cpus);
    Statistics {
        cpu_hours: (cpu_seconds > 0.0).then_some(cpu_seconds / SECONDS_PER_HOUR),
        cpu_factor: (reserved > 0.0).then_some(cpu_seconds / reserved),
        max_memory: ads
            .iter()
            .filter_map(ProcAd::memory_usage_mib)
            .max()
            .map(|mib| mib.saturating_mul(BYTES_PER_MIB)),
    }
}

/// Whether every proc is held; true of none at all.
#[must_use]
pub fn all_held(queue: &[ProcAd]) -> bool {
    queue.iter().all(|ad| ad.job_status == Some(HELD))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ad(value: Value) -> ProcAd {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn memory_expressions_are_evaluated() {
        let ads = [ad(json!({
            "MemoryUsage": "/Expr(( ( ResidentSetSize + 1023 ) / 1024 ))/", "ResidentSetSize": 2049
        }))];
        assert_eq!(statistics(&ads, 1).max_memory, Some(3 * BYTES_PER_MIB));
    }

    #[test]
    fn odd_values_count_as_zero() {
        let ads = [ad(json!({
            "JobStatus": 4, "RemoteUserCpu": "/Expr(x)/", "RemoteSysCpu": -3, "CommittedTime": null,
            "MemoryUsage": -1, "Owner": "someone",
        }))];
        assert_eq!(statistics(&ads, 1), Statistics::default());
        assert_eq!(statistics(&[], 1), Statistics::default());
    }

    #[test]
    fn held_means_all_of_them() {
        assert!(all_held(&[]));
        assert!(all_held(&[ad(json!({"JobStatus": 5}))]));
        assert!(!all_held(&[ad(json!({"JobStatus": 5})), ad(json!({}))]));
    }
}
