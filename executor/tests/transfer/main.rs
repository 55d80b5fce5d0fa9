//! The transfer engine and output collection against stores that break in every way: after each
//! failure, what is left behind is asserted as well.

#![allow(
    clippy::unwrap_used,
    reason = "test code outside #[test] functions, which clippy.toml does not cover"
)]

mod cancellation;
mod collection;
mod download;
mod properties;
mod s3_answers;
mod setup;
mod stream;
mod upload;
