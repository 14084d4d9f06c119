//! What is put together from many shards: pages of a listing.

use std::time::Duration;

use super::degraded::SURVIVORS_AWAITED_FOR;
use super::{Origin, SWEEP_EVERY, ShardCore, ShardOutput};
use crate::api::{Error, Operation, Request, Response};
use crate::base::{Instant, PartitionId, RequestId, SlotSet};
use crate::node::gather::Gather;
use crate::node::message::{NodeMessage, PartitionSet, PeerMessage, Scan, Scanned};
use crate::node::scan;

/// How long a listing waits for the partitions that nobody spoke for before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

impl ShardCore {
    pub(super) fn begin_gather(&mut self, now: Instant, id: RequestId, request: Request, deadline: Instant) {
        let Operation::List { prefix, after, limit, values } = request.operation else { return };
        let wanted = PartitionSet::first(self.partitions());
        let scan = Scan { id, prefix, after, limit, values, wanted, degraded: false };
        self.gathers.insert(id, Gather::new(scan, deadline, now));
        self.sweep_at = self.sweep_at.min(now + SWEEP_EVERY).max(now);
        self.ask_for_parts(now, id);
    }

    /// Asks every node for what is still missing.
    pub(super) fn ask_for_parts(&mut self, now: Instant, id: RequestId) {
        let is_degraded = self.view.is_degraded(now);
        let Some(gather) = self.gathers.get_mut(&id) else { return };
        gather.ask_again_at = now + ASK_AGAIN_AFTER;
        if self.view.settings.is_none() {
            return;
        }
        if gather.scan.wanted.is_empty() {
            gather.scan.wanted = PartitionSet::first(self.view.settings.map_or(0, |settings| settings.partitions));
        }
        let lost = self.view.table.iter().position(|record| record.is_lost());
        if let Some(lost) = lost {
            self.gathers.remove(&id);
            let error = Error::PartitionLost(PartitionId(lost as u16));
            return self.reply(Origin::Client(id), Err(error));
        }
        gather.begin_round(now, is_degraded, SURVIVORS_AWAITED_FOR);
        let message = NodeMessage::Scan(gather.scan.clone());
        // Without a quorum nobody knows who is up: even who was declared dead may live, and hold a copy.
        let everybody = SlotSet::first(self.options.slots);
        self.tell(if is_degraded { everybody } else { self.view.up }, message);
    }

    pub(super) fn finish_gather(&mut self, id: RequestId) {
        if let Some(gather) = self.gathers.remove(&id) {
            debug_assert_eq!(gather.id(), id);
            self.reply(Origin::Client(id), Ok(Response::Page(gather.finish())));
        }
    }

    /// This shard's part of a listing.
    pub(super) fn scan(&self, now: Instant, scan: &Scan) -> Scanned {
        let mine = self.replicas.iter().filter(|replica| {
            let partition = replica.partition();
            let may_answer = if scan.degraded { replica.holds_all() } else { now < self.serves_until(partition) };
            // Of a record that is known to be rotten no value is shown.
            let is_sound = !scan.values || replica.rotten() == 0;
            scan.wanted.contains(partition) && may_answer && is_sound
        });
        if scan.degraded { scan::first_keys_degraded(now, scan, mine) } else { scan::first_keys(now, scan, mine) }
    }

    /// Tells every shard of this node, and of those in `slots`.
    pub(super) fn tell(&mut self, slots: SlotSet, message: NodeMessage) {
        let me = self.view.me;
        let others = slots.iter().filter_map(|slot| self.view.registered(slot)).filter(|&node| node != me);
        for to in others {
            let message = PeerMessage::EveryShard(message.clone());
            self.outputs.push_back(ShardOutput::Peer { to, message });
        }
        self.outputs.push_back(ShardOutput::EveryShard(message));
    }
}
