//! Read leases: until when a node may answer reads of the partitions that it leads.
//!
//! A lease guards reads only; writes are fenced by in-sync acknowledgements and epochs. It is asked for with the holder's
//! own send time and counts from then, on the holder's clock, so no two clocks are ever compared:
//!
//! ```text
//! holder   t0 ──LeaseRequest{t0}──▶ leader, at r        t0 ≤ r in real time
//! holder   ◀──LeaseGrant{t0, valid}──                   holder serves until t0 + valid ≤ r + valid
//! leader   won't let anybody take over before r + valid (with drift), and grants only while
//!          r + valid ≤ quorum contact + E: a leader elected elsewhere starts after all leases have ended
//! ```
//!
//! (Gray and Cheriton, "Leases", 1989; Ongaro's dissertation, section 6.4.1; the lease of a member through its leader as
//! in Pegasus.)

use std::time::Duration;

use bincode::{Decode, Encode};

use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, LogIndex, NodeId, Slot, Timing};

/// How far two clocks may drift apart, in parts per thousand: ρ = 10⁻³ each way.
const DRIFT_PER_MILLE: u32 = 1;

/// A node asks its leader for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeaseRequest {
    /// The asker's clock when it asked, in nanoseconds; it comes back in the grant.
    pub asked_at: u64,
}

/// The leader grants one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeaseGrant {
    /// The asker's clock when it asked.
    pub asked_at: u64,
    /// For how long from then.
    pub valid: Duration,
    /// The lease counts only once the holder has applied this entry: the one that last gave it data roles.
    pub since: LogIndex,
}

/// The leader's side.
#[derive(Clone, Debug, Default)]
pub struct LeaseGranter {
    asked: Vec<Option<Asked>>,
    ends: Vec<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    node: NodeId,
    asked_at: u64,
    received_at: Instant,
}

impl LeaseGranter {
    /// Notes a request; it is answered beside the next heartbeat to that node.
    pub fn handle_request(&mut self, now: Instant, from: NodeId, request: LeaseRequest) {
        let slot = from.slot.index();
        if self.asked.len() <= slot {
            self.asked.resize(slot + 1, None);
        }
        self.asked[slot] = Some(Asked { node: from, asked_at: request.asked_at, received_at: now });
    }

    /// The grant for `to`, if it asked and the leader's own standing allows one. `contact` is the leader's quorum
    /// contact: the latest moment at or after which a quorum is known to have heard it.
    pub fn grant(&mut self, to: NodeId, contact: Instant, timing: &Timing, since: LogIndex) -> Option<LeaseGrant> {
        let asked = self.asked.get_mut(to.slot.index())?.take_if(|asked| asked.node == to)?;
        // Whoever was heard from promises to elect nobody before contact + E on its own, possibly faster, clock.
        let promised_until = contact + shortened(timing.election);
        let valid = shortened(timing.lease).min(promised_until.since(asked.received_at));
        if valid.is_zero() {
            return None;
        }
        if self.ends.len() <= to.slot.index() {
            self.ends.resize(to.slot.index() + 1, Instant::ZERO);
        }
        let end = &mut self.ends[to.slot.index()];
        *end = (*end).max(asked.received_at + lengthened(valid));
        Some(LeaseGrant { asked_at: asked.asked_at, valid, since })
    }

    /// When the last lease granted to `slot` has ended for certain.
    #[must_use]
    pub fn ends_at(&self, slot: Slot) -> Instant {
        self.ends.get(slot.index()).copied().unwrap_or(Instant::ZERO)
    }

    /// When the last lease of anybody ends, at the latest.
    #[must_use]
    pub fn all_end_at(&self) -> Instant {
        self.ends.iter().copied().max().unwrap_or(Instant::ZERO)
    }

    /// Forgets all: another reign begins.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Everybody's side: until when this node may serve reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseHolder {
    until: Instant,
    since: LogIndex,
    /// Until when the leases before it last, of those that have counted.
    counted: Instant,
}

impl LeaseHolder {
    /// Asks for a lease from now on.
    #[must_use]
    pub const fn request(now: Instant) -> LeaseRequest {
        LeaseRequest { asked_at: now.0 }
    }

    /// Takes a grant, having applied the log through `applied`. One that claims to answer a question from the future is no
    /// answer of ours. Where it doesn't count yet, the one before goes on to its own end.
    pub fn handle_grant(&mut self, now: Instant, applied: LogIndex, grant: LeaseGrant) {
        if grant.asked_at > now.0 {
            return;
        }
        let from = if is_broken(Mutant::LeaseFromArrival) { now } else { Instant(grant.asked_at) };
        let until = from + grant.valid;
        if until > self.until {
            self.counted = self.until(applied);
            self.until = until;
            self.since = grant.since;
        }
    }

