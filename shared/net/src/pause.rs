//! A time in which something is left alone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No pause until one begins.
#[derive(Debug, Default)]
pub struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// A pause of `length` from now on. One that ends later goes on.
    pub fn begin(&self, length: Duration) {
        let mut end = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *end = (*end).max(Some(Instant::now() + length));
    }

    /// Ends it.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What is left of it; nothing if there is none.
    #[must_use]
    pub fn rest(&self) -> Option<Duration> {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        end?.checked_duration_since(Instant::now())
    }
}
