//! One slot's process, and its clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{Instant, NodeId};
use crate::codec::Keyring;
use crate::node::Node;

const MILLION: u128 = 1_000_000;

/// One slot's process.
pub(super) struct Process {
    /// None while it is dead.
    pub(super) node: Option<Node>,
    pub(super) clock: Clock,
    /// It does nothing until then; what arrives waits.
    pub(super) paused_until: Instant,
    /// While it stands still its whole machine does: what arrives is lost.
    pub(super) is_suspended: bool,
    pub(super) lives: u64,
    pub(super) woken_at: Instant,
    /// What signs and verifies its datagrams.
    pub(super) keyring: Arc<Keyring>,
    /// Fingerprints of the datagrams that this life has been handed.
    pub(super) handed: BTreeSet<u64>,
}

impl Process {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            node: None,
            clock,
            paused_until: Instant::ZERO,
            is_suspended: false,
            lives: 0,
            woken_at: Instant::FAR,
            keyring: Arc::default(),
            handed: BTreeSet::new(),
        }
    }
}

/// The node that is `id`, if it lives.
pub(super) fn living(processes: &[Process], id: NodeId) -> Option<&Node> {
    processes.get(id.slot.index())?.node.as_ref().filter(|node| node.control().me() == id)
}

/// Every node that lives.
pub(super) fn all_living(processes: &[Process]) -> impl Iterator<Item = &Node> {
    processes.iter().filter_map(|process| process.node.as_ref())
}

/// One process's clock: started some time before the world, and a little too fast or too slow. It goes on while the process
/// stands still, and while its machine is suspended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What it shows at the world's zero, in nanoseconds.
    offset: u64,
    /// Nanoseconds that it goes on by while a million pass.
    speed: u64,
}

impl Clock {
    /// A clock that is `per_million` parts per million too fast, or too slow.
    pub(super) const fn new(offset: u64, per_million: i64) -> Self {
        Self { offset, speed: (MILLION as i64 + per_million) as u64 }
    }

    /// What it shows when it is `now` in the world.
    pub(super) const fn show(self, now: Instant) -> Instant {
        Instant(self.offset + (now.0 as u128 * self.speed as u128 / MILLION) as u64)
    }

    /// When it will show `local` in the world: rounded up, so that what is due then is due indeed.
    pub(super) const fn world(self, local: Instant) -> Instant {
        let shown = local.0.saturating_sub(self.offset) as u128;
        Instant((shown * MILLION).div_ceil(self.speed as u128) as u64)
    }
}
