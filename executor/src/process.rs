//! The process itself: what it must not leave behind.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dump and no debugger of another process: the memory holds a token and a secret key.
pub fn harden() {
    // A kernel that refuses leaves things as they were before; nothing depends on it.
    let _best_effort = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _best_effort = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
}
