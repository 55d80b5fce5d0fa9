//! Looks images up in an OCI registry.
