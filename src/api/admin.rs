//! What operators may ask of the cluster: `/v1/admin/…`, and the commands that use it.
//!
//! Each request can be asked as a plan first ([`AdminRequest::dry_run`]): the report then says what would be done, in the
//! words in which it later says what was. Nodes go by their configured names.

use serde::{Deserialize, Serialize};

/// An operator's wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRequest {
    /// What.
    #[serde(flatten)]
    pub action: AdminAction,
    /// Only say what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum AdminAction {
    /// Leadership goes to another node. For the leader.
    Transfer {
        /// To whom; to the voter whose log is furthest where none is named.
        to: Option<String>,
    },
    /// A configured node that was drained or removed gets its data and its vote back, or for the first time. For the
    /// leader.
    AddNode {
        /// Which.
        node: String,
    },
    /// A node's copies move to others; then it loses its vote, and its slot is out of the cluster. For the leader.
    RemoveNode {
        /// Which.
        node: String,
    },
    /// A node's copies move to others; it keeps its vote. What one does before stopping it for long. For the leader.
    Drain {
        /// Which.
        node: String,
    },
    /// A cluster is founded although some configured nodes never answered. For a process that knows no cluster.
    InitForce {
        /// Who is missing; every other node must be there.
        without: Vec<String>,
    },
    /// The survivors of a lost majority go on without it, in a new generation. For any survivor.
    UnsafeRecover,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminReport {
    /// One sentence each, in order.
    pub steps: Vec<String>,
    /// What became of the partitions, where that was the question.
    pub recovered: Option<Recovered>,
}

/// What a recovery by force found, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Partitions of which a survivor was in sync: nothing acknowledged is missing.
    pub clean: u32,
    /// Partitions of which only a copy that wasn't in sync survives: acknowledged writes may be missing.
    pub lossy: Vec<u16>,
    /// Partitions of which nothing survives.
    pub lost: Vec<u16>,
}
