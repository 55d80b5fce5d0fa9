//! Whether what the service depends on is there.
//!
//! Besides the service's own end, only the store decides whether it is ready: without it no request works, without any other part
//! some do (a status is read without S3, known users are let in without KBase auth2). If all
//! replicas called themselves not ready when S3 is away, what still works would be taken away too.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use moka::future::Cache;
use serde::Serialize;

use cts_shared::s3_path::S3Path;

use crate::app::App;
use crate::broker::MessageBroker;
use crate::object_store::ObjectStoreError;

/// Longest time one check may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a result is given again, so that asking often costs the dependencies nothing.
const VALID_FOR: Duration = Duration::from_secs(2);

/// What all checks said.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether requests can be sent here.
    pub ready: bool,
    /// The checks, in a fixed order.
    pub dependencies: Vec<DependencyReport>,
}

/// What one check said.
#[derive(Debug, Clone, Serialize)]
pub struct DependencyReport {
    /// `process`, `store`, `s3`, `identity`, `kafka` (where messages are sent), `refdata:` and the name of a
    /// site for which a server stages reference data, or `site:` and its name.
    pub name: String,
    /// Whether it is there.
    pub ok: bool,
    /// Whether the service is not ready without it.
    pub required: bool,
    /// What is wrong, or nothing.
    pub detail: String,
}

/// Checks, at most once every two seconds.
#[derive(Debug)]
pub struct Readiness(Cache<(), Arc<Report>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(1)
                .time_to_live(VALID_FOR)
                .build(),
        )
    }
}

impl Readiness {
    /// The last report, or a new one. Whoever asks meanwhile waits for the same one.
    pub async fn report(&self, app: &App) -> Arc<Report> {
        self.0
            .get_with((), async { Arc::new(check_all(app).await) })
            .await
    }
}

async fn check_all(app: &App) -> Report {
    let servers: Vec<_> = app
        .refdata_stagers
        .iter()
        .filter(|(_, stager)| stager.hands_over())
        .map(|(site, stager)| (format!("refdata:{site}"), stager))
        .collect();
    let mut checks = vec![
        check("process", true, check_process(app)),
        check("store", true, check_store(app)),
        check("s3", false, check_s3(app)),
        check("identity", false, check_identity(app)),
    ];
    if let Some(broker) = &app.broker {
        checks.push(check("kafka", false, check_broker(&**broker)));
    }
    // What is staged already is used without them.
    for (name, stager) in &servers {
        checks.push(check(name, false, stager.check()));
    }
    let mut dependencies = futures::future::join_all(checks).await;
    dependencies.extend(app.sites.iter().map(|(site, status)| {
        let usable = status.usable().map(drop);
        DependencyReport {
            name: format!("site:{site}"),
            ok: usable.is_ok(),
            required: false,
            detail: usable.err().unwrap_or_default(),
        }
    }));
    Report {
        ready: dependencies
            .iter()
            .all(|dependency| dependency.ok || !dependency.required),
        dependencies,
    }
}

async fn check(
    name: &str,
    required: bool,
    question: BoxFuture<'_, Result<(), String>>,
) -> DependencyReport {
    let answer = match tokio::time::timeout(DEADLINE, question).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    DependencyReport {
        name: name.to_owned(),
        ok: answer.is_ok(),
        required,
        detail: answer.err().unwrap_or_default(),
    }
}

/// A service that stops lets the requests go elsewhere that it would cut off.
fn check_process(app: &App) -> BoxFuture<'_, Result<(), String>> {
    let answer = if app.draining.is_cancelled() {
        Err("the service is stopping".to_owned())
    } else {
        Ok(())
    };
    futures::future::ready(answer).boxed()
}

fn check_store(app: &App) -> BoxFuture<'_, Result<(), String>> {
    async {
        // The smallest thing there is to read.
        match app.site_store.inactive_sites().await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
    .boxed()
}

/// Whether the store answers at all. It may say that there is no such object, or that we may not know:
/// the service needs no right to list.
fn check_s3(app: &App) -> BoxFuture<'_, Result<(), String>> {
    async {
        let path =
            S3Path::parse(&app.config.log_dir.join("readyz")).map_err(|error| error.to_string())?;
        match app.object_store.head(&path).await {
            Err(error @ ObjectStoreError::Unavailable { .. }) => Err(error.to_string()),
            _ => Ok(()),
        }
    }
    .boxed()
}

fn check_identity(app: &App) -> BoxFuture<'_, Result<(), String>> {
    async {
        app.identity
            .check()
            .await
            .map_err(|error| error.to_string())
    }
    .boxed()
}

fn check_broker(broker: &dyn MessageBroker) -> BoxFuture<'_, Result<(), String>> {
    broker
        .check()
        .map(|answer| answer.map_err(|error| error.to_string()))
        .boxed()
}
