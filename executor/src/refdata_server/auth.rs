//! Who is calling: tokens of KBase auth2 to users with the two roles that matter here.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cts_net::auth2::{self, Auth2, Auth2Error};
use cts_net::tls::TlsError;
use cts_shared::error_code::ErrorCode;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use super::error::ApiError;

/// Most users that are remembered. Those who call are the service and some administrators.
const MAX_REMEMBERED: usize = 1000;

/// Longest time that auth2 is not asked again, whatever it says. It says five minutes.
const MAX_FRESH: Duration = Duration::from_hours(1);

/// Which of auth2's custom roles mean what.
#[derive(Debug, Clone)]
pub struct Roles {
    /// Each of these makes a full administrator; none if empty.
    pub full_admin: BTreeSet<String>,
    /// Makes a coordinating service, which may ask for stagings.
    pub service: String,
}

/// A known user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) is_full_admin: bool,
    pub(super) is_service: bool,
}

/// Knows the users. Remembers answers for as long as auth2 says; tokens only by their SHA-256.
#[derive(Debug)]
pub struct Authenticator {
    auth2: Auth2,
    roles: Roles,
    remembered: Mutex<HashMap<TokenHash, Remembered>>,
}

type TokenHash = [u8; 32];

#[derive(Debug)]
struct Remembered {
    user: User,
    until: Instant,
}

impl Authenticator {
    /// Users of the auth2 at `url`. Sends nothing.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(url: Url, roles: Roles) -> Result<Self, TlsError> {
        Ok(Self {
            auth2: Auth2::new(url, auth2::DEADLINE)?,
            roles,
            remembered: Mutex::default(),
        })
    }

    /// Whether users can be told from strangers now.
    pub(super) async fn check(&self) -> Result<(), Auth2Error> {
        self.auth2.check_service_name().await
    }

    /// The user a token belongs to.
    pub(super) async fn user(&self, token: &SecretString) -> Result<User, ApiError> {
        let key: TokenHash = Sha256::digest(token.expose_secret().as_bytes()).into();
        if let Some(user) = self.recall(&key, Instant::now()) {
            return Ok(user);
        }
        let details = self.auth2.token(token).await.map_err(as_api_error)?;
        let me = self.auth2.me(token).await.map_err(as_api_error)?;
        let has = |role: &String| me.customroles.contains(role);
        let user = User {
            is_full_admin: self.roles.full_admin.iter().any(has),
            is_service: has(&self.roles.service),
            name: me.user,
        };
        let fresh_for = details
            .cache_for()
            .min(details.remaining(SystemTime::now()))
            .min(MAX_FRESH);
        self.remember(key, user.clone(), Instant::now(), fresh_for);
        Ok(user)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenHash, Remembered>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, key: &TokenHash, now: Instant) -> Option<User> {
        let remembered = self.lock();
        let known = remembered.get(key).filter(|known| now < known.until)?;
        Some(known.user.clone())
    }

    fn remember(&self, key: TokenHash, user: User, now: Instant, fresh_for: Duration) {
        let mut remembered = self.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, known| now < known.until);
        }
        if remembered.len() >= MAX_REMEMBERED
            && let Some(first) = remembered
                .iter()
                .min_by_key(|(_, known)| known.until)
                .map(|(key, _)| *key)
        {
            remembered.remove(&first);
        }
        let until = now + fresh_for;
        remembered.insert(key, Remembered { user, until });
    }
}

fn as_api_error(error: Auth2Error) -> ApiError {
    match error {
        Auth2Error::InvalidToken => ApiError::refused(ErrorCode::InvalidToken, error.to_string()),
        Auth2Error::Unavailable {
            message,
            retry_after,
        } => ApiError::Unavailable {
            message,
            retry_after,
        },
        Auth2Error::IllegalUserName | Auth2Error::Unexpected(_) => {
            ApiError::Internal(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: usize) -> User {
        User {
            name: name.to_string(),
            is_full_admin: false,
            is_service: false,
        }
    }

    fn key(name: usize) -> TokenHash {
        Sha256::digest(name.to_string()).into()
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_in_time() {
        cts_net::tls::install_provider();
        let roles = Roles {
            full_admin: BTreeSet::new(),
            service: "CTS".to_owned(),
        };
        let users = Authenticator::new(Url::parse("http://auth.invalid").unwrap(), roles).unwrap();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        users.remember(key(0), user(0), now, second);
        assert_eq!(users.recall(&key(0), now), Some(user(0)));
        assert_eq!(users.recall(&key(0), now + second), None);
        for name in 1..=MAX_REMEMBERED + 10 {
            let longer = u32::try_from(name).unwrap();
            users.remember(key(name), user(name), now, second * longer);
        }
        assert_eq!(users.lock().len(), MAX_REMEMBERED);
        assert_eq!(users.recall(&key(5), now), None, "the first to end went");
        let last = MAX_REMEMBERED + 10;
        assert_eq!(users.recall(&key(last), now), Some(user(last)));
    }
}
