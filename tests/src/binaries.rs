//! The programs under test.

use std::path::{Path, PathBuf};

/// A program under test was not found.
#[derive(Debug, thiserror::Error)]
#[error("{program} is not at {}; build it with `{build}` or set {variable}", path.display())]
pub struct MissingBinary {
    program: &'static str,
    variable: &'static str,
    build: &'static str,
    path: PathBuf,
}

/// The executor: `CTS_EXECUTOR_BIN`, else the one of this workspace's development build.
///
/// # Errors
/// When there is none.
pub fn executor() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-executor",
        "CTS_EXECUTOR_BIN",
        "debug",
        "cargo build -p cts-executor",
    )
}

/// The service: `CTS_SERVICE_BIN`, else the one of this workspace's development build.
///
/// # Errors
/// When there is none.
pub fn service() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-service",
        "CTS_SERVICE_BIN",
        "debug",
        "cargo build -p cts-service",
    )
}

/// The service as it is deployed: `CTS_RELEASE_SERVICE_BIN`, else the one of this workspace's release
/// build.
///
/// # Errors
/// When there is none.
pub fn release_service() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-service",
        "CTS_RELEASE_SERVICE_BIN",
        "release",
        "cargo build --release -p cts-service",
    )
}

/// The executor as one static file: `CTS_STATIC_EXECUTOR_BIN`, else that of `make static`.
///
/// # Errors
/// When there is none.
pub fn static_executor() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-executor",
        "CTS_STATIC_EXECUTOR_BIN",
        "static",
        "make static",
    )
}

/// The archive that `HTCondor` workers download: `CTS_EXECUTOR_ARCHIVE`, else that of `make archive`.
///
/// # Errors
/// When there is none.
pub fn executor_archive() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-executor.tgz",
        "CTS_EXECUTOR_ARCHIVE",
        "static",
        "make archive",
    )
}

/// The wrapper that unpacks it and becomes the executor.
#[must_use]
pub fn wrapper() -> PathBuf {
    workspace().join("condor/run_job.sh")
}

/// The transfer engine as a program of its own, linked like the static executor: `make bench` builds it.
///
/// # Errors
/// When there is none.
pub fn transfer_bench() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-transfer-bench",
        "CTS_TRANSFER_BENCH_BIN",
        "static",
        "make bench",
    )
}

/// The program that fills the service's database: `CTS_STORE_PREFILL_BIN`, else the one that
/// `make bench-service` builds.
///
/// # Errors
/// When there is none.
pub fn store_prefill() -> Result<PathBuf, MissingBinary> {
    find(
        "cts-store-prefill",
        "CTS_STORE_PREFILL_BIN",
        "load",
        "cargo build --profile load -p cts-store-prefill",
    )
}

/// The root of the checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a directory of it")
}

fn find(
    program: &'static str,
    variable: &'static str,
    dir: &str,
    build: &'static str,
) -> Result<PathBuf, MissingBinary> {
    let path = match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => std::env::var_os("CARGO_TARGET_DIR")
            .filter(|value| !value.is_empty())
            .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
            .join(dir)
            .join(program),
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(MissingBinary {
            program,
            variable,
            build,
            path,
        })
    }
}
