//! A primary that gives its partition back to the target primary, and a new one that lets the former one go.
//!
//! ```text
//! calm for a while ─▶ orders nothing new ─▶ all is committed, and told ─▶ proposes it ─▶ the record names another primary
//!                         │ (writes wait in the shard, reads go on)            │
//!                         └────── nothing came of it in time ◀─────────────────┘ ─▶ orders again, tries again later
//! ```
//!
//! So nobody's write is cut off, and nobody is told `unknown`. A proposal of which nothing came in time may still be decided
//! later: then it ends this primary as any new epoch does.

use std::time::Duration;

use super::members::Stream;
use super::primary::{Office, Primary};
use super::{Output, Replica};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{InSyncChange, Instant, Slot};

/// A partition is given back once its record has stayed the same for so long: where nodes come and go, others are still to
/// change, and each move costs its clients some milliseconds.
const CALM_FOR: Duration = Duration::from_secs(1);
/// For so long no new writes are ordered, at most. An entry of the control log takes some milliseconds, and some heartbeats
/// where its leader is just being replaced.
const GIVES_UP_AFTER: Duration = Duration::from_millis(500);
/// One that has to go soon tries again after this.
const HURRIED_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// After an attempt that came to nothing the next one waits for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How far a primary is with giving its partition back.
#[derive(Clone, Debug)]
pub struct Giving {
    /// Not before; and not before then either where the node stops.
    not_before: Instant,
    hurried_not_before: Instant,
    under_way: Option<UnderWay>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    to: Slot,
    is_proposed: bool,
    gives_up_at: Instant,
}

impl Giving {
    /// The record has changed: whatever was proposed is decided, and it has to be calm anew.
    pub fn new(now: Instant) -> Self {
        Self { not_before: now + CALM_FOR, hurried_not_before: now, under_way: None }
    }

    /// Whether no new writes are ordered.
    pub const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// When it has to come to an end.
    pub fn deadline(&self) -> Instant {
        self.under_way.as_ref().map_or(Instant::FAR, |under_way| under_way.gives_up_at)
    }

    /// It came to nothing: writes are ordered again.
    pub fn give_up(&mut self, now: Instant) {
        let hurried_not_before = now + HURRIED_AGAIN_AFTER;
        *self = Self { not_before: now + AGAIN_AFTER, hurried_not_before, under_way: None };
    }
}

impl Primary {
    /// Whether `slot` takes what is sent to it, as far as this primary knows.
    fn follows(&self, slot: Slot) -> bool {
        self.member(slot).is_some_and(|member| !member.is_learner() && member.stream == Stream::Flowing)
    }
}

impl Replica {
    /// Whether this primary orders nothing new because it is about to give the partition back. Its writes are to wait.
    #[must_use]
    pub fn is_giving_back(&self) -> bool {
        self.primary.as_ref().is_some_and(|primary| primary.giving.is_under_way())
    }

    /// Whether writes have to wait until that is decided.
    #[must_use]
    pub fn withholds_writes(&self) -> bool {
        self.is_giving_back() && !is_broken(Mutant::GivingKeepsWrites)
    }

    /// From when on this primary may give the partition back, or, `hurried`, away; none while it has something else to do.
    #[must_use]
    pub fn may_give_back_at(&self, hurried: bool) -> Option<Instant> {
        let primary = self.primary.as_ref().filter(|primary| primary.wishes_nothing() && self.is_serving())?;
        Some(if hurried { primary.giving.hurried_not_before } else { primary.giving.not_before })
    }

    /// `to` is the target primary, or, `hurried`, whoever takes over from a node that stops: it is given the partition, if
    /// that can be done now. Whether that began.
    pub fn give_back(&mut self, now: Instant, to: Slot, hurried: bool, out: &mut Vec<Output>) -> bool {
        let may_begin = self.may_give_back_at(hurried).is_some_and(|at| at <= now);
        let is_laggard = !self.record.in_sync.contains(to) && !is_broken(Mutant::GiveToLaggard);
        let Some(primary) = self.primary.as_deref_mut().filter(|_| may_begin && !is_laggard) else { return false };
        if !primary.follows(to) && !is_broken(Mutant::GiveToLaggard) {
            return false;
        }
        let gives_up_at = now + GIVES_UP_AFTER;
        primary.giving.under_way = Some(UnderWay { to, is_proposed: false, gives_up_at });
        self.maybe_propose_giving(now, out);
        true
    }

    /// Once everything ordered is committed, and its members are told so, the partition can go.
    pub(super) fn maybe_propose_giving(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.is_giving_back() || self.uncommitted() > 0 {
            return;
        }
        let Some(Office { primary, context, .. }) = self.office(now) else { return };
        let (change, epoch) = (primary.proposed_under, context.epoch);
        let Some(under_way) = primary.giving.under_way.as_mut().filter(|under_way| !under_way.is_proposed) else {
            return;
        };
        under_way.is_proposed = true;
        let give_to = Some(under_way.to);
        // The new primary gives what it hears of now the stamps of this epoch, so that viewers see nothing twice.
        for (_, member) in &mut primary.members {
            member.maybe_tell_commit(context, out);
        }
        out.push(Output::Propose(InSyncChange {
            partition: self.partition,
            proposer: self.options.me,
            epoch,
            change,
            give_to,
            ..InSyncChange::default()
        }));
    }
}
