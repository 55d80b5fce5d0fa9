//! What the service counts and measures, for Prometheus.
//!
//! The names, labels and meaning of everything here are in `docs/operations.md`; a test compares. Labels
//! have few values, whatever clients send: routes are the router's templates, operations and
//! outcomes are words of this program.

use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use moka::future::Cache;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use cts_shared::state::JobState;

mod process;

use process::Process;

/// Upper bounds of the buckets of durations in seconds: from a read of one row to a client's patience.
const DURATION_BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// Counting everything that waits is not free, and whoever reaches `/metrics` can ask for it.
const BACKLOG_VALID_FOR: Duration = Duration::from_secs(10);

/// The label of requests for paths that do not exist, whatever they are.
const NO_ROUTE: &str = "none";

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

fn durations<L: Clone + std::hash::Hash + Eq>() -> Durations<L> {
    Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS))
}

/// Everything that is counted and measured in one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_durations: Durations<RouteLabels>,
    requests_in_flight: Gauge,
    job_transitions: JobTransitions,
    reconciler_actions: ReconcilerActions,
    notifications: Notifications,
    calls: DependencyCalls,
    jobs_waiting: Family<WaitingLabels, Gauge>,
    unsent_transitions: Gauge,
    oldest_unsent_seconds: Gauge<f64, AtomicU64>,
    /// Holds something while the backlog need not be counted again.
    backlog_counted: Cache<(), ()>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    dependency: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    dependency: &'static str,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitingLabels {
    r#for: &'static str,
}

/// Something outside of the service that it calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// The object store.
    S3,
    /// Image registries.
    Registry,
    /// KBase auth2.
    Auth2,
    /// `HTCondor`'s command line tools.
    Condor,
    /// The message broker.
    Kafka,
    /// The server that stages reference data.
    RefdataServer,
}

impl Dependency {
    const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Registry => "registry",
            Self::Auth2 => "auth2",
            Self::Condor => "htcondor",
            Self::Kafka => "kafka",
            Self::RefdataServer => "refdata_server",
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered as hoped.
    Ok,
    /// It was answered: there is no such thing, or it is denied.
    Refused,
    /// It was not answered, or not sensibly.
    Unavailable,
    /// One of these two: they are not told apart.
    Failed,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }
}

/// Counts calls to what the service depends on; clones count together.
#[derive(Debug, Clone)]
pub struct DependencyCalls {
    calls: Family<CallLabels, Counter>,
    durations: Durations<OperationLabels>,
}

impl Default for DependencyCalls {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            durations: durations(),
        }
    }
}

impl DependencyCalls {
    /// Waits for a call and counts it. One that is given up before its end is not counted.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn measure<T, E>(
        &self,
        dependency: Dependency,
        operation: &'static str,
        call: impl Future<Output = Result<T, E>>,
        failure: impl FnOnce(&E) -> Outcome,
    ) -> Result<T, E> {
        let dependency = dependency.as_str();
        let started = Instant::now();
        let result = call.await;
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(error) => failure(error),
        };
        self.durations
            .get_or_create(&OperationLabels {
                dependency,
                operation,
            })
            .observe(started.elapsed().as_secs_f64());
        self.calls
            .get_or_create(&CallLabels {
                dependency,
                operation,
                outcome: outcome.as_str(),
            })
            .inc();
        result
    }
}

/// Counts the states that jobs enter; clones count together.
#[derive(Debug, Clone, Default)]
pub struct JobTransitions(Family<StateLabels, Counter>);

impl JobTransitions {
    /// A job entered these states.
    pub fn count(&self, states: impl IntoIterator<Item = JobState>) {
        for state in states {
            let state = state.as_str();
            self.0.get_or_create(&StateLabels { state }).inc();
        }
    }
}

/// Something that is done where store and pool disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A cluster that the store did not know was noted.
    Adopted,
    /// A container was ended in error.
    Ended,
    /// A held proc may try again.
    Released,
    /// A proc that nobody needs was removed.
    Removed,
}

impl Action {
    const ALL: [Self; 4] = [Self::Adopted, Self::Ended, Self::Released, Self::Removed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Ended => "ended",
            Self::Released => "released",
            Self::Removed => "removed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
}

/// Counts what is done where store and pool disagree.
#[derive(Debug)]
pub struct ReconcilerActions(Family<ActionLabels, Counter>);

impl Default for ReconcilerActions {
    /// Each is there from the start: a rate needs a first value.
    fn default() -> Self {
        let actions = Self(Family::default());
        for action in Action::ALL {
            actions.count(action, 0);
        }
        actions
    }
}

impl ReconcilerActions {
    /// Something was done so many times.
    pub fn count(&self, action: Action, times: usize) {
        let action = action.as_str();
        self.0
            .get_or_create(&ActionLabels { action })
            .inc_by(u64::try_from(times).unwrap_or(u64::MAX));
    }
}

/// Counts messages about transitions; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Notifications {
    sent: Counter,
    failures: Counter,
    sending: Gauge,
}

impl Notifications {
    /// So many messages were acknowledged.
    pub fn count_sent(&self, messages: u64) {
        self.sent.inc_by(messages);
    }

    /// Of some messages that were sent together, not all were acknowledged.
    pub fn count_failure(&self) {
        self.failures.inc();
    }

    /// Whether this is the service that sends.
    pub fn set_sending(&self, sending: bool) {
        self.sending.set(sending.into());
    }
}

