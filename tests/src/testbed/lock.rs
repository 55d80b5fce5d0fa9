//! One `up` or `down` at a time.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::console::say;
use super::error::TestbedError;
use super::layout::Layout;

/// Longer than a first `up` with all its downloads takes.
const WAIT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(200);

/// Held while the testbed is changed; the kernel releases it when the holder dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for whoever holds the lock of this testbed.
    pub(super) async fn acquire(layout: &Layout) -> Result<Self, TestbedError> {
        let path = layout.lock_file();
        let failed = |error: std::io::Error| {
            TestbedError::new(
                "testbed lock",
                format!("cannot lock {}: {error}", path.display()),
                "check the owner and mode of the testbed directory",
            )
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let deadline = Instant::now() + WAIT;
        let mut told = false;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
            let mut holder = String::new();
            file.rewind()
                .and_then(|()| file.read_to_string(&mut holder))
                .map_err(failed)?;
            let holder = holder.trim();
            if Instant::now() >= deadline {
                return Err(TestbedError::new(
                    "testbed lock",
                    format!(
                        "process {holder} has changed this testbed for {} s",
                        WAIT.as_secs()
                    ),
                    "look at what it does, or stop it",
                ));
            }
            if !told {
                say(format_args!(
                    "process {holder} is changing this testbed; waiting for it"
                ));
                told = true;
            }
            tokio::time::sleep(POLL).await;
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
