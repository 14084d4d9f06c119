//! A whole cluster in one thread, on a virtual clock, with faults drawn from a seed.
//!
//! The [`World`] runs the shipped machines ([`crate::node::Node`]) and their codec bytes: every datagram and every frame is
//! encoded, carried and decoded as in production. What it replaces is the outside: time, the network, processes that die
//! and clients that ask. Everything follows from the seed, so a run can be repeated to the last byte; its [`World::trace`]
//! hash says whether it was.
//!
//! | file | what it holds |
//! |---|---|
//! | `world`, `process` | [`World`]: nodes, clocks, what happens in the order of time |
//! | `deliver` | what arrives at a node; what must change nothing |
//! | `asking` | what clients, tests and operators ask of it |
//! | `network` | delays, losses, damage, cuts, connections that break |
//! | `clients` | clients: what they ask, and of whom |
//! | `history`, `linear` | what they were told of a key, and whether it can be true |
//! | `checks` | what must hold after every input, seen by somebody who sees all nodes at once |
//! | `faults`, `probes` | what goes wrong; and what must follow from some of it |
//! | `decay` | copies that go bad |
//! | `scenario` | [`Scenario`]: faults for a while, then peace, then everything must be well |
//! | `viewers` | viewers of the feed that come back |
//! | `trace` | what happened, as a hash and as lines |
//!
//! Checked after every input: the invariants of the node that took it, and the rules of `checks`. Checked at the end, in
//! peace: one leader, every partition in full and used, every acknowledged value there, all copies equal, an order of all
//! operations on each key that explains every answer.

mod asking;
mod checks;
mod clients;
mod decay;
mod deliver;
mod faults;
mod history;
mod linear;
mod network;
mod probes;
mod process;
mod scenario;
mod trace;
mod viewers;
mod world;

pub use clients::Clients;
pub use decay::Decay;
pub use network::{Cut, Network};
pub use scenario::{Outcome, Scenario, is_whole, judge_orders, misplaced};
pub use viewers::Viewer;
pub use world::{NAME, World, WorldOptions};
