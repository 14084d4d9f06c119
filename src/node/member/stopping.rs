//! This process is told to stop: it hands over what others would have to find out that it led, and is let go.
//!
//! A leader hands its leadership over first, so that somebody else can decide the rest. Then it says that it stops, again
//! and again until that is in the log. Its shards give away what they lead, and the leader declares it down while it still
//! acks: nobody waits for it from then on.

use std::time::Duration;

use super::Member;
use crate::api::Error;
use crate::base::Instant;
use crate::node::ControlOutput;
use crate::node::message::ControlMessage;

/// How often a node says that it stops, until that is decided.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How long a node that stops waits for a leader. An election takes less.
const LEADER_AWAITED_FOR: Duration = Duration::from_secs(1);

impl Member {
    /// Whether this process is told to stop.
    pub(super) const fn stops(&self) -> bool {
        self.stops_told_at.is_some()
    }

    pub(super) fn begin_stopping(&mut self, now: Instant) {
        if !self.stops() {
            self.stops_told_at = Some(now);
            self.abdicate_at = now;
        }
    }

    /// When it has to be said again.
    pub(super) fn stopping_deadline(&self) -> Instant {
        self.stops_told_at.filter(|_| self.has_to_tell()).unwrap_or(Instant::FAR)
    }

    fn has_to_tell(&self) -> bool {
        let entry = self.state.node(self.me.slot);
        self.raft.leader().is_some() && entry.node == Some(self.me) && entry.up && !entry.stopping
    }

    pub(super) fn advance_stopping(&mut self, now: Instant, out: &mut Vec<ControlOutput>) {
        if self.stops_told_at.is_none_or(|at| now < at) || !self.has_to_tell() {
            return;
        }
        self.stops_told_at = Some(now + TELL_EVERY);
        match self.raft.leader() {
            Some(leader) if leader != self.me => {
                out.push(ControlOutput::Stream { to: leader, message: ControlMessage::Stopping });
            }
            // While leadership is handed over no gift could be decided. Where there is no heir it stops with the others.
            Some(_) if self.handover.is_none() && self.heir(now).is_none() => {
                self.supervisor.handle_stopping(self.me);
                self.supervise_at = now;
            }
            _ => {}
        }
    }

    /// What has come of its wish to go, which it has had `since` then; none while that isn't clear.
    pub(super) fn let_go(&self, now: Instant, since: Instant) -> Option<Result<(), Error>> {
        let voters = self.raft.membership();
        let conflict = |why: &str| Some(Err(Error::Conflict(why.to_owned())));
        if !voters.is_quorum(|node| node != self.me) {
            return conflict("the others would be no majority without this node");
        }
        if !self.is_leader() && self.state.is_gone(self.me) {
            return Some(Ok(()));
        }
        let up = self.state.up();
        if !up.is_empty() && up == self.state.stopping() {
            return conflict("every node is told to stop");
        }
        if self.raft.leader().is_none() && now.since(since) > LEADER_AWAITED_FOR {
            return Some(Err(Error::NoQuorum("nobody leads to whom anything could be handed over".to_owned())));
        }
        None
    }
}
