//! How much one shard sends at a time to those whom it fills.
//!
//! | a learner | is filled | why |
//! |---|---|---|
//! | of a partition that has lost a copy | as fast as it takes it in, with so much under way at a time | the next failure may take the last copy |
//! | of any other: a node comes or goes, or takes its share back | by a chunk at a time, with a rest after each, and no faster than so many bytes a second | nothing is in danger, so nobody should notice |
//!
//! Live replication goes the same way, and so does everything that clients wait for; what is on the wire, or waits to be
//! taken in at the other end, is before them. That is what the bound on bytes under way is for. The rest is for the
//! processors, at both ends, which filling alone can keep busy: it is so many times as long as the chunk was under way. Where
//! all is idle that is short; where chunks have to wait for others' work they make room for it, and more of it where clients
//! ask this shard for something.
//!
//! Who waits is in one of two queues. A learner of the second kind isn't greeted either before its turn, since from then on
//! it gets the live stream besides; and whose scan has begun is done before another one's begins.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::{Instant, PartitionRecord};
use crate::replica::{CHUNK_COSTS, Message, Replica, ScanRoom, ScanWaits};

/// What a greeting counts for: entries of the control log follow it, too.
const GREETING_COSTS: u64 = 16 << 10;
/// After a chunk that nobody is in a hurry for comes a rest of so many times the time that it took, up to this one.
const RESTS: Rests = Rests { times: 2, at_most: Duration::from_millis(50) };
/// The same where clients have asked for something lately: their slowest requests take up to three times as long with the
/// shorter rests.
const RESTS_BESIDE_CLIENTS: Rests = Rests { times: 8, at_most: Duration::from_millis(200) };
/// How long ago that is, at most.
const ASKED_LATELY: Duration = Duration::from_secs(1);
/// A chunk that isn't acked for so long doesn't keep the others waiting.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(1);
/// What wasn't used is kept for so long; and what the hurried took beyond it is made up for within this time.
const SAVES_UP_FOR: Duration = Duration::from_millis(5);
const OWES_AT_MOST: Duration = Duration::from_secs(1);

