//! What a container uses, as the engine measures it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures::StreamExt;

use super::super::Usage;
use super::Client;

/// Pause before the engine is asked again after the measurements broke off.
const PAUSE: Duration = Duration::from_secs(10);

/// Follows the engine's measurements, about one a second. Does not end by itself: it is dropped with the handle.
pub(super) async fn measure(client: Client, id: String, usage: Arc<Mutex<Usage>>) {
    loop {
        let options = StatsOptionsBuilder::default().stream(true).build();
        let samples = client.docker.stats(&id, Some(options));
        let mut samples = std::pin::pin!(samples);
        while let Some(sample) = samples.next().await {
            match sample {
                Ok(sample) => {
                    let mut usage = usage.lock().unwrap_or_else(PoisonError::into_inner);
                    add_sample(&mut usage, &sample);
                }
                Err(error) => {
                    tracing::debug!(container.id = id, %error, "measurements broke off");
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Keeps the highest values: after its end a container is reported with none.
fn add_sample(usage: &mut Usage, sample: &ContainerStatsResponse) {
    let nanoseconds = sample
        .cpu_stats
        .as_ref()
        .and_then(|cpu| cpu.cpu_usage.as_ref())
        .and_then(|cpu| cpu.total_usage)
        .filter(|time| *time > 0);
    if let Some(time) = nanoseconds.map(|time| Duration::from_nanos(time).as_secs_f64()) {
        usage.cpu_seconds = Some(usage.cpu_seconds.map_or(time, |highest| highest.max(time)));
    }
    let memory = sample.memory_stats.as_ref().and_then(|memory| {
        // Page cache that the kernel can take back at any time is not need. Named as in cgroup v1 and v2.
        let stats = memory.stats.as_ref();
        let cache = ["total_inactive_file", "inactive_file"]
            .iter()
            .find_map(|name| stats.and_then(|stats| stats.get(*name)))
            .copied()
            .unwrap_or(0);
        memory.usage.map(|all| all.saturating_sub(cache))
    });
    if let Some(memory) = memory.filter(|bytes| *bytes > 0) {
        usage.peak_memory_bytes = usage.peak_memory_bytes.max(Some(memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> ContainerStatsResponse {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn keeps_the_highest_and_leaves_the_cache_out() {
        let mut usage = Usage::default();
        for text in [
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":1500000000}},"memory_stats":{"usage":100,"stats":{"inactive_file":40}}}"#,
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":2500000000}},"memory_stats":{"usage":90,"stats":{"total_inactive_file":50,"inactive_file":1}}}"#,
            // What is sent after the end.
            r#"{"cpu_stats":{"cpu_usage":{"total_usage":0}},"memory_stats":{}}"#,
            "{}",
        ] {
            add_sample(&mut usage, &sample(text));
        }
        assert_eq!(usage.cpu_seconds, Some(2.5));
        assert_eq!(usage.peak_memory_bytes, Some(60));
    }

    #[test]
    fn nothing_heard_is_none() {
        let mut usage = Usage::default();
        add_sample(&mut usage, &sample("{}"));
        assert_eq!(usage, Usage::default());
    }
}
