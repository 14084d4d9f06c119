//! What a core has to say to people.

use std::fmt;
use std::time::Duration;

use crate::base::{ClusterId, Generation, NodeId, Options, Slot, Term};

/// How much this node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Keys, copies included.
    pub keys: u64,
    /// Bytes of keys, values and their overhead.
    pub memory_bytes: u64,
}

/// Something that people want to know. Adapters log it; nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// A cluster was founded.
    Founded {
        /// Its id.
        cluster: ClusterId,
        /// By how many nodes.
        nodes: usize,
    },
    /// This process gave up what it was and starts anew.
    Reborn {
        /// Who it was.
        before: NodeId,
        /// Who it is.
        now: NodeId,
    },
    /// A node leads.
    Leader {
        /// Who.
        leader: NodeId,
        /// In which term.
        term: Term,
        /// How many nodes are up, itself included.
        up: usize,
    },
    /// The leader finds that a node is silent.
    NodeSilent {
        /// Who.
        node: NodeId,
        /// For how long.
        silent_for: Duration,
    },
    /// The leader finds that a node is back.
    NodeReturned {
        /// Who.
        node: NodeId,
    },
    /// It is decided that a node is down.
    NodeDown {
        /// Who.
        node: NodeId,
    },
    /// It is decided that a node is up.
    NodeUp {
        /// Who.
        node: NodeId,
    },
    /// The leader lets a new process in.
    Admitted {
        /// Who.
        node: NodeId,
    },
    /// The leader takes a voter's vote away, because it has been silent for long.
    Demoted {
        /// Who.
        node: NodeId,
        /// For how long.
        silent_for: Duration,
    },
    /// A node has been away for so long that its copies are rebuilt elsewhere.
    Replaced {
        /// Which slot's.
        slot: Slot,
    },
    /// A node that was to leave holds nothing any more and loses its vote.
    Left {
        /// Who.
        node: NodeId,
    },
    /// The leader says that this process belongs to the cluster no more.
    Removed,
    /// The survivors of a lost majority go on without it.
    Recovered {
        /// Into which generation.
        generation: Generation,
        /// How many survivors.
        survivors: usize,
    },
    /// A second process claims a slot whose holder is alive.
    DuplicateSlot {
        /// The second one.
        newcomer: NodeId,
    },
}

impl ControlEvent {
    /// Whether an operator should look at it.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::Reborn { .. }
                | Self::NodeDown { .. }
                | Self::DuplicateSlot { .. }
                | Self::Demoted { .. }
                | Self::Replaced { .. }
                | Self::Removed
                | Self::Recovered { .. }
        )
    }

    /// The event in words, with the nodes' configured names.
    #[must_use]
    pub fn describe(&self, options: &Options) -> impl fmt::Display {
        let name = |node: &NodeId| options.name(node.slot).to_owned();
        let all = options.slots;
        match self {
            Self::Founded { cluster, nodes } => format!("founded cluster {cluster} with {nodes} nodes"),
            Self::Reborn { before, now } => {
                format!("starting anew: incarnation {} is given up for {}", before.incarnation, now.incarnation)
            }
            Self::Leader { leader, term, up } => {
                format!("{} is the leader (term {term}, {up} of {all} nodes)", name(leader))
            }
            Self::NodeSilent { node, silent_for } => {
                format!("{} has been silent for {} ms; proposing that it is down", name(node), silent_for.as_millis())
            }
            Self::NodeReturned { node } => format!("{} answers; proposing that it is up", name(node)),
            Self::NodeDown { node } => format!("{} is down: its partitions go to their backups", name(node)),
            Self::NodeUp { node } => format!("{} is up as incarnation {}", name(node), node.incarnation),
            Self::Admitted { node } => format!("{} joins as incarnation {}", name(node), node.incarnation),
            Self::Demoted { node, silent_for } => {
                format!("{} has been silent for {} s: it loses its vote", name(node), silent_for.as_secs())
            }
            Self::Replaced { slot } => {
                format!("{} stays away: what it held is copied elsewhere until it returns", options.name(*slot))
            }
            Self::Left { node } => format!("{} holds nothing any more and leaves the cluster", name(node)),
            Self::Removed => "the leader says that this process belongs to the cluster no more".to_owned(),
            Self::Recovered { generation, survivors } => format!(
                "recovered by force: generation {generation} begins with {survivors} of {all} nodes; what only the others held is lost"
            ),
            Self::DuplicateSlot { newcomer } => format!(
                "a second process ({}) says that it is {}, which is alive: stop one of them, or give it an id of its own",
                newcomer.incarnation,
                name(newcomer)
            ),
        }
    }

    /// The slot of the leader that it names.
    #[must_use]
    pub const fn leader_slot(&self) -> Option<Slot> {
        match self {
            Self::Leader { leader, .. } => Some(leader.slot),
            _ => None,
        }
    }
}
