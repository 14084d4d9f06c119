//! jumpgate: a distributed in-memory key-value datastore.

pub mod api;
pub mod base;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod control;
pub mod gateway;
pub mod net;
pub mod node;
pub mod placement;
pub mod port;
pub mod raft;
pub mod replica;
pub mod runtime;
pub mod server;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod telemetry;
