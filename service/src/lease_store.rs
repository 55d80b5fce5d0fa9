//! Leases: which of several services over one store does something that must be done by one at a time.
//!
//! A lease has a name, a holder and an end. Its holder renews it while it works; when the holder dies
//! it lapses, and another takes it. Times are the services' clocks, so a lease must be long beside their
//! difference. What a lease protects must stay harmless if two believe they hold it for a moment: a
//! process can stop at any point and go on after its lease has lapsed.

use futures::future::BoxFuture;

use cts_shared::timestamp::UtcTime;

use crate::job_store::StoreError;

/// Asks for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// What is to be done.
    pub name: String,
    /// Who asks: one running service.
    pub holder: String,
    /// The time now.
    pub now: UtcTime,
    /// When it lapses unless it is renewed.
    pub until: UtcTime,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It is the asker's, and was nobody's: never asked for, or given back since.
    Fresh,
    /// It is the asker's, who had it already.
    Renewed,
    /// It is the asker's; another, or the asker long ago, had it and let it lapse. What it protects may
    /// be half done.
    TakenOver,
    /// It is another's.
    Held,
}

/// Keeps leases.
pub trait LeaseStore: Send + Sync + std::fmt::Debug {
    /// Takes, renews or is refused a lease, in one step.
    ///
    /// # Errors
    /// When the store fails.
    fn take_lease(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Gives a lease back. Changes nothing if it is another's by now.
    ///
    /// # Errors
    /// When the store fails.
    fn give_back_lease(
        &self,
        name: String,
        holder: String,
    ) -> BoxFuture<'_, Result<(), StoreError>>;
}
