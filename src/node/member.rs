//! A process that belongs to a cluster: its Raft, the state that the log has produced, and its leases.

mod granting;
mod handover;
mod operators;
mod pacing;
mod recovery;
mod stopping;
mod strangers;

use std::time::Duration;

use handover::Handover;
pub(super) use operators::{Wish, slot_of};
use strangers::CALLS_AFTER;

use super::ControlEvent;
use super::control_core::ControlOutput;
use super::load::LoadWatch;
use super::message::{ControlMessage, PulseMessage};
use super::outbox::PulseOutbox;
use super::pace::Pace;
use super::supervisor::Supervisor;
use super::vetting::vet;
use crate::base::{Blob, ClusterId, Generation, InSyncChange, Instant, NodeId, Options, Rng, Term};
use crate::codec;
use crate::control::{
    Announcement, Command, ControlState, GOSSIP_EVERY, GossipEntry, GossipView, HeldWord, LeaseGranter, LeaseHolder,
    NodeKind,
};
use crate::raft::{self, Entry, LogPosition, Membership, Payload, Raft, RaftOptions, RaftRole, Snapshot};

/// Entries that the log keeps before it is compacted. The state is small (about 100 KiB), so compacting more often than
/// every thousand entries would cost more than it saves.
const LOG_ENTRIES_MAX: usize = 1024;
/// How long a founder or a learner waits for a leader before it starts anew as somebody else: it has promised nothing
/// yet. Plus as much again at random.
const LEADER_AWAITED_FOR: Duration = Duration::from_secs(3);
/// Bytes of entries in one append.
const APPEND_BYTES_MAX: usize = 256 << 10;
/// How often an undecided vote is asked for again.
const VOTE_RESEND: Duration = Duration::from_millis(50);

/// When a node was last heard on the pulse plane, and the end of its log if it has named that.
#[derive(Clone, Copy, Debug)]
struct Heard {
    node: NodeId,
    at: Instant,
    last: Option<LogPosition>,
}

/// A process in a cluster.
#[derive(Debug)]
pub(super) struct Member {
    me: NodeId,
    cluster: ClusterId,
    generation: Generation,
    raft: Raft,
    state: ControlState,
    leases: LeaseHolder,
    granter: LeaseGranter,
    supervisor: Supervisor,
    gossip: GossipView,
    pace: Pace,
    /// Who led last, other than this node; and when each slot's node was last heard on the pulse plane. A leader that
    /// falls silent is dead for its successor from its last word on, whatever that was about.
    leader_before: Option<NodeId>,
    heard: Vec<Option<Heard>>,
    /// A hand-over of leadership that is under way; and when a leader that is to leave asks an heir next.
    handover: Option<Handover>,
    abdicate_at: Instant,
    wishes: Vec<Wish>,
    /// Whom this node keeps out, as the leader: for people.
    held: Vec<HeldWord>,
    /// It is told to stop: when it says so next.
    stops_told_at: Option<Instant>,
    /// The leader has said that this identity belongs to the cluster no more.
    is_removed: bool,
    supervise_at: Instant,
    gossip_at: Instant,
    /// When it next calls whoever sits at the configured addresses, where it hears of no leader.
    call_at: Instant,
    reborn_at: Instant,
    /// Whether anything that a [`super::View`] shows has changed since it was last asked.
    pub(super) changed: bool,
    announced: Term,
    rng: Rng,
}

impl Member {
    /// A founder: everybody starts with the same membership.
    pub(super) fn founder(
        options: &Options,
        me: NodeId,
        cluster: ClusterId,
        founders: Vec<NodeId>,
        now: Instant,
        mut rng: Rng,
    ) -> Self {
        let membership = Membership { voters: founders.into_iter().collect(), ..Membership::default() };
        let raft = Raft::founder(raft_options(options, me), membership, now, rng.fork());
        Self::new(options, me, cluster, Generation::ZERO, raft, now, rng)
    }

