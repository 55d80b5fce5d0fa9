//! What can be done with reference data (contract service.md, sections 5.5, 6 and 10): no HTTP here, and no SQL.

use std::sync::Arc;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::{RefdataStatusNow, ReferenceData};

use crate::app::App;
use crate::error::Error;
use crate::refdata_store::{Refdata, status_at};

pub mod clean;
pub mod recover;
pub mod register;
pub mod stage;
pub mod update;

/// The id of reference data named in a request. What cannot be an id is that of none.
///
/// # Errors
/// 40060.
pub fn refdata_id(text: &str) -> Result<RefdataId, Error> {
    text.parse().map_err(|_| no_such_refdata(text))
}

fn no_such_refdata(id: impl std::fmt::Display) -> Error {
    Error::refused(
        ErrorCode::NoSuchRefdata,
        format!("No reference data with ID '{id}' exists"),
    )
}

/// What to do where reference data was never staged.
fn no_state_at(id: &RefdataId, site: Site) -> String {
    format!(
        "reference data {id} has no state at site {site}; PUT /admin/refdata/{id}/{site}/recover has it staged there"
    )
}

/// The reference data of that id.
///
/// # Errors
/// 40060, or a failure of the store.
pub async fn get(app: &App, id: &RefdataId) -> Result<Refdata, Error> {
    let found = app.refdata.refdata(id.clone()).await?;
    found.ok_or_else(|| no_such_refdata(id))
}

/// The reference data of that id, and how far its stagings are where that is known here.
///
/// # Errors
/// 40060, or a failure of the store.
pub async fn get_now(app: &App, id: &RefdataId) -> Result<ReferenceData<RefdataStatusNow>, Error> {
    let mut refdata = get(app, id).await?;
    let mut statuses = Vec::new();
    for status in std::mem::take(&mut refdata.statuses) {
        let stager = app.refdata_stagers.of(status.status.cluster);
        let progress = match (status.status.state, stager) {
            (RefdataState::DownloadSubmitted, Some(stager)) => stager.progress(id).await,
            _ => None,
        };
        statuses.push(RefdataStatusNow { status, progress });
    }
    Ok(refdata.with_statuses(statuses))
}

/// The reference data of that file: of exactly that text without whitespace around it. The existing service may
/// have registered it twice.
///
/// # Errors
/// A failure of the store.
pub async fn of_file(app: &App, path: &str) -> Result<Vec<Refdata>, Error> {
    let file = path.trim_matches(is_whitespace).to_owned();
    Ok(app.refdata.refdata_of_file(file).await?)
}

/// Whitespace as the contract has it (service.md, section 3.4).
fn is_whitespace(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Registered reference data, by file.
///
/// # Errors
/// A failure of the store.
pub async fn list(app: &App) -> Result<Vec<Refdata>, Error> {
    Ok(app.refdata.list_refdata().await?)
}

/// Makes sure that jobs at a site can have reference data.
///
/// # Errors
/// 40060, 30400 (it is not complete there), or a failure of the store.
pub async fn check_staged(app: &App, id: &str, site: Site) -> Result<(), Error> {
    let refdata = get(app, &refdata_id(id)?).await?;
    let problem = match status_at(&refdata, site).map(|status| status.status.state) {
        Some(RefdataState::Complete) => return Ok(()),
        Some(RefdataState::Error) => "could not be staged; ask an administrator to recover it",
        Some(RefdataState::Created | RefdataState::DownloadSubmitted) => {
            "is still being staged; try again later"
        }
        None => "is not staged; ask an administrator to recover it there, or use another site",
    };
    Err(Error::refused(
        ErrorCode::InvalidRefdataState,
        format!("reference data {id} of the image: at site {site} it {problem}"),
    ))
}

/// The checksum of an object of reference data, which must be `expected` if that is given.
///
/// # Errors
/// 40010, 20010, 30001 (it has none), 30030 (it is another).
async fn object_checksum(
    app: &Arc<App>,
    path: &S3Path,
    expected: Option<&str>,
) -> Result<String, Error> {
    let Some(stored) = app.object_store.head(path).await?.crc64nvme else {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            format!("{path} has no CRC64NVME checksum in S3; upload it again with one"),
        ));
    };
    match expected {
        Some(expected) if expected != stored => Err(Error::refused(
            ErrorCode::ChecksumMismatch,
            format!("{path} has CRC64NVME {stored} in S3, {expected} was expected"),
        )),
        _ => Ok(stored),
    }
}
