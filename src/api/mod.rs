//! The one vocabulary of every gateway: what clients may ask, what they are told, and how a failure is named.
//!
//! A gateway (HTTP, WebSocket, FTP, the command line) translates its protocol into a [`Request`] and a [`Response`] or
//! [`Error`] back into its protocol; cores know these types only. They travel between nodes too, when an operation is
//! forwarded, so they encode.
//!
//! | file | what it holds |
//! |---|---|
//! | `key` | [`Key`], checked on entry; [`ContentType`] |
//! | `request` | [`Request`], [`Operation`], [`Precondition`] |
//! | `once` | [`Once`]: a write that is executed once however often it is sent |
//! | `response` | [`Response`], [`Value`], [`Page`] |
//! | `error` | [`Error`], its [`Outcome`] and its [`Retry`] class |
//! | `feed`, `cursor` | [`FeedEvent`], [`FeedCursor`] |
//! | `status` | [`ClusterStatus`]: what `/v1/cluster` and `jumpgate status` show |
//! | `admin` | [`AdminRequest`], [`AdminReport`]: what operators may ask |
//! | `json` | the JSON forms |
//! | `batch` | the JSON form of a batch |
//!
//! Left out: where a key lives. Clients never see it, but for `/v1/locate`.

mod admin;
pub mod batch;
mod cursor;
mod error;
mod feed;
pub mod json;
mod key;
mod once;
mod request;
mod response;
mod status;

pub use admin::{AdminAction, AdminReport, AdminRequest, Recovered};
pub use cursor::{BadCursor, FeedCursor};
pub use error::{Error, Outcome, Retry};
pub use feed::{EventKind, FeedEvent, FeedPart};
pub use key::{ContentType, Key, KeyError, RESERVED};
pub use once::{Done, Fingerprint, IdempotencyKey, Once};
pub use request::{Consistency, Match, Operation, Precondition, PutMode, Request};
pub use response::{Item, Page, Response, Value};
pub use status::{
    ClusterStatus, HealingStatus, HeldBackStatus, Location, NodeStatus, PartitionCounts, PartitionMap, PartitionState,
    PeerStatus, Role, TimingStatus, TrafficStatus, VerificationStatus,
};
