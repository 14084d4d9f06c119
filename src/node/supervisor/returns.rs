//! Who comes back, and when: whoever falls out again and again waits longer each time.
//!
//! A node that is declared down and comes back is filled anew, enters the in-sync sets, and what is written waits for it when
//! it falls silent the next time. One that does so all the time slows every write down. So the leader remembers how often
//! that very life of it fell out:
//!
//! | it fell out | it comes back |
//! |---|---|
//! | once, or for the first time after a calm | at once |
//! | again | a tenth of `replace_after` later (a second) |
//! | and again | after twice the time before, six times `replace_after` (a minute) at most |
//!
//! It is forgotten once the node was up for as long as it had to wait last, and for half of `replace_after` at least. Another
//! life is another node, and another leader begins anew. Nobody waits who is needed: where a partition has fewer copies than
//! `min_copies`, or none that is up and the node has it, being in is better than refusing writes. Votes aren't concerned.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Supervisor, propose};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, NodeId, Options, Slot};
use crate::control::{Command, ControlState, HeldWord, LeaseGranter};
use crate::node::ControlEvent;
use crate::node::pace::Pace;
use crate::raft::Raft;

/// More falls than this make no difference: the longest wait is reached before.
const FALLS_MAX: u8 = 30;
/// Nodes of whom people are told why they are out.
const HELD_MAX: usize = 8;

/// How often nodes fell out of late.
#[derive(Debug, Default)]
pub(super) struct Falls(BTreeMap<Slot, Fallen>);

#[derive(Clone, Copy, Debug)]
struct Fallen {
    node: NodeId,
    count: u8,
    fell_at: Instant,
    returned_at: Option<Instant>,
}

impl Fallen {
    /// For how long it has to stay out.
    fn waits_for(&self, replace_after: Duration) -> Duration {
        let (first, longest) = (replace_after / 10, replace_after * 6);
        match self.count {
            0 | 1 => Duration::ZERO,
            count => first.saturating_mul(1 << (count - 2)).min(longest),
        }
    }
}

impl Falls {
    /// `node` is to be declared down.
    pub(super) fn note_fall(&mut self, now: Instant, node: NodeId, replace_after: Duration) {
        let count = self.of(node).map_or(0, |fallen| {
            let calm = fallen.waits_for(replace_after).max(replace_after / 2);
            let was_calm = fallen.returned_at.is_some_and(|at| now.since(at) >= calm);
            if was_calm { 0 } else { fallen.count }
        });
        let count = (count + 1).min(FALLS_MAX);
        self.0.insert(node.slot, Fallen { node, count, fell_at: now, returned_at: None });
    }

    /// `node` is to be declared up.
    fn note_return(&mut self, now: Instant, node: NodeId) {
        match self.0.get_mut(&node.slot) {
            Some(fallen) if fallen.node == node => fallen.returned_at = Some(now),
            _ => drop(self.0.remove(&node.slot)),
        }
    }

    /// Until when `node`, which is down, has to stay out; none where it may come back.
    fn held_until(&self, now: Instant, node: NodeId, replace_after: Duration) -> Option<Instant> {
        let fallen = self.of(node).filter(|_| !is_broken(Mutant::ReturnsAtOnce))?;
        Some(fallen.fell_at + fallen.waits_for(replace_after)).filter(|until| *until > now)
    }

    /// Whether `node` came back a moment ago. It isn't left out again at once for being slow: it may have been needed.
    pub(super) fn has_just_returned(&self, now: Instant, node: NodeId, replace_after: Duration) -> bool {
        let returned_at = self.of(node).and_then(|fallen| fallen.returned_at);
        returned_at.is_some_and(|at| now.since(at) < replace_after / 2)
    }

    /// Since when `node` has been down, as far as this leader knows.
    pub(super) fn fell_at(&self, node: NodeId) -> Option<Instant> {
        Some(self.of(node)?.fell_at)
    }

    fn of(&self, node: NodeId) -> Option<&Fallen> {
        self.0.get(&node.slot).filter(|fallen| fallen.node == node)
    }
}

