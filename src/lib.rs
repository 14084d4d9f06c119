//! jumpgate: a distributed in-memory key-value datastore.
//!
//! A handful of servers hold the data between them; clients see one store behind one HTTP and WebSocket gateway, at
//! whichever server they ask. A write is answered when every in-sync copy has it, a read sees every write that was
//! answered before it began, and with the usual number of copies any floor(N/2) of N servers can vanish at once without
//! taking a stored value along. Nothing is written to disk.
//!
//! This is the manual's first page. It says what the parts are and where to begin; each module opens with a page of its
//! own. What users see is in `docs/interface.md`, the whole plan in `docs/architecture.md`, the rules and the reasons in
//! `docs/protocol.md`, the words in `docs/glossary.md`.
//!
//! # Three planes
//!
//! | plane | what travels | how | why there |
//! |---|---|---|---|
//! | pulse | heartbeats, votes, lease requests and grants, gossip, announcements of processes without a cluster | UDP datagrams of at most 1200 bytes | a vote never queues behind a megabyte of data |
//! | stream | log entries and snapshots; replication, filling of learners, forwarded operations, the feed between nodes | TCP, or QUIC with mutual TLS, in frames of many messages | order, size and flow control |
//! | gateway | clients' requests | HTTP and WebSocket | what people and programs already speak |
//!
//! # Two replicated things, with two rules
//!
//! 1. *The cluster's own state* (who sits in which slot, who is up, and one [record](base::PartitionRecord) a partition:
//!    its primary, its in-sync set, its epoch) is one small Raft log, decided by a majority of all nodes. No user data is
//!    in it.
//! 2. *User data* is cut into partitions, 4096 by default. A partition's primary orders its writes, and a write is
//!    committed when **every** member of the in-sync set holds it. Who is in that set is decided by (1), so f + 1 copies
//!    survive f losses, and a majority of copies is never needed.
//!
//! A majority is needed to *decide* (who leads, who is in sync), all in-sync copies are needed to *commit*.
//!
//! # The way of a write
//!
//! ```text
//! client ──PUT──▶ gateway ──api::Request──▶ port::Core ──▶ runtime::Engine, one shard's lock ──▶ node::ShardCore
//!                                                                                                    │ key → partition → primary
//!                              primary elsewhere: Forward over the stream plane, at most two hops ◀──┤
//!                                                                                                    ▼
//!                                                                       replica: judge it, order it, append to the tail
//!                                                                          │ Prepare               ▲ Ack
//!                                                                          ▼                       │
//!                                                                       every in-sync copy ────────┘
//!                                    all of them have it ─▶ apply ─▶ answer with version and copies ─▶ feed
//! ```
//!
//! # The modules
//!
//! In the order of their layers: a module may name only modules above it, and of those only a few; `tests/tidy.rs` holds
//! the table. *Pure* means that the module knows no socket, no clock, no thread and no randomness of its own: inputs come
//! with the time, outputs are drained, and the same machine runs under tokio and in the simulator.
//!
//! | module | what lives there | pure |
//! |---|---|---|
//! | [`base`] | ids and counters as types of their own, the partition's record, time and randomness as arguments, limits | yes |
//! | [`codec`] | bytes on the wire: datagrams, frames, and the one door to bincode | yes |
//! | [`config`] | cluster.toml → a valid configuration, or an error that names the line | yes |
//! | [`access`] | who may do what: tokens, roles, prefixes, addresses that guess | yes |
//! | [`api`] | the one vocabulary of every gateway: requests, answers, errors, events, and their JSON forms | yes |
//! | [`raft`] | consensus over one small log | yes |
//! | [`placement`] | key → partition → target owners | yes |
//! | [`store`] | one partition's records, and when they expire | yes |
//! | [`control`] | what the log's commands do to the cluster's state; founding, leases, gossip | yes |
//! | [`replica`] | one partition's replication protocol, at one node | yes |
//! | [`node`] | a node's control core and shards: routing, supervision, listings, the feed, status | yes |
//! | `sim` | a whole cluster in one thread, with faults drawn from a seed (feature `sim`) | yes |
//! | [`telemetry`] | logging for those who touch the outside | no |
//! | [`port`] | the door between gateways and cores | no |
//! | [`runtime`] | threads, locks and clocks around a node's machines | no |
//! | [`net`] | UDP, TCP and QUIC | no |
//! | [`files`] | files of any size, as chunks and a manifest | yes |
//! | [`gateway`] | HTTP, WebSocket and FTP | no |
//! | [`client`] | the Rust client that the command line uses | no |
//! | [`server`] | the composition root: makes a node out of a configuration | no |
//! | [`cli`] | the command line | no |
//!
//! # Where to begin
//!
//! To *use* it from Rust, with [`client::Client`]:
//!
//! ```no_run
//! use jumpgate::api::{Consistency, Key};
//! use jumpgate::client::{Client, PutOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Any gateways of the cluster; these are the first two of `jumpgate dev`.
//! let client = Client::new(vec!["http://127.0.0.1:7401".into(), "http://127.0.0.1:7402".into()])?;
//! let key: Key = "greeting".parse()?;
//! let written = client.put(&key, "hello".into(), &PutOptions::default()).await?;
//! let value = client.get(&key, Consistency::Linearizable).await?.expect("it was just written");
//! assert_eq!((&value.bytes[..], value.version), (&b"hello"[..], written.version));
//! # Ok(())
//! # }
//! ```
//!
//! To *understand* it, read in this order: [`base`] for the words, [`replica`] for how a write becomes safe, [`control`]
//! and its `state` for how a death becomes a promotion, [`raft`] for what that rests on, [`node`] for how they are wired,
//! [`runtime`] for how they run. Where a value belongs can be asked without any of it:
//!
//! ```
//! use jumpgate::base::{Options, SlotSet};
//! use jumpgate::placement::{owners, partition_of};
//!
//! let partition = partition_of(b"user:42", 4096);
//! assert_eq!(partition.to_string(), "p482");
//! // Five nodes, so three copies: any two nodes can vanish at once.
//! let owners = owners(partition, SlotSet::first(5), Options::replicas_auto(5));
//! assert_eq!(owners.len(), 3);
//! ```
//!
//! To *change* it: `CONTRIBUTING.md`.
//!
//! # What is promised
//!
//! - A write that was answered with success is on every in-sync copy, at least `min_copies` of them, and stays there until
//!   it is replaced, deleted or expired, or until more nodes are lost at once than the copies bear.
//! - Reads are linearizable, unless they ask for `consistency=stale`.
//! - A failed write says whether it happened: `definite` (it did not and never will) or `unknown`.
//! - Versions of a key rise strictly, across failovers too; equal versions are equal bytes.
//! - A viewer of the feed gets the changes from its `live` message on, those of one key in the order of their versions. A
//!   failover may repeat a change; and one whose primary died, or whose way between two nodes broke, in the moment after
//!   its commit may be missing (see `docs/protocol.md`, "Feed").
//! - No request of a client makes a node panic, or allocate without a bound.
//!
//! And what is not: anything about disks. A node that restarts is empty and is filled by the others; a cluster whose
//! nodes all stopped starts empty, under another cluster id.

pub mod access;
pub mod api;
pub mod base;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod control;
pub mod files;
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
