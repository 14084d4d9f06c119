//! What a leader does for its cluster: it notices deaths and returns, lets newcomers in, and has in-sync changes decided.
//!
//! | it sees | it proposes |
//! |---|---|
//! | a cluster without settings | `Found` |
//! | a registered node silent for `down`, or its workers at a standstill for three times as long; its lease over | `NodeDown`: one entry, whatever it led |
//! | a node whose pulse is well and whose stream stands still | `NodeDown`, too |
//! | a node that gets hardly any processor time, where most do | `NodeDown`, if others hold all that it holds |
//! | a voter that acks but isn't registered as up | `NodeUp`, once its log has caught up, and later each time that it fell out |
//! | a process that announces itself for a slot whose holder is silent | a Raft learner |
//! | a learner whose log has caught up | a joint change that puts it in its slot's place |
//! | a voter silent for `demote_after` | a joint change without it |
//! | a node that has been away for `replace_after` | `SetRoster` with its slot absent |
//! | a node that is told to stop | `Stopping`; and `NodeDown`, once it leads nothing and the others can do without it |
//! | a leaving node that holds nothing | `SetRoster` without its slot; then a joint change without it |
//! | wishes of primaries | `ChangeInSync`, many in one entry; with whom a partition may be given to, or who evicted, as it knows |
//!
//! Everything here can be proposed twice without harm: commands are judged when they are applied. What is remembered keeps
//! the log short, and withholds leases from a node that an entry under way replaces.

mod departures;
mod givers;
mod returns;
mod stopping;
mod streams;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use returns::Falls;
use streams::Streams;

use super::ControlEvent;
use super::pace::Pace;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Blob, InSyncChange, Instant, LogIndex, NodeId, Options, PartitionId, Slot, SlotSet, Term};
use crate::codec;
use crate::control::{Command, ControlState, LeaseGranter, Settings};
use crate::raft::{Raft, RaftRole};

/// Changes of in-sync sets in one entry: a rejoining node causes one for most partitions.
const CHANGES_PER_ENTRY: usize = 512;
/// Wishes that are kept; one more is dropped, and its primary wishes again.
const PROPOSALS_MAX: usize = 1 << 14;
/// Whoever acked within so large a part of `down` counts as alive where another node's death is decided: less would miss
/// nodes behind a lossy network, more would count those that died a moment ago. With the usual times it is three
/// heartbeats.
const WITNESS_THIRDS: u32 = 2;
/// So many times longer may a node's pulse be silent that answers over the stream plane.
const STREAM_PATIENCE: u32 = 3;
/// How long an eviction waits for the proof that its primary can be believed; then it has to be wished again.
const EVICTION_KEPT_FOR: Duration = Duration::from_secs(2);
/// How long a process that wants to join is remembered after its last announcement.
const JOINER_HEARD_FOR: Duration = Duration::from_millis(500);
/// How long a new generation's first node tries to let the other survivors in.
const SURVIVORS_CALLED_FOR: Duration = Duration::from_secs(10);

/// The leader's duties. It exists on every member, and acts only while that member leads.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    joiners: BTreeMap<Slot, Joiner>,
    proposals: VecDeque<InSyncChange>,
    /// Wishes to evict somebody, by partition, and when they were first looked at.
    evictions: BTreeMap<PartitionId, (InSyncChange, Option<Instant>)>,
    /// Until when the leases go on that were granted to a node before it last gave a partition back.
    former_read_until: BTreeMap<Slot, Instant>,
    /// Who is told to stop, as they have said themselves.
    stopping: BTreeSet<NodeId>,
    reign: Option<Reign>,
    events: Vec<ControlEvent>,
}

#[derive(Clone, Copy, Debug)]
struct Joiner {
    node: NodeId,
    heard_at: Instant,
    reported: bool,
}

