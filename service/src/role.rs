//! What one of several services over the same store does for all of them, as long as it lives.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Clock;
use crate::job_store::StoreError;
use crate::lease_store::{Lease, LeaseRequest, LeaseStore};

/// A part that this service plays while it has the lease of that name.
#[derive(Debug, Clone)]
pub struct Role {
    leases: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    name: &'static str,
    holder: String,
    duration: Duration,
}

impl Role {
    /// A part that lapses that long after it was last [taken](Self::take). Whoever plays it takes it more
    /// often than that.
    #[must_use]
    pub fn new(
        leases: Arc<dyn LeaseStore>,
        clock: Arc<dyn Clock>,
        name: &'static str,
        duration: Duration,
    ) -> Self {
        Self {
            leases,
            clock,
            name,
            holder: Uuid::new_v4().to_string(),
            duration,
        }
    }

    /// The same, under a name that outlives the process: when it starts again, the part is its own still.
    #[must_use]
    pub fn held_by(self, holder: String) -> Self {
        Self { holder, ..self }
    }

    /// Takes the part, or keeps it. False if another service has it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn take(&self) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let request = LeaseRequest {
            name: self.name.to_owned(),
            holder: self.holder.clone(),
            now,
            until: now.plus(self.duration),
        };
        Ok(self.leases.take_lease(request).await? != Lease::Held)
    }

    /// Gives the part up, so that another service need not wait for it to lapse. Does nothing if another
    /// has it.
    pub async fn give_up(&self) {
        let given = self
            .leases
            .give_back_lease(self.name.to_owned(), self.holder.clone())
            .await;
        if let Err(error) = given {
            tracing::debug!(role = self.name, %error, "a role lapses by itself");
        }
    }
}
