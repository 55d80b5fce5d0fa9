//! Whoever stages reference data, as a test says.

use std::sync::Mutex;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use cts_service::refdata_stager::{RefdataStager, Staging, StagingError, StagingItem};

/// What becomes of stagings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Plan {
    /// They go on until there is another plan.
    #[default]
    Wait,
    /// They succeed.
    Succeed,
    /// They fail for this reason.
    Fail(String),
    /// Another has them.
    HandOver,
    /// The service stops.
    Stop,
}

/// Stages nothing, and remembers what it was asked.
#[derive(Debug)]
pub(crate) struct StagerDouble {
    plan: watch::Sender<Plan>,
    asked: Mutex<Vec<StagingItem>>,
    hands_over: bool,
}

impl Default for StagerDouble {
    fn default() -> Self {
        Self::new(Plan::Wait, false)
    }
}

impl StagerDouble {
    pub(crate) fn new(plan: Plan, hands_over: bool) -> Self {
        Self {
            plan: watch::Sender::new(plan),
            asked: Mutex::default(),
            hands_over,
        }
    }

    /// What becomes of stagings from now on, those that wait included.
    pub(crate) fn plan(&self, plan: Plan) {
        self.plan.send_replace(plan);
    }

    /// What it was asked to stage.
    pub(crate) fn asked(&self) -> Vec<StagingItem> {
        self.asked.lock().unwrap().clone()
    }
}

impl RefdataStager for StagerDouble {
    fn stage(&self, item: StagingItem) -> BoxFuture<'_, Result<Staging, StagingError>> {
        self.asked.lock().unwrap().push(item);
        let plan = self.plan.subscribe();
        if self.hands_over {
            return async move {
                match decided(plan).await {
                    Plan::Fail(problem) => Err(StagingError::Failed(problem)),
                    _ => Ok(Staging::HandedOver),
                }
            }
            .boxed();
        }
        let staged = async move {
            match decided(plan).await {
                Plan::Fail(problem) => Err(StagingError::Failed(problem)),
                Plan::Stop => Err(StagingError::Stopped),
                _ => Ok(()),
            }
        };
        let staging = Staging::UnderWay(staged.boxed());
        futures::future::ready(Ok(staging)).boxed()
    }

    fn hands_over(&self) -> bool {
        self.hands_over
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }
}

/// The plan, once there is one.
async fn decided(mut plan: watch::Receiver<Plan>) -> Plan {
    let decided = plan.wait_for(|plan| *plan != Plan::Wait).await;
    let decided = decided.ok().map(|plan| plan.clone());
    match decided {
        Some(plan) => plan,
        // The test goes on without it, as with a service that was killed.
        None => std::future::pending().await,
    }
}