/// What a leader remembers of its own reign.
#[derive(Debug)]
struct Reign {
    term: Term,
    began_at: Instant,
    /// The leader before, and when it was last heard: its silence counts from then.
    predecessor: Option<(NodeId, Instant)>,
    /// Proposals that are on their way: the index, and what they are about.
    founding: Option<LogIndex>,
    changing: Option<LogIndex>,
    roster: Option<LogIndex>,
    streams: Streams,
    falls: Falls,
    /// Slots in which nobody has sat yet, and since when somebody is awaited.
    awaited: BTreeMap<Slot, Instant>,
    /// Nodes that stop: the entry that says so.
    stopping: BTreeMap<NodeId, LogIndex>,
    node_states: BTreeMap<NodeId, (LogIndex, bool)>,
    /// Learners, and since when they are.
    learners: BTreeMap<NodeId, Instant>,
}

impl Supervisor {
    /// That of a survivor who begins a new generation: the others are let in as if they had announced themselves, for as
    /// long as it takes to reach them.
    pub(super) fn calling(now: Instant, survivors: &[NodeId], me: NodeId) -> Self {
        let mut supervisor = Self::default();
        for &node in survivors.iter().filter(|node| **node != me) {
            let heard_at = now + SURVIVORS_CALLED_FOR;
            supervisor.joiners.insert(node.slot, Joiner { node, heard_at, reported: false });
        }
        supervisor
    }

    /// Notes a process that announces itself and isn't a member.
    pub(super) fn handle_joiner(&mut self, now: Instant, node: NodeId) {
        let reported = self.joiners.get(&node.slot).is_some_and(|joiner| joiner.node == node && joiner.reported);
        self.joiners.insert(node.slot, Joiner { node, heard_at: now, reported });
    }

    /// Notes wishes of primaries, this node's own or passed on. Who doesn't lead keeps none: their primaries wish again.
    pub(super) fn handle_proposals(&mut self, changes: Vec<InSyncChange>) {
        if self.reign.is_none() {
            return;
        }
        let (evictions, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| !change.remove.is_empty());
        let room = PROPOSALS_MAX.saturating_sub(self.proposals.len());
        self.proposals.extend(others.into_iter().take(room));
        for change in evictions {
            let known = self.evictions.get(&change.partition).is_some_and(|(known, _)| *known == change);
            if !known && self.evictions.len() < PROPOSALS_MAX {
                self.evictions.insert(change.partition, (change, None));
            }
        }
    }

    /// The evictions that may be decided: those of primaries that take what the leader sends, as was seen lately. One that
    /// could only send would take the healthy for dead, and evict a majority.
    fn proven_evictions(&mut self, now: Instant, state: &ControlState) -> Vec<InSyncChange> {
        let Some(reign) = &self.reign else { return Vec::new() };
        let mut proven = Vec::new();
        let former_read_until = std::mem::take(&mut self.former_read_until);
        self.evictions.retain(|_, (change, looked_at)| {
            let since = *looked_at.get_or_insert(now);
            let is_proven = (reign.streams.has_moved(now, change.proposer, since)
                || is_broken(Mutant::EvictWithoutProof))
                && !givers::may_read(now, state, change, &former_read_until);
            if is_proven {
                proven.push(*change);
            }
            !is_proven && now.since(since) < EVICTION_KEPT_FOR
        });
        self.former_read_until = former_read_until;
        proven
    }

    /// Whether an entry is under way that gives to others what `node` serves: its own death, or its slot's next life. A
    /// lease that is granted meanwhile would outlast that entry:
    ///
    /// 1. n2 has been silent and its lease is over, so its death is proposed;
    /// 2. n2 is heard again and asks for a lease. If it got one now, it would read on from its table;
    /// 3. the death commits. n3 takes over, and a write is acknowledged that n2 hasn't heard of.
    pub(super) fn is_being_replaced(&self, node: NodeId, state: &ControlState) -> bool {
        let Some(reign) = &self.reign else { return false };
        if reign.streams.falters(node) {
            return true;
        }
        if state.stopping().contains(node.slot)
            && (state.leads_nothing(node.slot) || is_broken(Mutant::LetGoWhileLeading))
        {
            return true;
        }
        reign.node_states.iter().any(|(&other, &(index, up))| {
            let replaces = if up { other.slot == node.slot && other != node } else { other == node };
            replaces && state.applied() < index && !is_broken(Mutant::LeaseWhileDying)
        })
    }

