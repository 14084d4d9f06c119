//! Who goes: voters that have been silent for long, and nodes that an operator drains or removes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Supervisor, propose};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, LogIndex, NodeId, Options, Slot, SlotSet};
use crate::control::{Command, ControlState, Roster};
use crate::node::ControlEvent;
use crate::raft::Raft;

/// A learner that nobody has heard for so long isn't waited for: as long as a process without a leader waits at least before
/// it starts anew as somebody else.
const LEARNER_LOST_AFTER: Duration = Duration::from_secs(3);

impl Supervisor {
    /// A voter that has been silent for `demote_after` loses its vote, if the rest are a majority of what remains. So
    /// losses that come one after another can go on past half of the nodes. It stays registered: its vote and its data
    /// are two things. When it is heard again it joins as a learner.
    pub(super) fn demote_silent(&mut self, now: Instant, raft: &mut Raft, state: &ControlState, options: &Options) {
        let Some(reign) = &self.reign else { return };
        let membership = raft.membership();
        if membership.is_joint() {
            return;
        }
        let silent_for = |node: NodeId| now.since(reign.heard_at(node, raft));
        let others = || membership.voters.iter().copied().filter(|&node| node != options.me);
        let Some(silent) = others().find(|&node| silent_for(node) > options.demote_after) else { return };
        let rest: BTreeSet<NodeId> = membership.voters.iter().copied().filter(|&node| node != silent).collect();
        let silent_for = silent_for(silent);
        if self.can_decide(now, raft, state, &rest, options) && raft.propose_voters(now, rest).is_ok() {
            self.events.push(ControlEvent::Demoted { node: silent, silent_for });
        }
    }

    /// Whether most of `voters` are heard, and stay: no vote is taken away that the others could not do without. A new leader has to
    /// have heard them itself: who is only given time to be heard may be dead. And who is told to stop may end at any moment.
    fn can_decide(
        &self,
        now: Instant,
        raft: &Raft,
        state: &ControlState,
        voters: &BTreeSet<NodeId>,
        options: &Options,
    ) -> bool {
        let is_heard =
            |node: NodeId| raft.peer_acked_at(node).is_some_and(|acked| now.since(acked) < raft.timing().down);
        let is_going =
            |node: NodeId| (state.is_going(node) || self.is_stopping(node)) && !is_broken(Mutant::VotesLeftToWhoGoes);
        let stays = |node: NodeId| node == options.me || is_heard(node) && !is_going(node);
        voters.iter().filter(|&&node| stays(node)).count() * 2 > voters.len()
    }

    /// What a node holds that has been away for `replace_after` is copied elsewhere. (Where fewer than `min_copies` are left
    /// that is done at once, by the entry that declares it down.) It takes its place back when it returns.
    pub(super) fn replace_absent(&mut self, now: Instant, raft: &mut Raft, state: &ControlState, options: &Options) {
        let Some(reign) = &mut self.reign else { return };
        let roster = state.roster();
        // Nobody has sat in some of them yet: one that was just added gets as long to come as one that has gone to return. At
        // once absent, the copies that are to be its own would be made elsewhere first.
        let nobodys: SlotSet = roster.slots.iter().filter(|slot| state.node(*slot).node.is_none()).collect();
        reign.awaited.retain(|slot, _| nobodys.contains(*slot));
        for slot in nobodys.iter() {
            reign.awaited.entry(slot).or_insert(now);
        }
        let reign = &*reign;
        let is_away = |slot: &Slot| {
            let entry = state.node(*slot);
            let awaited_since = || reign.awaited.get(slot).copied().unwrap_or(now);
            let heard_at = entry.node.map_or_else(awaited_since, |node| reign.heard_at(node, raft));
            // Who is kept out answers all the time, and is missed as much.
            let fell_at = entry.node.and_then(|node| reign.falls.fell_at(node));
            let away_since = fell_at.map_or(heard_at, |fell_at| fell_at.min(heard_at));
            !entry.up && *slot != options.me.slot && now.since(away_since) > options.replace_after
        };
        let away: SlotSet = roster.staying().iter().filter(is_away).collect();
        if state.settings().is_some() && !away.is_empty() {
            let absent = roster.absent.union(away);
            if self.propose_roster(now, raft, state, Roster { absent, ..roster }).is_some() {
                away.iter().for_each(|slot| self.events.push(ControlEvent::Replaced { slot }));
            }
        }
    }

    /// Nodes that were removed leave when they hold nothing any more.
    pub(super) fn see_off(&mut self, now: Instant, raft: &mut Raft, state: &ControlState, options: &Options) {
        let roster = state.roster();
        let is_gone = |slot: &Slot| !state.holds_anything(*slot) && *slot != options.me.slot;
        if let Some(slot) = roster.leaving.iter().find(is_gone) {
            let left = Roster {
                slots: roster.slots.without(slot),
                draining: roster.draining.without(slot),
                leaving: roster.leaving.without(slot),
                absent: roster.absent.without(slot),
                ..roster
            };
            let _ = self.propose_roster(now, raft, state, left);
        }
        let membership = raft.membership();
        let outside = |node: &&NodeId| !roster.slots.contains(node.slot) && **node != options.me;
        if state.settings().is_none() || membership.is_joint() {
            return;
        }
        if let Some(&voter) = membership.voters.iter().find(outside) {
            let rest = membership.voters.iter().copied().filter(|&node| node != voter).collect();
            // Where others are dead at the moment, theirs might be the votes that are left.
            if self.can_decide(now, raft, state, &rest, options) && raft.propose_voters(now, rest).is_ok() {
                self.events.push(ControlEvent::Left { node: voter });
            }
        } else if let Some(&learner) = membership.learners.iter().find(outside) {
            let _ = raft.propose_drop_learner(now, learner);
        }
    }

    /// A learner that nobody hears is a member no more. It may be a life that has ended long ago, and whose announcement came
    /// late: while it is a member, what is said to its slot is said to it, and the present life hears nothing. Whoever is
    /// there after all announces itself again, or is told that it is out and starts anew.
    pub(super) fn drop_lost_learners(&mut self, now: Instant, raft: &mut Raft) {
        let Some(reign) = &mut self.reign else { return };
        let learners = raft.membership().learners.clone();
        reign.learners.retain(|node, _| learners.contains(node));
        for learner in learners {
            let since = *reign.learners.entry(learner).or_insert(now);
            let heard_at = raft.peer_acked_at(learner).map_or(since, |acked| acked.max(since));
            if now.since(heard_at) > LEARNER_LOST_AFTER && raft.propose_drop_learner(now, learner).is_ok() {
                return;
            }
        }
    }

    /// Proposes another roster: the index of its entry; none where one is on its way already, or the log takes nothing at the
    /// moment.
    pub(in crate::node) fn propose_roster(
        &mut self,
        now: Instant,
        raft: &mut Raft,
        state: &ControlState,
        roster: Roster,
    ) -> Option<LogIndex> {
        let reign = self.reign.as_mut()?;
        if reign.roster.is_some_and(|index| state.applied() < index) {
            return None;
        }
        reign.roster = propose(now, raft, &Command::SetRoster { before: state.roster(), after: roster });
        reign.roster
    }
}
