//! Which records run out when.

use std::collections::BTreeSet;

use crate::api::Key;
use crate::base::Instant;

/// The deadlines of one table's records, soonest first.
///
/// A deadline that was handed out by [`Expiry::poll`] is set aside, so that its owner, who has begun to replicate the
/// delete, isn't woken for it again. Where that delete came to nothing (the owner lost its office), [`Expiry::rearm`]
/// brings it back.
#[derive(Clone, Debug, Default)]
pub struct Expiry {
    due: BTreeSet<(Instant, Key)>,
    polled: BTreeSet<(Instant, Key)>,
}

impl Expiry {
    /// `key` runs out at `deadline`.
    pub fn insert(&mut self, deadline: Instant, key: Key) {
        self.due.insert((deadline, key));
    }

    /// `key`, which was to run out at `deadline`, is gone or replaced.
    pub fn remove(&mut self, deadline: Instant, key: &Key) {
        let entry = (deadline, key.clone());
        let known = self.due.remove(&entry) || self.polled.remove(&entry);
        assert!(known, "{key:?} had no deadline at {deadline}");
    }

    /// The soonest deadline that wasn't polled.
    pub fn next_deadline(&self) -> Instant {
        self.due.first().map_or(Instant::FAR, |(deadline, _)| *deadline)
    }

    /// The next key whose deadline is not after `now`, once.
    pub fn poll(&mut self, now: Instant) -> Option<Key> {
        if self.next_deadline() > now {
            return None;
        }
        let entry = self.due.pop_first()?;
        let key = entry.1.clone();
        self.polled.insert(entry);
        Some(key)
    }

    /// Forgets that anything was polled.
    pub fn rearm(&mut self) {
        self.due.append(&mut self.polled);
    }

    /// How many keys have a deadline.
    pub fn len(&self) -> usize {
        self.due.len() + self.polled.len()
    }
}
