//! Reference data: what the service shows of it and hears about it, and what the server that stages it shows.

use serde::{Deserialize, Serialize};

use crate::crc64nvme::Crc64Nvme;
use crate::id::RefdataId;
use crate::site::Site;
use crate::state::refdata::RefdataState;
use crate::timestamp::UtcTime;

/// Registered reference data (`ReferenceData` in the contract; `AdminReferenceData` with
/// [`AdminRefdataStatus`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceData<Status = RefdataStatus> {
    /// Its id.
    pub id: RefdataId,
    /// Who registered it.
    pub registered_by: String,
    /// When.
    pub registered_on: UtcTime,
    /// The object: bucket and key.
    pub file: String,
    /// Base64 of the object's CRC64NVME when it was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<String>,
    /// Whether the object is an archive that is unpacked.
    #[serde(default)]
    pub unpack: bool,
    /// How far it is at each site.
    pub statuses: Vec<Status>,
}

impl<Status> ReferenceData<Status> {
    /// The same with other statuses.
    #[must_use]
    pub fn with_statuses<Other>(self, statuses: Vec<Other>) -> ReferenceData<Other> {
        ReferenceData {
            id: self.id,
            registered_by: self.registered_by,
            registered_on: self.registered_on,
            file: self.file,
            crc64nvme: self.crc64nvme,
            unpack: self.unpack,
            statuses,
        }
    }
}

/// How far reference data is at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefdataStatus {
    /// The site.
    pub cluster: Site,
    /// The state.
    pub state: RefdataState,
    /// The states it had, oldest first.
    pub transition_times: Vec<RefdataTransition>,
    /// For users: that it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// When a state began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefdataTransition {
    /// The state.
    pub state: RefdataState,
    /// When.
    pub time: UtcTime,
}

/// [`RefdataStatus`] with what administrators see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRefdataStatus {
    /// What everyone sees.
    #[serde(flatten)]
    pub status: RefdataStatus,
    /// What its staging left behind has been removed.
    #[serde(default)]
    pub cleaned: bool,
    /// Of the NERSC sites only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nersc_download_task_id: Option<Vec<String>>,
    /// What went wrong, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// Where in the program it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
}

/// [`AdminRefdataStatus`] with what is known of its staging at the moment. It is shown and never kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefdataStatusNow {
    /// What is remembered.
    #[serde(flatten)]
    pub status: AdminRefdataStatus,
    /// How far the staging is. Not in the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<StagingProgress>,
}

/// Answer of `GET /refdata` and `GET /refdata/path/{path}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefdataList {
    /// At most 1000, by file.
    pub data: Vec<ReferenceData>,
}

/// Body of `PUT /external_exec/refdata/{id}/{site}/update/{state}`; none is needed but for `error`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefdataUpdate {
    /// What went wrong, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// Where in the program it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
}

/// How far reference data is on the disk of the server that stages it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefdataLocalState {
    /// Nothing is there.
    None,
    /// It is on its way, or a staging failed.
    Staging,
    /// It is complete.
    Done,
}

/// Answer of the staging server's `GET /refdata/{id}/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefdataLocalStatus {
    /// How far it is.
    pub state: RefdataLocalState,
    /// The files, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<RefdataFile>>,
    /// How much has been done, while it is staged. Not in the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<StagingProgress>,
    /// Why the last staging failed, if it did. Not in the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One staged file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefdataFile {
    /// Path below the directory of the reference data.
    pub file: String,
    /// MD5 of its bytes, in hexadecimal digits.
    pub md5: String,
    /// Its size in bytes.
    pub size: u64,
    /// Base64 of the CRC64NVME of its bytes. Not in the contract: absent from what the existing server staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<Crc64Nvme>,
}

/// How much of a staging has been done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StagingProgress {
    /// Bytes of the object that have arrived.
    pub downloaded_bytes: u64,
    /// Size of the object in bytes; 0 while it is not known.
    pub object_bytes: u64,
    /// Bytes that have been written.
    pub unpacked_bytes: u64,
    /// Files that have been written.
    pub unpacked_files: u64,
    /// Bytes of the object per second, lately.
    pub bytes_per_second: u64,
}
