//! Who has a say.

use std::collections::BTreeSet;
use std::fmt;

use bincode::{Decode, Encode};

use crate::base::{LogIndex, NodeId, limits};

/// The members of the cluster, as one entry of the log states them. It is in force from the moment it is appended,
/// committed or not (section 6 of the paper): a leader that used the old one until the commit could be outvoted by a
/// majority of the new one.
///
/// A change of voters goes through a *joint* membership, in which everything takes a majority of both sets. Changing
/// from one set straight to another would let two disjoint majorities decide at once:
///
/// ```text
/// voters {1 2 3}  ──joint──▶  voters {1 2 4}, outgoing {1 2 3}  ──when that is committed──▶  voters {1 2 4}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Membership {
    /// Who votes, and whose copies count for a commit.
    pub voters: BTreeSet<NodeId>,
    /// The voters before, while the change is joint; else empty.
    pub outgoing: BTreeSet<NodeId>,
    /// Who receives the log without a say.
    pub learners: BTreeSet<NodeId>,
}

impl Membership {
    /// A membership of `voters` alone.
    #[must_use]
    pub fn of_voters(voters: BTreeSet<NodeId>) -> Self {
        Self { voters, ..Self::default() }
    }

    /// Nothing is known: what a process has that was never told.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.voters.is_empty()
    }

    /// Whether a change of voters is half done.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node` votes, under the old set or the new one.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` is in it at all.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Everybody in it, each once, in order.
    #[must_use]
    pub fn everybody(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }

    /// Everybody who votes, each once, in order.
    #[must_use]
    pub fn all_voters(&self) -> BTreeSet<NodeId> {
        self.voters.union(&self.outgoing).copied().collect()
    }

    /// Whether a peer may send this: somebody votes, nobody is voter and learner at once, and it isn't absurdly large.
    pub(super) fn is_sane(&self) -> bool {
        let small = |set: &BTreeSet<NodeId>| set.len() <= limits::NODES_MAX;
        !self.voters.is_empty()
            && small(&self.voters)
            && small(&self.outgoing)
            && small(&self.learners)
            && !self.learners.iter().any(|learner| self.is_voter(*learner))
    }

    /// The joint membership on the way from this one to `voters`. A learner that becomes a voter stops being a learner.
    pub(super) fn joint(&self, voters: &BTreeSet<NodeId>) -> Self {
        Self {
            voters: voters.clone(),
            outgoing: self.voters.clone(),
            learners: self.learners.difference(voters).copied().collect(),
        }
    }

    /// The membership that a joint one leads to.
    pub(super) fn settled(&self) -> Self {
        Self { outgoing: BTreeSet::new(), ..self.clone() }
    }

    /// This one with `node` as a learner, instead of any other incarnation in its slot.
    pub(super) fn with_learner(&self, node: NodeId) -> Self {
        let mut changed = self.clone();
        changed.learners.retain(|learner| learner.slot != node.slot);
        changed.learners.insert(node);
        changed
    }

    /// This one without the learner `node`.
    pub(super) fn without_learner(&self, node: NodeId) -> Self {
        let mut changed = self.clone();
        changed.learners.remove(&node);
        changed
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |set: &BTreeSet<NodeId>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "{{{}", list(&self.voters))?;
        if self.is_joint() {
            write!(f, " | outgoing {}", list(&self.outgoing))?;
        }
        if !self.learners.is_empty() {
            write!(f, " | learners {}", list(&self.learners))?;
        }
        f.write_str("}")
    }
}

/// A setting that entries of the log change: what it was before the log begins, and each change since. The latest one
/// is in force; truncating the log brings an earlier one back.
#[derive(Clone, Debug)]
pub(super) struct History<T> {
    base: T,
    changes: Vec<(LogIndex, T)>,
}

impl<T: Clone> History<T> {
    pub(super) const fn new(base: T) -> Self {
        Self { base, changes: Vec::new() }
    }

    /// The value in force at the end of the log.
    pub(super) fn latest(&self) -> &T {
        self.changes.last().map_or(&self.base, |(_, value)| value)
    }

    /// Where it was set; 0 where that is before the log begins.
    pub(super) fn latest_index(&self) -> LogIndex {
        self.changes.last().map_or(LogIndex::ZERO, |(index, _)| *index)
    }

    /// The value in force right after the entry at `index`.
    pub(super) fn at(&self, index: LogIndex) -> &T {
        self.changes.iter().rev().find(|(changed, _)| *changed <= index).map_or(&self.base, |(_, value)| value)
    }

    /// The values set by entries after `index`.
    pub(super) fn after(&self, index: LogIndex) -> impl Iterator<Item = &T> {
        self.changes.iter().filter(move |(changed, _)| *changed > index).map(|(_, value)| value)
    }

    pub(super) fn append(&mut self, index: LogIndex, value: T) {
        assert!(index > self.latest_index(), "a change at {index} after one at {}", self.latest_index());
        self.changes.push((index, value));
    }

    pub(super) fn truncate_from(&mut self, index: LogIndex) {
        self.changes.retain(|(changed, _)| *changed < index);
    }

    pub(super) fn compact(&mut self, through: LogIndex) {
        self.base = self.at(through).clone();
        self.changes.retain(|(changed, _)| *changed > through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_brings_the_setting_before_back_and_compaction_keeps_the_one_in_force() {
        let mut history = History::new('a');
        history.append(LogIndex(3), 'b');
        history.append(LogIndex(7), 'c');
        assert_eq!((*history.at(LogIndex(2)), *history.at(LogIndex(6)), *history.latest()), ('a', 'b', 'c'));
        history.truncate_from(LogIndex(7));
        assert_eq!((*history.latest(), history.latest_index()), ('b', LogIndex(3)));
        history.compact(LogIndex(5));
        assert_eq!((*history.at(LogIndex(5)), history.latest_index()), ('b', LogIndex::ZERO));
    }
}
