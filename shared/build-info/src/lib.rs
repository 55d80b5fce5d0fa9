//! What the build knows of itself. The build script looks it up; see `build.rs`.

/// The commit that the binary was built from: `CTS_GIT_HASH` where the build sets it, else the checkout's
/// `HEAD`, else `unknown`.
pub const GIT_HASH: &str = env!("CTS_BUILD_GIT_HASH");
