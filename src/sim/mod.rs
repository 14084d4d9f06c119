//! A whole cluster in one thread, on a virtual clock, with faults drawn from a seed.
//!
//! The [`World`] runs the shipped machines ([`crate::node::Node`]) and their codec bytes: every datagram and every frame is
//! encoded, carried and decoded as in production. What it replaces is the outside: time, the network, processes that die
//! and clients that ask. Everything follows from the seed, so a run can be repeated to the last byte; its [`World::trace`]
//! hash says whether it was.
//!
//! | file | what it holds |
//! |---|---|
//! | `world` | [`World`]: nodes, clock, deliveries |
//! | `network` | delays, losses, cuts, connections that break |
//! | `clients` | clients, their history, and what it must satisfy |
//! | `readers` | who may answer reads: never two at once |
//! | `scenario` | [`Scenario`]: faults for a while, then peace, then everything must be well |
//!
//! Checked after every input: the invariants of every machine, at most one leader a term, at most one node that answers
//! reads of a partition, no read that misses an acknowledged write. Checked at the end, in peace: one leader, every
//! partition in full, every acknowledged value there, all copies equal.

mod clients;
mod network;
mod readers;
mod scenario;
mod world;

pub use clients::{Clients, Violation};
pub use network::{Cut, Network};
pub use scenario::{Outcome, Scenario, is_whole};
pub use world::{NAME, World, WorldOptions};
