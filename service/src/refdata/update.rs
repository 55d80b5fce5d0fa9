//! Whoever stages reference data reports how far it is (contract service.md, section 5.5).

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;

use crate::app::App;
use crate::error::Error;
use crate::refdata_store::{Recorded, RefdataEvent};

use super::{get, no_state_at};

/// Records that reference data entered a state at a site. The same again changes nothing and is no fault. A site
/// that takes no new jobs still has its stagings reported.
///
/// # Errors
/// 40060; 30001 (an error without `admin_error`); 40060 (no status for the site, or the state cannot follow the
/// current one, which is told); or a failure of the store.
pub async fn update(
    app: &App,
    id: &RefdataId,
    site: Site,
    state: RefdataState,
    report: RefdataUpdate,
) -> Result<(), Error> {
    get(app, id).await?;
    let is_blank =
        |text: &Option<String>| text.as_deref().is_none_or(|text| text.trim().is_empty());
    if state == RefdataState::Error && is_blank(&report.admin_error) {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            "state error needs an admin_error that says what went wrong",
        ));
    }
    let event = RefdataEvent {
        state,
        time: app.clock.now(),
        only_from: None,
        only_begun: None,
        report,
    };
    match app.refdata.record_refdata(id.clone(), site, event).await? {
        Recorded::Entered => {
            tracing::info!(refdata.id = %id, %site, refdata.state = %state, "reference data changed state");
            Ok(())
        }
        Recorded::AlreadyTrue => Ok(()),
        Recorded::Refused(current) => Err(Error::refused(
            ErrorCode::NoSuchRefdata,
            format!(
                "reference data {id} cannot go to state {state} at site {site}, it is in state {current}"
            ),
        )),
        Recorded::Unknown => Err(Error::refused(
            ErrorCode::NoSuchRefdata,
            no_state_at(id, site),
        )),
    }
}
