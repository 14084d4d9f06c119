//! What clients saw, and whether a linearizable store could have shown them that.
//!
//! Each key belongs to one writer, which stores 1, 2, 3, … in it, one after the other. So a key's whole history is a few
//! numbers ([`Register`]), and every single read can be judged when it ends:
//!
//! | a read that found | is |
//! |---|---|
//! | less than was acknowledged, or seen by another read, before it began | stale |
//! | more than was ever sent | invented |
//! | what was answered with "it did not happen and never will" | undead |
//!
//! A write of which nobody knows whether it happened may take effect at any later time. Its key is closed: nothing is
//! written there any more, so the last number may or may not be found, and once it was found it has to stay.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored, as this version.
    Acknowledged { version: u64 },
    /// It did not happen and never will.
    Refused,
    /// It may have happened, or may still.
    Unknown,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A read went back behind what was known before it began.
    Stale { floor: u64, found: u64 },
    /// Something is there that nobody sent.
    Invented { sent: u64, found: u64 },
    /// A write took effect though it was refused for good.
    Undead { found: u64 },
    /// A later write has a version that isn't greater.
    Version { before: u64, after: u64 },
    /// This many acknowledged writes are gone.
    Lost { acknowledged: u64, found: u64, writes: u64 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { floor, found } => write!(f, "a stale read: {found}, after {floor} was known"),
            Self::Invented { sent, found } => write!(f, "{found} was found, and {sent} was the last that was sent"),
            Self::Undead { found } => write!(f, "{found} was found, which was refused for good"),
            Self::Version { before, after } => write!(f, "version {after} came after {before}"),
            Self::Lost { acknowledged, found, writes } => {
                write!(f, "{writes} writes are lost: {found} was found, and {acknowledged} was acknowledged")
            }
        }
    }
}

/// The history of one key.
#[derive(Debug, Default)]
pub struct Register {
    sent: u64,
    acknowledged: u64,
    seen: u64,
    version: u64,
    refused: BTreeSet<u64>,
    closed: bool,
    /// Lost writes that were complained about already.
    lost: u64,
}

impl Register {
    /// The number to write next; none where the key is closed.
    pub fn begin_write(&mut self) -> Option<u64> {
        (!self.closed).then(|| {
            self.sent += 1;
            self.sent
        })
    }

    /// Notes how the write that was begun last ended.
    pub fn end_write(&mut self, outcome: Outcome) -> Option<Breach> {
        match outcome {
            Outcome::Acknowledged { version } => {
                let before = std::mem::replace(&mut self.version, version);
                self.acknowledged = self.sent;
                (version <= before).then_some(Breach::Version { before, after: version })
            }
            Outcome::Refused => {
                self.refused.insert(self.sent);
                // It may have been seen before its writer was told that it never happened.
                (self.seen == self.sent).then_some(Breach::Undead { found: self.sent })
            }
            Outcome::Unknown => {
                self.closed = true;
                None
            }
        }
    }

    /// What a read that begins now must at least find.
    pub fn begin_read(&self) -> u64 {
        self.acknowledged.max(self.seen)
    }

    /// Judges what a read found: 0 where there was no such key.
    pub fn end_read(&mut self, floor: u64, found: u64) -> Option<Breach> {
        self.seen = self.seen.max(found.min(self.sent));
        if found < floor {
            Some(Breach::Stale { floor, found })
        } else if found > self.sent {
            Some(Breach::Invented { sent: self.sent, found })
        } else if self.refused.contains(&found) {
            Some(Breach::Undead { found })
        } else {
            None
        }
    }

    /// Judges what is left when all faults are over, by a read that began at `floor`: every acknowledged write has to be
    /// there, or one that replaced it. A loss is told of once.
    pub fn end_all(&mut self, floor: u64, found: u64) -> Option<Breach> {
        let acknowledged = floor.min(self.acknowledged);
        let missing = (found.saturating_add(1)..=acknowledged).filter(|number| !self.refused.contains(number)).count();
        let writes = (missing as u64).saturating_sub(self.lost);
        self.lost += writes;
        (writes > 0).then_some(Breach::Lost { acknowledged, found, writes })
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub reads: u64,
    pub failed_reads: u64,
    pub stale: u64,
    pub lost: u64,
    /// Further breaches: invented, undead, versions that go back.
    pub other_breaches: u64,
}

impl Tally {
    /// Writes that ended in whatever way.
    pub const fn writes(&self) -> u64 {
        self.acknowledged + self.refused + self.unknown
    }

