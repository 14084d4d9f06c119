//! What the cluster says of itself: `/v1/cluster`, `jumpgate status`.

use serde::{Deserialize, Serialize};

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The configured name.
    pub name: String,
    /// The cluster's id in hexadecimal; empty before it is founded.
    pub cluster_id: String,
    /// How often it was recovered by force.
    pub generation: u32,
    /// Who answers: the name of the node whose view this is.
    pub node: String,
    /// The leader's name.
    pub leader: Option<String>,
    /// Where clients reach the leader (`http://host:port`).
    pub leader_url: Option<String>,
    /// The term that this node is in.
    pub term: u64,
    /// Whether a majority of voters is in contact, as far as this node knows.
    pub quorum: bool,
    /// Partitions, and how they are.
    pub partitions: PartitionCounts,
    /// The numbers of those that are lost.
    #[serde(default)]
    pub lost: Vec<u16>,
    /// How far copies are that are being made; none where none are.
    #[serde(default)]
    pub healing: Option<HealingStatus>,
    /// The last control entry in the partition table: `/v1/cluster/map` changes only with it.
    #[serde(default)]
    pub table_index: u64,
    /// Copies of each value that the cluster aims at.
    pub replicas: u8,
    /// Copies below which a write is refused.
    pub min_copies: u8,
    /// Every configured node.
    pub nodes: Vec<NodeStatus>,
    /// The timing that this node goes by, where it knows one.
    #[serde(default)]
    pub timing: Option<TimingStatus>,
    /// How sound the copies of all nodes together are.
    #[serde(default)]
    pub verification: VerificationStatus,
}

/// What came of hashing records again and of comparing copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationStatus {
    /// For how many milliseconds, at most, nobody has looked at any of the records: within that time every one was hashed
    /// again, and every backup compared with its primary. None where that isn't known.
    pub verified_ms: Option<u64>,
    /// Records that were found to be bad, since the processes started.
    pub differences: u64,
    /// Those that were repaired.
    pub repairs: u64,
}

/// The timing of elections and leases that a node goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimingStatus {
    /// Whether the cluster widens and narrows it by itself; `[timing]` in the configuration fixes it.
    pub adaptive: bool,
    /// Milliseconds between two heartbeats.
    pub heartbeat_ms: f64,
    /// For how many milliseconds a node that has heard from a leader votes for nobody else.
    pub election_ms: f64,
    /// For how many milliseconds a lease holds.
    pub lease_ms: f64,
    /// After how many silent milliseconds a node is called down.
    pub down_ms: f64,
    /// By how many microseconds this node wakes up late, as it measured lately.
    pub lateness_us: Option<u64>,
}

/// How many partitions are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCounts {
    /// All.
    pub total: u32,
    /// With as many in-sync copies as the cluster aims at.
    pub full: u32,
    /// With a primary, but with fewer copies than that.
    pub reduced: u32,
    /// Without a primary at the moment; a copy exists.
    pub unavailable: u32,
    /// Without any copy left.
    pub lost: u32,
    /// Led by another node than their target primary: they go back to it once it has them in full.
    #[serde(default)]
    pub misplaced: u32,
}

/// How far the copies are that are being made. Bytes are of tables, and about right: what is written meanwhile changes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealingStatus {
    /// Partitions that somebody is being filled with.
    pub partitions: u32,
    /// Bytes that those who are being filled have got.
    pub done_bytes: u64,
    /// Bytes that they lack, as far as their filling has begun.
    pub left_bytes: u64,
    /// Bytes a second, of all nodes together.
    pub bytes_per_second: u64,
    /// In how many seconds they have everything, at that rate; none where nothing moves.
    pub seconds_left: Option<u64>,
}

