//! Cleaning up after a staging (contract service.md, section 6, "Clean refdata").

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;

use crate::app::App;
use crate::error::Error;
use crate::refdata_store::status_at;

use super::get;
use super::update::update;

/// Notes on a staging that has ended that it was cleaned. Does nothing where it was.
///
/// There is nothing to remove at the sites of this service: who stages tidies up by themselves, and what was
/// staged stays until an operator removes it (`cts-executor refdata prune`). `force` gives a staging up, whatever
/// its state: it becomes `error`, no new job gets the data, and it can be recovered. It is the way out for data
/// that is lost or damaged, and for a staging that nobody carries out any more.
///
/// # Errors
/// 40060; 30400 (no status for the site, or the staging has not ended); 60020; or a failure of the store.
pub async fn clean_refdata(
    app: &App,
    id: &RefdataId,
    site: Site,
    force: bool,
) -> Result<(), Error> {
    let wrong_state =
        |message: String| Err(Error::refused(ErrorCode::InvalidRefdataState, message));
    let refdata = get(app, id).await?;
    let Some(status) = status_at(&refdata, site) else {
        return wrong_state(format!("reference data {id} has no state at site {site}"));
    };
    if status.cleaned {
        return Ok(());
    }
    let state = status.status.state;
    if !state.is_terminal() && !force {
        return wrong_state(format!(
            "reference data {id} is in state {state} at site {site}; it can be cleaned when its staging has \
             ended, or with force=true"
        ));
    }
    app.sites.available(site)?;
    if force && state != RefdataState::Error {
        let report = RefdataUpdate {
            admin_error: Some(format!(
                "an administrator gave it up by force while it was {state}; recover it to stage it again"
            )),
            traceback: None,
        };
        update(app, id, site, RefdataState::Error, report).await?;
    }
    if state.is_terminal() || force {
        let cleaned = app.refdata.mark_refdata_cleaned(id.clone(), site);
        cleaned.await?;
        tracing::info!(refdata.id = %id, %site, refdata.state = %state, "reference data cleaned");
    }
    Ok(())
}
