//! Cleaning up after a staging (contract service.md, section 6, "Clean refdata").

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::site::Site;

use crate::app::App;
use crate::error::Error;
use crate::refdata_store::status_at;

use super::{get, no_state_at};

/// Notes on a staging that has ended that it was cleaned. Does nothing where it was, or while it is under way.
///
/// There is nothing to remove at the sites of this service, by force or without: who stages tidies up by
/// themselves, and what was staged stays until an operator removes it (`cts-executor refdata prune`).
///
/// # Errors
/// 40060; 30400 (no status for the site); 60020; or a failure of the store.
pub async fn clean_refdata(app: &App, id: &RefdataId, site: Site) -> Result<(), Error> {
    let refdata = get(app, id).await?;
    let Some(status) = status_at(&refdata, site) else {
        return Err(Error::refused(
            ErrorCode::InvalidRefdataState,
            no_state_at(id, site),
        ));
    };
    if status.cleaned {
        return Ok(());
    }
    app.sites.available(site)?;
    let state = status.status.state;
    if state.is_terminal() {
        let cleaned = app.refdata.mark_refdata_cleaned(id.clone(), site);
        cleaned.await?;
        tracing::info!(refdata.id = %id, %site, refdata.state = %state, "reference data cleaned");
    }
    Ok(())
}
