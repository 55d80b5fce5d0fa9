//! Who is calling: tokens to users with roles.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use cts_net::auth2::Auth2Error;
use cts_shared::error_code::ErrorCode;

use crate::error::Error;

mod kbase;
mod token_file;

pub use kbase::{KbaseAuth, KbaseAuthSettings};
pub use token_file::{TokenFile, TokenFileError};

/// What a user may do (contract service.md, section 1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything under `/admin`.
    FullAdmin,
    /// Submit to the `kbase` site.
    KbaseStaff,
    /// Submit to the NERSC and LBNL sites.
    NerscAccount,
    /// Report container states; read any job with admin details.
    ExternalExecutor,
    /// Report reference data states.
    RefdataService,
}

/// A known user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user name.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<Role>,
}

impl User {
    /// Whether the user has the role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Refuses users that have none of the roles.
    ///
    /// # Errors
    /// 20000, naming what is needed.
    pub fn require_any(&self, roles: &[Role]) -> Result<(), Error> {
        if roles.iter().any(|role| self.has(*role)) {
            return Ok(());
        }
        let needed: Vec<&str> = roles.iter().map(|role| role.description()).collect();
        Err(Error::refused(
            ErrorCode::Unauthorized,
            format!("user {} is not {}", self.name, needed.join(" or ")),
        ))
    }
}

impl Role {
    const fn description(self) -> &'static str {
        match self {
            Self::FullAdmin => "a full administrator",
            Self::KbaseStaff => "KBase staff",
            Self::NerscAccount => "a holder of a NERSC account",
            Self::ExternalExecutor => "an external executor",
            Self::RefdataService => "a reference data service",
        }
    }
}

/// Why a question about users was not answered with yes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// The token is not valid.
    #[error("the token is not valid; get a new one")]
    InvalidToken,
    /// No user has the name.
    #[error("{0}")]
    InvalidUserName(String),
    /// Whoever knows the users does not answer; asking again later may help.
    #[error("{message}")]
    Unavailable {
        /// What happened to the question.
        message: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// Whoever knows the users answers what it should not.
    #[error("{0}")]
    Unexpected(String),
}

impl IdentityError {
    fn no_such_user(name: &str) -> Self {
        Self::InvalidUserName(format!("there is no user {name:?}; check the name"))
    }

    fn illegal_user_name() -> Self {
        Self::InvalidUserName("no user can have a name like this; check the name".to_owned())
    }
}

impl From<Auth2Error> for IdentityError {
    fn from(error: Auth2Error) -> Self {
        match error {
            Auth2Error::InvalidToken => Self::InvalidToken,
            Auth2Error::IllegalUserName => Self::illegal_user_name(),
            Auth2Error::Unavailable {
                message,
                retry_after,
            } => Self::Unavailable {
                message,
                retry_after,
            },
            Auth2Error::Unexpected(message) => Self::Unexpected(message),
        }
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::InvalidToken => {
                Self::refused(ErrorCode::InvalidToken, error.to_string())
            }
            IdentityError::InvalidUserName(message) => {
                Self::refused(ErrorCode::InvalidUserName, message)
            }
            IdentityError::Unexpected(message) => Self::Internal(message),
            IdentityError::Unavailable {
                message,
                retry_after,
            } => Self::Unavailable {
                message,
                retry_after,
            },
        }
    }
}

/// Knows the users.
pub trait Identity: Send + Sync + std::fmt::Debug {
    /// The user a token belongs to.
    ///
    /// # Errors
    /// As [`IdentityError`] says.
    fn user<'a>(&'a self, token: &'a SecretString) -> BoxFuture<'a, Result<User, IdentityError>>;

    /// Refuses names that no user has. `token` is the one of whoever asks: users are not told about
    /// to strangers.
    ///
    /// # Errors
    /// [`IdentityError::InvalidUserName`], or why there is no answer.
    fn check_user_name<'a>(
        &'a self,
        name: &'a str,
        token: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), IdentityError>>;

    /// Whether users can be told from strangers now.
    ///
    /// # Errors
    /// Why not.
    fn check(&self) -> BoxFuture<'_, Result<(), IdentityError>>;
}
