//! What the Raft log decides, and what leads to a decision.
//!
//! The log holds [`Command`]s; applying them in order gives the [`ControlState`]: who is registered in each slot, who is
//! up, and one [`crate::base::PartitionRecord`] per partition. Every node applies the same commands to the same state
//! and so derives the same promotions: a node's death is *one* entry, whatever the number of partitions it led.
//!
//! | file | what it holds | who runs it |
//! |---|---|---|
//! | `command` | [`Command`], [`Settings`], [`Roster`] | the leader proposes, all apply |
//! | `state` | [`ControlState`]: applying commands, the partition table, promotions | all |
//! | `bootstrap` | [`Bootstrap`]: how BLANK processes found a cluster, unanimously | BLANK processes |
//! | `lease` | [`LeaseGranter`], [`LeaseHolder`]: who may serve reads until when | leader; all |
//! | `gossip` | [`GossipView`]: what nodes tell each other of others; hints only | all |
//!
//! Left out: consensus itself (`raft`), and the loop that ties these together (`node::control_core`).

mod bootstrap;
mod command;
mod gossip;
mod lease;
mod state;

pub use bootstrap::{Announcement, Bootstrap, BootstrapOutput};
pub use command::{Command, Recovery, Roster, Settings};
pub use gossip::{FillingWord, GOSSIP_BYTES_MAX, GOSSIP_EVERY, GossipEntry, GossipView, HeldWord, NodeKind, PeerWord};
pub use lease::{LeaseGrant, LeaseGranter, LeaseHolder, LeaseRequest};
pub use state::{ControlState, NodeEntry};