    /// A newcomer that the leader of `cluster` has called by name.
    pub(super) fn learner(
        options: &Options,
        me: NodeId,
        cluster: ClusterId,
        generation: Generation,
        now: Instant,
        mut rng: Rng,
    ) -> Self {
        let raft = Raft::learner(raft_options(options, me), now, rng.fork());
        Self::new(options, me, cluster, generation, raft, now, rng)
    }

    fn new(
        options: &Options,
        me: NodeId,
        cluster: ClusterId,
        generation: Generation,
        raft: Raft,
        now: Instant,
        mut rng: Rng,
    ) -> Self {
        Self {
            me,
            cluster,
            generation,
            raft,
            state: ControlState::default(),
            leases: LeaseHolder::default(),
            granter: LeaseGranter::default(),
            supervisor: Supervisor::default(),
            gossip: GossipView::new(options.slots),
            pace: Pace::new(me, options.slots, now),
            leader_before: None,
            heard: vec![None; options.slots],
            handover: None,
            abdicate_at: now,
            wishes: Vec::new(),
            held: Vec::new(),
            stops_told_at: None,
            is_removed: false,
            supervise_at: now,
            call_at: now + CALLS_AFTER,
            gossip_at: now + rng.duration(GOSSIP_EVERY),
            reborn_at: now + LEADER_AWAITED_FOR + rng.duration(LEADER_AWAITED_FOR),
            changed: true,
            announced: Term::ZERO,
            rng,
        }
    }

    pub(super) const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    fn is_leader(&self) -> bool {
        self.raft.role() == RaftRole::Leader
    }

    pub(super) const fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(super) const fn state(&self) -> &ControlState {
        &self.state
    }

    pub(super) const fn gossip(&self) -> &GossipView {
        &self.gossip
    }

    /// Whom the leader keeps out, where this node leads or was told so.
    pub(super) fn held(&self) -> Option<(&[HeldWord], Instant)> {
        let leader = self.raft.leader()?;
        if leader == self.me {
            return Some((&self.held, Instant::FAR));
        }
        self.gossip.entry(leader.slot).map(|(entry, at)| (&entry.held[..], at))
    }

    pub(super) const fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(super) fn handle_progress(&mut self, now: Instant, at: Instant) {
        self.pace.handle_progress(now, at);
    }

    /// Until when this node may serve reads.
    pub(super) fn lease_until(&self) -> Instant {
        self.leases.until(self.state.applied())
    }

    /// Who to talk to, by slot: the members, newcomers after the old, and whoever leads.
    pub(super) fn peers(&self, slots: usize) -> Vec<Option<NodeId>> {
        let mut peers = vec![None; slots];
        let membership = self.raft.membership();
        let leader = self.raft.leader();
        let everybody = membership.outgoing.iter().chain(&membership.voters).chain(&membership.learners).chain(&leader);
        for node in everybody {
            if let Some(peer) = peers.get_mut(node.slot.index()) {
                *peer = Some(*node);
            }
        }
        peers
    }

    // ---- what comes in -----------------------------------------------------------------------------------------

    /// Takes a message from inside the cluster. False where it makes no sense there.
    pub(super) fn handle_pulse(&mut self, now: Instant, from: NodeId, message: PulseMessage) -> bool {
        self.pace.handle_heard(now, from);
        match message {
            PulseMessage::Raft(message) => {
                self.note_heard(now, from, &message);
                self.raft.handle_pulse(now, from, message);
            }
            PulseMessage::LeaseRequest(request) => self.granter.handle_request(now, from, request),
            PulseMessage::LeaseGrant(grant) if self.raft.leader() == Some(from) => {
                self.leases.handle_grant(now, self.state.applied(), grant);
            }
            PulseMessage::LeaseGrant(_) => {}
            PulseMessage::Report(report) => self.pace.handle_report(now, from, report),
            PulseMessage::Gossip(entries) => self.gossip.handle_entries(now, self.me, &entries),
            // Whoever is led is no stranger.
            PulseMessage::Removed => self.is_removed |= self.raft.leader().is_none(),
            PulseMessage::Announce(_) => return false,
        }
        true
    }