/// One node, as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its configured name.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Whether it counts in the Raft quorum.
    pub voter: bool,
    /// The life of its process, in hexadecimal; empty where it was never heard.
    pub incarnation: String,
    /// Where clients reach it.
    pub url: String,
    /// The term it is in, where known.
    pub term: Option<u64>,
    /// The last entry of its Raft log, where known.
    pub last_index: Option<u64>,
    /// Its commit index, where known.
    pub commit_index: Option<u64>,
    /// Milliseconds since the answering node last heard from it; none for itself or where never.
    pub last_heard_ms: Option<u64>,
    /// The pulse plane's round trip to it in microseconds, smoothed.
    pub round_trip_us: Option<u64>,
    /// Partitions whose primary it is.
    pub primaries: u32,
    /// Partitions in whose in-sync set it is, the primary's included.
    pub in_sync: u32,
    /// Partitions that it is being filled with.
    pub learning: u32,
    /// Keys that it holds, copies included.
    pub keys: Option<u64>,
    /// Bytes of memory that its tables take.
    pub memory_bytes: Option<u64>,
    /// What *this* node says of each other node on the pulse plane, as far as the answering node was told.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// Whether its copies are being moved elsewhere, or were, because an operator asked for it.
    #[serde(default)]
    pub draining: bool,
    /// For how many milliseconds the slowest of its data workers has made no progress; none where they all do.
    #[serde(default)]
    pub workers_stalled_ms: Option<u64>,
    /// How sound its copies are, where known.
    #[serde(default)]
    pub verification: Option<VerificationStatus>,
    /// Why it is kept out of the in-sync sets though it answers; none where it isn't.
    #[serde(default)]
    pub held_back: Option<HeldBackStatus>,
    /// What its tables may take; only the answering node knows its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// What clients ask of its gateway; only the answering node knows its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficStatus>,
}

/// Why a node that answers holds no copies, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBackStatus {
    /// How often it fell silent of late, or was left out because it was too slow.
    pub falls: u32,
    /// For how many more milliseconds it is kept out because of that, at least.
    pub left_ms: u64,
    /// By how much it wakes up late, in percent of the time after which it wanted to be woken, while that alone keeps it
    /// out: it gets hardly any processor time.
    pub late_percent: Option<u32>,
}

/// What clients asked of one node's gateway since it started: values, listings, batches and files. The difference of two
/// answers is what was asked between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// The upper ends of the latency buckets in microseconds; there is one bucket more.
    pub bounds_us: Vec<u32>,
    /// Reads, by how long they took.
    pub reads: Vec<u64>,
    /// Writes, by how long they took.
    pub writes: Vec<u64>,
    /// Those of both that were answered with a status of 500 and above.
    pub failed: u64,
    /// Requests of any kind that are under way.
    pub in_flight: u64,
    /// Connections that are open.
    pub connections: u64,
    /// Viewers of the feed.
    pub viewers: u64,
}

/// Who holds which partition: `/v1/cluster/map`. Thousands of partitions share a few states, so each is named once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMap {
    /// How often the cluster was recovered by force.
    pub generation: u32,
    /// The last control entry in it, as `table_index` of the status.
    pub index: u64,
    /// The nodes' names; the numbers in `states` are places in this list.
    pub nodes: Vec<String>,
    /// The states that occur.
    pub states: Vec<PartitionState>,
    /// For each partition, the place of its state in that list.
    pub partitions: Vec<u16>,
}

/// Where a key lives: `/v1/locate/{key}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The key.
    pub key: String,
    /// The number of its partition.
    pub partition: u16,
    /// The name of the node that leads it, and orders its writes; none while nobody can.
    pub primary: Option<String>,
    /// The names of those that hold every acknowledged write, the primary among them.
    pub in_sync: Vec<String>,
    /// The names of those that are being filled.
    pub learners: Vec<String>,
    /// The names of those that should hold it, the one that should lead it first.
    pub owners: Vec<String>,
    /// No copy is left.
    pub lost: bool,
}

/// Who holds a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Who leads it; none while nobody can.
    pub primary: Option<u8>,
    /// Who holds every acknowledged write, the primary included.
    pub in_sync: Vec<u8>,
    /// Who is being filled.
    pub learners: Vec<u8>,
    /// No copy is left.
    pub lost: bool,
}

/// How one node hears another on the pulse plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The configured name of the node that is heard.
    pub name: String,
    /// Milliseconds since it was heard last; none where never.
    pub last_heard_ms: Option<u64>,
    /// The round trip to it in microseconds, smoothed.
    pub round_trip_us: Option<u64>,
    /// The share of its datagrams that did not arrive lately, 0 to 1.
    pub loss: Option<f64>,
}

/// What a node does, as users see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It knows no cluster yet.
    #[default]
    Starting,
    /// It receives the log and counts in no quorum.
    Learner,
    /// It follows a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
    /// What others see of a silent or stopped node.
    Dead,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Dead => "dead",
        })
    }
}
