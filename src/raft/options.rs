//! What goes in at the start, and what may be said to a proposal.

use std::fmt;
use std::time::Duration;

use crate::base::{NodeId, Timing};

/// What a [`Raft`](super::Raft) is built with.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Who this process is.
    pub me: NodeId,
    /// The times in force until an entry of the log says otherwise.
    pub timing: Timing,
    /// About how many bytes of entries one append carries; a single larger entry travels alone.
    pub append_bytes_max: usize,
    /// After how long a request for a vote that isn't granted is repeated.
    pub vote_resend: Duration,
}

impl RaftOptions {
    /// The usual ones for `me`.
    #[must_use]
    pub const fn new(me: NodeId, timing: Timing) -> Self {
        // An append of this size takes a few milliseconds at a gigabit; the votes are small and few.
        Self { me, timing, append_bytes_max: 256 << 10, vote_resend: Duration::from_millis(50) }
    }
}

/// Why a proposal was not taken. It has not happened, so trying again is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Another node leads, or nobody.
    NotLeader {
        /// Who, if known.
        leader: Option<NodeId>,
    },
    /// A change of members is in flight, leadership is being handed over, or too much is uncommitted.
    Busy,
    /// No entry of the leader's own term is committed yet, or one who is to vote hasn't caught up. Later it may do.
    NotReady,
    /// It can't be done, now or later.
    Refused(String),
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader; that is {leader}"),
            Self::NotLeader { leader: None } => f.write_str("not the leader, and none is known"),
            Self::Busy => f.write_str("busy with earlier changes"),
            Self::NotReady => f.write_str("the leader, or a voter to be, is new and not ready yet"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// Whether `timing` can work: heartbeats well within the promise, the lease within it, and nothing so long that adding
/// up would overflow.
pub(super) fn is_sane_timing(timing: &Timing) -> bool {
    const LONGEST: Duration = Duration::from_secs(3600);
    let Timing { heartbeat, election, election_jitter, lease, down } = *timing;
    [heartbeat, election, election_jitter, lease, down].into_iter().all(|time| time <= LONGEST)
        && heartbeat >= Duration::from_millis(1)
        && heartbeat * 2 <= election
        && lease < election
}
