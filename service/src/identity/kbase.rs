//! KBase auth2 as the source of users (contract service.md, sections 1.2 and 8).
//!
//! Answers are remembered, so that a request costs no call: a user for as long as auth2 says, an
//! invalid token for a few seconds. A user is also remembered as *last known*, for an hour longer; that is
//! used only while auth2 does not answer at all, and never past the token's own end. A token that was
//! revoked, or a role that was taken away, therefore lives on until the time auth2 gave is over, and
//! while auth2 is down up to [`KEPT_FOR_OUTAGES`] longer.
//!
//! An auth2 in trouble is spared: of several requests with one token one asks, few calls run at the same
//! time, a `Retry-After` is kept to, and after a call without an answer users that are known are not
//! asked about for a moment.
//!
//! No token is kept: the memory goes by their SHA-256.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use moka::Expiry;
use moka::future::Cache;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use cts_net::auth2::{self, Auth2, Auth2Error, Me, TokenDetails};
use cts_net::pause::Pause;
use cts_net::tls::TlsError;

use crate::metrics::{Dependency, DependencyCalls, Outcome};

use super::{Identity, IdentityError, Role, User};

#[cfg(test)]
mod tests;

/// Most tokens and names that are remembered (contract section 8).
const MAX_REMEMBERED: u64 = 10_000;

/// Longest time that auth2 is not asked again, whatever it says. It says five minutes.
const MAX_FRESH: Duration = Duration::from_hours(1);

/// How long a user is kept past that for the times when auth2 does not answer.
const KEPT_FOR_OUTAGES: Duration = Duration::from_hours(1);

/// How long an invalid token is refused without asking: long enough that a client that repeats itself
/// does not reach auth2, short enough that nobody notices.
const INVALID_FOR: Duration = Duration::from_secs(10);

/// How long auth2 is not asked about users that are known once it did not answer: their requests must not
/// wait for its deadline, one user's after the other's.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How long a user name is known to exist. Names are never taken back.
const NAME_KNOWN_FOR: Duration = Duration::from_hours(1);

/// Longest user name auth2 knows, in characters.
const MAX_NAME_LENGTH: usize = 100;

/// Which auth2, and which of its custom roles mean what.
#[derive(Debug, Clone)]
pub struct KbaseAuthSettings {
    /// Root of auth2, such as `https://kbase.us/services/auth`.
    pub url: Url,
    /// Each of these makes a full administrator; none if empty.
    pub admin_roles: BTreeSet<String>,
    /// Makes [`Role::KbaseStaff`].
    pub kbase_staff_role: String,
    /// Makes [`Role::NerscAccount`].
    pub nersc_account_role: String,
    /// Makes [`Role::ExternalExecutor`].
    pub external_executor_role: String,
    /// Makes [`Role::RefdataService`].
    pub refdata_service_role: String,
}

impl KbaseAuthSettings {
    fn roles(&self, custom_roles: &[String]) -> BTreeSet<Role> {
        let role_of = |name: &String| {
            [
                (self.admin_roles.contains(name), Role::FullAdmin),
                (*name == self.kbase_staff_role, Role::KbaseStaff),
                (*name == self.nersc_account_role, Role::NerscAccount),
                (*name == self.external_executor_role, Role::ExternalExecutor),
                (*name == self.refdata_service_role, Role::RefdataService),
            ]
        };
        custom_roles
            .iter()
            .flat_map(role_of)
            .filter_map(|(has, role)| has.then_some(role))
            .collect()
    }
}

/// Users of KBase auth2.
#[derive(Debug)]
pub struct KbaseAuth {
    auth2: Auth2,
    calls: DependencyCalls,
    settings: KbaseAuthSettings,
    /// What auth2 said; `None`: the token is not valid.
    answers: Cache<TokenHash, Remembered<Option<User>>>,
    /// What auth2 said last about valid tokens, for when it does not answer.
    last_known: Cache<TokenHash, Remembered<User>>,
    /// Names that exist.
    names: Cache<String, ()>,
    /// A call has had no answer a moment ago.
    away: Pause,
}

type TokenHash = [u8; 32];

fn hash(token: &SecretString) -> TokenHash {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}

/// A value, and when it is forgotten.
#[derive(Debug, Clone)]
struct Remembered<T> {
    value: T,
    until: Instant,
}

/// Tells the caches when to forget.
struct AtItsEnd;

impl<K, T> Expiry<K, Remembered<T>> for AtItsEnd {
    fn expire_after_create(
        &self,
        _key: &K,
        remembered: &Remembered<T>,
        now: Instant,
    ) -> Option<Duration> {
        Some(remembered.until.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _key: &K,
        remembered: &Remembered<T>,
        now: Instant,
        _before: Option<Duration>,
    ) -> Option<Duration> {
        Some(remembered.until.saturating_duration_since(now))
    }
}

fn memory<T: Clone + Send + Sync + 'static>() -> Cache<TokenHash, Remembered<T>> {
    Cache::builder()
        .max_capacity(MAX_REMEMBERED)
        .expire_after(AtItsEnd)
        .build()
}

