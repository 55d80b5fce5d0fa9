//! The machine that is measured on, in the words of the tables' heading.

use std::time::Duration;

use crate::markdown::Table;

/// More processors than this at work for others make every figure doubtful.
const QUIET: f64 = 0.2;
/// For how long that is looked at.
const LOOK_FOR: Duration = Duration::from_secs(3);
/// `/proc/stat` counts in hundredths of a second.
const TICKS_PER_SEC: f64 = 100.0;

/// Processors, kernel, memory, what else takes part (`others`: name and version), and load.
pub async fn describe(others: &[(&str, String)]) -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut table = Table::new(&["machine", ""]);
    let model = first_value("/proc/cpuinfo", "model name");
    table.row(&["processors", &format!("{processors} x {model}")]);
    table.row(&["kernel", kernel.trim()]);
    table.row(&["memory", &first_value("/proc/meminfo", "MemTotal")]);
    for (name, version) in others {
        table.row(&[name, version.as_str()]);
    }
    let busy = busy_processors(LOOK_FOR).await;
    let remark = if busy < QUIET {
        "quiet"
    } else {
        "NOT QUIET: the figures below are not to be trusted"
    };
    table.row(&[
        "processors busy before the run",
        &format!("{busy:.2} ({remark})"),
    ]);
    table.to_string()
}

/// How many processors are busy, as a mean over a while. Not the load average, which remembers the build
/// that came before.
async fn busy_processors(look_for: Duration) -> f64 {
    let before = busy_ticks();
    tokio::time::sleep(look_for).await;
    let busy = busy_ticks().saturating_sub(before);
    f64::from(u32::try_from(busy).unwrap_or(u32::MAX)) / TICKS_PER_SEC / look_for.as_secs_f64()
}

/// Ticks that all processors together have not been idle since boot, or were taken from this machine by
/// its host (`proc_stat(5)`).
fn busy_ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // After the name: user, nice, system, idle, iowait, irq, softirq, steal.
    let fields = first.split_ascii_whitespace().skip(1).take(8).enumerate();
    let busy = fields.filter(|(index, _)| ![3, 4].contains(index));
    busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .sum()
}

/// The value of the first line `name : value` of a file of `/proc`.
fn first_value(path: &str, name: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.trim() == name);
    found.map_or_else(
        || "unknown".to_owned(),
        |(_, value)| value.trim().to_owned(),
    )
}
