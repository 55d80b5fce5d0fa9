//! What administrators note on jobs (contract service.md, section 6, "Admin meta").

use std::collections::HashSet;

use serde_json::{Map, Value};

use cts_shared::error_code::ErrorCode;
use cts_shared::id::JobId;

use crate::app::App;
use crate::error::Error;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 256;

/// Most that is noted on one job, in bytes of JSON: it is part of every view of the job.
const MAX_NOTED_BYTES: usize = 64 * 1024;

/// What to set and what to remove; what is not named stays.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminMetaChange {
    set: Map<String, Value>,
    unset: Vec<String>,
}

impl AdminMetaChange {
    /// A change that obeys the rules of keys. Stores use them as names in documents: no `.` in
    /// them, no `$` in front.
    ///
    /// # Errors
    /// 30001.
    pub fn new(set: Map<String, Value>, unset: Vec<String>) -> Result<Self, Error> {
        if set.is_empty() && unset.is_empty() {
            return Err(illegal(
                "give keys to set in set_fields, or to remove in unset_keys".to_owned(),
            ));
        }
        let mut seen = HashSet::new();
        for key in &unset {
            check_key(key)?;
            if set.contains_key(key) {
                return Err(illegal(format!(
                    "key {key:?} is to be both set and removed"
                )));
            }
            seen.insert(key.as_str());
        }
        for key in set.keys() {
            check_key(key)?;
        }
        let unset = seen.into_iter().map(str::to_owned).collect();
        Ok(Self { set, unset })
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    let fault = if key.is_empty() {
        "is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "is longer than 256 bytes"
    } else if key.contains('.') {
        "contains a full stop"
    } else if key.starts_with('$') {
        "starts with a dollar sign"
    } else if key.contains(char::is_control) {
        "contains a control character"
    } else {
        return Ok(());
    };
    let shown: String = key.chars().take(MAX_KEY_BYTES).collect();
    Err(illegal(format!("key {shown:?} {fault}; use another")))
}

fn illegal(message: String) -> Error {
    Error::refused(ErrorCode::IllegalParameter, message)
}

/// Changes what is noted on a job.
///
/// # Errors
/// 40040, 30001 (too much would be noted), or a failure of the store.
pub async fn change(app: &App, id: JobId, change: AdminMetaChange) -> Result<(), Error> {
    let AdminMetaChange { set, unset } = change;
    // Not one step with the change: administrators who note things at the same moment may pass the
    // bound by a request's worth, which does no harm.
    let mut noted = super::get_summary(app, id).await?.notes.admin_meta;
    noted.retain(|key, _| !unset.contains(key));
    noted.extend(set.clone());
    let bytes = Value::Object(noted).to_string().len();
    if !set.is_empty() && bytes > MAX_NOTED_BYTES {
        return Err(illegal(format!(
            "job {id} would have {bytes} bytes of notes; {MAX_NOTED_BYTES} are allowed, remove some"
        )));
    }
    if app.jobs.change_admin_meta(id, set, unset).await? {
        Ok(())
    } else {
        Err(super::no_such_job(id))
    }
}