    fn note_heard(&mut self, now: Instant, from: NodeId, message: &raft::PulseMessage) {
        let Some(heard) = self.heard.get_mut(from.slot.index()) else { return };
        let before = heard.filter(|heard| heard.node == from).and_then(|heard| heard.last);
        let last = match message {
            raft::PulseMessage::PreVote { last, .. } | raft::PulseMessage::Vote { last, .. } => Some(*last),
            _ => before,
        };
        *heard = Some(Heard { node: from, at: now, last });
    }

    /// What processes without a cluster are told.
    pub(super) const fn announcement(&self) -> Announcement {
        Announcement::Member { cluster: self.cluster, generation: self.generation }
    }

    /// Takes a message of the stream plane from inside the cluster.
    ///
    /// # Errors
    /// The reason for which it was refused; nothing has changed then.
    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        options: &Options,
        from: NodeId,
        message: ControlMessage,
        out: &mut Vec<ControlOutput>,
    ) -> Result<(), &'static str> {
        match message {
            ControlMessage::Raft(message) => {
                vet(&message)?;
                self.raft.handle_stream(now, from, message);
            }
            ControlMessage::Proposals(changes) => {
                self.supervisor.handle_proposals(changes);
                self.supervise_at = now;
            }
            ControlMessage::Stopping => self.supervisor.handle_stopping(from),
            ControlMessage::Recover => self.handle_recover(now, options, out),
        }
        Ok(())
    }

    /// Takes the wishes of this node's own primaries; only the leader keeps them.
    pub(super) fn handle_proposals(&mut self, now: Instant, changes: Vec<InSyncChange>, out: &mut Vec<ControlOutput>) {
        match self.raft.leader() {
            Some(leader) if leader == self.me => {
                self.supervisor.handle_proposals(changes);
                self.supervise_at = now;
            }
            Some(leader) => {
                out.push(ControlOutput::Stream { to: leader, message: ControlMessage::Proposals(changes) });
            }
            // Nobody to tell: the primary wishes again.
            None => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.raft.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let own = self.gossip_at.min(self.reborn_at).min(self.handover_deadline()).min(self.wishes_deadline());
        let own = own.min(self.pace.poll_timeout()).min(self.stopping_deadline());
        let supervise_at = if self.is_leader() { self.supervise_at } else { Instant::FAR };
        self.raft.poll_timeout().min(own).min(supervise_at)
    }

    // ---- what follows from it ----------------------------------------------------------------------------------

    /// Draws every consequence of the last input. True: this process has waited in vain for a leader, has promised
    /// nothing to anybody, and should start anew.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        options: &Options,
        load: &LoadWatch,
        pulses: &mut PulseOutbox,
        out: &mut Vec<ControlOutput>,
    ) -> bool {
        self.keep_pace(now, options, out);
        self.drain_raft(now, pulses, out);
        if self.is_leader() && now >= self.supervise_at {
            self.supervise_at = now + self.raft.timing().heartbeat / 2;
            self.supervisor.supervise(now, &mut self.raft, &self.state, &self.granter, &self.pace, options);
            self.held = self.supervisor.held_back(now, &self.state, &self.pace, options);
            out.extend(self.supervisor.take_events().into_iter().map(ControlOutput::Event));
            self.drain_raft(now, pulses, out);
        }
        self.advance_stopping(now, out);
        self.maybe_abdicate(now);
        self.advance_handover(now);
        self.drain_raft(now, pulses, out);
        if self.raft.is_ready_leader()
            && !self.withholds_leases()
            && !self.pace.falters(now, self.me, &self.raft.timing())
            && let Some(contact) = self.raft.quorum_contact()
        {
            self.leases.handle_own_contact(contact, &self.raft.lease_timing());
        }
        self.maybe_announce_leader(out);
        self.answer_wishes(now, options, out);
        self.maybe_compact();
        self.maybe_gossip(now, load, pulses);
        self.maybe_call(now, options.slots, pulses);
        if self.is_removed {
            out.push(ControlOutput::Event(ControlEvent::Removed));
        }
        self.is_removed || self.waits_in_vain(now)
    }

    fn drain_raft(&mut self, now: Instant, pulses: &mut PulseOutbox, out: &mut Vec<ControlOutput>) {
        while let Some(output) = self.raft.poll_output() {
            match output {
                raft::Output::Pulse { to, message } => self.send_pulse(now, to, message, pulses),
                raft::Output::Stream { to, message } => {
                    out.push(ControlOutput::Stream { to, message: ControlMessage::Raft(message) });
                }
                raft::Output::Committed(entry) => self.on_committed(&entry, out),
                raft::Output::Restore(snapshot) => self.on_restore(&snapshot),
                raft::Output::RoleChanged { role, .. } => {
                    self.changed = true;
                    self.supervisor.handle_role(now, &self.raft, self.predecessor());
                    self.leader_before = self.raft.leader().filter(|leader| *leader != self.me).or(self.leader_before);
                    if role == RaftRole::Leader {
                        self.granter.clear();
                        self.supervise_at = now;
                    }
                }
            }
        }
    }

    /// Who led last, other than this node, and when it was last heard.
    fn predecessor(&self) -> Option<(NodeId, Instant)> {
        let leader = self.leader_before?;
        let heard = self.heard.get(leader.slot.index())?.filter(|heard| heard.node == leader)?;
        Some((leader, heard.at))
    }

    /// Sends a pulse, and what rides beside it: grants beside heartbeats, lease requests beside their acks.
    fn send_pulse(&mut self, now: Instant, to: NodeId, message: raft::PulseMessage, pulses: &mut PulseOutbox) {
        let beside = match &message {
            raft::PulseMessage::Heartbeat { .. } => self.grant(now, to).map(PulseMessage::LeaseGrant),
            raft::PulseMessage::HeartbeatAck { .. } => Some(PulseMessage::LeaseRequest(LeaseHolder::request(now))),
            _ => None,
        };
        pulses.push(self.cluster, to, PulseMessage::Raft(message));
        let report = PulseMessage::Report(self.pace.report(now, to));
        for beside in beside.into_iter().chain([report]) {
            pulses.push(self.cluster, to, beside);
        }
    }

    fn on_committed(&mut self, entry: &Entry, out: &mut Vec<ControlOutput>) {
        self.changed = true;
        let Payload::Command(bytes) = &entry.payload else {
            self.state.skip_to(entry.index);
            return;
        };
        let command: Command = codec::decode(bytes).expect("what is in the log was vetted or proposed here");
        let was_up = self.state.up();
        self.state.apply(entry.index, &command);
        match command {
            Command::NodeDown { node, .. } if was_up.contains(node.slot) => {
                out.push(ControlOutput::Event(ControlEvent::NodeDown { node }));
            }
            Command::NodeUp { node } => out.push(ControlOutput::Event(ControlEvent::NodeUp { node })),
            Command::ChangeInSync(changes) => {
                self.note_given_back(entry.index, &changes);
                // What was wished for meanwhile has its turn at once.
                self.supervise_at = Instant::ZERO;
            }
            Command::Found { .. }
            | Command::NodeDown { .. }
            | Command::SetRoster { .. }
            | Command::Recover { .. }
            | Command::Stopping { .. } => {}
        }
    }

    fn on_restore(&mut self, snapshot: &Snapshot) {
        self.changed = true;
        let state: ControlState = codec::decode(&snapshot.state).expect("a snapshot was vetted");
        assert_eq!(state.applied(), snapshot.index, "a snapshot that was vetted holds the state at its index");
        self.state = state;
    }

    /// Says once a term who leads, as soon as that leader has had something committed.
    fn maybe_announce_leader(&mut self, out: &mut Vec<ControlOutput>) {
        let Some(leader) = self.raft.leader() else { return };
        let committed = self.raft.commit_index();
        let is_own_term = self.raft.entry(committed).is_some_and(|entry| entry.term == self.raft.term());
        if self.announced < self.raft.term() && is_own_term && self.state.settings().is_some() {
            self.announced = self.raft.term();
            let up = self.state.up().with(leader.slot).len();
            out.push(ControlOutput::Event(ControlEvent::Leader { leader, term: self.raft.term(), up }));
        }
    }

    fn maybe_compact(&mut self) {
        if self.raft.log_length() > LOG_ENTRIES_MAX {
            let mut bytes = Vec::new();
            codec::encode_into(&self.state, &mut bytes).expect("the control state encodes");
            self.raft.compact(self.state.applied(), Blob::from(bytes));
        }
    }

    fn maybe_gossip(&mut self, now: Instant, load: &LoadWatch, pulses: &mut PulseOutbox) {
        if now < self.gossip_at {
            return;
        }
        self.gossip_at = now + GOSSIP_EVERY;
        // Whoever has lost its vote is registered still, and wants to know.
        let mut peers = self.raft.membership().everybody();
        peers.extend(self.state.nodes().iter().filter_map(|entry| entry.node));
        // And whoever was set aside for long may know nobody alive but those of whom it is told.
        if self.raft.leader().is_none() {
            peers.extend(self.gossip.nodes());
        }
        peers.remove(&self.me);
        if peers.is_empty() {
            return;
        }
        let nth = self.rng.below(peers.len() as u64) as usize;
        let Some(&to) = peers.iter().nth(nth) else { return };
        let entries = self.gossip.entries_to_tell(now, self.entry(now, load));
        pulses.push(self.cluster, to, PulseMessage::Gossip(entries));
        pulses.push(self.cluster, to, PulseMessage::Report(self.pace.report(now, to)));
    }

    /// This node's own word about itself.
    fn entry(&self, now: Instant, load: &LoadWatch) -> GossipEntry {
        GossipEntry {
            slot: self.me.slot,
            incarnation: self.me.incarnation,
            kind: node_kind(self.raft.role()),
            term: self.raft.term(),
            last_index: self.raft.last_index(),
            commit_index: self.raft.commit_index(),
            keys: load.load().keys,
            memory_bytes: load.load().memory_bytes,
            filling: load.filling(),
            stalled_ms: u32::try_from(self.pace.stalled(now).as_millis()).unwrap_or(u32::MAX),
            verified_s: load.load().verified_s(now),
            damage: load.load().damage(),
            held: self.held.clone(),
            peers: self.pace.words(now),
            age: Duration::ZERO,
        }
    }

    /// A founder that never voted and a learner have promised nothing. Waiting for ever could keep the others from founding
    /// a cluster, since that takes all of them to be BLANK.
    fn waits_in_vain(&mut self, now: Instant) -> bool {
        let has_promised = self.raft.role() != RaftRole::Learner && self.raft.term() > Term::ZERO;
        // What a registered identity holds may be the last copy.
        let is_registered = self.state.node(self.me.slot).node == Some(self.me);
        if has_promised || is_registered {
            self.reborn_at = Instant::FAR;
        } else if self.raft.leader().is_some() {
            self.reborn_at = now + LEADER_AWAITED_FOR + self.rng.duration(LEADER_AWAITED_FOR);
        }
        now >= self.reborn_at
    }

    /// Whether nothing is on its way to a decision, as far as this node knows.
    pub(super) fn is_at_rest(&self) -> bool {
        self.supervisor.is_at_rest() && self.raft.last_index() == self.state.applied()
    }

    pub(super) fn check_invariants(&self) {
        self.state.check_invariants();
        self.raft.check_invariants();
        assert!(
            self.state.applied() <= self.raft.commit_index(),
            "applied {} before it was committed",
            self.state.applied()
        );
    }
}

/// A Raft role, as gossip names it.
pub(super) const fn node_kind(role: RaftRole) -> NodeKind {
    match role {
        RaftRole::Learner => NodeKind::Learner,
        RaftRole::Follower => NodeKind::Follower,
        RaftRole::PreCandidate | RaftRole::Candidate => NodeKind::Candidate,
        RaftRole::Leader => NodeKind::Leader,
    }
}

fn raft_options(options: &Options, me: NodeId) -> RaftOptions {
    RaftOptions { me, timing: options.timing, append_bytes_max: APPEND_BYTES_MAX, vote_resend: VOTE_RESEND }
}
