//! How much a node holds, and how it fills others, as it changes.

use std::time::Duration;

use super::ControlEvent;
use crate::base::Instant;
use crate::control::FillingWord;

/// The share of `memory`, in percent, at which a node warns; and below which it would warn again. In between nothing is
/// said, so that a node at the border doesn't fill the log.
const CROWDED_PERCENT: u64 = 80;
const ROOMY_PERCENT: u64 = 75;
/// The rate of filling is measured over so long, and smoothed with what was measured before.
const MEASURED_EVERY: Duration = Duration::from_secs(1);

/// How much this node, or one of its shards, holds, and how sound that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Keys, copies included.
    pub keys: u64,
    /// Bytes of keys, values and their overhead.
    pub memory_bytes: u64,
    /// What it sends to those who are being filled.
    pub filling: FillingLoad,
    /// Since then all of it has been hashed again, and what is a backup's has been compared with its primary's; none where
    /// that hasn't happened yet.
    pub verified_at: Option<Instant>,
    /// Records that were found to be bad since the process started: rotten, or other than the primary's.
    pub differences: u64,
    /// Those that were put right.
    pub repairs: u64,
    /// Records that were hashed again.
    pub scrubbed_records: u64,
    /// The bytes that these are accounted with.
    pub scrubbed_bytes: u64,
}

/// How far the learners are that this node fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FillingLoad {
    /// Learners whose scan is under way, one for each partition and node.
    pub learners: u32,
    /// Bytes of tables that they have.
    pub done_bytes: u64,
    /// Bytes of tables that they lack.
    pub left_bytes: u64,
    /// All bytes of tables that this process has sent to anybody.
    pub sent_bytes: u64,
}

impl Load {
    /// How many seconds ago all was looked at, rounded up; the highest number where that never was.
    #[must_use]
    pub fn verified_s(&self, now: Instant) -> u16 {
        self.verified_at.map_or(u16::MAX, |at| u16::try_from(now.since(at).as_secs() + 1).unwrap_or(u16::MAX))
    }

    /// The differences and the repairs, where there was any.
    #[must_use]
    pub fn damage(&self) -> Option<(u32, u32)> {
        let bounded = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        (self.differences > 0).then(|| (bounded(self.differences), bounded(self.repairs)))
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            filling: FillingLoad {
                learners: self.filling.learners + other.filling.learners,
                done_bytes: self.filling.done_bytes + other.filling.done_bytes,
                left_bytes: self.filling.left_bytes + other.filling.left_bytes,
                sent_bytes: self.filling.sent_bytes + other.filling.sent_bytes,
            },
            verified_at: self.verified_at.zip(other.verified_at).map(|(one, other)| one.min(other)),
            differences: self.differences + other.differences,
            repairs: self.repairs + other.repairs,
            scrubbed_records: self.scrubbed_records + other.scrubbed_records,
            scrubbed_bytes: self.scrubbed_bytes + other.scrubbed_bytes,
        }
    }
}

/// A node's load, watched over time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadWatch {
    load: Load,
    is_crowded: bool,
    /// When the rate was measured last, and what had been sent then.
    measured: Option<(Instant, u64)>,
    bytes_per_second: u64,
}

impl LoadWatch {
    /// The node holds this now. What people should know of it, if anything.
    pub(super) fn handle(&mut self, now: Instant, load: Load, bytes_max: u64) -> Option<ControlEvent> {
        self.load = load;
        self.measure(now, load.filling.sent_bytes);
        let percent = u128::from(load.memory_bytes) * 100 / u128::from(bytes_max.max(1));
        let was_crowded = self.is_crowded;
        self.is_crowded = percent >= u128::from(if was_crowded { ROOMY_PERCENT } else { CROWDED_PERCENT });
        let bytes = load.memory_bytes;
        match (was_crowded, self.is_crowded) {
            (false, true) => Some(ControlEvent::MemoryCrowded { bytes, bytes_max }),
            (true, false) => Some(ControlEvent::MemoryRoomy { bytes, bytes_max }),
            _ => None,
        }
    }

    fn measure(&mut self, now: Instant, sent_bytes: u64) {
        let Some((at, before)) = self.measured else {
            self.measured = Some((now, sent_bytes));
            return;
        };
        let time = now.since(at);
        if time < MEASURED_EVERY {
            return;
        }
        let sample = u128::from(sent_bytes.saturating_sub(before)) * 1000 / time.as_millis();
        let sample = u64::try_from(sample).unwrap_or(u64::MAX);
        // After a rest the first sample counts alone.
        let is_first = self.bytes_per_second == 0;
        self.bytes_per_second = if is_first { sample } else { self.bytes_per_second / 2 + sample / 2 };
        self.measured = Some((now, sent_bytes));
    }

    pub(super) const fn load(&self) -> Load {
        self.load
    }

    /// What others are told of its filling; none while it fills nobody.
    pub(super) fn filling(&self) -> Option<FillingWord> {
        let FillingLoad { learners, done_bytes, left_bytes, .. } = self.load.filling;
        let kib = |bytes: u64| u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        (learners > 0).then(|| FillingWord {
            done_kib: kib(done_bytes),
            left_kib: kib(left_bytes),
            kib_per_second: kib(self.bytes_per_second),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(memory_bytes: u64) -> Load {
        Load { memory_bytes, ..Load::default() }
    }

    #[test]
    fn it_is_said_once_that_memory_runs_short_and_once_that_there_is_room_again() {
        let mut watch = LoadWatch::default();
        let mut handle = |bytes| watch.handle(Instant::ZERO, holding(bytes), 1000);
        assert_eq!(handle(799), None);
        assert_eq!(handle(800), Some(ControlEvent::MemoryCrowded { bytes: 800, bytes_max: 1000 }));
        assert_eq!((handle(900), handle(760), handle(800)), (None, None, None));
        assert_eq!(handle(749), Some(ControlEvent::MemoryRoomy { bytes: 749, bytes_max: 1000 }));
        assert_eq!((handle(750), handle(799)), (None, None));
        assert!(handle(1200).is_some(), "again");
    }

    #[test]
    fn a_rate_is_what_was_sent_in_a_second() {
        let mut watch = LoadWatch::default();
        let second = |nth: u64| Instant(nth * 1_000_000_000);
        let sent = |sent_bytes| Load {
            filling: FillingLoad { learners: 2, done_bytes: 2048, left_bytes: 1, sent_bytes },
            ..Load::default()
        };
        watch.handle(second(1), sent(10_240), 1);
        watch.handle(second(2), sent(30_720), 1);
        let word = FillingWord { done_kib: 2, left_kib: 1, kib_per_second: 20 };
        assert_eq!(watch.filling(), Some(word));
        watch.handle(second(3), sent(30_720), 1);
        assert_eq!(watch.filling(), Some(FillingWord { kib_per_second: 10, ..word }));
        watch.handle(second(4), holding(0), 1);
        assert_eq!(watch.filling(), None);
    }
}
