//! What a job used, from the `ClassAds` of its procs (contract condor.md, section 6).

use cts_shared::state::job_flow::Statistics;
use cts_shared::wire::container::ContainerUsage;
use serde_json::Value;

use super::proc_ad::{ProcAd, ProcStatus};

const BYTES_PER_MIB: u64 = 1024 * 1024;

const SECONDS_PER_HOUR: f64 = 3600.0;

/// Absent and odd values count as zero.
fn seconds(ad: &ProcAd, attribute: &str) -> f64 {
    ad.get(attribute)
        .and_then(Value::as_f64)
        .filter(|seconds| *seconds > 0.0)
        .unwrap_or(0.0)
}

/// The statistics of a job over the ads of its procs, from queue and history together, and what the
/// executors measured of their containers. `cpus` is what the job asked for each container.
///
/// `HTCondor` sees the executors only: the containers are children of the container engine. So their CPU time
/// is added to the executors', and the largest memory is that of a container where one was measured.
/// Without such measurements this is the contract's formula.
#[must_use]
pub fn statistics(ads: &[ProcAd], containers: &[ContainerUsage], cpus: u32) -> Statistics {
    let executors: f64 = ads
        .iter()
        .map(|ad| seconds(ad, "RemoteUserCpu") + seconds(ad, "RemoteSysCpu"))
        .sum();
    let cpu_seconds = executors + measured_cpu_seconds(containers);
    let reserved: f64 = ads
        .iter()
        .map(|ad| seconds(ad, "CommittedTime"))
        .sum::<f64>()
        * f64::from(cpus);
    Statistics {
        cpu_hours: (cpu_seconds > 0.0).then_some(cpu_seconds / SECONDS_PER_HOUR),
        cpu_factor: (reserved > 0.0).then_some(cpu_seconds / reserved),
        max_memory: largest_memory(containers).or_else(|| {
            ads.iter()
                .filter_map(ProcAd::memory_usage_mib)
                .max()
                .map(|mib| mib.saturating_mul(BYTES_PER_MIB))
        }),
    }
}

/// What is known before the batch system's account has come, or where there is none: what the executors
/// measured.
#[must_use]
pub fn measured(containers: &[ContainerUsage], cpus: u32) -> Statistics {
    let cpu_seconds = measured_cpu_seconds(containers);
    let reserved = containers
        .iter()
        .filter_map(|usage| usage.wall_ms)
        .map(from_millis)
        .sum::<f64>()
        * f64::from(cpus);
    Statistics {
        cpu_hours: (cpu_seconds > 0.0).then_some(cpu_seconds / SECONDS_PER_HOUR),
        cpu_factor: (cpu_seconds > 0.0 && reserved > 0.0).then_some(cpu_seconds / reserved),
        max_memory: largest_memory(containers),
    }
}

fn measured_cpu_seconds(containers: &[ContainerUsage]) -> f64 {
    containers
        .iter()
        .filter_map(|usage| usage.cpu_ms)
        .map(from_millis)
        .sum()
}

fn largest_memory(containers: &[ContainerUsage]) -> Option<u64> {
    containers
        .iter()
        .filter_map(|usage| usage.max_memory_bytes)
        .max()
}

fn from_millis(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}

/// Whether every proc is held; true of none at all.
#[must_use]
pub fn all_held(queue: &[ProcAd]) -> bool {
    queue.iter().all(|ad| ad.status() == Some(ProcStatus::Held))
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
        assert_eq!(statistics(&ads, &[], 1).max_memory, Some(3 * BYTES_PER_MIB));
    }

    #[test]
    fn odd_values_count_as_zero() {
        let ads = [ad(json!({
            "JobStatus": 4, "RemoteUserCpu": "/Expr(x)/", "RemoteSysCpu": -3, "CommittedTime": null,
            "MemoryUsage": -1, "Owner": "someone",
        }))];
        assert_eq!(statistics(&ads, &[], 1), Statistics::default());
        assert_eq!(statistics(&[], &[], 1), Statistics::default());
    }

    #[test]
    fn containers_are_added_to_their_executors() {
        let ads = [ad(json!({
            "RemoteUserCpu": 1.0, "RemoteSysCpu": 1.0, "CommittedTime": 100, "MemoryUsage": 9,
        }))];
        let usage = [
            ContainerUsage {
                cpu_ms: Some(34_000),
                wall_ms: Some(20_000),
                max_memory_bytes: Some(1000),
            },
            ContainerUsage::default(),
        ];
        let both = statistics(&ads, &usage, 2);
        assert_eq!(both.cpu_hours, Some(0.01));
        assert_eq!(both.cpu_factor, Some(0.18));
        assert_eq!(both.max_memory, Some(1000));
        let alone = measured(&usage, 2);
        assert_eq!(alone.cpu_factor, Some(0.85));
        assert_eq!(measured(&[], 2), Statistics::default());
    }

    #[test]
    fn held_means_all_of_them() {
        assert!(all_held(&[]));
        assert!(all_held(&[ad(json!({"JobStatus": 5}))]));
        assert!(!all_held(&[ad(json!({"JobStatus": 5})), ad(json!({}))]));
    }
}