/// What one shard has under way to those whom it fills, and who waits.
///
/// Invariants: `under_way` is the sum over the shard's replicas; whoever waits is in the queue of its kind.
#[derive(Debug)]
pub(super) struct Scans {
    under_way_max: u64,
    under_way: u64,
    allowance: Allowance,
    /// Whose chunk is under way though nobody is in a hurry for it, and since when.
    moving: Option<(usize, Instant)>,
    /// When a client last asked for something in this shard.
    asked_at: Option<Instant>,
    /// By partition, what is to be known of it.
    partitions: Vec<Partition>,
    hurried: VecDeque<u16>,
    unhurried: VecDeque<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Rests {
    times: u32,
    at_most: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Partition {
    /// It has lost a copy, and isn't whole again.
    is_short: bool,
    is_queued: bool,
}

impl Scans {
    /// At most `under_way_max` bytes at a time; `per_second` of them where nobody is in a hurry.
    pub(super) fn new(under_way_max: u64, per_second: u64) -> Self {
        Self {
            under_way_max,
            under_way: 0,
            moving: None,
            asked_at: None,
            allowance: Allowance { per_second, spent_until: Instant::ZERO },
            partitions: Vec::new(),
            hurried: VecDeque::new(),
            unhurried: VecDeque::new(),
        }
    }

    /// There are no replicas any more.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.under_way_max, self.allowance.per_second);
    }

    /// The record of the partition at `index` has changed, of which there are to be `wanted` copies.
    pub(super) fn note_copies(
        &mut self,
        index: usize,
        before: Option<&PartitionRecord>,
        record: &PartitionRecord,
        wanted: usize,
    ) {
        let copies = record.in_sync.len();
        let has_lost_one = before.is_some_and(|before| before.in_sync.len() > copies);
        let partition = self.partition(index);
        let was_short = partition.is_short;
        partition.is_short = copies < wanted && (was_short || has_lost_one);
        if partition.is_queued && partition.is_short && !was_short {
            self.hurried.push_back(index as u16);
        }
    }

    /// What the replica at `index`, which has `own` bytes under way, may send now. Without hurry it has to be its turn.
    pub(super) fn room(&mut self, index: usize, own: u64) -> ScanRoom {
        let is_hurried = self.partition(index).is_short;
        let fits = self.under_way.saturating_sub(own) < self.under_way_max;
        let is_its_turn = self.moving.is_some_and(|(moving, _)| moving == index) && own == 0;
        ScanRoom { has_room: fits && (is_hurried || is_its_turn), is_hurried }
    }

    /// A client asks for something in this shard.
    pub(super) fn note_request(&mut self, now: Instant) {
        self.asked_at = Some(now);
    }

    /// Something was sent to another replica, with so much of a table in it.
    pub(super) fn charge(&mut self, message: &Message, filling_bytes: u64) {
        match message {
            Message::ScanChunk { .. } => self.allowance.take(filling_bytes + CHUNK_COSTS),
            Message::AttachLearner { .. } => self.allowance.take(GREETING_COSTS),
            _ => {}
        }
    }

    /// The replica at `index` had `before` under way, and has `after`; and this waits.
    pub(super) fn note(&mut self, now: Instant, index: usize, (before, after): (u64, u64), waits: Option<ScanWaits>) {
        self.under_way = self.under_way - before + after;
        if let Some((_, since)) = self.moving.filter(|(moving, _)| *moving == index && after == 0) {
            self.moving = None;
            let is_asked = self.asked_at.is_some_and(|asked_at| now.since(asked_at) < ASKED_LATELY);
            let rests = if is_asked { RESTS_BESIDE_CLIENTS } else { RESTS };
            self.allowance.rest_until(now + (now.since(since) * rests.times).min(rests.at_most));
        }
        let partition = self.partition(index);
        let Some(waits) = waits.filter(|_| !partition.is_queued) else { return };
        partition.is_queued = true;
        match (partition.is_short, waits) {
            (true, _) => self.hurried.push_back(index as u16),
            (false, ScanWaits::ToGoOn) => self.unhurried.push_front(index as u16),
            (false, ScanWaits::ToBegin) => self.unhurried.push_back(index as u16),
        }
    }

    /// Takes the next partition out of its queue that may go on now.
    pub(super) fn next(&mut self, now: Instant) -> Option<usize> {
        while self.under_way < self.under_way_max {
            if let Some(index) = self.hurried.pop_front() {
                // Who came to be in a hurry is in both queues.
                if std::mem::take(&mut self.partition(usize::from(index)).is_queued) {
                    return Some(usize::from(index));
                }
                continue;
            }
            let is_moving = self.moving.is_some_and(|(_, since)| now.since(since) < GIVEN_UP_AFTER);
            if is_moving || !self.allowance.is_left(now) {
                return None;
            }
            let index = usize::from(self.unhurried.pop_front()?);
            if std::mem::take(&mut self.partition(index).is_queued) {
                self.moving = Some((index, now));
                return Some(index);
            }
        }
        None
    }

    /// When somebody may go on who waits now, if nothing else happens.
    pub(super) fn go_on_at(&self) -> Instant {
        if self.under_way >= self.under_way_max || self.unhurried.is_empty() {
            return Instant::FAR;
        }
        let given_up_at = self.moving.map_or(Instant::ZERO, |(_, since)| since + GIVEN_UP_AFTER);
        self.allowance.spent_until.max(given_up_at)
    }

    fn partition(&mut self, index: usize) -> &mut Partition {
        if index >= self.partitions.len() {
            self.partitions.resize(index + 1, Partition::default());
        }
        &mut self.partitions[index]
    }

    /// Panics where this contradicts the replicas.
    pub(super) fn check_invariants(&self, replicas: &[Replica]) {
        let sum: u64 = replicas.iter().map(Replica::scans_under_way).sum();
        assert_eq!(self.under_way, sum, "bytes are under way to learners that are not accounted for");
        for (index, replica) in replicas.iter().enumerate().filter(|(_, replica)| replica.waits_to_scan().is_some()) {
            let known = self.partitions.get(index).copied().unwrap_or_default();
            assert!(known.is_queued, "{} waits to be filled, and nobody knows", replica.partition());
        }
    }
}

/// So many bytes a second, taken in advance (the "virtual scheduling" form of a leaky bucket, ITU-T I.371, the generic cell
/// rate algorithm).
#[derive(Debug)]
struct Allowance {
    per_second: u64,
    /// What was taken so far is paid for at this moment.
    spent_until: Instant,
}

impl Allowance {
    fn is_left(&mut self, now: Instant) -> bool {
        self.spent_until = self.spent_until.clamp(now - SAVES_UP_FOR, now + OWES_AT_MOST);
        self.spent_until <= now
    }

    fn rest_until(&mut self, at: Instant) {
        self.spent_until = self.spent_until.max(at);
    }

    fn take(&mut self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.per_second.max(1));
        self.spent_until = self.spent_until + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Slot, SlotSet};

