//! Why no machine of a pool can run a proc: pure comparison of requests with machines.
//!
//! HTCondor's own analysis (`condor_q -better-analyze`) is text for people. What CTS asks for is known:
//! CPUs, memory, disk and perhaps a client group; these are compared one by one.

use serde::Deserialize;

use super::proc_ad::ProcAd;

/// A machine's slot as `condor_status -json` writes it: what it has in all, not what is free now.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MachineAd {
    /// Its name.
    pub machine: Option<String>,
    /// CPUs.
    pub total_slot_cpus: Option<f64>,
    /// MiB.
    pub total_slot_memory: Option<f64>,
    /// KiB.
    pub total_slot_disk: Option<f64>,
    /// Its client groups, as text.
    #[serde(rename = "CLIENTGROUP")]
    pub client_group: Option<String>,
    /// What the worker's check of itself found, where it has one (docs/htcondor.md, "Workers").
    pub cts_executor_healthy: Option<bool>,
    /// What keeps it from being healthy.
    pub cts_executor_problem: Option<String>,
}

/// The attributes of [`MachineAd`].
pub const MACHINE_ATTRIBUTES: [&str; 7] = [
    "Machine",
    "TotalSlotCpus",
    "TotalSlotMemory",
    "TotalSlotDisk",
    "CLIENTGROUP",
    "CtsExecutorHealthy",
    "CtsExecutorProblem",
];

const MIB_PER_GIB: f64 = 1024.0;
const KIB_PER_GIB: f64 = 1024.0 * 1024.0;

/// The reason for which none of the machines can run the proc, if that is so: a sentence with what is asked for
/// and the most there is, or with what is wrong with the machines that are large enough.
#[must_use]
pub fn why_nothing_fits(
    proc: &ProcAd,
    client_group: Option<&str>,
    machines: &[MachineAd],
) -> Option<String> {
    if machines.is_empty() {
        return Some(
            "the pool has no machines now; its administrator must look at the workers".to_owned(),
        );
    }
    let in_group: Vec<&MachineAd> = machines
        .iter()
        .filter(|machine| client_group.is_none_or(|group| has_group(machine, group)))
        .collect();
    if in_group.is_empty() {
        let group = client_group.unwrap_or_default();
        return Some(format!(
            "none of the pool's {} machines has the client group {group}; its administrator must give it to \
             some (CLIENTGROUP), or correct HTCondor.clientgroup",
            machines.len()
        ));
    }
    let asked = Asked::of(proc);
    let large_enough: Vec<&&MachineAd> = in_group
        .iter()
        .filter(|machine| asked.fits(machine))
        .collect();
    if !large_enough.is_empty() {
        return why_nothing_is_healthy(&large_enough);
    }
    let largest = |value: fn(&MachineAd) -> Option<f64>| {
        in_group
            .iter()
            .filter_map(|machine| value(machine))
            .fold(0.0, f64::max)
    };
    let most = Asked {
        cpus: largest(|machine| machine.total_slot_cpus),
        memory_mib: largest(|machine| machine.total_slot_memory),
        disk_kib: largest(|machine| machine.total_slot_disk),
    };
    let mut lacking = Vec::new();
    if asked.cpus > most.cpus {
        lacking.push(format!(
            "{} CPUs, the largest machine has {}",
            asked.cpus, most.cpus
        ));
    }
    if asked.memory_mib > most.memory_mib {
        lacking.push(format!(
            "{:.1} GiB of memory, the largest machine has {:.1} GiB",
            asked.memory_mib / MIB_PER_GIB,
            most.memory_mib / MIB_PER_GIB
        ));
    }
    if asked.disk_kib > most.disk_kib {
        lacking.push(format!(
            "{:.1} GiB of disk, the largest machine has {:.1} GiB",
            asked.disk_kib / KIB_PER_GIB,
            most.disk_kib / KIB_PER_GIB
        ));
    }
    if lacking.is_empty() {
        lacking.push(format!(
            "{} CPUs, {:.1} GiB of memory and {:.1} GiB of disk together, which no single machine has",
            asked.cpus,
            asked.memory_mib / MIB_PER_GIB,
            asked.disk_kib / KIB_PER_GIB
        ));
    }
    Some(format!(
        "no machine of the pool can run it: a container asks for {}; cancel the job and ask for less",
        lacking.join("; for ")
    ))
}

/// The reason for which none of these machines takes procs now. One that has no check of itself takes them.
fn why_nothing_is_healthy(machines: &[&&MachineAd]) -> Option<String> {
    if machines
        .iter()
        .any(|machine| machine.cts_executor_healthy != Some(false))
    {
        return None;
    }
    let telling = machines
        .iter()
        .find(|machine| machine.cts_executor_problem.is_some())
        .or_else(|| machines.first())?;
    let problem = telling
        .cts_executor_problem
        .as_deref()
        .unwrap_or("it does not say why");
    Some(format!(
        "none of the {} machines that could run it takes containers now, by their own check (cts-executor doctor); \
         {}: {}; the pool's administrator must look at these workers",
        machines.len(),
        telling.machine.as_deref().unwrap_or("one"),
        problem.trim().trim_end_matches('.')
    ))
}

