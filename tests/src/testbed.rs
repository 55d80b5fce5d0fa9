//! Starts and stops the real components that the end-to-end tests and the demo run on.
//!
//! Everything lives in one directory: downloaded programs in `tools/`, data in `data/`, logs in
//! `logs/`, and `state.json`, which says where the components are. [`Testbed::up`] can be called
//! again at any time: what runs and answers is kept, what an earlier, killed run left behind is
//! cleaned up. [`Testbed::down`] stops what the testbed started and nothing else.

mod component;
mod console;
pub mod engine;
mod error;
pub mod htcondor;
pub mod http;
pub mod image;
pub mod kafka;
mod layout;
mod lock;
pub mod mongo;
mod packages;
mod ports;
mod process;
pub mod registry;
pub mod s3;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use component::{Component, Outcome, bring_up, check};
use lock::Lock;

pub use console::say;
pub use error::TestbedError;
pub use layout::Layout;
pub use packages::Packages;
pub use ports::free_port;
pub use state::State;

/// The name under which the demo keeps its service's data.
pub const DEMO_SERVICE: &str = "demo-service";
/// The service stops its executors first, and they their containers.
const SERVICE_GRACE: Duration = Duration::from_secs(60);

/// The testbed in one directory.
#[derive(Debug)]
pub struct Testbed {
    layout: Layout,
    state: State,
}

/// One line of `testbed status`.
#[derive(Debug)]
pub struct ComponentStatus {
    /// The component's name.
    pub name: &'static str,
    /// Where a client finds it; empty if it was never started.
    pub address: String,
    /// What is wrong with it, if anything.
    pub problem: Option<String>,
}

impl Testbed {
    /// The directory used where none is given: `CTS_TESTBED_DIR`, else `.testbed` at the root of
    /// the checkout.
    pub fn default_dir() -> PathBuf {
        std::env::var_os("CTS_TESTBED_DIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(
                || crate::binaries::workspace().join(".testbed"),
                PathBuf::from,
            )
    }

    /// Makes every component run, and the test images available.
    ///
    /// # Errors
    /// When a component cannot be had; those that were started keep running.
    pub async fn up(dir: &Path) -> Result<Self, TestbedError> {
        let (mut testbed, _lock) = Self::open(dir).await?;
        testbed.bring_up_basis().await?;
        testbed.bring_up_mongo().await?;
        testbed.bring_up_kafka().await?;
        testbed.bring_up_pool().await?;
        Ok(testbed)
    }

    /// Like [`Testbed::up`], without the HTCondor pool, which needs root, the MongoDB server and the Kafka
    /// broker.
    ///
    /// # Errors
    /// When a component cannot be had; those that were started keep running.
    pub async fn up_without_pool(dir: &Path) -> Result<Self, TestbedError> {
        let (mut testbed, _lock) = Self::open(dir).await?;
        testbed.bring_up_basis().await?;
        Ok(testbed)
    }

    async fn open(dir: &Path) -> Result<(Self, Lock), TestbedError> {
        let layout = Layout::new(dir)?;
        let lock = Lock::acquire(&layout).await?;
        let state = State::load(&layout);
        Ok((Self { layout, state }, lock))
    }

    async fn bring_up_pool(&mut self) -> Result<(), TestbedError> {
        let Self { layout, state } = self;
        state.htcondor.use_engine(&state.engine);
        let htcondor = bring_up(&mut state.htcondor, layout).await;
        state.save(layout)?;
        htcondor.map(drop)
    }

    async fn bring_up_mongo(&mut self) -> Result<(), TestbedError> {
        let Self { layout, state } = self;
        let mongo = bring_up(&mut state.mongo, layout).await;
        state.save(layout)?;
        mongo.map(drop)
    }

    async fn bring_up_kafka(&mut self) -> Result<(), TestbedError> {
        let Self { layout, state } = self;
        let kafka = bring_up(&mut state.kafka, layout).await;
        state.save(layout)?;
        kafka.map(drop)
    }