/// The last answer about a user, to be used for so long, but not past its end.
fn as_last_known(last: &Remembered<User>, rest: Duration) -> Remembered<Option<User>> {
    Remembered {
        value: Some(last.value.clone()),
        until: last.until.min(Instant::now() + rest),
    }
}

impl KbaseAuth {
    /// Users of the auth2 in the settings. Sends nothing: the service starts without auth2, and
    /// [`Identity::check`] tells whether it is there. `calls` counts the calls to it.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: KbaseAuthSettings, calls: DependencyCalls) -> Result<Self, TlsError> {
        Self::with_deadline(settings, calls, auth2::DEADLINE)
    }

    fn with_deadline(
        settings: KbaseAuthSettings,
        calls: DependencyCalls,
        deadline: Duration,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            auth2: Auth2::new(settings.url.clone(), deadline)?,
            calls,
            settings,
            answers: memory(),
            last_known: memory(),
            names: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(NAME_KNOWN_FOR)
                .build(),
            away: Pause::default(),
        })
    }

    /// A call to auth2, counted.
    async fn counted<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, Auth2Error>>,
    ) -> Result<T, IdentityError> {
        let failure = |error: &Auth2Error| match error {
            Auth2Error::InvalidToken | Auth2Error::IllegalUserName => Outcome::Refused,
            Auth2Error::Unavailable { .. } | Auth2Error::Unexpected(_) => Outcome::Unavailable,
        };
        let answer = self
            .calls
            .measure(Dependency::Auth2, operation, call, failure);
        Ok(answer.await?)
    }

    async fn look_up(&self, token: &SecretString) -> Result<User, IdentityError> {
        let key = hash(token);
        // Of several requests with one token, one asks and the others wait for its answer.
        let remembered = self
            .answers
            .try_get_with(key, self.ask(key, token))
            .await
            .map_err(|error: Arc<IdentityError>| (*error).clone())?;
        remembered.value.ok_or(IdentityError::InvalidToken)
    }

    async fn ask(
        &self,
        key: TokenHash,
        token: &SecretString,
    ) -> Result<Remembered<Option<User>>, IdentityError> {
        let last = self.last_known.get(&key).await;
        if let (Some(last), Some(rest)) = (&last, self.away.rest()) {
            return Ok(as_last_known(last, rest));
        }
        let answer = async {
            let details = self.counted("token", self.auth2.token(token)).await?;
            let me = self.counted("me", self.auth2.me(token)).await?;
            Ok((details, me))
        };
        match answer.await {
            Ok((details, me)) => {
                self.away.end();
                Ok(self.remember(key, &details, me).await)
            }
            Err(IdentityError::InvalidToken) => {
                self.last_known.invalidate(&key).await;
                Ok(Remembered {
                    value: None,
                    until: Instant::now() + INVALID_FOR,
                })
            }
            Err(error @ IdentityError::Unavailable { .. }) => {
                self.away.begin(ASK_AGAIN_AFTER);
                let Some(last) = last else {
                    return Err(error);
                };
                tracing::warn!(
                    user.name = %last.value.name,
                    cause = %error,
                    "KBase auth2 does not answer, its last answer about the user is used"
                );
                Ok(as_last_known(&last, ASK_AGAIN_AFTER))
            }
            Err(error) => Err(error),
        }
    }

    async fn remember(
        &self,
        key: TokenHash,
        details: &TokenDetails,
        me: Me,
    ) -> Remembered<Option<User>> {
        let user = User {
            roles: self.settings.roles(&me.customroles),
            name: me.user,
        };
        let now = Instant::now();
        let end_of_token = now + details.remaining(SystemTime::now());
        let fresh_until = now + details.cache_for().min(MAX_FRESH);
        self.last_known
            .insert(
                key,
                Remembered {
                    value: user.clone(),
                    until: end_of_token.min(fresh_until + KEPT_FOR_OUTAGES),
                },
            )
            .await;
        Remembered {
            value: Some(user),
            until: end_of_token.min(fresh_until),
        }
    }
}

impl Identity for KbaseAuth {
    fn user<'a>(&'a self, token: &'a SecretString) -> BoxFuture<'a, Result<User, IdentityError>> {
        self.look_up(token).boxed()
    }

    fn check_user_name<'a>(
        &'a self,
        name: &'a str,
        token: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), IdentityError>> {
        async move {
            if name.trim().is_empty() || name.chars().count() > MAX_NAME_LENGTH {
                return Err(IdentityError::illegal_user_name());
            }
            if self.names.contains_key(name) {
                return Ok(());
            }
            // A name with a comma would be taken for two: neither is then called what was asked for.
            let existing = self.auth2.existing_users(name, token);
            if !self.counted("users", existing).await?.contains(name) {
                return Err(IdentityError::no_such_user(name));
            }
            self.names.insert(name.to_owned(), ()).await;
            Ok(())
        }
        .boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), IdentityError>> {
        self.counted("root", self.auth2.check_service_name())
            .boxed()
    }
}
