//! The shard's replicas: opened, told of the cluster, woken at their times, and their outputs carried on.

use std::sync::Arc;

use super::{ShardCore, ShardOutput};
use crate::api::Error;
use crate::base::{Instant, PartitionId, Slot, SlotSet};
use crate::node::View;
use crate::node::message::{PeerMessage, ShardMessage};
use crate::replica::{self, Replica, ReplicaOptions};

impl ShardCore {
    /// Goes on with scans that wait, as far as there is room.
    pub(super) fn go_on_scanning(&mut self, now: Instant) {
        while let Some(index) = self.scans.next(now) {
            let partition = self.partition(index);
            self.with_replica(now, partition, |replica, out| replica.go_on_scanning(now, out));
        }
    }

    /// Lets `act` act on a replica, and draws the consequences.
    pub(super) fn with_replica(
        &mut self,
        now: Instant,
        partition: PartitionId,
        act: impl FnOnce(&mut Replica, &mut Vec<replica::Output>),
    ) {
        let index = self.index(partition);
        let mut out = std::mem::take(&mut self.scratch);
        let replica = &mut self.replicas[index];
        let before = replica.status();
        let withheld = replica.withholds_writes();
        let scans = replica.scans_under_way();
        replica.set_scan_room(self.scans.room(index, scans));
        let ring = (replica.ring().pushed(), replica.ring().last(), replica.ring().bytes() as u64);
        act(replica, &mut out);
        if let Some(since) = replica.in_office_since() {
            let mute = self.mute.known(now, since, |slot| self.view.registered(slot));
            if !mute.is_empty() {
                replica.handle_mute(now, mute, &mut out);
            }
        }
        let after = replica.status();
        self.table_keys = self.table_keys + after.records as u64 - before.records as u64;
        self.table_bytes = self.table_bytes + after.bytes as u64 - before.bytes as u64;
        let pushed = replica.ring().pushed() - ring.0;
        self.ring_bytes = self.ring_bytes + replica.ring().bytes() as u64 - ring.2;
        self.scans.note(now, index, (scans, replica.scans_under_way()), replica.waits_to_scan());
        self.retry |= !before.serving && after.serving || withheld && !replica.withholds_writes();
        self.retry |= after.rotten < before.rotten;
        self.verifier.note(now, index, &before, &after);
        // What could have been done already, and wasn't because there was so much of it, takes its place behind what was due
        // before this moment: a message is sent again in time, however many records have run out.
        let due = replica.next_deadline().max(now);
        if due < self.armed[index] {
            self.timers.remove(&(self.armed[index], index as u16));
            self.timers.insert((due, index as u16));
            self.armed[index] = due;
        }
        if pushed > 0 {
            self.on_applied(index, pushed, ring.1);
        }
        for output in out.drain(..) {
            self.on_replica_output(now, partition, output);
        }
        self.scratch = out;
    }

    pub(super) fn on_replica_output(&mut self, now: Instant, partition: PartitionId, output: replica::Output) {
        match output {
            replica::Output::Send { to, message } => {
                let filling_bytes = message.filling_bytes();
                self.filled_bytes += filling_bytes;
                self.scans.charge(&message, filling_bytes);
                if message.asks() {
                    self.mute.asked(now, to.slot);
                }
                let message = PeerMessage::Shard(partition, ShardMessage::Replica(message));
                self.outputs.push_back(ShardOutput::Peer { to, message });
            }
            replica::Output::Reply { request, result } => {
                // Nobody waits any more where the deadline has passed.
                if let Some(in_flight) = self.in_flight.remove(&request) {
                    self.reply(in_flight.origin(), result);
                }
            }
            replica::Output::Verified => self.verifier.verified(now, self.index(partition)),
            replica::Output::Damage(damage) => self.on_damage(now, partition, damage),
            replica::Output::Propose(change) => {
                self.mute.note(now, change.remove, |slot| self.view.registered(slot));
                self.outputs.push_back(ShardOutput::Propose(change));
            }
        }
    }

    /// Makes the replicas of this shard once the count of partitions is known.
    pub(super) fn open_partitions(&mut self) {
        let Some(settings) = self.view.settings.filter(|_| self.replicas.is_empty()) else { return };
        let options = Arc::new(ReplicaOptions {
            tail_effects_max: self.options.tail_effects_max,
            min_copies: settings.min_copies,
            ..ReplicaOptions::new(self.view.me)
        });
        let mine = (self.id.0..settings.partitions).step_by(usize::from(self.options.shards));
        self.replicas = mine.map(|partition| Replica::new(PartitionId(partition), &options)).collect();
        self.armed = vec![Instant::FAR; self.replicas.len()];
    }

    /// Tells every replica its record, where that or who its members are has changed.
    pub(super) fn tell_replicas(&mut self, now: Instant, before: &View) {
        let view = Arc::clone(&self.view);
        let wanted = view.settings.map_or(0, |settings| usize::from(settings.replicas));
        // Most views change a few records, and there are thousands.
        let slots = 0..before.registered.len().max(view.registered.len());
        let slots = slots.map(|index| Slot(index as u8));
        let replaced: SlotSet = slots.filter(|slot| before.registered(*slot) != view.registered(*slot)).collect();
        for index in 0..self.replicas.len() {
            let partition = self.partition(index);
            let Some(record) = view.record(partition).copied() else { continue };
            if before.record(partition) == Some(&record) && record.members().intersection(replaced).is_empty() {
                continue;
            }
            self.scans.note_copies(index, before.record(partition), &record, wanted);
            if record.learners.is_empty() {
                self.with_learners.remove(&index);
            } else {
                self.with_learners.insert(index);
            }
            let closed = self.source.closed();
            self.with_replica(now, partition, |replica, out| {
                // Whoever takes office begins above what this shard has closed.
                replica.raise_version(closed);
                replica.handle_record(now, &record, &view.registered, out);
            });
        }
    }

    /// Another cluster, or another life: nothing that was held counts any more.
    pub(super) fn forget_cluster(&mut self) {
        self.replicas.clear();
        self.armed.clear();
        self.timers.clear();
        self.with_learners.clear();
        self.verifier.stop();
        self.scans.forget();
        (self.table_bytes, self.table_keys) = (0, 0);
        self.lease_until = Instant::ZERO;
        self.source.clear();
        self.ring_order.clear();
        self.ring_bytes = 0;
        for (_, in_flight) in std::mem::take(&mut self.in_flight) {
            let detail = "this node left its cluster".to_owned();
            let is_write = in_flight.is_write();
            let error = if is_write { Error::OutcomeUnknown(detail) } else { Error::NoQuorum(detail) };
            self.reply(in_flight.origin(), Err(error));
        }
    }
}