    async fn bring_up_basis(&mut self) -> Result<(), TestbedError> {
        let Self { layout, state } = self;
        // The state is stored after each step, also a failed one, so that the next run and `down`
        // know of what was started.
        let engine = bring_up(&mut state.engine, layout).await;
        state.save(layout)?;
        engine?;
        // Their job's executor is gone with the run that started the registry.
        if !state.registry.address.is_empty() && check(&state.registry).await.is_err() {
            state
                .engine
                .remove_containers_of(&state.registry.address)
                .await?;
        }
        let registry = bring_up(&mut state.registry, layout).await;
        state.save(layout)?;
        let registry = registry?;
        let auth_registry = bring_up(&mut state.auth_registry, layout).await;
        state.save(layout)?;
        let auth_registry = auth_registry?;
        let s3 = bring_up(&mut state.s3, layout).await;
        state.save(layout)?;
        s3?;
        let complete = state.images.is_complete();
        if !complete || [registry, auth_registry].contains(&Outcome::Started) {
            state.images =
                image::publish_all(layout, &state.registry, &state.auth_registry).await?;
            image::check_engine(&state.engine, &state.images.test_tool, layout).await?;
            state.save(layout)?;
        }
        Ok(())
    }

    /// Stops every component that the testbed started, cleans up what a killed run left, and
    /// removes the components' data. Logs and downloaded programs stay.
    ///
    /// # Errors
    /// When something cannot be stopped; the rest is stopped all the same.
    pub async fn down(dir: &Path) -> Result<(), TestbedError> {
        let layout = Layout::new(dir)?;
        let _lock = Lock::acquire(&layout).await?;
        let mut state = State::load(&layout);
        let mut results = vec![stop_services(&layout).await];
        // Before the containers of its jobs, so that no job starts another one.
        results.push(state.htcondor.stop(&layout).await);
        if !state.engine.is_own() && !state.registry.address.is_empty() {
            results.push(
                state
                    .engine
                    .remove_containers_of(&state.registry.address)
                    .await,
            );
        }
        results.push(state.engine.stop(&layout).await);
        results.push(state.registry.stop(&layout).await);
        results.push(state.auth_registry.stop(&layout).await);
        results.push(state.s3.stop(&layout).await);
        results.push(state.mongo.stop(&layout).await);
        results.push(state.kafka.stop(&layout).await);
        state.images = image::Images::default();
        results.push(state.save(&layout));
        // Not empty if something above failed, which is reported.
        let _ = std::fs::remove_dir_all(layout.run_dir());
        results.into_iter().collect()
    }

    /// Stops development services that a killed run left, whose data is in this testbed.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn stop_services(&self) -> Result<(), TestbedError> {
        stop_services(&self.layout).await
    }

    /// How the components are, without changing anything.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn status(dir: &Path) -> Result<Vec<ComponentStatus>, TestbedError> {
        async fn of<C: Component>(component: &C) -> ComponentStatus {
            let problem = check(component).await.err();
            ComponentStatus {
                name: C::NAME,
                address: component.address(),
                problem,
            }
        }
        let layout = Layout::new(dir)?;
        let state = State::load(&layout);
        Ok(vec![
            of(&state.engine).await,
            of(&state.registry).await,
            of(&state.auth_registry).await,
            of(&state.s3).await,
            of(&state.mongo).await,
            of(&state.kafka).await,
            of(&state.htcondor).await,
        ])
    }

    /// The variables by which tests of other crates find the components, each a name and a value.
    ///
    /// # Errors
    /// When the components they name do not run.
    pub async fn variables(dir: &Path) -> Result<Vec<(&'static str, String)>, TestbedError> {
        let state = State::load(&Layout::new(dir)?);
        let stopped = |name| {
            move |problem| TestbedError::new(name, problem, "start it with `make testbed-up`")
        };
        check(&state.mongo).await.map_err(stopped("mongo"))?;
        check(&state.kafka).await.map_err(stopped("kafka"))?;
        // Whoever has a real server names it.
        let named = |name, own| (name, std::env::var(name).unwrap_or(own));
        Ok(vec![
            named("CTS_TEST_MONGO_URL", state.mongo.url),
            named("CTS_TEST_KAFKA", state.kafka.address),
        ])
    }

    /// Where the components are.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the testbed keeps its files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

async fn stop_services(layout: &Layout) -> Result<(), TestbedError> {
    let dir = layout.dir().join("data");
    let services: Vec<_> = process::all()
        .into_iter()
        .filter(|seen| seen.program == "cts-service" && seen.mentions(dir.as_os_str()))
        .map(|seen| seen.id)
        .collect();
    component::stop_processes("cts-service", &services, SERVICE_GRACE).await?;
    component::remove_data_dir(DEMO_SERVICE, layout)
}
