//! Majorities.
//!
//! Everything that needs the agreement of the voters asks here, so that "both majorities while joint" is written once.

use std::collections::BTreeSet;

use super::Membership;
use crate::base::NodeId;
use crate::base::mutant::{Mutant, is_broken};

impl Membership {
    /// Whether those for whom `agrees` holds are a majority of the voters and, while joint, of the outgoing ones too.
    /// Nobody is a majority of nobody: a blank membership has no quorum.
    #[must_use]
    pub fn is_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        let half_will_do = usize::from(is_broken(Mutant::QuorumOfHalf));
        let majority =
            |set: &BTreeSet<NodeId>| set.iter().filter(|node| agrees(**node)).count() + half_will_do > set.len() / 2;
        let one_will_do = self.outgoing.is_empty() || is_broken(Mutant::JointBypassed);
        majority(&self.voters) && (one_will_do || majority(&self.outgoing))
    }

    /// The greatest value that a quorum has reached, `of` telling how far each voter is; none where nobody votes.
    pub(super) fn quorum_value<T: Ord>(&self, of: impl Fn(NodeId) -> T) -> Option<T> {
        let reached = |set: &BTreeSet<NodeId>| {
            let mut values: Vec<T> = set.iter().map(|node| of(*node)).collect();
            if is_broken(Mutant::LearnersCount) && !set.is_empty() {
                values.extend(self.learners.iter().map(|node| of(*node)));
            }
            values.sort_unstable_by(|left, right| right.cmp(left));
            // In falling order, the value at half the length is one that more than half have reached.
            values.into_iter().nth(set.len() / 2)
        };
        let incoming = reached(&self.voters)?;
        Some(match reached(&self.outgoing) {
            Some(outgoing) if !is_broken(Mutant::JointBypassed) => incoming.min(outgoing),
            Some(_) | None => incoming,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Incarnation, Slot};

    fn nodes(slots: &[u8]) -> BTreeSet<NodeId> {
        slots.iter().map(|slot| NodeId::new(Slot(*slot), Incarnation(0))).collect()
    }

    #[test]
    fn a_quorum_is_more_than_half_and_half_is_none() {
        for (voters, agreeing, expected) in
            [(1, 1, true), (2, 1, false), (3, 2, true), (4, 2, false), (4, 3, true), (5, 3, true), (5, 2, false)]
        {
            let members = Membership::of_voters(nodes(&(0..voters).collect::<Vec<_>>()));
            assert_eq!(members.is_quorum(|node| node.slot.0 < agreeing), expected, "{agreeing} of {voters}");
        }
        assert!(!Membership::default().is_quorum(|_| true), "nobody has no quorum");
    }

    #[test]
    fn a_joint_quorum_takes_both_majorities_and_learners_do_not_count() {
        let members = Membership { voters: nodes(&[0, 3, 4]), outgoing: nodes(&[0, 1, 2]), learners: nodes(&[5, 6]) };
        for (agreeing, expected) in [
            (&[0, 3, 4][..], false),
            (&[0, 1, 2], false),
            (&[0, 1, 3], true),
            (&[1, 2, 3, 4], true),
            (&[0, 5, 6], false),
        ] {
            let agreeing = nodes(agreeing);
            assert_eq!(members.is_quorum(|node| agreeing.contains(&node)), expected, "{agreeing:?}");
        }
    }

    #[test]
    fn the_value_of_a_quorum_is_what_a_majority_of_each_set_has_reached() {
        let of = |node: NodeId| [9, 7, 5, 3, 1][node.slot.index()];
        for (voters, outgoing, expected) in [
            (&[0][..], &[][..], Some(9)),
            (&[0, 1], &[], Some(7)),
            (&[0, 1, 2], &[], Some(7)),
            (&[0, 1, 2, 3], &[], Some(5)),
            (&[0, 1, 2], &[2, 3, 4], Some(3)),
            (&[], &[], None),
        ] {
            let members = Membership { voters: nodes(voters), outgoing: nodes(outgoing), ..Membership::default() };
            assert_eq!(members.quorum_value(of), expected, "{voters:?} {outgoing:?}");
        }
    }
}
