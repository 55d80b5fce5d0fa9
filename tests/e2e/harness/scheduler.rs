//! The pool's scheduler, which some tests stop.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static SCHEDULER: RwLock<()> = RwLock::const_new(());

/// While it lives nobody stops the scheduler. A test takes one, once.
pub(crate) async fn scheduler_stays() -> RwLockReadGuard<'static, ()> {
    SCHEDULER.read().await
}

/// While it lives no other test needs the scheduler.
pub(crate) async fn scheduler_alone() -> RwLockWriteGuard<'static, ()> {
    SCHEDULER.write().await
}
