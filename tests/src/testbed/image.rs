//! Images for tests and demo, made from Debian packages and pushed into the testbed's registries.
//!
//! No base image and no `docker build`: an image is a tar archive of a root file system, a
//! configuration and a manifest, and the registry takes all three over HTTP. So the engine has
//! seen none of them before a test pulls them.

mod check;
mod push;
mod root_fs;

use serde::{Deserialize, Serialize};

use super::console::say;
use super::error::TestbedError;
use super::layout::Layout;
use super::registry::{AuthRegistry, OpenRegistry};
use push::Registry;

pub(super) use check::check_engine;

const COMPONENT: &str = "images";
const TAG: &str = "1";

/// An image in a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Registry and repository.
    pub name: String,
    /// Its tag.
    pub tag: String,
    /// The manifest's digest.
    pub digest: String,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
}

impl Image {
    /// `name:tag`, as a user would write it.
    pub fn tagged(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    /// `name@digest`, as the executor pulls it.
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.name, self.digest)
    }
}

/// What the registries hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Images {
    /// `containers/test-tool`: does what its arguments say.
    pub test_tool: Image,
    /// The same in the registry with authentication.
    pub private_test_tool: Image,
    /// The same, declared for a platform that is not this machine's.
    pub other_platform: Image,
    /// SeqKit.
    pub seqkit: Image,
}

impl Images {
    /// Whether all images were pushed.
    pub(super) fn is_complete(&self) -> bool {
        [
            &self.test_tool,
            &self.private_test_tool,
            &self.other_platform,
            &self.seqkit,
        ]
        .iter()
        .all(|image| !image.digest.is_empty())
    }
}

/// This machine's architecture and another one, in the words of OCI.
fn architectures() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    }
}

/// Makes all images and pushes them.
///
/// # Errors
/// When a package cannot be had or a registry refuses.
pub(super) async fn publish_all(
    layout: &Layout,
    open: &OpenRegistry,
    auth: &AuthRegistry,
) -> Result<Images, TestbedError> {
    let (native, other) = architectures();
    let test_tool = root_fs::test_tool(layout).await?;
    let seqkit = root_fs::seqkit(layout).await?;
    let public = Registry::new(&open.address, None)?;
    let login = auth.user.as_deref().zip(auth.password.as_deref());
    let private = Registry::new(&auth.address, login)?;
    let images = Images {
        test_tool: public
            .push("cts/test-tool", TAG, native, &test_tool)
            .await?,
        private_test_tool: private
            .push("cts/test-tool", TAG, native, &test_tool)
            .await?,
        other_platform: public
            .push("cts/test-tool", other, other, &test_tool)
            .await?,
        seqkit: public.push("cts/seqkit", TAG, native, &seqkit).await?,
    };
    say(format_args!(
        "pushed {} and {}",
        images.test_tool.tagged(),
        images.seqkit.tagged()
    ));
    Ok(images)
}
