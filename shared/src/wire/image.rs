//! Registered images.

use serde::{Deserialize, Serialize};

use crate::timestamp::UtcTime;

/// A registered image as jobs carry it (`JobImage` in the contract).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobImage {
    /// Who registered it.
    pub registered_by: String,
    /// When.
    pub registered_on: UtcTime,
    /// Normalised name: host and repository.
    pub name: String,
    /// Manifest digest, `sha256:...`.
    pub digest: String,
    /// The image's entrypoint.
    pub entrypoint: Vec<String>,
    /// Tag it was registered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Reference data the image needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refdata_id: Option<String>,
    /// Where that reference data is mounted unless the job says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_refdata_mount_point: Option<String>,
}

/// A registered image with what is shown about it (`Image` in the contract).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The part that jobs carry.
    #[serde(flatten)]
    pub image: JobImage,
    /// Web pages about the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// How to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_notes: Option<String>,
}

/// Answer of `GET /images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// The registered images, at most 1000.
    pub data: Vec<Image>,
}

/// Body of `POST /admin/images/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRegistration {
    /// Web pages about the tool, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// How to use it, at most 10000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_notes: Option<String>,
    /// A registered image that supplies what is not given here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_image: Option<String>,
}
