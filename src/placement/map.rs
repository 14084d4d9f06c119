//! Partition → owners.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::jump;
use crate::base::{PartitionId, Slot, SlotSet, limits};

/// The seed of every partition's hash; salts are added to it. Another seed would put partitions elsewhere, so it stays for ever.
///
/// A hash alone would spread 4096 partitions over 16 nodes with a standard deviation of 6 %. As the partitions are known
/// in advance, the seed could be chosen: among the first two million multiples of 2³² it gives the narrowest spread of
/// primaries for every cluster of 2 to 17 nodes at once.
const PARTITION_SEED: u64 = 577_613 << 32;

/// Salts that are tried for one owner. With half of the members taken already, which is as many as `replicas = "auto"`
/// takes, one partition in four thousand million gets past this; then the next free member in order is taken.
const SALTS_PER_OWNER_MAX: u64 = 32;

const _: () = assert!(SALTS_PER_OWNER_MAX * limits::NODES_MAX as u64 <= 1 << 32);

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
/// The partition's number is hashed with salt 0, 1, 2 …; each hash is sent through [`jump()`] over the slots up to the
/// highest member; what comes out is taken unless it is taken already or isn't a member. So the owners for fewer copies
/// are always the beginning of the owners for more, and a member that leaves moves only what it owned.
///
/// It always ends: an owner for whom `SALTS_PER_OWNER_MAX` salts in a row gave nothing new is the next free member, in
/// order, after the last slot that was tried. (An earlier system salted until it found someone, and hung.)
///
/// One thing to know when members are chosen: with an unused slot directly below the highest member, taking the highest
/// away shortens the row by more than one slot and moves more than it must. A new node belongs into the unused slot.
#[must_use]
pub fn owners(partition: PartitionId, members: SlotSet, replicas: u8) -> Owners {
    let wanted = members.len().min(usize::from(replicas));
    let slots = members.iter().last().map_or(0, |highest| u32::from(highest.0) + 1);
    let mut owners = Owners::NONE;
    let mut free = members;
    let mut salt = 0;
    while owners.len() < wanted {
        let salts_end = salt + SALTS_PER_OWNER_MAX;
        let owner = loop {
            let candidate = Slot(jump(hash_partition(partition, salt), slots) as u8);
            salt += 1;
            if free.contains(candidate) {
                break candidate;
            }
            if salt == salts_end {
                break next_after(candidate, free);
            }
        };
        free.remove(owner);
        owners.push(owner);
    }
    owners
}

fn hash_partition(partition: PartitionId, salt: u64) -> u64 {
    xxh3_64_with_seed(&partition.0.to_le_bytes(), PARTITION_SEED + salt)
}

/// The next slot of `free`, which isn't empty, above `slot`; from the start again where there is none.
fn next_after(slot: Slot, free: SlotSet) -> Slot {
    let above = free.iter().find(|member| *member > slot);
    above.or_else(|| free.lowest()).expect("an owner is looked for only while fewer are taken than there are members")
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
