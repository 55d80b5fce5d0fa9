//! The process itself, by the names that Prometheus gives to such metrics. Read when asked for.

use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// This process.
#[derive(Debug)]
pub(super) struct Process {
    start_time_seconds: f64,
}

impl Process {
    /// The program makes its metrics when it starts.
    pub(super) fn started_now() -> Self {
        Self {
            start_time_seconds: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            self.start_time_seconds,
        )?;
        if let Some(bytes) = resident_memory_bytes() {
            gauge(
                "process_resident_memory_bytes",
                "Memory of the process that is not swapped out",
                bytes,
            )?;
        }
        Ok(())
    }
}

/// The line `VmRSS:   12345 kB` of `/proc/self/status` (proc(5)).
fn resident_memory_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}
