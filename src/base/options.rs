//! What a core needs to know of the configuration.

use std::time::Duration;

use bincode::{Decode, Encode};

use super::{NodeId, Slot};

/// The four times that decide how fast a failure is noticed. They belong together: the lease must end before the promise
/// not to vote does, or an old leader could serve a read after a new one was elected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Timing {
    /// How often a leader sends a heartbeat to each peer.
    pub heartbeat: Duration,
    /// The promise E: whoever heard from a leader votes for nobody else for this long. An election starts after E plus a
    /// random part.
    pub election: Duration,
    /// The bound of the random part that is added to `election`.
    pub election_jitter: Duration,
    /// The read lease D, shorter than `election`.
    pub lease: Duration,
    /// A node that has not acked for this long is declared down; longer than `lease`.
    pub down: Duration,
}

impl Timing {
    /// The longest time without a leader before somebody campaigns, and then between two campaigns.
    #[must_use]
    pub fn campaigns_within(&self) -> Duration {
        self.election + self.election_jitter
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(20),
            election: Duration::from_millis(100),
            election_jitter: Duration::from_millis(40),
            lease: Duration::from_millis(80),
            down: Duration::from_millis(90),
        }
    }
}

/// What a follower's gateway does with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FollowerMode {
    /// Hands it to the leader and passes the answer on.
    #[default]
    Relay,
    /// Tells the client to go to the leader (HTTP 307).
    Redirect,
    /// Hands it straight to the key's primary.
    Route,
}

/// What every core of one process is built with. Plain data: the server makes it from the configuration, the simulator
/// from a seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name; nodes of another name are not talked to.
    pub cluster_name: String,
    /// Who this process is.
    pub me: NodeId,
    /// How many slots the configuration has.
    pub slots: usize,
    /// How the nodes are called, by slot.
    pub names: Vec<String>,
    /// Where clients reach each node's gateway, by slot (`http://host:port`).
    pub advertised: Vec<String>,
    /// Partitions to found a cluster with.
    pub partitions: u16,
    /// Copies of each value to found a cluster with, the primary's included.
    pub replicas: u8,
    /// Copies below which a write is refused.
    pub min_copies: u8,
    /// Whether `replicas` follows the number of nodes when that changes.
    pub replicas_auto: bool,
    /// What a node holds that has been away for so long is copied elsewhere.
    pub replace_after: Duration,
    /// A voter silent for so long loses its vote.
    pub demote_after: Duration,
    /// Within which time every record is hashed again, and every copy compared with its primary's.
    pub sync_interval: Duration,
    /// The four times.
    pub timing: Timing,
    /// Whether the nodes widen them by themselves where they are too short for what they measure.
    pub timing_adapts: bool,
    /// What this node does with a request that belongs to the leader.
    pub followers: FollowerMode,
    /// Shards of this process.
    pub shards: u16,
    /// The largest value that is accepted.
    pub value_bytes_max: usize,
    /// The largest key that is accepted.
    pub key_bytes_max: usize,
    /// Bytes of keys, values and their overhead that this node may hold.
    pub memory_bytes_max: u64,
    /// Requests that one shard keeps waiting; one more is refused.
    pub requests_max: usize,
    /// Effects that one partition may have in flight; one more is refused.
    pub tail_effects_max: usize,
    /// Bytes of records that one shard has under way to those whom it fills. What is to be sent beyond waits for acks, so that
    /// live replication, which goes the same way, doesn't stand in a long line.
    pub filling_bytes_max: u64,
    /// Bytes of records that one shard sends in a second to those who get a copy though none is missing: where nodes come or
    /// go, or take back what was theirs.
    pub moving_bytes_per_second: u64,
    /// Committed effects that a shard's rings keep for viewers of the feed that come back.
    pub feed_effects_max: usize,
    /// Unix time, in microseconds, at [`super::Instant::ZERO`] of this process: where the hybrid clock starts.
    pub unix_micros_at_zero: u64,
    /// The seed of every random choice of this process.
    pub seed: u64,
}

impl Options {
    /// The name of the node in `slot`.
    #[must_use]
    pub fn name(&self, slot: Slot) -> &str {
        self.names.get(slot.index()).map_or("?", String::as_str)
    }

    /// `replicas = "auto"`: as many copies as let any half of the nodes vanish at once.
    #[must_use]
    pub const fn replicas_auto(slots: usize) -> u8 {
        (slots / 2 + 1) as u8
    }
}
