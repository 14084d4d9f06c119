//! Which writes with an idempotency key were done lately, so that none is done twice.
//!
//! It is state of the partition like the records are: what a committed effect says is remembered by every replica that
//! applies it, and a learner is told the rest with the end of its scan. How long ago something was done is counted by each
//! replica on its own monotonic clock from when the effect came, and travels as an age: versions are no measure of time, as
//! two nodes' wall clocks may be an hour apart.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use bincode::{Decode, Encode};

use super::effect::Marked;
use crate::api::{Done, Fingerprint, IdempotencyKey, Once};
use crate::base::{Instant, Version};

/// A write is remembered for so long: longer than anybody tries again by itself.
const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// Beyond so many writes to one partition, only those of the last [`KEPT_AT_LEAST_FOR`] are: 4096 partitions of as many
/// take a hundred megabytes.
const COUNT_USUAL: usize = 256;
/// So long a write to a busy partition is remembered: three times as long as clients try again by themselves.
const KEPT_AT_LEAST_FOR: Duration = Duration::from_secs(30);
/// And no more than so many whatever happens.
const COUNT_MAX: usize = 1 << 14;
/// What one is accounted with: its place in the map, the map's slack, its place in the order.
const BYTES_EACH: usize = 112;

/// A write that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Remembered {
    /// Which request it was, and what it did.
    pub marked: Marked,
    /// The version that it gave.
    pub version: Version,
}

/// The same on its way to a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Aged {
    /// The write.
    pub done: Remembered,
    /// Milliseconds since its effect came to the sender.
    pub age_ms: u64,
}

/// The writes of one partition that are remembered.
///
/// Whoever asks for a key mostly finds that it isn't there, and mostly what that costs is to fetch memory that nobody has
/// touched for a while: a hash map touches one line of it, where a tree touches several. The map is only looked up in; what is
/// told of it is told in the order of time.
///
/// Invariants: the order names exactly those in the map, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    by_key: HashMap<IdempotencyKey, Kept, BuildHasherDefault<FirstBytes>>,
    order: VecDeque<(Instant, IdempotencyKey)>,
}

/// What is kept of a write beside its key.
#[derive(Clone, Copy, Debug)]
struct Kept {
    request: Fingerprint,
    done: Done,
    version: Version,
}

impl Kept {
    const fn remembered(self, key: IdempotencyKey) -> Remembered {
        let Self { request, done, version } = self;
        Remembered { marked: Marked { once: Once { key, request }, done }, version }
    }
}

/// Idempotency keys are hashes already: the first eight bytes say enough.
#[derive(Clone, Copy, Debug, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    }

    /// How many bytes follow: always as many.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Recent {
    /// What was done under `key`.
    pub fn find(&self, key: &IdempotencyKey) -> Option<Remembered> {
        self.by_key.get(key).map(|kept| kept.remembered(*key))
    }

    /// All that is remembered, the oldest first.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = Aged> {
        self.order.iter().filter_map(move |(at, key)| {
            let age_ms = u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
            Some(Aged { done: self.find(key)?, age_ms })
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.order.len() * BYTES_EACH
    }

    /// Remembers a write whose effect came at `at`, and forgets those whose time is over by then. What is known already
    /// stays as it is.
    pub fn remember(&mut self, at: Instant, done: Remembered) {
        let Remembered { marked: Marked { once: Once { key, request }, done }, version } = done;
        let Entry::Vacant(place) = self.by_key.entry(key) else { return };
        place.insert(Kept { request, done, version });
        // Mostly it is the newest. Only what a learner is told later is older than what it has seen meanwhile.
        if self.order.back().is_none_or(|(newest, _)| *newest <= at) {
            self.order.push_back((at, key));
        } else {
            let place = self.order.partition_point(|(other, _)| *other <= at);
            self.order.insert(place, (at, key));
        }
        self.forget_old();
    }

    fn forget_old(&mut self) {
        let Some(&(newest, _)) = self.order.back() else { return };
        while let Some(&(oldest, key)) = self.order.front() {
            let (age, count) = (newest.since(oldest), self.order.len());
            let is_over = age > KEPT_FOR || count > COUNT_MAX;
            if !is_over && (count <= COUNT_USUAL || age <= KEPT_AT_LEAST_FOR) {
                return;
            }
            self.order.pop_front();
            self.by_key.remove(&key);
        }
    }

    /// Panics where it contradicts itself.
    pub fn check_invariants(&self) {
        assert!(self.order.iter().is_sorted_by_key(|(at, _)| *at), "writes are remembered out of order");
        assert_eq!(self.order.len(), self.by_key.len(), "the order and the map of remembered writes differ");
        assert!(self.order.iter().all(|(_, key)| self.by_key.contains_key(key)), "the order names an unknown write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Done, Fingerprint, Once};

    fn done(nth: u64) -> Remembered {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&nth.to_le_bytes());
        let once = Once { key: IdempotencyKey(key), request: Fingerprint(nth) };
        Remembered { marked: Marked { once, done: Done::Created }, version: Version(nth) }
    }

    fn at(time: Duration) -> Instant {
        Instant::ZERO + time
    }

    fn knows(recent: &Recent, nth: u64) -> bool {
        recent.check_invariants();
        recent.find(&done(nth).marked.once.key).is_some()
    }

    fn count(recent: &Recent) -> usize {
        recent.iter(Instant::ZERO).count()
    }

    #[test]
    fn the_first_answer_stands_and_the_order_of_arrival_does_not_matter() {
        let (mut one, mut other) = (Recent::default(), Recent::default());
        for (nth, seconds) in [(1, 10), (2, 20), (3, 30)] {
            one.remember(at(Duration::from_secs(seconds)), done(nth));
        }
        for (nth, seconds) in [(3, 30), (1, 10), (2, 20), (3, 99)] {
            other.remember(at(Duration::from_secs(seconds)), done(nth));
        }
        let now = at(Duration::from_secs(31));
        assert!(one.iter(now).eq(other.iter(now)) && count(&one) == 3);
        assert_eq!(one.iter(now).map(|aged| aged.age_ms).collect::<Vec<_>>(), [21_000, 11_000, 1000]);
    }

    #[test]
    fn a_write_is_remembered_for_ten_minutes_unless_many_follow() {
        let mut recent = Recent::default();
        recent.remember(at(Duration::ZERO), done(0));
        recent.remember(at(KEPT_FOR), done(1));
        assert!(knows(&recent, 0));
        recent.remember(at(KEPT_FOR + Duration::from_nanos(1)), done(2));
        assert!(!knows(&recent, 0) && knows(&recent, 1));

        let mut busy = Recent::default();
        (0..1000).for_each(|nth| busy.remember(at(Duration::from_millis(nth)), done(nth)));
        assert!(knows(&busy, 0), "all of the last half minute");
        busy.remember(at(KEPT_AT_LEAST_FOR + Duration::from_millis(500)), done(1000));
        assert!(!knows(&busy, 499) && knows(&busy, 500));
        busy.remember(at(KEPT_AT_LEAST_FOR * 3), done(1001));
        assert_eq!(count(&busy), COUNT_USUAL);
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut recent = Recent::default();
        (0..COUNT_MAX as u64 + 5).for_each(|nth| recent.remember(at(Duration::ZERO), done(nth)));
        assert_eq!((count(&recent), knows(&recent, 4), knows(&recent, 5)), (COUNT_MAX, false, true));
    }
}