    /// Whether no change of an in-sync set waits for its decision here.
    pub(super) fn is_at_rest(&self) -> bool {
        self.proposals.is_empty() && self.evictions.is_empty()
    }

    /// What happened that people want to know.
    pub(super) fn take_events(&mut self) -> Vec<ControlEvent> {
        std::mem::take(&mut self.events)
    }

    /// Notes that this node leads from now on, or no more.
    pub(super) fn handle_role(&mut self, now: Instant, raft: &Raft, predecessor: Option<(NodeId, Instant)>) {
        if raft.role() != RaftRole::Leader {
            self.reign = None;
            self.proposals.clear();
            self.evictions.clear();
            // Whoever leads next was elected after all leases of this reign had ended.
            self.former_read_until.clear();
            // They say it again.
            self.stopping.clear();
        } else if self.reign.as_ref().is_none_or(|reign| reign.term != raft.term()) {
            self.reign = Some(Reign {
                term: raft.term(),
                began_at: now,
                predecessor,
                founding: None,
                changing: None,
                roster: None,
                streams: Streams::new(now, predecessor.map(|(node, _)| node)),
                falls: Falls::default(),
                awaited: BTreeMap::new(),
                stopping: BTreeMap::new(),
                node_states: BTreeMap::new(),
                learners: BTreeMap::new(),
            });
        }
    }

    /// Does a leader's duties.
    pub(super) fn supervise(
        &mut self,
        now: Instant,
        raft: &mut Raft,
        state: &ControlState,
        granter: &LeaseGranter,
        pace: &Pace,
        options: &Options,
    ) {
        if self.reign.is_none() || raft.role() != RaftRole::Leader {
            return;
        }
        if let Some(reign) = &mut self.reign {
            reign.node_states.retain(|_, (index, _)| state.applied() < *index);
        }
        self.watch_streams(now, raft, options.me);
        self.propose_deaths(now, raft, state, granter, pace, options);
        if !raft.is_ready_leader() && !is_broken(Mutant::ChangeTooEarly) {
            return;
        }
        self.maybe_found(now, raft, state, options);
        self.propose_returns(now, raft, state, granter, pace, options);
        self.propose_stops(now, raft, state);
        self.propose_changes(now, raft, state);
        self.admit_joiners(now, raft, state, options);
        self.promote_learners(now, raft);
        self.drop_lost_learners(now, raft);
        self.demote_silent(now, raft, state, options);
        self.replace_absent(now, raft, state, options);
        self.see_off(now, raft, state, options);
    }

    /// The first command of a cluster. All founders are in it, heard or not: who is dead is declared so next.
    fn maybe_found(&mut self, now: Instant, raft: &mut Raft, state: &ControlState, options: &Options) {
        let Some(reign) = &mut self.reign else { return };
        if state.settings().is_some() || reign.founding.is_some_and(|index| state.applied() < index) {
            return;
        }
        let founders: Vec<NodeId> = raft.membership().voters.iter().copied().collect();
        let settings = Settings {
            partitions: options.partitions,
            replicas: options.replicas.min(options.slots as u8),
            min_copies: options.min_copies.min(options.replicas),
        };
        let slots = SlotSet::first(options.slots);
        reign.founding = propose(now, raft, &Command::Found { settings, slots, founders });
    }

