//! Waiting for something to become true.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Calls `probe` until it succeeds; after `deadline` the test fails with the last observation.
pub(crate) async fn eventually<T, F>(what: &str, deadline: Duration, mut probe: F) -> T
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() >= deadline => {
                panic!(
                    "{what}: not within {} s; last seen: {seen}",
                    deadline.as_secs()
                )
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
