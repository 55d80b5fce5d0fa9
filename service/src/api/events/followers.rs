//! Who follows events at the moment: bounded over all, and for each user, so that nobody keeps the others
//! out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clients that follow at the same time.
pub const MAX_FOLLOWERS: usize = 256;

/// Clients of one user.
pub const MAX_FOLLOWERS_OF_A_USER: usize = 32;

/// Places for clients that follow.
#[derive(Debug, Default)]
pub struct Followers {
    by_user: Mutex<HashMap<String, usize>>,
}

/// A client's place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    followers: Arc<Followers>,
    user: String,
}

impl Followers {
    /// A place for one more client of the user; none if all that there are for them are taken.
    pub fn enter(self: &Arc<Self>, user: &str) -> Option<Place> {
        let mut by_user = self.by_user();
        let own = by_user.get(user).copied().unwrap_or(0);
        if own >= MAX_FOLLOWERS_OF_A_USER || by_user.values().sum::<usize>() >= MAX_FOLLOWERS {
            return None;
        }
        by_user.insert(user.to_owned(), own + 1);
        Some(Place {
            followers: Arc::clone(self),
            user: user.to_owned(),
        })
    }

    fn by_user(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_user = self.followers.by_user();
        if let Some(own) = by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_for_each_and_for_all_and_free_again() {
        let followers = Arc::new(Followers::default());
        let mut places = Vec::new();
        for user in 0..MAX_FOLLOWERS / MAX_FOLLOWERS_OF_A_USER {
            let user = user.to_string();
            for _ in 0..MAX_FOLLOWERS_OF_A_USER {
                places.push(followers.enter(&user).unwrap());
            }
            assert!(followers.enter(&user).is_none());
        }
        assert!(followers.enter("another").is_none(), "all are taken");
        drop(places.pop());
        assert!(
            followers.enter("0").is_none(),
            "not for the one who has many"
        );
        assert!(followers.enter("another").is_some());
        drop(places);
        assert!(followers.by_user().is_empty());
    }
}
