//! Which times hold at a node, and for how long a leader may count on others' promises.
//!
//! An entry of the log may change the times ([`Raft::propose_timing`]). While it isn't committed somebody may go by the
//! times before it and somebody else by those in it, so everybody keeps the safest of each:
//!
//! | time | kept while a change is under way | why |
//! |---|---|---|
//! | heartbeat | the shorter | who waits for heartbeats may count on either |
//! | election, jitter, down | the longer | a promise that was made is kept, and waiting longer harms nobody |
//! | lease | the shorter, and no longer than what the quorum in contact has promised allows | a lease must end before a promise |
//!
//! A promise is kept to its end, though the times become shorter meanwhile: by who voted, by who follows, and by the
//! leader itself, who counts among those on whose promises its leases rest.

use std::time::Duration;

use super::options::is_sane_timing;
use super::progress::Progress;
use super::{Raft, Standing};
use crate::base::Timing;

impl Raft {
    /// The times that this node keeps: while a change of times is not committed, the safest of old and new ones.
    #[must_use]
    pub const fn timing(&self) -> Timing {
        self.timing
    }

    /// Leader: for how long those who make up [`Raft::quorum_contact`] vote for nobody else from then on. It is less than
    /// the election timeout that this leader keeps where they have made their promise under shorter times.
    #[must_use]
    pub fn promised(&self) -> Duration {
        let promised = self.in_contact().into_iter().filter_map(|node| self.progress_of(node).map(Progress::promise));
        promised.min().unwrap_or(self.timing.election).min(self.timing.election)
    }

    /// Leader: how long a lease may be that begins at [`Raft::quorum_contact`]. It is the shortest of all times that are
    /// in force somewhere, and no larger a part of [`Raft::promised`] than the committed lease is of the committed
    /// election timeout.
    #[must_use]
    pub fn lease(&self) -> Duration {
        let committed = self.log.timings().at(self.commit_index);
        let part = committed.lease.as_secs_f64() / committed.election.as_secs_f64();
        self.timing.lease.min(self.promised().mul_f64(part))
    }

    /// The times that leases go by: [`Raft::timing`] with [`Raft::lease`] and [`Raft::promised`] in it.
    #[must_use]
    pub fn lease_timing(&self) -> Timing {
        Timing { election: self.promised(), lease: self.lease(), ..self.timing }
    }

    /// The latest times in the log, and whether they are committed.
    #[must_use]
    pub fn agreed_timing(&self) -> (Timing, bool) {
        let timings = self.log.timings();
        (*timings.latest(), timings.latest_index() <= self.commit_index)
    }

    /// Waits as long as `patience` says, where that is longer than what the log says; none: no longer than that. It
    /// needs nobody's agreement. To promise for longer, to wait longer for a leader, for votes or for acks can make
    /// nothing unsafe; and a lease becomes no longer by it.
    ///
    /// It is for the time when the cluster can't agree on longer times because the present ones are too short: on links
    /// with a round trip of E nobody stays leader for long enough to get anything committed.
    pub fn be_patient(&mut self, patience: Option<Timing>) {
        let patience = patience.filter(is_sane_timing);
        if self.patience != patience {
            self.patience = patience;
            self.keep_times();
        }
        self.finish();
    }

    /// Of all times that are in force somewhere, the safest of each.
    pub(super) fn keep_times(&mut self) {
        let timings = self.log.timings();
        let mut kept = *timings.at(self.commit_index);
        for timing in timings.after(self.commit_index) {
            kept.heartbeat = kept.heartbeat.min(timing.heartbeat);
            kept.lease = kept.lease.min(timing.lease);
            wait_longer(&mut kept, timing);
        }
        if let Some(patience) = &self.patience {
            wait_longer(&mut kept, patience);
        }
        if kept.election < self.timing.election
            && let Standing::Leading(leading) = &self.standing
        {
            // Leases were granted in the belief that this leader, too, votes for nobody for so long:
            // 1. A, leader of {A B C}, grants a lease of 240 ms under E = 300 ms; 2. E = 100 ms is committed; 3. A hears
            //    nobody any more and steps down after 100 ms; 4. its vote must not help C to lead while the lease runs.
            self.promised_until = self.promised_until.max(self.contact_ends_at(leading));
        }
        self.timing = kept;
    }
}

/// What may be longer at one node than at others, and harms nobody.
fn wait_longer(kept: &mut Timing, other: &Timing) {
    kept.election = kept.election.max(other.election);
    kept.election_jitter = kept.election_jitter.max(other.election_jitter);
    kept.down = kept.down.max(other.down);
}
