//! A job's containers, for administrators (contract service.md, section 6, "Admin subjob views").
//!
//! Where the service follows containers itself it has their records, and shows them also while the
//! site cannot be used.

use serde_json::{Map, Value};

use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::state::job_flow::ContainerRecord;

use crate::app::App;
use crate::error::Error;

use super::{get_record, get_summary};

/// All containers, by number.
///
/// # Errors
/// 40040; 60020 and 100000 where the site follows the containers; or a failure of the store.
pub async fn all(app: &App, id: JobId) -> Result<Vec<ContainerRecord>, Error> {
    let site = get_summary(app, id).await?.site;
    if !site.limits().containers_are_tracked {
        app.sites.available(site)?;
        return Err(Error::refused(
            ErrorCode::UnsupportedOperation,
            format!("the containers of jobs at site {site} are not known here"),
        ));
    }
    Ok(get_record(app, id).await?.containers)
}

/// One container.
///
/// # Errors
/// As [`all`]; 40050 if there is no such container.
pub async fn one(app: &App, id: JobId, number: ContainerNumber) -> Result<ContainerRecord, Error> {
    let mut containers = all(app, id).await?;
    let count = containers.len();
    match usize::try_from(number) {
        Ok(index) if index < count => Ok(containers.swap_remove(index)),
        _ => Err(Error::refused(
            ErrorCode::NoSuchSubjob,
            format!("job {id} has no container {number}; it has {count}, from 0"),
        )),
    }
}

/// What the site's batch system says about a container.
///
/// # Errors
/// 40040; 60020 if the site cannot be used; what the site answers, 100000 if it has no batch system.
pub async fn runner_status(
    app: &App,
    id: JobId,
    container: ContainerNumber,
) -> Result<Map<String, Value>, Error> {
    let site = get_summary(app, id).await?.site;
    app.sites
        .available(site)?
        .runner_status(id, container)
        .await
}
