//! Adapters that both CTS binaries need: trust roots and HTTP clients ([`tls`]), bounded answers ([`http`]), the
//! HTTP server's connections ([`http_server`]), secrets read from files ([`secret`]), the S3 client's settings
//! ([`s3`]), the lookup of images in a registry ([`registry`]), KBase auth2 ([`auth2`]), name lookups of static
//! binaries ([`name_service`]). What only one binary needs lives in that binary.

pub mod auth2;
pub mod http;
pub mod http_server;
pub mod name_service;
pub mod pause;
pub mod registry;
pub mod s3;
pub mod secret;
pub mod tls;
