//! The door between gateways and cores.
//!
//! A gateway holds an `Arc<dyn Core>` and knows nothing behind it. [`Core::submit`] may answer at once: a read of a
//! partition whose primary is this node takes no hop to another thread. What can't be answered at once is awaited.
//!
//! Every queue behind the door is bounded. A full one refuses with [`Error::Busy`], which gateways pass on as "try again
//! later"; it never waits and never drops silently. A feed viewer who reads too slowly is cut off with a reason
//! ([`FeedEnd::TooSlow`]) instead of slowing writers.

mod feed;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::api::{
    AdminReport, AdminRequest, ClusterStatus, Error, FeedCursor, FeedPart, Key, Location, PartitionMap, Request,
    Response,
};
use crate::base::FollowerMode;

pub use feed::{FeedEnd, FeedItem, FeedSender, FeedSubscription};

/// A future that gateways may hold across threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One node, as its gateways see it.
pub trait Core: Send + Sync + 'static {
    /// Hands in one request. The answer comes at or before its deadline plus a small grace, always.
    fn submit(&self, request: Request) -> Answer;

    /// Hands in many requests at once, for different keys; their answers are in the same order. Nothing is said about the
    /// order in which they are executed.
    fn submit_batch(&self, requests: Vec<Request>) -> Vec<Answer> {
        requests.into_iter().map(|request| self.submit(request)).collect()
    }

    /// Answers every request whose deadline has passed, as far as that needs no waiting. Whether a request had begun only the
    /// core knows: a gateway that gives up asks for this first, since a machine that stood still wakes both at once.
    fn answer_overdue(&self) {}

    /// The cluster as this node sees it.
    fn status(&self) -> BoxFuture<'_, ClusterStatus>;

    /// Who holds which partition, as this node knows.
    fn partition_map(&self) -> PartitionMap {
        PartitionMap::default()
    }

    /// Where `key` lives, as this node knows; none while it knows no cluster.
    fn locate(&self, _key: &Key) -> Option<Location> {
        None
    }

    /// Does what an operator wishes, or says what it would do.
    fn admin(&self, request: AdminRequest) -> BoxFuture<'_, Result<AdminReport, Error>>;

    /// The process is to end: hands over what the node leads, and waits until the others do without it. Whoever calls this
    /// waits for as long as there is time, and ends the process in any case.
    fn prepare_stop(&self) -> BoxFuture<'_, Result<AdminReport, Error>> {
        Box::pin(async { Ok(AdminReport::default()) })
    }

    /// What health checks ask; costs no more than a few loads.
    fn health(&self) -> Health;

    /// What a follower does with requests, and where the leader's gateway is.
    fn leadership(&self) -> Leadership;

    /// Opens the feed. Ready once every node that serves partitions has confirmed that it sends its changes here: those
    /// that are made after this future is ready are on their way.
    fn subscribe(&self) -> BoxFuture<'_, Result<FeedSubscription, Error>>;

    /// A part of what came after `cursor` in the partitions of `remaining`; at first that is empty, then what the part
    /// before left. Whoever holds a subscription since before the first part misses nothing between the two.
    fn feed_since(&self, cursor: &FeedCursor, remaining: Vec<u64>) -> BoxFuture<'_, Result<FeedPart, Error>>;
}

/// The answer to a request, now or later.
#[derive(Debug)]
pub enum Answer {
    /// It was answered in the call.
    Now(Result<Response, Error>),
    /// It will be; a dropped sender means that the node is shutting down.
    Later(oneshot::Receiver<Result<Response, Error>>),
}

impl Answer {
    /// Waits for it.
    ///
    /// # Errors
    /// What the core answered, or that the node went away meanwhile.
    pub async fn wait(self) -> Result<Response, Error> {
        match self {
            Self::Now(result) => result,
            Self::Later(receiver) => receiver.await.unwrap_or_else(|_| Err(stopped())),
        }
    }
}

/// A core that is gone has taken along what it knew of a request.
#[must_use]
pub fn stopped() -> Error {
    Error::OutcomeUnknown("this node is shutting down".to_owned())
}

/// What `/healthz`, `/readyz` and `/leaderz` answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The node's threads make progress.
    pub alive: bool,
    /// It can serve: it knows a leader and counts in its cluster.
    pub ready: bool,
    /// It leads, is in contact with a quorum, and its takeover is finished.
    pub leader: bool,
}

/// Who leads, for gateways that send clients there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// What a follower does with requests.
    pub followers: FollowerMode,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Where clients reach the leader (`http://host:port`), where known.
    pub leader_url: Option<Arc<str>>,
}
