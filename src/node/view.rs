//! What a node's shards know of the cluster.

use std::sync::Arc;
use std::time::Duration;

use crate::base::mutant::{Mutant, is_broken};
use crate::base::{
    ClusterId, Generation, Instant, LogIndex, NodeId, PartitionId, PartitionRecord, Slot, SlotSet, Term, Timing,
};
use crate::codec::Envelope;
use crate::control::{Roster, Settings};

/// How many election timeouts a node waits for a leader before it answers reads without one. An election that is split,
/// or meets a candidate whose log is behind, takes two or three.
const ELECTIONS_AWAITED: u32 = 5;
/// It waits for so long at least, and at most: an election may be short by configuration, and a request that waits has a
/// deadline, of 5 s where nothing else is asked for.
const LEADER_AWAITED_MIN: Duration = Duration::from_millis(500);
const LEADER_AWAITED_MAX: Duration = Duration::from_secs(3);

/// One state of the cluster, as this node's control core has derived it. A new one is made when anything in it changes;
/// shards and adapters hold it by reference count.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The cluster; [`ClusterId::NONE`] while there is none.
    pub cluster: ClusterId,
    /// Its generation.
    pub generation: Generation,
    /// Who this process is.
    pub me: NodeId,
    /// Who to talk to, by slot: the members of the Raft group, and the leader.
    pub peers: Vec<Option<NodeId>>,
    /// Whose copies count, by slot.
    pub registered: Vec<Option<NodeId>>,
    /// The slots whose registered identity may hold data roles.
    pub up: SlotSet,
    /// Those of them that are told to stop.
    pub stopping: SlotSet,
    /// Those that were let go: not up any more, but they answer what they have begun before they end.
    pub let_go: SlotSet,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// While no leader is known: from when on this node answers reads by itself, marked, and refuses writes.
    pub degraded_from: Option<Instant>,
    /// The term that this node is in.
    pub term: Term,
    /// The settings of the cluster; none before it is founded.
    pub settings: Option<Settings>,
    /// Which slots the cluster consists of, and among which the data is placed.
    pub roster: Roster,
    /// The last control entry that is in `table`.
    pub applied: LogIndex,
    /// The partition table, by partition.
    pub table: Arc<[PartitionRecord]>,
}

impl View {
    /// The record of `partition`.
    #[must_use]
    pub fn record(&self, partition: PartitionId) -> Option<&PartitionRecord> {
        self.table.get(partition.index())
    }

    /// Who is registered in `slot`.
    #[must_use]
    pub fn registered(&self, slot: Slot) -> Option<NodeId> {
        self.registered.get(slot.index()).copied().flatten()
    }

    /// Who to talk to in `slot`.
    #[must_use]
    pub fn peer(&self, slot: Slot) -> Option<NodeId> {
        self.peers.get(slot.index()).copied().flatten()
    }

    /// How long without a leader is more than an election, under these times.
    #[must_use]
    pub fn patience(timing: &Timing) -> Duration {
        (timing.election * ELECTIONS_AWAITED).clamp(LEADER_AWAITED_MIN, LEADER_AWAITED_MAX)
    }

    /// Whether this node answers reads by itself, because there has been no leader for longer than an election takes.
    #[must_use]
    pub fn is_degraded(&self, now: Instant) -> bool {
        self.settings.is_some() && self.degraded_from.is_some_and(|from| now >= from)
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader == Some(self.me)
    }

    /// Whether a frame with this envelope may reach the shards: from this cluster, to this life of this process, by
    /// somebody known.
    ///
    /// # Errors
    /// The reason for which it may not, as metrics name it.
    pub fn accept(&self, envelope: &Envelope) -> Result<(), &'static str> {
        let Envelope { cluster, generation, from, to } = *envelope;
        if cluster == ClusterId::NONE || cluster != self.cluster {
            Err("other_cluster")
        } else if generation != self.generation {
            Err("other_generation")
        } else if to != self.me && !is_broken(Mutant::AnswerForAnyLife) {
            Err("other_incarnation")
        } else if self.peer(from.slot) != Some(from) && self.registered(from.slot) != Some(from) {
            Err("unknown_sender")
        } else {
            Ok(())
        }
    }

    /// The envelope of what this node sends to the peer in `slot`; none while nobody is known there.
    #[must_use]
    pub fn envelope(&self, slot: Slot) -> Option<Envelope> {
        let to = self.peer(slot)?;
        Some(Envelope { cluster: self.cluster, generation: self.generation, from: self.me, to })
    }

    /// The primary of `partition`, if there is one.
    #[must_use]
    pub fn primary(&self, partition: PartitionId) -> Option<NodeId> {
        self.registered(self.record(partition)?.primary?)
    }
}