    /// A node is dead for its data roles when it has been silent for `down`, or its workers have hung for long, or it starves
    /// and can be done without, and its last lease has ended: only then may somebody else serve what it led. Whoever is down already goes from further
    /// in-sync sets once others in them live.
    fn propose_deaths(
        &mut self,
        now: Instant,
        raft: &mut Raft,
        state: &ControlState,
        granter: &LeaseGranter,
        pace: &Pace,
        options: &Options,
    ) {
        let Some(reign) = &mut self.reign else { return };
        let (timing, me) = (raft.timing(), options.me);
        let others = || {
            let registered = state.nodes().iter().filter_map(|entry| Some((entry.node?, entry.up)));
            registered.filter(|(node, _)| *node != me)
        };
        let acked_lately = |node: NodeId| {
            raft.peer_acked_at(node).is_some_and(|acked| now.since(acked) <= timing.down * WITNESS_THIRDS / 3)
        };
        // A leader that hears nobody is itself cut off: it must not take the majority's partitions along before it steps
        // down. Right after its election the votes tell as much as acks would.
        let is_new = now.since(reign.began_at) < timing.heartbeat;
        let hears_majority = raft.membership().is_quorum(|node| node == me || acked_lately(node));
        if !is_new && !hears_majority && !is_broken(Mutant::DeathWithoutMajority) {
            return;
        }
        let stalls = |node: NodeId| reign.streams.stalls(now, node, &timing);
        // Only who is registered has what its slot is in sync for. A new life of a slot can lead before it is.
        let own = Some(me).filter(|me| state.node(me.slot).node == Some(*me));
        let alive = others().map(|(node, _)| node).filter(|node| acked_lately(*node) && !stalls(*node)).chain(own);
        let is_well = |node: &NodeId| !pace.hangs(now, *node, &timing) && !pace.starves(*node);
        let witnesses: SlotSet = alive.filter(is_well).map(|node| node.slot).collect();
        let may_go =
            |node: NodeId| state.may_go(node.slot, witnesses) && stopping::can_spare(raft, state, node, acked_lately);
        let leaving: BTreeSet<NodeId> = others().map(|(node, _)| node).filter(|node| may_go(*node)).collect();
        for (node, is_up) in others() {
            let heard_at = reign.heard_at(node, raft);
            // Whoever answers over the stream plane is alive, and only its datagrams get lost. It gets no leases meanwhile,
            // so that can't go on for long.
            let answers = raft.peer_stream_heard_at(node).is_some_and(|at| now.since(at) <= timing.down);
            let is_silent = now.since(heard_at) > timing.down * if answers { STREAM_PATIENCE } else { 1 };
            // Where everybody's workers hang, nobody would serve better.
            let hangs = pace.hangs(now, node, &timing) && !witnesses.is_empty();
            let starves = pace.starves(node)
                && state.spares(node.slot, witnesses)
                && !reign.falls.has_just_returned(now, node, options.replace_after);
            let leaves = leaving.contains(&node);
            let is_dead = (is_silent || hangs || starves || leaves || stalls(node)) && now > granter.ends_at(node.slot)
                || is_broken(Mutant::DeathBeforeLeaseEnds) && now.since(heard_at) > 2 * timing.heartbeat;
            let is_due = if is_up { is_dead } else { state.lingers(node, witnesses) };
            if is_due
                && !reign.is_proposed(node, false, state)
                && let Some(index) = propose(now, raft, &Command::NodeDown { node, witnesses })
            {
                reign.node_states.insert(node, (index, false));
                if is_up {
                    if !leaves {
                        reign.falls.note_fall(now, node, options.replace_after);
                    }
                    let (late, stalled_for) = (pace.late_percent(now, node), pace.stalled_at(now, node));
                    self.events.push(match (leaves, is_silent, hangs, starves) {
                        (true, ..) => ControlEvent::LetGo { node },
                        (_, true, ..) => ControlEvent::NodeSilent { node, silent_for: now.since(heard_at) },
                        (_, _, true, _) => ControlEvent::NodeHangs { node, stalled_for },
                        (.., true) => ControlEvent::NodeStarves { node, late_percent: late.unwrap_or_default() },
                        _ => ControlEvent::StreamStalls { node },
                    });
                }
            }
        }
    }

