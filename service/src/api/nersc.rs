//! `GET /admin/clients/nersc`

use std::time::Duration;

use cts_shared::error_code::ErrorCode;
use cts_shared::validation::durations::duration;

use crate::error::Error;
use crate::identity::Role;

use super::checks::Checks;
use super::error::ApiError;
use super::extract::QueryParams;
use super::request_context::Caller;

/// `GET /admin/clients/nersc`: this service has none.
pub async fn client_info(caller: Caller, query: QueryParams) -> Result<(), ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let any = |value: &_| duration(value, Duration::ZERO, "PT0S");
    if checks.query(&query, "require_lifetime", any).is_none() {
        return Err(checks.refuse());
    }
    admin.require_any(&[Role::FullAdmin])?;
    Err(Error::refused(
        ErrorCode::ResourceUnavailable,
        "this service does not run jobs at NERSC and has no NERSC client",
    )
    .into())
}