    const CHUNK: u64 = 64 << 10;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1) + Duration::from_micros(micros)
    }

    fn scans(per_second: u64) -> Scans {
        Scans::new(4 * CHUNK, per_second)
    }

    fn with_copies(count: u8) -> PartitionRecord {
        PartitionRecord {
            in_sync: SlotSet::first(usize::from(count)),
            primary: Some(Slot(0)),
            ..PartitionRecord::default()
        }
    }

    /// Everybody's chunk waits, and is sent where that may be now; who that was.
    fn send(scans: &mut Scans, now: Instant) -> Vec<usize> {
        let mut sent = Vec::new();
        while let Some(index) = scans.next(now) {
            assert!(scans.room(index, 0).has_room, "it is its turn");
            scans.note(now, index, (0, CHUNK), None);
            sent.push(index);
        }
        sent
    }

    fn wait(scans: &mut Scans, indices: impl IntoIterator<Item = usize>) {
        indices.into_iter().for_each(|index| scans.note(at(0), index, (0, 0), Some(ScanWaits::ToBegin)));
    }

    #[test]
    fn without_hurry_one_chunk_is_under_way_at_a_time_and_a_rest_comes_after_it() {
        let mut scans = scans(u64::MAX);
        wait(&mut scans, 0..3);
        assert_eq!(send(&mut scans, at(0)), [0]);
        assert!(!scans.room(1, 0).has_room);
        assert!(send(&mut scans, at(900)).is_empty(), "it is under way");
        // Its next chunk waits like everybody else's, but before those who haven't begun.
        assert!(!scans.room(0, CHUNK).has_room);
        scans.note(at(1000), 0, (CHUNK, 0), Some(ScanWaits::ToGoOn));
        assert_eq!((send(&mut scans, at(2999)), scans.go_on_at()), (vec![], at(3000)));
        assert_eq!(send(&mut scans, at(3000)), [0]);
        scans.note(at(3100), 0, (CHUNK, 0), None);
        assert_eq!((send(&mut scans, at(3299)), send(&mut scans, at(3300))), (vec![], vec![1]));
    }

    #[test]
    fn the_rest_is_longer_where_clients_have_asked_lately() {
        let mut scans = scans(u64::MAX);
        wait(&mut scans, 0..3);
        scans.note_request(at(0));
        assert_eq!(send(&mut scans, at(0)), [0]);
        scans.note(at(1000), 0, (CHUNK, 0), None);
        assert_eq!((send(&mut scans, at(8999)), send(&mut scans, at(9000))), (vec![], vec![1]));
        let later = 1_000_000;
        scans.note(at(later), 1, (CHUNK, 0), None);
        let rested = later + 50_000;
        assert_eq!((send(&mut scans, at(rested - 1)), send(&mut scans, at(rested))), (vec![], vec![2]));
    }

    #[test]
    fn without_hurry_no_more_than_so_much_is_sent_in_a_second() {
        let mut scans = scans(10 * CHUNK);
        wait(&mut scans, 0..100);
        let mut sent = 0;
        for millis in 0..1000 {
            for index in send(&mut scans, at(1000 * millis)) {
                scans.allowance.take(CHUNK);
                scans.note(at(1000 * millis), index, (CHUNK, 0), None);
                sent += 1;
            }
        }
        assert!((9..=11).contains(&sent), "{sent}");
    }

    #[test]
    fn a_lost_copy_is_made_again_as_fast_as_there_is_room() {
        let mut scans = scans(1);
        wait(&mut scans, 0..10);
        (1..10).for_each(|index| scans.note_copies(index, Some(&with_copies(2)), &with_copies(1), 2));
        assert_eq!(send(&mut scans, at(0)), [1, 2, 3, 4], "the bound on bytes under way");
        assert!(!scans.room(1, 0).has_room && scans.room(1, CHUNK).has_room, "its own chunk is just being acked");
        scans.note(at(1), 1, (CHUNK, 0), None);
        assert_eq!(send(&mut scans, at(1)), [5]);
        // Whole again, and further copies are wanted: no hurry.
        scans.note_copies(6, Some(&with_copies(1)), &with_copies(2), 2);
        scans.note_copies(6, Some(&with_copies(2)), &with_copies(2), 3);
        assert!(!scans.room(6, 0).is_hurried && scans.room(7, 0).is_hurried);
    }

    #[test]
    fn a_learner_that_never_answers_does_not_keep_the_others_waiting() {
        let mut scans = scans(u64::MAX);
        wait(&mut scans, 0..2);
        assert_eq!(send(&mut scans, at(0)), [0]);
        assert_eq!(scans.go_on_at(), at(0) + GIVEN_UP_AFTER);
        assert_eq!(send(&mut scans, at(0) + GIVEN_UP_AFTER), [1]);
    }

    #[test]
    fn after_a_burst_of_hurried_chunks_the_others_wait_for_a_bounded_time() {
        let mut scans = scans(1);
        scans.allowance.take(u64::MAX);
        wait(&mut scans, 0..1);
        assert!(send(&mut scans, at(0)).is_empty());
        assert_eq!(scans.go_on_at(), at(0) + OWES_AT_MOST);
    }
}
