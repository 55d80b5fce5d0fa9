//! Staging reference data where it is not, or where that has failed (contract service.md, section 6, "Recover
//! refdata").

use std::sync::Arc;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::refdata_store::{Begun, Refdata, status_at};

use super::update::update;
use super::{get, no_such_refdata, object_checksum, stage};

/// Gives reference data a status for a site that it has none for, and has it staged there in the background. A
/// status that failed and was cleaned begins anew: with the existing service such a failure is for ever. `force`
/// has any other begin anew, too, and no new job gets the data until it is complete again: for data that is lost
/// or damaged, and for a staging that nobody carries out any more.
///
/// # Errors
/// In the contract's order: 40060; 40010, 20010, 30001, 30030 (the object); 60020, 60010 (the site); 30001 (what
/// is staged could not be checked); 40060 (there is a status); or a failure of the store.
pub async fn recover(
    app: &Arc<App>,
    admin: &User,
    id: &RefdataId,
    site: Site,
    force: bool,
) -> Result<(), Error> {
    let refdata = get(app, id).await?;
    let path = S3Path::parse(&refdata.file)
        .map_err(|error| Error::Internal(format!("reference data {id}: {error}")))?;
    object_checksum(app, &path, refdata.crc64nvme.as_deref()).await?;
    app.sites.open(site, &*app.site_store).await?;
    let Some(stager) = app.refdata_stagers.of(site) else {
        return Err(Error::refused(
            ErrorCode::JobFlowUnavailable,
            format!("site {site} has no reference data"),
        ));
    };
    // The existing server stages without one.
    if refdata.crc64nvme.is_none() && !stager.hands_over() {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            format!(
                "the CRC64NVME of {} was not noted when reference data {id} was registered; register the object \
                 under another path",
                refdata.file
            ),
        ));
    }
    if force {
        give_up(app, admin, &refdata, site).await?;
    }
    let begun = app.refdata.begin_refdata(id.clone(), site, app.clock.now());
    match begun.await? {
        Begun::Yes => {}
        Begun::Unknown => return Err(no_such_refdata(id)),
        Begun::Exists(state) => {
            return Err(Error::refused(
                ErrorCode::NoSuchRefdata,
                format!(
                    "reference data {id} is in state {state} at site {site}; it can be recovered where it has \
                     no state, or is in state error and was cleaned, and elsewhere with force=true"
                ),
            ));
        }
    }
    tracing::info!(refdata.id = %id, %site, user = %admin.name, "reference data is recovered");
    stage::in_background(app, id, site);
    Ok(())
}

/// Ends whatever there is at a site, so that it can begin anew.
async fn give_up(app: &App, admin: &User, refdata: &Refdata, site: Site) -> Result<(), Error> {
    let Some(status) = status_at(refdata, site) else {
        return Ok(());
    };
    let (id, state) = (&refdata.id, status.status.state);
    if state != RefdataState::Error {
        let report = RefdataUpdate {
            admin_error: Some(format!(
                "administrator {} gave it up while it was {state}; recover it to stage it again",
                admin.name
            )),
            traceback: None,
        };
        update(app, id, site, RefdataState::Error, report).await?;
    }
    Ok(app.refdata.mark_refdata_cleaned(id.clone(), site).await?)
}
