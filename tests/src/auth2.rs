//! A double of KBase auth2 in this process: the routes of its HTTP API that the service uses, with its headers,
//! documents and error codes, over users and tokens that tests add and take away; and what goes wrong with
//! such a server, switched on and off.
//!
//! Where it differs from auth2: `cachefor` is each token's own, so that tests can let some end soon; user
//! accounts are neither disabled nor searched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::testbed::free_port;

mod answers;
mod errors;

/// The path below which auth2 is served, as behind KBase's proxy.
const ROOT: &str = "/services/auth";
/// How long the double's tasks may take to notice that it ends.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A running double. It stops when it is dropped.
#[derive(Debug)]
pub struct Auth2 {
    address: SocketAddr,
    state: SharedState,
    /// One of its own: what it runs ends with it, connections that are kept open, too.
    runtime: Option<Runtime>,
}

/// A token, as [`Auth2::add_token`] makes it. The default is that of a login without a second factor,
/// valid for a day, and kept for the five minutes that auth2 allows.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// `Login`, `Agent`, `Developer`, `Service`; nothing keeps a test from others.
    pub kind: String,
    /// `Used`, `NotUsed`, `Unknown`; none: an auth2 that does not know of second factors.
    pub mfa: Option<String>,
    /// How long its answers may be kept.
    pub cache_for: Duration,
    /// How long it is valid.
    pub valid_for: Duration,
}

impl Default for TokenSpec {
    fn default() -> Self {
        Self {
            kind: "Login".to_owned(),
            mfa: Some("NotUsed".to_owned()),
            cache_for: Duration::from_mins(5),
            valid_for: Duration::from_hours(24),
        }
    }
}

/// What goes wrong with every request, whatever it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The right answer, so much later.
    Slow(Duration),
    /// No answer, on a connection that stays open.
    Silent,
    /// 500, as auth2 says it when its database fails.
    Failing,
    /// 502 and a page for people, as the proxy before a dead auth2 says it.
    BadGateway,
    /// 429; the seconds of its `Retry-After`, if it has one.
    RateLimited(Option<u64>),
    /// 503; the seconds of its `Retry-After`, if it has one.
    Unavailable(Option<u64>),
    /// The head and half of an answer, then the connection is closed.
    CutOff,
    /// 200 and a document that ends too soon.
    Garbage,
}

/// A question that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// `GET /`
    Root,
    /// `GET /api/V2/token`
    Token,
    /// `GET /api/V2/me`
    Me,
    /// `GET /api/V2/users/`
    Users,
}

type SharedState = Arc<Mutex<State>>;

#[derive(Debug, Default)]
struct State {
    /// Custom roles by user name.
    users: BTreeMap<String, BTreeSet<String>>,
    tokens: BTreeMap<String, Token>,
    fault: Option<Fault>,
    calls: BTreeMap<Route, usize>,
    running: usize,
    most_at_once: usize,
}

#[derive(Debug, Clone)]
struct Token {
    id: uuid::Uuid,
    user: String,
    spec: TokenSpec,
    created: SystemTime,
}

impl Token {
    fn ends(&self) -> SystemTime {
        self.created + self.spec.valid_for
    }
}

fn lock(state: &SharedState) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Auth2 {
    /// Starts one without users on a free port of this machine, which no outgoing connection takes while it is away.
    ///
    /// # Errors
    /// When no port or thread can be had.
    pub async fn start() -> std::io::Result<Self> {
        let port = free_port("auth2").map_err(std::io::Error::other)?;
        let mut auth2 = Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            state: SharedState::default(),
            runtime: None,
        };
        auth2.come_back().await?;
        Ok(auth2)
    }

    /// The root URL to configure.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{ROOT}", self.address)
    }

    /// Adds a user, or gives one other custom roles.
    pub fn set_user(&self, name: &str, custom_roles: &[&str]) {
        let custom_roles = custom_roles.iter().map(|&role| role.to_owned()).collect();
        lock(&self.state)
            .users
            .insert(name.to_owned(), custom_roles);
    }

    /// Removes a user with all their tokens.
    pub fn remove_user(&self, name: &str) {
        let mut state = lock(&self.state);
        state.users.remove(name);
        state.tokens.retain(|_, token| token.user != name);
    }

    /// Makes a token for a user.
    #[must_use]
    pub fn add_token(&self, user: &str, spec: TokenSpec) -> String {
        // auth2's have 32 characters of base 32.
        let text = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
        let token = Token {
            id: uuid::Uuid::new_v4(),
            user: user.to_owned(),
            spec,
            created: SystemTime::now(),
        };
        lock(&self.state).tokens.insert(text.clone(), token);
        text
    }

    /// Revokes a token.
    pub fn revoke(&self, token: &str) {
        lock(&self.state).tokens.remove(token);
    }

    /// Breaks every request from now on, or no longer.
    pub fn set_fault(&self, fault: Option<Fault>) {
        lock(&self.state).fault = fault;
    }

    /// How often something was asked so far, answered or not.
    #[must_use]
    pub fn calls(&self, route: Route) -> usize {
        lock(&self.state).calls.get(&route).copied().unwrap_or(0)
    }

    /// Most requests that were in progress at the same time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        lock(&self.state).most_at_once
    }

    /// Goes away: connections break, new ones are refused when this returns. Users and tokens stay.
    pub fn leave(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime's thread must not wait for the end of another.
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(END_WITHIN));
            ending.join().expect("nothing in there panics");
        }
    }

    /// Comes back at the same address.
    ///
    /// # Errors
    /// When the port is taken meanwhile, or no thread can be had.
    pub async fn come_back(&mut self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("auth2")
            .enable_all()
            .build()?;
        let address = self.address;
        let listening = runtime.spawn(TcpListener::bind(address)).await;
        let listener = listening.map_err(std::io::Error::other)??;
        let router = answers::router(Arc::clone(&self.state));
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
        Ok(())
    }
}

impl Drop for Auth2 {
    fn drop(&mut self) {
        self.leave();
    }
}
