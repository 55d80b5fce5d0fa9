//! Adapters that both CTS binaries need: trust roots and HTTP clients ([`tls`]), bounded
//! answers ([`http`]), secrets read from files ([`secret`]), the S3 client's settings ([`s3`]), the lookup of images in a registry
//! ([`registry`]), name lookups of static binaries ([`name_service`]). What only one binary needs lives in that binary.

pub mod http;
pub mod name_service;
pub mod registry;
pub mod s3;
pub mod secret;
pub mod tls;
