//! The process itself: what it must not leave behind, and what others may do with its files.

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask,
};

/// Files are readable for all, whatever umask was inherited: the container's user is unknown and must
/// be able to read the inputs. The job directory itself is as closed as its maker wants it.
pub fn share_files_with_the_container() {
    umask(Mode::WGRP | Mode::WOTH);
}

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