    /// One entry of changes is on its way at a time; what comes meanwhile goes into the next.
    fn propose_changes(&mut self, now: Instant, raft: &mut Raft, state: &ControlState) {
        let proven = self.proven_evictions(now, state);
        self.proposals.extend(proven);
        self.drop_unfit_givings(now, raft);
        let Some(reign) = &mut self.reign else { return };
        if self.proposals.is_empty() || reign.changing.is_some_and(|index| state.applied() < index) {
            return;
        }
        let count = self.proposals.len().min(CHANGES_PER_ENTRY);
        let changes: Vec<InSyncChange> = self.proposals.drain(..count).collect();
        reign.changing = propose(now, raft, &Command::ChangeInSync(changes));
    }

    /// A process that announces itself becomes a learner, if nobody alive holds its slot.
    fn admit_joiners(&mut self, now: Instant, raft: &mut Raft, state: &ControlState, options: &Options) {
        self.joiners.retain(|_, joiner| now.since(joiner.heard_at) < JOINER_HEARD_FOR);
        for joiner in self.joiners.values_mut() {
            let membership = raft.membership();
            let is_outside = state.settings().is_some() && !state.roster().slots.contains(joiner.node.slot);
            if membership.contains(joiner.node) || is_outside {
                continue;
            }
            let holder = membership.voters.iter().find(|voter| voter.slot == joiner.node.slot).copied();
            let holder_lives = holder.is_some_and(|holder| {
                holder == options.me
                    || raft.peer_acked_at(holder).is_some_and(|acked| now.since(acked) < 2 * raft.timing().down)
            });
            if holder_lives {
                if !joiner.reported {
                    joiner.reported = true;
                    self.events.push(ControlEvent::DuplicateSlot { newcomer: joiner.node });
                }
                continue;
            }
            if raft.propose_learner(now, joiner.node).is_ok() {
                self.events.push(ControlEvent::Admitted { node: joiner.node });
            }
        }
    }

    /// A learner that has the log takes its slot's place, by one joint change.
    fn promote_learners(&mut self, now: Instant, raft: &mut Raft) {
        let membership = raft.membership();
        if !membership.outgoing.is_empty() {
            return;
        }
        let ready = membership.learners.iter().copied().find(|&learner| {
            raft.match_index(learner) >= Some(raft.commit_index())
                && raft.peer_acked_at(learner).is_some_and(|acked| now.since(acked) < raft.timing().down)
        });
        if let Some(learner) = ready {
            let stay = membership.voters.iter().copied().filter(|voter| voter.slot != learner.slot);
            let voters: BTreeSet<NodeId> = stay.chain([learner]).collect();
            // Refused while another change is in flight; it is tried again at the next round.
            let _ = raft.propose_voters(now, voters);
        }
    }
}

impl Reign {
    /// When `node` was last heard, as far as its silence counts: a new leader gives everybody time from the start of its
    /// reign, but for the leader before, whose silence is why there was an election.
    fn heard_at(&self, node: NodeId, raft: &Raft) -> Instant {
        let baseline = match self.predecessor {
            Some((predecessor, heard_at)) if predecessor == node => heard_at,
            _ => self.began_at,
        };
        raft.peer_acked_at(node).map_or(baseline, |acked| acked.max(baseline))
    }

    /// Whether `node`'s being up, or down, is proposed already and not yet applied.
    fn is_proposed(&self, node: NodeId, up: bool, state: &ControlState) -> bool {
        self.node_states.get(&node).is_some_and(|&(index, proposed)| proposed == up && state.applied() < index)
    }
}

/// Appends `command`; the index it has, or none where the log takes nothing at the moment. It is tried again later.
fn propose(now: Instant, raft: &mut Raft, command: &Command) -> Option<LogIndex> {
    let mut bytes = Vec::new();
    codec::encode_into(command, &mut bytes).expect("a command of bounded size encodes");
    raft.propose(now, Blob::from(bytes)).ok()
}