    pub const fn is_sound(&self) -> bool {
        self.stale == 0 && self.lost == 0 && self.other_breaches == 0
    }

    /// What happened since `earlier`.
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            acknowledged: self.acknowledged - earlier.acknowledged,
            refused: self.refused - earlier.refused,
            unknown: self.unknown - earlier.unknown,
            reads: self.reads - earlier.reads,
            failed_reads: self.failed_reads - earlier.failed_reads,
            stale: self.stale - earlier.stale,
            lost: self.lost - earlier.lost,
            other_breaches: self.other_breaches - earlier.other_breaches,
        }
    }
}

/// A key and its history.
#[derive(Debug)]
pub struct Entry {
    pub key: String,
    register: Mutex<Register>,
}

/// Complaints that are kept in words; more are only counted.
const COMPLAINTS_MAX: usize = 5;

/// The histories of all keys.
#[derive(Debug, Default)]
pub struct History {
    entries: RwLock<Vec<Arc<Entry>>>,
    tally: Mutex<Tally>,
    complaints: Mutex<Vec<String>>,
}

impl History {
    /// A key that nobody has written before.
    pub fn open(&self, key: String) -> Arc<Entry> {
        let entry = Arc::new(Entry { key, register: Mutex::default() });
        self.entries.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&entry));
        entry
    }

    /// Keys so far.
    pub fn len(&self) -> usize {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The nth key.
    pub fn entry(&self, nth: usize) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(nth).cloned()
    }

    pub fn begin_write(&self, entry: &Entry) -> Option<u64> {
        lock(&entry.register).begin_write()
    }

    pub fn end_write(&self, entry: &Entry, outcome: Outcome) {
        let breach = lock(&entry.register).end_write(outcome);
        let mut tally = lock(&self.tally);
        match outcome {
            Outcome::Acknowledged { .. } => tally.acknowledged += 1,
            Outcome::Refused => tally.refused += 1,
            Outcome::Unknown => tally.unknown += 1,
        }
        drop(tally);
        self.note(entry, breach);
    }

    pub fn begin_read(&self, entry: &Entry) -> u64 {
        lock(&entry.register).begin_read()
    }

    /// Judges a read; none where it failed.
    pub fn end_read(&self, entry: &Entry, floor: u64, found: Option<u64>) {
        let breach = found.and_then(|found| lock(&entry.register).end_read(floor, found));
        let mut tally = lock(&self.tally);
        tally.reads += u64::from(found.is_some());
        tally.failed_reads += u64::from(found.is_none());
        drop(tally);
        self.note(entry, breach);
    }

    /// Judges what is left of a key when all faults are over, by a read that began at `floor`.
    pub fn end_all(&self, entry: &Entry, floor: u64, found: u64) {
        let breach = lock(&entry.register).end_all(floor, found);
        self.note(entry, breach);
    }

    fn note(&self, entry: &Entry, breach: Option<Breach>) {
        let Some(breach) = breach else { return };
        let mut tally = lock(&self.tally);
        match breach {
            Breach::Stale { .. } => tally.stale += 1,
            Breach::Lost { writes, .. } => tally.lost += writes,
            Breach::Invented { .. } | Breach::Undead { .. } | Breach::Version { .. } => tally.other_breaches += 1,
        }
        drop(tally);
        self.complain(format!("{}: {breach}", entry.key));
    }

    /// Keeps a sentence for the report.
    pub fn complain(&self, sentence: String) {
        let mut complaints = lock(&self.complaints);
        if complaints.len() < COMPLAINTS_MAX {
            complaints.push(sentence);
        }
    }

    /// The greatest version that any write was acknowledged with.
    pub fn newest_version(&self) -> u64 {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| lock(&entry.register).version).max().unwrap_or_default()
    }

    pub fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    pub fn complaints(&self) -> Vec<String> {
        lock(&self.complaints).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(version: u64) -> Outcome {
        Outcome::Acknowledged { version }
    }

    /// A register in which 1 and 2 were acknowledged.
    fn written() -> Register {
        let mut register = Register::default();
        for version in [10, 20] {
            register.begin_write();
            assert_eq!(register.end_write(acknowledged(version)), None);
        }
        register
    }

    #[test]
    fn a_read_that_begins_after_an_acknowledgement_must_find_it() {
        let mut register = written();
        let floor = register.begin_read();
        assert_eq!(register.end_read(floor, 2), None);
        assert_eq!(register.end_read(floor, 1), Some(Breach::Stale { floor: 2, found: 1 }));
        assert_eq!(register.end_read(floor, 0), Some(Breach::Stale { floor: 2, found: 0 }));
    }

    #[test]
    fn a_read_beside_a_write_may_find_either() {
        let mut register = written();
        assert_eq!(register.begin_write(), Some(3));
        let floor = register.begin_read();
        assert_eq!(register.end_write(acknowledged(30)), None);
        assert_eq!(register.end_read(floor, 2), None);
        assert_eq!(register.end_read(floor, 3), None);
    }

    #[test]
    fn what_one_read_has_seen_the_next_one_sees_too() {
        let mut register = written();
        register.begin_write();
        let early = register.begin_read();
        assert_eq!(register.end_read(early, 3), None, "the write is under way");
        let late = register.begin_read();
        assert_eq!(register.end_read(late, 2), Some(Breach::Stale { floor: 3, found: 2 }));
        assert_eq!(register.end_read(early, 2), None, "it began before the other one had ended");
    }

    #[test]
    fn what_nobody_sent_and_what_was_refused_must_not_be_found() {
        let mut register = written();
        assert_eq!(register.end_read(0, 3), Some(Breach::Invented { sent: 2, found: 3 }));
        assert_eq!(register.begin_write(), Some(3));
        assert_eq!(register.end_write(Outcome::Refused), None);
        assert_eq!(register.end_read(2, 3), Some(Breach::Undead { found: 3 }));
        let mut register = written();
        register.begin_write();
        assert_eq!(register.end_read(2, 3), None);
        assert_eq!(register.end_write(Outcome::Refused), Some(Breach::Undead { found: 3 }), "it had been seen");
    }

    #[test]
    fn a_write_of_unknown_fate_closes_its_key_and_may_be_found_or_not() {
        let mut register = written();
        register.begin_write();
        assert_eq!(register.end_write(Outcome::Unknown), None);
        assert_eq!(register.begin_write(), None);
        let floor = register.begin_read();
        assert_eq!(register.end_read(floor, 2), None);
        assert_eq!((register.end_all(floor, 2), register.end_all(floor, 3)), (None, None));
        assert_eq!(register.end_read(floor, 3), None);
        assert_eq!(register.begin_read(), 3, "once found it stays");
    }

    #[test]
    fn versions_rise() {
        let mut register = written();
        register.begin_write();
        assert_eq!(register.end_write(acknowledged(20)), Some(Breach::Version { before: 20, after: 20 }));
    }

    #[test]
    fn lost_writes_are_those_that_were_acknowledged_and_that_nothing_replaced() {
        let mut register = written();
        register.begin_write();
        register.end_write(Outcome::Refused);
        register.begin_write();
        register.end_write(acknowledged(40));
        assert_eq!(register.end_all(4, 4), None);
        assert_eq!(
            register.end_all(2, 1),
            Some(Breach::Lost { acknowledged: 2, found: 1, writes: 1 }),
            "it began at 2"
        );
        assert_eq!(
            register.end_all(4, 1),
            Some(Breach::Lost { acknowledged: 4, found: 1, writes: 1 }),
            "4, and not 2 again"
        );
    }

    #[test]
    fn the_tally_counts_every_breach_by_its_kind() {
        let history = History::default();
        let entry = history.open("a".to_owned());
        history.begin_write(&entry);
        history.end_write(&entry, acknowledged(1));
        let floor = history.begin_read(&entry);
        history.end_read(&entry, floor, Some(0));
        history.end_read(&entry, floor, Some(9));
        history.end_read(&entry, floor, None);
        history.end_all(&entry, floor, 0);
        let tally = history.tally();
        let counts =
            (tally.acknowledged, tally.reads, tally.failed_reads, tally.stale, tally.other_breaches, tally.lost);
        assert_eq!(counts, (1, 2, 1, 1, 1, 1));
        assert!(!tally.is_sound() && Tally::default().is_sound());
        assert_eq!(history.complaints()[0], "a: a stale read: 0, after 1 was known");
        assert_eq!(tally.since(&tally), Tally::default());
    }
}
