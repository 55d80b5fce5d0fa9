//! Registering reference data (contract service.md, section 10): every check, in the contract's order, then one
//! write.

use std::sync::Arc;

use uuid::Uuid;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::refdata_archive::ArchiveFormat;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::refdata_store::{Refdata, new_status};

use super::{object_checksum, stage};

/// What is asked for when reference data is registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// The object's path as given.
    pub path: String,
    /// The checksum that it must have.
    pub crc64nvme: Option<String>,
    /// Whether it is an archive that is to be unpacked.
    pub unpack: bool,
}

/// Registers reference data, and has it staged in the background at every site that takes jobs.
///
/// # Errors
/// In the contract's order: 30020, 30001 (it cannot be unpacked), 40010, 20010, 30001 (no checksum), 30030;
/// [`Error::Internal`] if there is no site; 50100; or a failure of the store.
pub async fn register(
    app: &Arc<App>,
    admin: &User,
    wanted: Registration,
) -> Result<Refdata, Error> {
    let path = parse(&wanted.path)?;
    let file = path.to_string();
    if wanted.unpack && !ArchiveFormat::is_registrable(&file) {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            format!(
                "{file} cannot be unpacked; the names of archives end in one of {}",
                ArchiveFormat::endings()
            ),
        ));
    }
    let crc64nvme = object_checksum(app, &path, wanted.crc64nvme.as_deref()).await?;
    let sites = open_sites(app).await?;
    if sites.is_empty() {
        return Err(Error::Internal(
            "no site that stages reference data takes jobs now; see GET /sites".to_owned(),
        ));
    }
    let now = app.clock.now();
    let refdata = Refdata {
        id: RefdataId::of_uuid(Uuid::new_v4()),
        registered_by: admin.name.clone(),
        registered_on: now.truncated_to_millis(),
        file,
        crc64nvme: Some(crc64nvme),
        unpack: wanted.unpack,
        statuses: sites.iter().map(|site| new_status(*site, now)).collect(),
    };
    if !app.refdata.insert_refdata(refdata.clone()).await? {
        return Err(Error::refused(
            ErrorCode::RefdataExists,
            format!(
                "reference data {0} is registered already; GET /refdata/path/{0} shows it",
                refdata.file
            ),
        ));
    }
    tracing::info!(refdata.id = %refdata.id, file = %refdata.file, user = %admin.name, "reference data registered");
    for site in sites {
        stage::in_background(app, &refdata.id, site);
    }
    Ok(refdata)
}

/// The path of an object whose name can become a file's.
fn parse(path: &str) -> Result<S3Path, Error> {
    let illegal = |cause: String| Error::refused(ErrorCode::IllegalS3Path, cause);
    let path = S3Path::parse(path).map_err(|error| illegal(error.to_string()))?;
    path.check_segments()
        .map_err(|error| illegal(error.to_string()))?;
    Ok(path)
}

/// The sites at which reference data can be staged now.
async fn open_sites(app: &App) -> Result<Vec<Site>, Error> {
    let inactive = app.site_store.inactive_sites().await?;
    Ok(app
        .refdata_stagers
        .iter()
        .map(|(site, _)| site)
        .filter(|site| !inactive.contains(site) && app.sites.available(*site).is_ok())
        .collect())
}
