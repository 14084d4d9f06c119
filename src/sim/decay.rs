//! Copies that go bad: bits that flip in one, and effects that one has lost.

use std::time::Duration;

use super::checks::replica;
use super::scenario::{is_whole, misplaced, put};
use super::world::World;
use crate::api::{Key, Response};
use crate::base::{Blob, PartitionId, Rng, Slot};
use crate::placement;
use crate::replica::Replica;
use crate::store::{Record, Stored};

/// What is done to one copy of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decay {
    /// A bit of its value flips.
    Rot,
    /// The effect that put it in was never applied.
    Lost,
    /// It is another one than any effect has made it, and nothing of it says so.
    Forged(Record),
}

impl World {
    /// The partition of `key`.
    #[must_use]
    pub fn partition_of(&self, key: &Key) -> PartitionId {
        placement::partition_of(key.as_bytes(), self.options.partitions)
    }

    /// The primary of `key`, and its backups, by the record that the leader knows; none while nobody leads it.
    #[must_use]
    pub fn copies_of(&self, key: &Key) -> Option<(Slot, Vec<Slot>)> {
        let view = self.leader().and_then(|leader| self.node(leader))?.view();
        let record = view.record(self.partition_of(key))?;
        let primary = record.primary?;
        Some((primary, record.in_sync.without(primary).iter().collect()))
    }

    /// What the copy in `slot` holds under `key`, whatever clients would be shown.
    #[must_use]
    pub fn held(&self, slot: Slot, key: &Key) -> Option<&Stored> {
        replica(self.node(slot)?, self.partition_of(key))?.table().read(key)
    }

    /// Does that to the copy of `key` in `slot`. Nobody is told.
    pub fn decay(&mut self, slot: Slot, key: &Key, decay: Decay) {
        let partition = self.partition_of(key);
        self.note(|| format!("{key} ({partition}) at {slot} goes bad: {decay:?}"));
        self.count("decay");
        self.decayed.insert(partition);
        let process = &mut self.nodes[slot.index()];
        let local = process.clock.show(self.now);
        let Some(node) = &mut process.node else { return };
        node.harm(local, partition, |replica| harm(replica, key, decay));
        self.settle(slot);
    }

    /// Differences that were found, and repairs, by all nodes that run.
    #[must_use]
    pub fn damage(&self) -> (u64, u64) {
        let nodes = self.running().into_iter().filter_map(|slot| self.node(slot));
        let loads = nodes.flat_map(|node| node.shards()).map(crate::node::ShardCore::load);
        loads.fold((0, 0), |(found, repaired), load| (found + load.differences, repaired + load.repairs))
    }

    /// Whether all copies of `key` in sync hold this value, unharmed.
    #[must_use]
    pub fn all_hold(&self, key: &Key, value: &[u8]) -> bool {
        let Some((primary, backups)) = self.copies_of(key) else { return false };
        backups.into_iter().chain([primary]).all(|slot| {
            let copy = self.node(slot).and_then(|node| replica(node, self.partition_of(key)));
            let is_sound = copy.is_some_and(|copy| copy.table().is_sound(key));
            is_sound && self.held(slot, key).is_some_and(|record| record.value() == value)
        })
    }

    /// On a whole cluster in peace a copy goes bad, and is good again within two intervals, whatever else is written. False
    /// where that can't be done now.
    pub(super) fn probe_decay(&mut self, rng: &mut Rng) -> bool {
        let nth = self.counts.get("decay").copied().unwrap_or_default();
        let name = format!("decay {nth}");
        let Ok(key) = name.parse::<Key>() else { return false };
        // A partition that is given to the very backup that goes bad has a bad primary then, and that one wins.
        if !self.run_until(Duration::from_secs(5), |world| is_whole(world) && misplaced(world) == 0) {
            return false;
        }
        let Some(leader) = self.leader() else { return false };
        if !matches!(self.ask(leader, put(&name, "as it should be")), Some(Ok(Response::Written { .. }))) {
            return false;
        }
        // Until backups have it, too.
        self.run(Duration::from_millis(50));
        let Some((primary, backups)) = self.copies_of(&key) else { return false };
        if backups.is_empty() || !self.all_hold(&key, b"as it should be") {
            return false;
        }
        let backup = backups[rng.below(backups.len() as u64) as usize];
        let forged =
            self.held(backup, &key).map(|record| Record { value: Blob::from_static(b"forged"), ..record.to_record() });
        let (slot, decay) = match (rng.below(4), forged) {
            (0, _) => (primary, Decay::Rot),
            (1, _) => (backup, Decay::Rot),
            (2, Some(forged)) => (backup, Decay::Forged(forged)),
            _ => (backup, Decay::Lost),
        };
        self.decay(slot, &key, decay.clone());
        let within = self.options.sync_interval * 2;
        let is_good = |world: &Self| world.all_hold(&key, b"as it should be");
        if !self.run_until(within, is_good) && !self.is_broken() {
            self.complain(format!("{decay:?} of {key} at {slot} was not repaired within {within:?}"));
        }
        true
    }
}

fn harm(replica: &mut Replica, key: &Key, decay: Decay) {
    match decay {
        Decay::Rot => assert!(replica.rot(key), "{key} holds something"),
        Decay::Lost => replica.forge(key, None),
        Decay::Forged(record) => replica.forge(key, Some(record)),
    }
}
