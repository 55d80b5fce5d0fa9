//! What every end-to-end test needs.

mod case;
mod coordinator;
mod executor;
mod gate;
mod kafka;
mod proxy;
mod refdata_server;
mod scheduler;
mod test_service;
mod wait;

pub(crate) use case::{Case, testbed};
pub(crate) use coordinator::{Coordinator, TOKEN};
pub(crate) use executor::{Executor, Outcome, Running};
pub(crate) use gate::Gate;
pub(crate) use kafka::{OwnBroker, Topic};
pub(crate) use proxy::{Fault, Proxy};
pub(crate) use refdata_server::RefdataServer;
pub(crate) use scheduler::{scheduler_alone, scheduler_stays};
pub(crate) use test_service::{GOOD_STATES, TestService, states};
pub(crate) use wait::eventually;
