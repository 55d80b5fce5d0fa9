//! The coordinating service as the executor sees it: who it is, which job, one state update.
//! Each call is one attempt; [`crate::report`] decides what is tried again.

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::state::JobState;
use cts_shared::wire::attempt::{AttemptNotice, AttemptStanding};
use cts_shared::wire::container::ContainerUpdate;
use cts_shared::wire::job::AdminJob;
use cts_shared::wire::refdata::ReferenceData;
use cts_shared::wire::root::Root;
use futures::future::BoxFuture;

pub(crate) mod client;
pub mod http;

/// The service's calls that an executor makes (contract executor.md, section 2).
pub trait Coordinator: Send + Sync + std::fmt::Debug {
    /// `GET /`: version and commit, for the log.
    fn root(&self) -> BoxFuture<'_, Result<Root, CoordinatorError>>;

    /// `GET /admin/jobs/{job}`.
    fn job(&self) -> BoxFuture<'_, Result<AdminJob, CoordinatorError>>;

    /// `GET /refdata/id/{id}`.
    fn refdata<'a>(
        &'a self,
        id: &'a RefdataId,
    ) -> BoxFuture<'a, Result<ReferenceData, CoordinatorError>>;

    /// `GET /whoami`: the user the token belongs to.
    fn whoami(&self) -> BoxFuture<'_, Result<String, CoordinatorError>>;

    /// `PUT /external_exec/jobs/{job}/container/{n}/update/{state}`.
    fn update<'a>(
        &'a self,
        state: JobState,
        body: &'a ContainerUpdate,
    ) -> BoxFuture<'a, Result<(), CoordinatorError>>;

    /// `POST /external_exec/jobs/{job}/container/{n}/attempts`, where the service counts attempts: this
    /// executor begins. Safe to repeat.
    fn announce<'a>(
        &'a self,
        notice: &'a AttemptNotice,
    ) -> BoxFuture<'a, Result<AttemptStanding, CoordinatorError>>;

    /// `PUT .../attempts/{attempt}`: this executor is still at work.
    fn renew<'a>(
        &'a self,
        attempt: u32,
        notice: &'a AttemptNotice,
    ) -> BoxFuture<'a, Result<AttemptStanding, CoordinatorError>>;

    /// `GET /admin/jobs/{job}/container/{n}`: the container's own state, where the service lets an
    /// executor see it. The existing service does not.
    fn container_state(&self) -> BoxFuture<'_, Result<JobState, CoordinatorError>>;
}

/// Hears after each call whether it has to be tried again, and because of what.
pub type Observer = Box<dyn Fn(Option<&CoordinatorError>) + Send + Sync>;

/// Why a call to the service failed, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// No connection: the call had no effect, trying again may help.
    #[error(
        "cannot connect to the service for {call}: {cause}; check SERVICE_ROOT_URL, the network and \
         that the service is up"
    )]
    Unreachable {
        /// Method and URL.
        call: String,
        /// What happened.
        cause: String,
    },
    /// No answer, or none that the service itself would give: trying again may help, and the call
    /// may have had its effect.
    #[error("the service gave no usable answer to {call}: {cause}")]
    Unavailable {
        /// Method and URL.
        call: String,
        /// What happened.
        cause: String,
    },
    /// The service said "not now": the call had no effect, trying again later may help.
    #[error("the service cannot do {call} now: {cause}")]
    NotNow {
        /// Method and URL.
        call: String,
        /// The service's words.
        cause: String,
    },
    /// The token is refused. A fresh token in the file would help.
    #[error(
        "the service refuses the token for {call}: {cause}; put a valid token into the file of \
         TOKEN_PATH"
    )]
    TokenRefused {
        /// Method and URL.
        call: String,
        /// The service's words.
        cause: String,
    },
    /// The service understood and refuses: trying again cannot help.
    #[error("the service refuses {call}: {cause}")]
    Refused {
        /// Method and URL.
        call: String,
        /// The service's words.
        cause: String,
        /// The application code of the contract's error table.
        appcode: Option<u32>,
    },
    /// The answer is a success that makes no sense: a job document that cannot be read.
    #[error("the service's answer to {call} cannot be used: {cause}")]
    Malformed {
        /// Method and URL.
        call: String,
        /// What is wrong with it, with the JSON path.
        cause: String,
    },
}

impl CoordinatorError {
    /// Whether trying again can help.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Unavailable { .. }
            | Self::NotNow { .. }
            | Self::TokenRefused { .. } => false,
            Self::Refused { .. } | Self::Malformed { .. } => true,
        }
    }

    /// Whether the call may have had its effect although it failed: the answer was lost.
    #[must_use]
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether another token might not have been refused: the token itself, or its roles.
    #[must_use]
    pub fn is_about_the_token(&self) -> bool {
        matches!(self, Self::TokenRefused { .. }) || self.refusal() == Some(ErrorCode::Unauthorized)
    }

    /// The application code of a refusal, if it is one that the contract knows.
    #[must_use]
    pub fn refusal(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { appcode, .. } => appcode.and_then(ErrorCode::from_code),
            _ => None,
        }
    }
}