    /// The leader's own lease: as long as nobody else can have been elected.
    pub fn handle_own_contact(&mut self, contact: Instant, timing: &Timing) {
        self.until = self.until.max(contact + shortened(timing.lease));
        self.since = LogIndex::ZERO;
    }

    /// When it ends, whether it counts yet or not.
    #[must_use]
    pub const fn ends_at(&self) -> Instant {
        self.until
    }

    /// Until when this node may serve reads, having applied the log through `applied`; [`Instant::ZERO`] is never.
    #[must_use]
    pub fn until(&self, applied: LogIndex) -> Instant {
        if applied >= self.since { self.until } else { self.counted }
    }
}

/// `duration` on a clock that may run too fast compared with the one it was measured for.
fn shortened(duration: Duration) -> Duration {
    duration * (1000 - 2 * DRIFT_PER_MILLE) / 1000
}

/// `duration` on a clock that may run too slowly compared with the one it was measured for.
fn lengthened(duration: Duration) -> Duration {
    duration * (1000 + 3 * DRIFT_PER_MILLE) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Incarnation;

    const MS: u64 = 1_000_000;

    fn holder() -> NodeId {
        NodeId::new(Slot(1), Incarnation(7))
    }

    #[test]
    fn a_lease_counts_from_the_holders_question_and_ends_with_the_leaders_contact() {
        let timing = Timing::default();
        let mut granter = LeaseGranter::default();
        granter.handle_request(Instant(1000 * MS), holder(), LeaseRequest { asked_at: 5 });
        // The quorum was last heard 60 ms before the question: 40 ms of its promise are left, less the drift.
        let grant = granter.grant(holder(), Instant(940 * MS), &timing, LogIndex(3)).expect("some time is left");
        assert!(
            grant.valid < Duration::from_millis(40) && grant.valid > Duration::from_millis(39),
            "{:?}",
            grant.valid
        );
        assert!(granter.ends_at(Slot(1)) > Instant(1000 * MS) + grant.valid);
        assert_eq!(granter.grant(holder(), Instant(940 * MS), &timing, LogIndex(3)), None, "one grant a question");

        let mut lease = LeaseHolder::default();
        lease.handle_grant(Instant(MS), LogIndex(2), grant);
        assert_eq!(lease.until(LogIndex(3)), Instant(5) + grant.valid);
        assert_eq!(lease.until(LogIndex(2)), Instant::ZERO, "its table is from before its roles");
    }

    #[test]
    fn a_lease_that_has_counted_goes_on_while_the_next_one_does_not_count_yet() {
        let mut lease = LeaseHolder::default();
        let grant = |asked_at, since| LeaseGrant {
            asked_at: asked_at * MS,
            valid: Duration::from_millis(80),
            since: LogIndex(since),
        };
        lease.handle_grant(Instant(21 * MS), LogIndex(3), grant(20, 3));
        lease.handle_grant(Instant(41 * MS), LogIndex(3), grant(40, 7));
        lease.handle_grant(Instant(61 * MS), LogIndex(3), grant(60, 8));
        assert_eq!(lease.until(LogIndex(3)), Instant(100 * MS), "the first one, to its end");
        assert_eq!(lease.until(LogIndex(7)), Instant(100 * MS), "the second was replaced before it counted");
        assert_eq!(lease.until(LogIndex(8)), Instant(140 * MS));
    }

    #[test]
    fn a_leader_without_recent_contact_grants_nothing() {
        let mut granter = LeaseGranter::default();
        granter.handle_request(Instant(1000 * MS), holder(), LeaseRequest { asked_at: 5 });
        assert_eq!(granter.grant(holder(), Instant(880 * MS), &Timing::default(), LogIndex(3)), None);
    }

    #[test]
    fn a_grant_for_another_life_or_from_the_future_is_none() {
        let mut granter = LeaseGranter::default();
        granter.handle_request(Instant(10), holder(), LeaseRequest { asked_at: 5 });
        let reborn = NodeId::new(Slot(1), Incarnation(8));
        assert_eq!(granter.grant(reborn, Instant(10), &Timing::default(), LogIndex(3)), None);
        let mut lease = LeaseHolder::default();
        let grant = LeaseGrant { asked_at: 99, valid: Duration::from_secs(1), since: LogIndex::ZERO };
        lease.handle_grant(Instant(98), LogIndex(9), grant);
        assert_eq!(lease.until(LogIndex(9)), Instant::ZERO);
    }
}
