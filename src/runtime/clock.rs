//! The clock of a process.

use crate::base::Instant;
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME, counted from this clock's own start.
///
/// It goes on while the machine is suspended: a lease that was granted before a suspend must have ended after it. A
/// monotonic clock that stands still meanwhile would let a node wake up and answer reads from a table that is hours old.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start_ns: u64,
}

impl Clock {
    /// A clock that shows [`Instant::ZERO`] now.
    #[must_use]
    pub fn start() -> Self {
        Self { start_ns: boot_ns() }
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(boot_ns() - self.start_ns)
    }
}

fn boot_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // Both parts of a time since boot are positive.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