/// Whether the group is named. The submit description has HTCondor match a regular expression; a name is
/// one that matches itself. Other expressions are not judged here: they may match.
fn has_group(machine: &MachineAd, group: &str) -> bool {
    let is_plain = group
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    !is_plain
        || machine
            .client_group
            .as_deref()
            .is_some_and(|groups| groups.contains(group))
}

/// What a proc asks for, or a machine has. What is unknown is no demand.
struct Asked {
    cpus: f64,
    memory_mib: f64,
    disk_kib: f64,
}

impl Asked {
    fn of(proc: &ProcAd) -> Self {
        let number = |name| {
            proc.get(name)
                .and_then(serde_json::Value::as_f64)
                .unwrap_or(0.0)
        };
        Self {
            cpus: number("RequestCpus"),
            memory_mib: number("RequestMemory"),
            disk_kib: number("RequestDisk"),
        }
    }

    /// A machine that does not tell how much it has may have enough.
    fn fits(&self, machine: &MachineAd) -> bool {
        machine.total_slot_cpus.is_none_or(|has| self.cpus <= has)
            && machine
                .total_slot_memory
                .is_none_or(|has| self.memory_mib <= has)
            && machine
                .total_slot_disk
                .is_none_or(|has| self.disk_kib <= has)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn proc(cpus: u32, memory_mib: u32) -> ProcAd {
        serde_json::from_value(json!({
            "RequestCpus": cpus, "RequestMemory": memory_mib, "RequestDisk": "/Expr(DiskUsage)/",
        }))
        .unwrap()
    }

    fn machines() -> Vec<MachineAd> {
        serde_json::from_value(json!([
            {"Machine": "a.example.org", "TotalSlotCpus": 64, "TotalSlotMemory": 1024, "TotalSlotDisk": 1e6,
             "CLIENTGROUP": "bigcpu, njs"},
            {"Machine": "b.example.org", "TotalSlotCpus": 4, "TotalSlotMemory": 65536, "TotalSlotDisk": 1e6,
             "CLIENTGROUP": "bigmem"},
            {"Machine": "c.example.org", "TotalSlotCpus": 2, "TotalSlotMemory": 2048},
        ]))
        .unwrap()
    }

    #[test]
    fn what_fits_one_machine_has_no_reason() {
        for (cpus, memory) in [(64, 1024), (4, 65536), (2, 2048), (1, 1)] {
            assert_eq!(
                why_nothing_fits(&proc(cpus, memory), None, &machines()),
                None
            );
        }
        assert_eq!(
            why_nothing_fits(&proc(4, 1), Some("bigmem"), &machines()),
            None
        );
        assert_eq!(
            why_nothing_fits(&proc(4, 1), Some("big(x|mem)"), &machines()),
            None
        );
    }

    #[test]
    fn the_reason_names_what_is_lacking() {
        for (cpus, memory, group, expected) in [
            (65, 1, None, "asks for 65 CPUs, the largest machine has 64;"),
            (
                1,
                65537,
                None,
                "asks for 64.0 GiB of memory, the largest machine has 64.0 GiB;",
            ),
            (
                100,
                100_000,
                None,
                "100 CPUs, the largest machine has 64; for 97.7 GiB of memory",
            ),
            (
                64,
                65536,
                None,
                "64 CPUs, 64.0 GiB of memory and 0.0 GiB of disk together",
            ),
            (
                5,
                1,
                Some("bigmem"),
                "asks for 5 CPUs, the largest machine has 4;",
            ),
            (
                1,
                1,
                Some("gpu"),
                "none of the pool's 3 machines has the client group gpu",
            ),
        ] {
            let reason = why_nothing_fits(&proc(cpus, memory), group, &machines()).unwrap();
            assert!(reason.contains(expected), "{reason}");
        }
        assert!(
            why_nothing_fits(&proc(1, 1), None, &[])
                .unwrap()
                .contains("no machines now")
        );
    }

    #[test]
    fn machines_that_are_not_healthy_are_told_if_there_is_no_other() {
        let mut machines = machines();
        for machine in &mut machines[..2] {
            machine.cts_executor_healthy = Some(false);
        }
        machines[0].cts_executor_problem = Some("engine: no socket there.".to_owned());
        let reason =
            |cpus, machines: &[MachineAd]| why_nothing_fits(&proc(cpus, 1), None, machines);
        assert_eq!(reason(1, &machines), None, "the third has no check");
        assert_eq!(
            reason(4, &machines).as_deref(),
            Some(
                "none of the 2 machines that could run it takes containers now, by their own check (cts-executor \
                 doctor); a.example.org: engine: no socket there; the pool's administrator must look at these \
                 workers"
            )
        );
        machines[1].cts_executor_healthy = Some(true);
        assert_eq!(reason(4, &machines), None);
        assert!(reason(64, &machines).is_some());
        machines[0].cts_executor_problem = None;
        let reason = reason(64, &machines).unwrap();
        assert!(
            reason.contains("a.example.org: it does not say why"),
            "{reason}"
        );
    }
}
