//! Notifications of transitions that did not arrive (contract service.md, section 6, "Notify" and
//! "Unsent notifications").

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use cts_shared::error_code::ErrorCode;
use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;

use crate::app::App;
use crate::error::Error;
use crate::outbox::Unsent;

/// Has the newest transition of a job to a state sent once more.
///
/// # Errors
/// 40040, 30300 (the job never entered that state), or a failure of the store.
pub async fn resend(app: &App, id: JobId, state: JobState) -> Result<(), Error> {
    super::get_summary(app, id).await?;
    if app.outbox.resend(id, state).await? {
        return Ok(());
    }
    Err(Error::refused(
        ErrorCode::InvalidJobState,
        format!("job {id} never entered state {state}"),
    ))
}

/// What has waited to be sent for longer than `age`. What of it another service stored is taken over
/// from it, and sent with the rest.
///
/// # Errors
/// A failure of the store.
pub async fn unsent(app: &App, age: Duration) -> Result<Unsent, Error> {
    let now = app.clock.now().timestamp();
    let before = SignedDuration::try_from(age)
        .ok()
        .and_then(|age| now.checked_sub(age).ok())
        .unwrap_or(Timestamp::MIN);
    let before = UtcTime::new(before);
    app.outbox.adopt(before).await?;
    Ok(app.outbox.unsent(Some(before)).await?)
}