impl Supervisor {
    /// A voter that acks and has the log, but holds no data roles, gets them, unless it falls out again and again.
    pub(super) fn propose_returns(
        &mut self,
        now: Instant,
        raft: &mut Raft,
        state: &ControlState,
        granter: &LeaseGranter,
        pace: &Pace,
        options: &Options,
    ) {
        let Some(reign) = &mut self.reign else { return };
        let (timing, me) = (raft.timing(), options.me);
        if state.settings().is_none() {
            return;
        }
        let voters: Vec<NodeId> = raft.membership().voters.iter().copied().collect();
        for node in voters {
            let entry = state.node(node.slot);
            // Who was let go stays away. One that was found silent while it was about to stop may have the last copy.
            let was_let_go = state.is_going(node) && state.is_gone(node);
            let stays_away = was_let_go && !is_broken(Mutant::StoppingReturns);
            if entry.node == Some(node) && entry.up || stays_away || !state.roster().slots.contains(node.slot) {
                continue;
            }
            let is_heard = node == me
                || raft.peer_acked_at(node).is_some_and(|acked| now.since(acked) < timing.down / 2)
                    && raft.match_index(node) >= Some(raft.commit_index());
            let is_needed = state.needs(node.slot);
            let is_here = is_heard && (!pace.falters(now, node, &timing) || pace.starves(node) && is_needed);
            // Its slot's earlier life may still be up, and serve until its lease has ended.
            let may_replace = !entry.up || now > granter.ends_at(node.slot);
            if is_here
                && may_replace
                && (is_needed || reign.falls.held_until(now, node, options.replace_after).is_none())
                && !reign.is_proposed(node, true, state)
                && let Some(index) = propose(now, raft, &Command::NodeUp { node })
            {
                reign.node_states.insert(node, (index, true));
                reign.falls.note_return(now, node);
                self.events.push(ControlEvent::NodeReturned { node });
            }
        }
    }

    /// Who is down though it answers, and why: for people.
    pub(in crate::node) fn held_back(
        &self,
        now: Instant,
        state: &ControlState,
        pace: &Pace,
        options: &Options,
    ) -> Vec<HeldWord> {
        let Some(reign) = &self.reign else { return Vec::new() };
        let down = state.nodes().iter().filter(|entry| !entry.up).filter_map(|entry| entry.node);
        let held = down.filter_map(|node| {
            let until = reign.falls.held_until(now, node, options.replace_after);
            let late_percent = pace.late_percent(now, node).filter(|_| pace.starves(node));
            let for_ms = until.map_or(0, |until| u32::try_from(until.since(now).as_millis()).unwrap_or(u32::MAX));
            let falls = reign.falls.of(node).map_or(0, |fallen| fallen.count);
            let word = HeldWord { slot: node.slot, falls, for_ms, late_percent };
            (until.is_some() || late_percent.is_some()).then_some(word)
        });
        held.take(HELD_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Incarnation;

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000_000) + Duration::from_millis(ms)
    }

    const REPLACE_AFTER: Duration = Duration::from_secs(10);

    #[test]
    fn who_falls_out_again_and_again_waits_for_twice_as_long_each_time_and_a_minute_at_most() {
        let (mut falls, mut now) = (Falls::default(), at(0));
        let node = NodeId::new(Slot(1), Incarnation(1));
        let mut waits = Vec::new();
        for _ in 0..10 {
            falls.note_fall(now, node, REPLACE_AFTER);
            let until = falls.held_until(now, node, REPLACE_AFTER);
            waits.push(until.map_or(0, |until| until.since(now).as_secs()));
            now = until.unwrap_or(now) + Duration::from_millis(100);
            assert_eq!(falls.held_until(now, node, REPLACE_AFTER), None);
            falls.note_return(now, node);
            now = now + Duration::from_secs(4);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now = now + Duration::from_secs(56);
        falls.note_fall(now, node, REPLACE_AFTER);
        assert_eq!(falls.held_until(now, node, REPLACE_AFTER), None, "it was well for as long as it had to wait");
        for _ in 0..200 {
            falls.note_fall(now, node, REPLACE_AFTER);
        }
        assert!(falls.held_until(now + Duration::from_secs(59), node, REPLACE_AFTER).is_some());
    }

    #[test]
    fn another_life_is_another_node() {
        let mut falls = Falls::default();
        let [before, after] = [1, 2].map(|life| NodeId::new(Slot(1), Incarnation(life)));
        falls.note_fall(at(0), before, REPLACE_AFTER);
        falls.note_fall(at(1), before, REPLACE_AFTER);
        assert!(falls.held_until(at(2), before, REPLACE_AFTER).is_some());
        assert_eq!(falls.held_until(at(2), after, REPLACE_AFTER), None);
        falls.note_return(at(3), after);
        falls.note_fall(at(4), after, REPLACE_AFTER);
        assert_eq!(falls.held_until(at(4), after, REPLACE_AFTER), None);
    }
}
