//! What a core has to say to people.

use std::fmt;
use std::time::Duration;

use super::Cause;
use crate::base::{ClusterId, Generation, NodeId, Options, PartitionId, Slot, Term};
use crate::replica::{Damage, Fault};

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
    /// The leader finds that a node's workers hang while its pulse goes on.
    NodeHangs {
        /// Who.
        node: NodeId,
        /// For how long.
        stalled_for: Duration,
    },
    /// The leader finds that a node gets hardly any processor time, though most do.
    NodeStarves {
        /// Who.
        node: NodeId,
        /// By how much it wakes up late, in percent of the time after which it wanted to be woken.
        late_percent: u8,
    },
    /// This node leads no more, because it gets hardly any processor time.
    LeaderStarves {
        /// By how much it wakes up late, in percent of the time after which it wanted to be woken.
        late_percent: u8,
    },
    /// This node leads no more, because its workers hang.
    LeaderHangs {
        /// For how long.
        stalled_for: Duration,
    },
    /// The leader has other times agreed upon.
    TimingChanges {
        /// Whose measurements ask for it, where they do.
        because_of: Option<(NodeId, Cause)>,
        /// The election timeout before.
        before: Duration,
        /// The election timeout from now on.
        now: Duration,
    },
    /// The leader lets a node go that is told to stop: it leads nothing, and the others have what it holds.
    LetGo {
        /// Who.
        node: NodeId,
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
    /// The leader finds that a node takes nothing on the stream plane, though its pulse is well.
    StreamStalls {
        /// Who.
        node: NodeId,
    },
    /// A node that was to leave holds nothing any more and loses its vote.
    Left {
        /// Who.
        node: NodeId,
    },
    /// This node's tables take most of what they may.
    MemoryCrowded {
        /// What they take.
        bytes: u64,
        /// What they may.
        bytes_max: u64,
    },
    /// They take less again.
    MemoryRoomy {
        /// What they take.
        bytes: u64,
        /// What they may.
        bytes_max: u64,
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
    /// Something bad was found in this node's copy of a partition, or put right.
    Damage {
        /// Which partition.
        partition: PartitionId,
        /// What.
        damage: Damage,
    },
    /// There was more of that than is worth a line each.
    MoreDamage {
        /// Records that were found to be bad, or put right, beside those that were named.
        count: u64,
    },
}

impl ControlEvent {
    /// Whether an operator should look at it.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        match self {
            Self::TimingChanges { before, now, .. } => now > before,
            _ => matches!(
                self,
                Self::Reborn { .. }
                    | Self::NodeDown { .. }
                    | Self::DuplicateSlot { .. }
                    | Self::LeaderHangs { .. }
                    | Self::LeaderStarves { .. }
                    | Self::Demoted { .. }
                    | Self::Replaced { .. }
                    | Self::MemoryCrowded { .. }
                    | Self::Removed
                    | Self::Recovered { .. }
                    | Self::Damage { .. }
                    | Self::MoreDamage { .. }
            ),
        }
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
            Self::NodeHangs { node, stalled_for } => hangs(&name(node), *stalled_for, IS_DOWN),
            Self::LeaderHangs { stalled_for } => hangs("this node", *stalled_for, LEADS_NO_MORE),
            Self::NodeStarves { node, late_percent } => starves(&name(node), *late_percent, IS_DOWN),
            Self::LeaderStarves { late_percent } => starves("this node", *late_percent, LEADS_NO_MORE),
            Self::TimingChanges { because_of, before, now } => {
                let why = because_of.map_or_else(String::new, |(node, cause)| why(options, node, cause));
                let (before_ms, now_ms) = (before.as_millis(), now.as_millis());
                format!("{why}election timeout goes from {before_ms} ms to {now_ms} ms")
            }
            Self::LetGo { node } => format!("{} stops, and has handed over what it led: it may go", name(node)),
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
            Self::StreamStalls { node } => {
                format!(
                    "{} takes nothing on the stream plane, though its pulse is well; proposing that it is down",
                    name(node)
                )
            }
            Self::Left { node } => format!("{} holds nothing any more and leaves the cluster", name(node)),
            Self::MemoryCrowded { bytes, bytes_max } => format!(
                "the tables of this node take {}, of {} that they may ([limits] memory); beyond that writes are refused",
                mebibytes(*bytes),
                mebibytes(*bytes_max)
            ),
            Self::MemoryRoomy { bytes, bytes_max } => format!(
                "the tables of this node take {} again, of {} that they may",
                mebibytes(*bytes),
                mebibytes(*bytes_max)
            ),
            Self::Removed => "the leader says that this process belongs to the cluster no more".to_owned(),
            Self::Recovered { generation, survivors } => format!(
                "recovered by force: generation {generation} begins with {survivors} of {all} nodes; what only the others held is lost"
            ),
            Self::Damage { partition, damage } => describe_damage(options, *partition, damage),
            Self::MoreDamage { count } => {
                format!("{}: {count} more records were found to be bad, or repaired", name(&options.me))
            }
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

const IS_DOWN: &str = "proposing that it is down";
const LEADS_NO_MORE: &str = "it leads no more";

fn hangs(node: &str, stalled_for: Duration, so: &str) -> String {
    format!("the workers of {node} have hung for {} ms; {so}", stalled_for.as_millis())
}

fn starves(node: &str, late_percent: u8, so: &str) -> String {
    format!("{node} gets hardly any processor time, and wakes up {late_percent} % late on average; {so}")
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn describe_damage(options: &Options, partition: PartitionId, damage: &Damage) -> String {
    let name = |node: NodeId| options.name(node.slot);
    let me = name(options.me);
    let key = damage.key.as_ref().map_or_else(String::new, |key| format!("key {:?}", key.as_str()));
    match (damage.fault, damage.repaired_from.map(name)) {
        (Fault::Rotten, None) => {
            format!("{key} ({partition}): bits have changed in the memory of {me}; looking for another copy")
        }
        (Fault::Rotten, Some(from)) => {
            format!("{key} ({partition}): repaired at {me} with the copy of {from}, after bits had changed")
        }
        (Fault::Missing, from) => {
            format!("{key} ({partition}): {me} lacked it, repaired with the copy of {}", from.unwrap_or("?"))
        }
        (Fault::Surplus, from) => {
            format!("{key} ({partition}): {me} had it and {}, the primary, has not; removed", from.unwrap_or("?"))
        }
        (Fault::Different, from) => {
            let from = from.unwrap_or("?");
            format!("{key} ({partition}): {me} had another value than {from}, the primary; repaired with that")
        }
        (Fault::Sums, _) => format!("{partition}: the digest at {me} didn't fit its records; summed up anew"),
    }
}

/// Why times must be wide, as the beginning of a sentence.
fn why(options: &Options, node: NodeId, cause: Cause) -> String {
    let node = options.name(node.slot);
    match cause {
        Cause::None => String::new(),
        Cause::Late(ms) => format!("{node} wakes up {ms} ms late: "),
        Cause::Workers(ms) => format!("the workers of {node} stand still for {ms} ms at a time: "),
        Cause::RoundTrip(peer, ms) => {
            format!("from {node} to {} and back takes {ms} ms: ", options.name(peer))
        }
        Cause::Loss(peer, percent) => {
            format!("{percent} % of the heartbeats and acks between {node} and {} get lost: ", options.name(peer))
        }
    }
}
