//! The survivors of a lost majority, going on by force when an operator says so.
//!
//! ```text
//! asked ──▶ who campaigns is alive; a majority of them? refused ──▶ the longest log among them: this node, or told to begin
//! begin:  apply the whole log ──▶ Recover, 2³² entries on ──▶ a log that begins with that, one voter, the next generation
//!         ──▶ the other survivors are called by name as learners, and keep what they hold
//! ```

use std::time::Duration;

use super::operators::{Awaited, Begun, report};
use super::{Heard, Member, raft_options};
use crate::api::{Error, Recovered};
use crate::base::{Blob, Epoch, Instant, LogIndex, NodeId, Options, PartitionId, Term};
use crate::codec;
use crate::control::{Command, LeaseGranter, LeaseHolder, Recovery};
use crate::node::message::ControlMessage;
use crate::node::supervisor::Supervisor;
use crate::node::{ControlEvent, ControlOutput};
use crate::raft::{LogPosition, Membership, Raft, Snapshot};

/// A voter that was heard from within this time survives, and where the timing is slow, within that of two campaigns.
const SURVIVOR_HEARD_FOR: Duration = Duration::from_secs(1);

impl Member {
    /// The voters that are alive, this one included, each with the end of its log.
    fn survivors(&self, now: Instant) -> Vec<(NodeId, LogPosition)> {
        let voters = self.raft.membership().all_voters();
        // On slow links they campaign seconds apart. Who is forgotten loses what nobody else has.
        let heard_for = SURVIVOR_HEARD_FOR.max(self.raft.timing().campaigns_within() * 2);
        let heard = self.heard.iter().flatten().filter(|heard| now.since(heard.at) < heard_for);
        let others = heard.filter(|heard| heard.node != self.me && voters.contains(&heard.node));
        let own = LogPosition { index: self.raft.last_index(), term: self.raft.last_term() };
        let others = others.filter_map(|&Heard { node, last, .. }| Some((node, last?)));
        others.chain([(self.me, own)]).collect()
    }

    pub(super) fn wish_recovery(
        &mut self,
        now: Instant,
        options: &Options,
        dry_run: bool,
        out: &mut Vec<ControlOutput>,
    ) -> Begun {
        let survivors = self.survivors(now);
        self.check_recoverable(&survivors)?;
        let names = |nodes: &mut dyn Iterator<Item = NodeId>| {
            nodes.map(|node| options.name(node.slot).to_owned()).collect::<Vec<_>>().join(", ")
        };
        let alive: Vec<NodeId> = survivors.iter().map(|(node, _)| *node).collect();
        let mut dead = self.raft.membership().all_voters().into_iter().filter(|node| !alive.contains(node));
        let (best, last) = longest(&survivors).unwrap_or((self.me, LogPosition::default()));
        let steps = [
            format!("survivors: {}; gone for good: {}", names(&mut alive.iter().copied()), names(&mut dead)),
            format!(
                "{} has the longest log, through entry {}: it begins generation {}",
                options.name(best.slot),
                last.index,
                self.generation.next()
            ),
            "every partition goes on with what a survivor holds of it; what only the others held is lost".to_owned(),
            "the others, if they come back, start anew and empty".to_owned(),
        ];
        let mut report = report(steps);
        if dry_run {
            let mut after = self.state.clone();
            let index = LogIndex(after.applied().0 + 1);
            after.apply(index, &Command::Recover { survivors: alive });
            report.recovered = after.recovery().map(recovered);
            return Ok((report, None));
        }
        let before = self.generation;
        if best == self.me {
            self.recover(now, options, alive, out);
        } else {
            out.push(ControlOutput::Stream { to: best, message: ControlMessage::Recover });
        }
        Ok((report, Some(Awaited::Recovery(before))))
    }

    /// Another survivor was asked, and finds this node's log to be the longest.
    pub(super) fn handle_recover(&mut self, now: Instant, options: &Options, out: &mut Vec<ControlOutput>) {
        let survivors = self.survivors(now);
        let is_longest = longest(&survivors).is_some_and(|(best, _)| best == self.me);
        if is_longest && self.check_recoverable(&survivors).is_ok() {
            let alive = survivors.into_iter().map(|(node, _)| node).collect();
            self.recover(now, options, alive, out);
        }
    }

    fn check_recoverable(&self, survivors: &[(NodeId, LogPosition)]) -> Result<(), Error> {
        let membership = self.raft.membership();
        let refused = |why: &str| Err(Error::Conflict(why.to_owned()));
        if self.raft.leader().is_some() {
            return refused("a leader is known: a majority is alive and nothing needs to be forced");
        }
        if membership.is_quorum(|node| survivors.iter().any(|(survivor, _)| *survivor == node)) {
            return refused("a majority is alive: it elects a leader by itself");
        }
        if !membership.is_voter(self.me) || self.state.settings().is_none() {
            return refused("this process holds no vote and nothing of the cluster's state: ask a survivor that does");
        }
        Ok(())
    }

    /// The partitions as the last recovery found them.
    pub(super) fn recovered(&self) -> Option<Recovered> {
        self.state.recovery().map(recovered)
    }

    /// Says who is told what: used where a recovery happens without an operator at this node.
    fn recovery_event(&self, survivors: usize) -> ControlOutput {
        ControlOutput::Event(ControlEvent::Recovered { generation: self.generation, survivors })
    }

    /// Goes on without the majority that is lost, in a new generation whose only voter is this node; the other survivors
    /// are called into it as learners, with what they hold. Entries that the log has and that were never known to be
    /// committed count: nobody is left who could say otherwise.
    fn recover(&mut self, now: Instant, options: &Options, survivors: Vec<NodeId>, out: &mut Vec<ControlOutput>) {
        let mut index = self.state.applied().next();
        while let Some(entry) = self.raft.entry(index).cloned() {
            self.on_committed(&entry, out);
            index = index.next();
        }
        let last = self.raft.last_index();
        let count = survivors.len();
        // Epochs are indices, so every epoch of the old generation lies behind.
        let begins_at = LogIndex(last.0 + Epoch::RECOVERY_GAP);
        self.state.apply(begins_at, &Command::Recover { survivors: survivors.clone() });
        let mut bytes = Vec::new();
        codec::encode_into(&self.state, &mut bytes).expect("the control state encodes");
        let snapshot = Snapshot {
            index: begins_at,
            term: self.raft.term().next(),
            membership: Membership::default(),
            timing: self.raft.timing(),
            state: Blob::from(bytes),
        };
        self.generation = self.generation.next();
        self.raft = Raft::survivor(raft_options(options, self.me), snapshot, now, self.rng.fork());
        (self.leases, self.granter) = (LeaseHolder::default(), LeaseGranter::default());
        self.supervisor = Supervisor::calling(now, &survivors, self.me);
        (self.handover, self.leader_before, self.announced) = (None, None, Term::ZERO);
        self.changed = true;
        out.push(self.recovery_event(count));
    }
}

fn recovered(recovery: &Recovery) -> Recovered {
    let numbers = |partitions: &[PartitionId]| partitions.iter().map(|partition| partition.0).collect();
    Recovered { clean: recovery.clean, lossy: numbers(&recovery.lossy), lost: numbers(&recovery.lost) }
}

/// Whose log is the longest, as Raft compares them; the lower slot of two that are equal.
fn longest(survivors: &[(NodeId, LogPosition)]) -> Option<(NodeId, LogPosition)> {
    survivors.iter().copied().max_by_key(|&(node, last)| (last, std::cmp::Reverse(node.slot)))
}
