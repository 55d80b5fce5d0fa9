//! Staging reference data where it is not, or where that has failed (contract service.md, section 6, "Recover
//! refdata").

use std::sync::Arc;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::refdata_store::Begun;

use super::{get, no_such_refdata, object_checksum, stage};

/// Gives reference data a status for a site that it has none for, and has it staged there in the background. A
/// status that failed and was cleaned begins anew: with the existing service such a failure is for ever.
///
/// # Errors
/// In the contract's order: 40060; 40010, 20010, 30001, 30030 (the object); 60020, 60010 (the site); 40060 (there
/// is a status); or a failure of the store.
pub async fn recover(
    app: &Arc<App>,
    admin: &User,
    id: &RefdataId,
    site: Site,
) -> Result<(), Error> {
    let refdata = get(app, id).await?;
    let path = S3Path::parse(&refdata.file)
        .map_err(|error| Error::Internal(format!("reference data {id}: {error}")))?;
    object_checksum(app, &path, refdata.crc64nvme.as_deref()).await?;
    app.sites.open(site, &*app.site_store).await?;
    if app.refdata_stagers.of(site).is_none() {
        return Err(Error::refused(
            ErrorCode::JobFlowUnavailable,
            format!("site {site} has no reference data"),
        ));
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
                     no state, or is in state error and was cleaned"
                ),
            ));
        }
    }
    tracing::info!(refdata.id = %id, %site, user = %admin.name, "reference data is recovered");
    stage::in_background(app, id, site);
    Ok(())
}
