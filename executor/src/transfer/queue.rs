//! The queue that the workers of a transfer share: work makes more work (the first answer about a
//! large object tells how many parts follow), so it ends when it is empty and nobody is working.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The queue.
#[derive(Debug)]
pub(super) struct WorkQueue<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// Items taken and not yet finished.
    taken: usize,
}

/// Says that a taken item is still being worked on; dropping it says that it is done.
#[derive(Debug)]
pub(super) struct Taken<'a, T>(&'a WorkQueue<T>);

impl<T> WorkQueue<T> {
    pub(super) fn new(items: impl IntoIterator<Item = T>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: items.into_iter().collect(),
                taken: 0,
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds work to be done next. Only for whoever holds a [`Taken`]: else it may come after the end.
    pub(super) fn push_front(&self, item: T) {
        self.lock().waiting.push_front(item);
        // All: of waiters that looked but do not sleep yet, notify_one remembers only one.
        self.changed.notify_waiters();
    }

    /// Adds work to be done last. As [`push_front`](Self::push_front).
    pub(super) fn push_back(&self, item: T) {
        self.lock().waiting.push_back(item);
        self.changed.notify_waiters();
    }

    /// The next item; waits while others may still add some; `None` when there will be none.
    pub(super) async fn next(&self) -> Option<(T, Taken<'_, T>)> {
        loop {
            // Before the look, so that what happens in between wakes us.
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if let Some(item) = state.waiting.pop_front() {
                    state.taken += 1;
                    return Some((item, Taken(self)));
                }
                if state.taken == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.taken -= 1;
        if state.taken == 0 && state.waiting.is_empty() {
            drop(state);
            // Everyone who waits can go home, and whoever comes now sees it for itself.
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_made_by_work_is_done_and_then_everyone_ends() {
        let queue = Arc::new(WorkQueue::new([3_u32, 4]));
        let workers: Vec<_> = (0..5)
            .map(|_| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut done = 0;
                    while let Some((depth, _taken)) = queue.next().await {
                        tokio::task::yield_now().await;
                        done += 1;
                        if depth > 0 {
                            queue.push_front(depth - 1);
                            queue.push_back(depth - 1);
                        }
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for worker in workers {
            done += tokio::time::timeout(Duration::from_secs(10), worker)
                .await
                .unwrap()
                .unwrap();
        }
        assert_eq!(done, (1 << 4) - 1 + (1 << 5) - 1);
    }
}