/// What waits in the store, at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backlog {
    /// Jobs that no site has taken yet.
    pub waiting_for_site: usize,
    /// Jobs whose containers have all ended and that have not.
    pub waiting_for_end: usize,
    /// Transitions whose notification is unsent.
    pub unsent_transitions: u64,
    /// Age of the oldest of them; none if there are none.
    pub oldest_unsent: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has been counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_durations: durations(),
            requests_in_flight: Gauge::default(),
            job_transitions: JobTransitions::default(),
            reconciler_actions: ReconcilerActions::default(),
            notifications: Notifications::default(),
            calls: DependencyCalls::default(),
            jobs_waiting: Family::default(),
            unsent_transitions: Gauge::default(),
            oldest_unsent_seconds: Gauge::default(),
            backlog_counted: Cache::builder()
                .max_capacity(1)
                .time_to_live(BACKLOG_VALID_FOR)
                .build(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "cts_build",
            "The program that runs",
            Info::new([
                ("version", env!("CARGO_PKG_VERSION")),
                ("git_hash", cts_build_info::GIT_HASH),
            ]),
        );
        registry.register(
            "cts_http_requests",
            "Requests answered",
            self.requests.clone(),
        );
        registry.register(
            "cts_http_request_duration_seconds",
            "Time until the head of the answer was ready",
            self.request_durations.clone(),
        );
        registry.register(
            "cts_http_requests_in_flight",
            "Requests that wait for the head of their answer",
            self.requests_in_flight.clone(),
        );
        registry.register(
            "cts_job_transitions",
            "Jobs that entered a state",
            self.job_transitions.0.clone(),
        );
        registry.register(
            "cts_reconciler_actions",
            "What was done where store and pool disagreed",
            self.reconciler_actions.0.clone(),
        );
        registry.register(
            "cts_notifications_sent",
            "Messages about transitions that the broker acknowledged",
            self.notifications.sent.clone(),
        );
        registry.register(
            "cts_notifications_failures",
            "Tries to send messages of which not all were acknowledged",
            self.notifications.failures.clone(),
        );
        registry.register(
            "cts_notifications_sender",
            "1 if this is the service that sends messages, else 0",
            self.notifications.sending.clone(),
        );
        registry.register(
            "cts_dependency_calls",
            "Calls to other systems, retries within a call not counted",
            self.calls.calls.clone(),
        );
        registry.register(
            "cts_dependency_call_duration_seconds",
            "Time until a call to another system had its outcome",
            self.calls.durations.clone(),
        );
        registry.register(
            "cts_jobs_waiting",
            "Jobs that wait for the service to do something, up to 1000",
            self.jobs_waiting.clone(),
        );
        registry.register(
            "cts_outbox_unsent_transitions",
            "Transitions of jobs whose notification is unsent",
            self.unsent_transitions.clone(),
        );
        registry.register(
            "cts_outbox_oldest_unsent_seconds",
            "Age of the oldest unsent transition, 0 if there is none",
            self.oldest_unsent_seconds.clone(),
        );
        registry.register_collector(Box::new(Process::started_now()));
    }

    /// Counts calls to what the service depends on.
    #[must_use]
    pub fn dependency_calls(&self) -> DependencyCalls {
        self.calls.clone()
    }

    /// Counts the states that jobs enter.
    #[must_use]
    pub fn job_transitions(&self) -> JobTransitions {
        self.job_transitions.clone()
    }

    /// Counts what is done where store and pool disagree.
    #[must_use]
    pub const fn reconciler_actions(&self) -> &ReconcilerActions {
        &self.reconciler_actions
    }

    /// Counts messages about transitions.
    #[must_use]
    pub fn notifications(&self) -> Notifications {
        self.notifications.clone()
    }

    /// A request has come; it counts as in flight until the value is dropped.
    #[must_use]
    pub fn request_begins(&self) -> RequestInFlight {
        self.requests_in_flight.inc();
        RequestInFlight(self.requests_in_flight.clone())
    }

    /// A request was answered. `route` is the template that its path matched, if any.
    pub fn request_answered(
        &self,
        method: &Method,
        route: Option<&str>,
        status: StatusCode,
        elapsed: Duration,
    ) {
        let method = method_label(method);
        let route = route.unwrap_or(NO_ROUTE).to_owned();
        let labels = RouteLabels { method, route };
        self.request_durations
            .get_or_create(&labels)
            .observe(elapsed.as_secs_f64());
        self.requests
            .get_or_create(&RequestLabels {
                method,
                route: labels.route,
                status: status.as_u16(),
            })
            .inc();
    }

    /// Shows what waits in the store. It is counted at most every ten seconds, and by one of those who
    /// ask at the same time; where the count fails, the last one stays.
    pub async fn update_backlog(&self, count: impl Future<Output = Option<Backlog>>) {
        self.backlog_counted
            .get_with((), async {
                if let Some(backlog) = count.await {
                    self.set_backlog(&backlog);
                }
            })
            .await;
    }

    fn set_backlog(&self, backlog: &Backlog) {
        for (waits_for, count) in [
            ("site", backlog.waiting_for_site),
            ("end", backlog.waiting_for_end),
        ] {
            self.jobs_waiting
                .get_or_create(&WaitingLabels { r#for: waits_for })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.unsent_transitions
            .set(i64::try_from(backlog.unsent_transitions).unwrap_or(i64::MAX));
        self.oldest_unsent_seconds
            .set(backlog.oldest_unsent.as_secs_f64());
    }

    /// Everything, in the `OpenMetrics` text format.
    ///
    /// # Errors
    /// Never in practice: text is written into memory.
    pub fn to_text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct RequestInFlight(Gauge);

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Clients can make up methods.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
