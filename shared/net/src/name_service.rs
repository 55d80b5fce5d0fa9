//! Name lookups in a static binary.
//!
//! A statically linked glibc loads the host's name service modules at the first lookup and dies when
//! they belong to another glibc. glibc can be told to use only what is linked in; this must happen
//! before any lookup and any thread. On other C libraries there is nothing to do.

/// Makes glibc resolve names from files and DNS alone. Call first thing in `main`.
pub fn use_built_in_services() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::configure();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::{CStr, c_char, c_int};

    #[expect(
        unsafe_code,
        reason = "glibc's only way to choose name services; see the module"
    )]
    unsafe extern "C" {
        /// `int __nss_configure_lookup(const char *database, const char *services)`, glibc 2.0 and later.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }

    /// Databases that some library of ours may look into, and where they then look.
    const LOOKUPS: [(&CStr, &CStr); 6] = [
        (c"hosts", c"files dns"),
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"services", c"files"),
        (c"protocols", c"files"),
        (c"networks", c"files"),
    ];

    pub(super) fn configure() {
        for (database, services) in LOOKUPS {
            #[expect(
                unsafe_code,
                reason = "both are NUL-terminated and static, and no other thread exists yet"
            )]
            // SAFETY: the strings live for ever; glibc copies nothing it does not own and the call is made
            // before the first thread and the first lookup.
            let _only_fails_for_unknown_databases =
                unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
        }
    }
}
