//! Partition → owners.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::jump::jumps;
use crate::base::{PartitionId, Slot, SlotSet, limits};

/// The seed of every partition's hashes; salts are added to it. Another seed would put partitions elsewhere, so it stays for ever.
///
/// A hash alone would spread 4096 partitions over 16 nodes with a standard deviation of 6 %. As the partitions are known
/// in advance, the seed could be chosen: among the first two million multiples of 2³² it gives the narrowest spread of
/// primaries for every cluster of 2 to 17 nodes at once.
const PARTITION_SEED: u64 = 577_613 << 32;

/// The owners of one partition, in order: the first is the primary where it is up and in sync, the others are backups.
///
/// Invariants: the slots are distinct, and there are at most [`limits::NODES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    /// The first `length` count; those behind are [`Slot`] 0, so that equal owners are equal.
    slots: [Slot; limits::NODES_MAX],
    length: u8,
}

impl Owners {
    const NONE: Self = Self { slots: [Slot(0); limits::NODES_MAX], length: 0 };

    fn push(&mut self, slot: Slot) {
        debug_assert!(!self.contains(slot), "{slot} owns the same partition twice: {self:?}");
        self.slots[usize::from(self.length)] = slot;
        self.length += 1;
    }

    /// Puts `slot` at `place`, and those from there on one place further back.
    fn insert(&mut self, place: usize, slot: Slot) {
        self.push(slot);
        self.slots[place..usize::from(self.length)].rotate_right(1);
    }

    /// The owners in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Slot] {
        &self.slots[..usize::from(self.length)]
    }

    /// The target primary; none where there were no members.
    #[must_use]
    pub fn primary(&self) -> Option<Slot> {
        self.as_slice().first().copied()
    }

    /// The owners as a set.
    #[must_use]
    pub fn set(&self) -> SlotSet {
        self.as_slice().iter().copied().collect()
    }

    /// Whether `slot` is one of them.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.as_slice().contains(&slot)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// Whether there is none, because there were no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The owners in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.as_slice().iter().copied()
    }
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

/// The owners of `partition` among `members`: `replicas` of them, or all members where there are fewer. No members, no
/// owners.
///
/// Each partition has an order of all slots, and its owners are the first members in it. The order grows slot by slot:
/// the slot after the first n goes to the front where [`jump()`](super::jump()) of n + 1 buckets says so, and else to any
/// place behind the front, by another hash. So each slot is as likely in each place, and as slots keep their order whoever
/// comes or goes:
///
/// - the primary among n slots without gaps is the jump hash over n;
/// - the owners for fewer copies are the beginning of the owners for more;
/// - a member that comes takes only what it owns from then on, and one that goes moves only what it owned, wherever it sits;
/// - one member *and* one copy more makes one copy more of each partition, and takes none away.
///
/// So no change of members moves more than it must. (Salting a jump hash until it gives a member not taken yet spreads
/// as well, but where the number of copies grows with the nodes it moves up to a fifth more.)
///
/// Its time grows with the highest slot.
#[must_use]
pub fn owners(partition: PartitionId, members: SlotSet, replicas: u8) -> Owners {
    let mut order = Owners::NONE;
    let mut fronts = jumps(hash_partition(partition, 0)).peekable();
    for slot in 0..members.iter().last().map_or(0, |highest| highest.0 + 1) {
        let place = if fronts.next_if_eq(&u64::from(slot)).is_some() {
            0
        } else {
            1 + hash_partition(partition, u64::from(slot)) % u64::from(slot)
        };
        order.insert(place as usize, Slot(slot));
    }
    let mut owners = Owners::NONE;
    for owner in order.iter().filter(|slot| members.contains(*slot)).take(usize::from(replicas)) {
        owners.push(owner);
    }
    owners
}

/// What is random about a partition, but always the same: with salt 0 who comes to the front of its order, with that of a
/// slot where else that slot goes.
fn hash_partition(partition: PartitionId, salt: u64) -> u64 {
    xxh3_64_with_seed(&partition.0.to_le_bytes(), PARTITION_SEED + salt)
}

/// The owners of every partition of a cluster: the target that rebalancing works towards.
///
/// How well it spreads, for the default of 4096 partitions and 2 to 17 nodes without gaps: the busiest and the idlest
/// node are primaries of numbers of partitions that differ by at most 10 % of the average. With other numbers of
/// partitions, or with slots unused, it is as even as a random choice: a standard deviation of √(nodes/partitions) of
/// the average.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementMap {
    owners: Vec<Owners>,
}

impl PlacementMap {
    /// The owners of partitions 0 to `partitions` among `members`, `replicas` each.
    #[must_use]
    pub fn derive(partitions: u16, members: SlotSet, replicas: u8) -> Self {
        Self { owners: (0..partitions).map(|number| owners(PartitionId(number), members, replicas)).collect() }
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        // `derive` was given a u16.
        self.owners.len() as u16
    }

    /// The owners of `partition`.
    ///
    /// # Panics
    /// Where there is no such partition.
    #[must_use]
    pub fn owners(&self, partition: PartitionId) -> &Owners {
        &self.owners[partition.index()]
    }

    /// Every partition and its owners, in rising order of partitions.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &Owners)> {
        self.owners.iter().enumerate().map(|(number, owners)| (PartitionId(number as u16), owners))
    }

    /// The partitions whose target primary is `slot`.
    #[must_use]
    pub fn primaries_of(&self, slot: Slot) -> usize {
        self.owners.iter().filter(|owners| owners.primary() == Some(slot)).count()
    }

    /// The partitions that `slot` owns a copy of.
    #[must_use]
    pub fn copies_of(&self, slot: Slot) -> usize {
        self.owners.iter().filter(|owners| owners.contains(slot)).count()
    }
}

#[cfg(test)]
mod tests;
