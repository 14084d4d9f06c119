//! Whether the stream plane of each node moves, as a leader sees it.
//!
//! The pulse plane says nothing of the stream plane: a node whose connections are dead, and whose datagrams arrive, would
//! keep the partitions that it leads, and no write of theirs would ever be committed. So the leader appends an entry now and
//! then where nothing else asks for one. Whoever doesn't take it within a few election timeouts is as good as dead; and a
//! leader whose entries *nobody* takes steps down by itself (see `raft`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Supervisor;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, LogIndex, NodeId, Timing};
use crate::raft::{Raft, RaftRole};

/// How often an entry is appended for no other reason.
const TICK_EVERY: Duration = Duration::from_millis(200);
/// A stream that takes nothing for so many election timeouts, though something waits, stands still. A leader whose own
/// plane is dead steps down after two.
const STALL_ELECTIONS: u32 = 4;
/// The same in half election timeouts for the leader before, whose stream plane may be why there is another: it stepped down
/// after two election timeouts in which nobody took anything.
const STALL_HALVES_OF_PREDECESSOR: u32 = 5;
/// Whoever has taken something within so long, less than a member may leave something unanswered, heard what there was to
/// be heard while it waited.
const HEARD_WITHIN: Duration = Duration::from_millis(400);

/// What a leader knows of the others' streams.
#[derive(Debug)]
pub(super) struct Streams {
    tick_at: Instant,
    predecessor: Option<NodeId>,
    /// Through where a node's log matched, and since when it has not moved although more was there.
    waits: BTreeMap<NodeId, (Option<LogIndex>, Instant)>,
    /// When a node's log last grew: both directions of its stream worked then. This leader's own: when others' did.
    moved_at: BTreeMap<NodeId, Instant>,
    /// Those that have stood still for half as long as it takes to be declared down.
    falter: BTreeSet<NodeId>,
}

impl Streams {
    /// At the beginning of a reign after that of `predecessor`.
    pub(super) fn new(now: Instant, predecessor: Option<NodeId>) -> Self {
        let (waits, moved_at, falter) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { tick_at: now + TICK_EVERY, predecessor, waits, moved_at, falter }
    }

    /// Whether the stream to `node` stands still.
    pub(super) fn stalls(&self, now: Instant, node: NodeId, timing: &Timing) -> bool {
        self.waits.get(&node).is_some_and(|(_, since)| now.since(*since) > self.patience(node, timing))
            && !is_broken(Mutant::StalledStreamLives)
    }

    /// For how long the stream to `node` may take nothing.
    fn patience(&self, node: NodeId, timing: &Timing) -> Duration {
        match self.predecessor == Some(node) {
            true => timing.election * STALL_HALVES_OF_PREDECESSOR / 2,
            false => timing.election * STALL_ELECTIONS,
        }
    }

    /// Whether `node` gets no lease, because its stream has stood still for a while: it could not be declared down while
    /// its lease runs.
    pub(super) fn falters(&self, node: NodeId) -> bool {
        self.falter.contains(&node)
    }

    /// Whether the stream of `node` has been seen to work, both ways, a moment ago or after `since`.
    pub(super) fn has_moved(&self, now: Instant, node: NodeId, since: Instant) -> bool {
        self.moved_at.get(&node).is_some_and(|at| *at > since || now.since(*at) < HEARD_WITHIN)
    }

    fn note(&mut self, now: Instant, raft: &Raft, me: NodeId) {
        let members = raft.membership().everybody();
        self.waits.retain(|node, _| members.contains(node));
        self.moved_at.retain(|node, _| members.contains(node));
        for node in members.into_iter().filter(|node| *node != me) {
            let matched = raft.match_index(node);
            let has_all = matched >= Some(raft.last_index());
            if self.waits.get(&node).is_some_and(|(before, _)| *before != matched) {
                self.moved_at.extend([(node, now), (me, now)]);
            }
            match self.waits.get_mut(&node) {
                Some((before, _)) if *before == matched && !has_all => {}
                Some(wait) => *wait = (matched, now),
                None => drop(self.waits.insert(node, (matched, now))),
            }
        }
        let timing = raft.timing();
        let stands = |node: NodeId, since: Instant| now.since(since) > self.patience(node, &timing) / 2;
        let still = self.waits.iter().filter(|(node, (_, since))| stands(**node, *since));
        self.falter = still.map(|(node, _)| *node).collect();
    }
}

impl Supervisor {
    /// Notes how far everybody is, and appends an entry where all is quiet.
    pub(super) fn watch_streams(&mut self, now: Instant, raft: &mut Raft, me: NodeId) {
        let Some(reign) = self.reign.as_mut().filter(|_| raft.role() == RaftRole::Leader) else { return };
        if now >= reign.streams.tick_at {
            reign.streams.tick_at = now + TICK_EVERY;
            if raft.last_index() == raft.commit_index() {
                // Refused while leadership is handed over: then the next one will do.
                let _ = raft.propose_noop(now);
            }
        }
        reign.streams.note(now, raft, me);
    }
}
