//! The control core: one node's part in consensus, membership, failure detection and leases.
//!
//! It takes datagrams, control messages of the stream plane and the passing of time, and gives out datagrams, control
//! messages, a [`View`] whenever the cluster changed, a lease whenever it was extended, and [`ControlEvent`]s for people.
//!
//! ```text
//! datagram ──▶ envelope judged ──▶ Bootstrap (knows no cluster)       ──▶ announcements
//!                             └──▶ Member: Raft, leases, gossip       ──▶ heartbeats, votes, grants, gossip
//! committed entry ──▶ ControlState ──▶ View ──▶ shards
//! leader, now and then ──▶ Supervisor: NodeDown, NodeUp, learners, joint changes, in-sync changes
//! ```
//!
//! Where secrets are set ([`ControlCore::handle_keyring`]), a datagram without a code of one of them is refused before it is
//! looked at, and so is one that was here before. A process without a cluster can't address others by name, and what is
//! addressed to whoever sits in a slot could be a recording from before this process started. So it is a mere hello then,
//! which changes nothing and is answered by name; what is acted on is the answer, and what follows it:
//!
//! ```text
//! n1, just started                          n2
//!   │ hello, to whoever is there ────────▶   │ (changes nothing)
//!   │ ◀──────── announcement, to this life of n1
//!   │ announcement, to this life of n2 ──▶   │ (made just now by somebody who has a secret)
//! ```
//!
//! Invariants: a message is acted on only if it is addressed to this very life of this process and comes from this cluster
//! and generation (announcements excepted); a process without a cluster, or a learner, is in no quorum.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::founding::found_by_force;
use super::load::LoadWatch;
use super::member::Member;
use super::message::{ControlMessage, PulseMessage};
use super::outbox::PulseOutbox;
use super::pace::Pace;
use super::replay::ReplayGuard;
use super::{ControlEvent, Load, View};
use crate::api::{AdminReport, AdminRequest, Error};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{
    ClusterId, Generation, InSyncChange, Incarnation, Instant, NodeId, Options, PartitionRecord, Rng, Slot,
};
use crate::codec::datagram::{self, Datagram};
use crate::codec::{Envelope, Keyring, NameHash};
use crate::control::{Bootstrap, BootstrapOutput, ControlState, FillingWord, GossipView, HeldWord};
use crate::raft::Raft;

/// What a control core gives out.
#[derive(Clone, Debug)]
pub enum ControlOutput {
    /// Send this to the pulse address of the slot.
    Datagram {
        /// Which slot.
        to: Slot,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// Send this over the stream plane.
    Stream {
        /// To whom.
        to: NodeId,
        /// What.
        message: ControlMessage,
    },
    /// The cluster changed.
    View(Arc<View>),
    /// Reads may be served until then.
    Lease(Instant),
    /// Something that people want to know.
    Event(ControlEvent),
    /// What came of an operator's wish.
    Admin {
        /// The number that the wish was handed in with.
        ticket: u64,
        /// What was done, or would be, or why not.
        result: Result<AdminReport, Error>,
    },
}

/// One node's control core.
#[derive(Debug)]
pub struct ControlCore {
    options: Options,
    name: NameHash,
    me: NodeId,
    phase: Phase,
    pulses: PulseOutbox,
    replays: ReplayGuard,
    outputs: VecDeque<ControlOutput>,
    view: Arc<View>,
    lease_told: Instant,
    load: LoadWatch,
    rejected: BTreeMap<&'static str, u64>,
    rejected_messages: BTreeMap<&'static str, u64>,
    rng: Rng,
}

#[derive(Debug)]
enum Phase {
    Bootstrapping(Bootstrap),
    Member(Box<Member>),
}

/// What a datagram is taken for.
enum Admitted {
    /// Messages to act on.
    Pulses(Envelope, Vec<PulseMessage>),
    /// Somebody wants to be addressed by name.
    Hello(NodeId),
}

impl ControlCore {
    /// A process that has just started and knows no cluster.
    #[must_use]
    pub fn new(options: Options, now: Instant) -> Self {
        let mut rng = Rng::new(options.seed);
        let me = options.me;
        let name = NameHash::of(&options.cluster_name);
        let bootstrap = Bootstrap::new(me, options.slots, &options.cluster_name, now, rng.fork());
        let view = Arc::new(View { me, peers: vec![None; options.slots], ..View::default() });
        Self {
            name,
            me,
            phase: Phase::Bootstrapping(bootstrap),
            pulses: PulseOutbox::new(name),
            replays: ReplayGuard::new(options.slots),
            outputs: VecDeque::from([ControlOutput::View(Arc::clone(&view))]),
            view,
            lease_told: Instant::ZERO,
            load: LoadWatch::default(),
            rejected: BTreeMap::new(),
            rejected_messages: BTreeMap::new(),
            rng,
            options,
        }
    }

    // ---- what comes in -----------------------------------------------------------------------------------------

    /// Takes a datagram as it came from the socket.
    pub fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) {
        let decoded = datagram::decode(bytes, self.name, &self.pulses.keyring);
        let admitted = decoded.map_err(|error| error.reason()).and_then(|datagram| self.admit(datagram));
        match admitted {
            Ok(Admitted::Pulses(envelope, messages)) => {
                for message in messages {
                    match self.judge(now, &envelope) {
                        Ok(()) => self.on_pulse(now, &envelope, message),
                        Err(reason) => self.reject(reason),
                    }
                }
            }
            Ok(Admitted::Hello(from)) => self.on_hello(from),
            // Nothing follows from it, and a flood of it should cost as little as it can.
            Err(reason) => return self.reject(reason),
        }
        self.advance(now);
    }

    /// Takes the secrets that are valid from now on: the first one signs, all verify. Without any, nothing is signed, and
    /// nothing signed is understood.
    pub fn handle_keyring(&mut self, keyring: Arc<Keyring>) {
        self.pulses.keyring = keyring;
    }

    /// Takes a control message of the stream plane, from a frame with this envelope.
    pub fn handle_message(&mut self, now: Instant, envelope: &Envelope, message: ControlMessage) {
        let taken = match (self.judge(now, envelope), &mut self.phase) {
            (Ok(()), Phase::Member(member)) if envelope.cluster == member.cluster() => {
                let mut out = Vec::new();
                let taken = member.handle_message(now, &self.options, envelope.from, message, &mut out);
                self.outputs.extend(out);
                taken
            }
            (Ok(()), _) => Err("outside"),
            (Err(reason), _) => Err(reason),
        };
        if let Err(reason) = taken {
            *self.rejected_messages.entry(reason).or_default() += 1;
        }
        self.advance(now);
    }

    /// Takes the wishes of this node's own primaries.
    pub fn handle_proposals(&mut self, now: Instant, changes: Vec<InSyncChange>) {
        if let Phase::Member(member) = &mut self.phase {
            let mut out = Vec::new();
            member.handle_proposals(now, changes, &mut out);
            self.outputs.extend(out);
        }
        self.advance(now);
    }

    /// Takes an operator's wish. Its answer comes as [`ControlOutput::Admin`] with the same `ticket`, at once or later.
    pub fn handle_admin(&mut self, now: Instant, ticket: u64, request: &AdminRequest) {
        let mut out = Vec::new();
        match &mut self.phase {
            Phase::Member(member) => member.handle_admin(now, &self.options, ticket, request, &mut out),
            Phase::Bootstrapping(bootstrap) => {
                let result = found_by_force(now, &self.options, bootstrap, request);
                out.push(ControlOutput::Admin { ticket, result });
            }
        }
        self.outputs.extend(out);
        self.advance(now);
    }

    /// This process is told to stop. When it may, or why it isn't let go, comes as [`ControlOutput::Admin`].
    pub fn handle_stop(&mut self, now: Instant, ticket: u64) {
        match &mut self.phase {
            Phase::Member(member) => member.handle_stop(now, ticket),
            Phase::Bootstrapping(_) => {
                self.outputs.push_back(ControlOutput::Admin { ticket, result: Ok(AdminReport::default()) });
            }
        }
        self.advance(now);
    }

    /// Notes what this node's tables hold; others see it in their status.
    pub fn handle_load(&mut self, now: Instant, load: Load) {
        let event = self.load.handle(now, load, self.options.memory_bytes_max);
        self.outputs.extend(event.map(ControlOutput::Event));
    }

    /// Notes that the slowest of this node's workers made progress at `at`. A node whose workers stand still while its
    /// pulse goes on is not alive to those who want data of it. Where nobody ever tells, they count as well.
    pub fn handle_progress(&mut self, now: Instant, at: Instant) {
        if let Phase::Member(member) = &mut self.phase {
            member.handle_progress(now, at);
        }
    }

    /// Does what is due. It may be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Bootstrapping(bootstrap) => bootstrap.handle_timeout(now),
            Phase::Member(member) => member.handle_timeout(now),
        }
        self.advance(now);
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        match &self.phase {
            Phase::Bootstrapping(bootstrap) => bootstrap.poll_timeout(),
            Phase::Member(member) => member.poll_timeout(),
        }
    }

    /// What the inputs caused.
    pub fn poll_output(&mut self) -> Option<ControlOutput> {
        self.outputs.pop_front()
    }

    // ---- what others may look at -------------------------------------------------------------------------------

    /// The consensus part; none while this process knows no cluster.
    #[must_use]
    pub fn raft(&self) -> Option<&Raft> {
        self.member().map(Member::raft)
    }

    /// The state that this node has derived from the log; none while it knows no cluster.
    #[must_use]
    pub fn state(&self) -> Option<&ControlState> {
        self.member().map(Member::state)
    }

    /// What other nodes have told of each other.
    #[must_use]
    pub fn gossip(&self) -> Option<&GossipView> {
        self.member().map(Member::gossip)
    }

    /// Whom the leader keeps out of the in-sync sets, and when it said so ([`Instant::FAR`]: just now).
    pub(super) fn held(&self) -> Option<(&[HeldWord], Instant)> {
        self.member().and_then(Member::held)
    }

    /// What this node measures of itself and of the others.
    pub(super) fn pace(&self) -> Option<&Pace> {
        self.member().map(Member::pace)
    }

    /// Who this process is.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// The latest view.
    #[must_use]
    pub const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whether nothing is on its way to a decision, as far as this node knows.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.member().is_some_and(Member::is_at_rest)
    }

    /// What it was built with.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// What this node's tables hold.
    #[must_use]
    pub const fn load(&self) -> Load {
        self.load.load()
    }

    /// How this node fills others, as it tells them.
    pub(super) fn filling(&self) -> Option<FillingWord> {
        self.load.filling()
    }

    /// How many datagrams, or messages in them, were refused, by reason.
    #[must_use]
    pub const fn rejected(&self) -> &BTreeMap<&'static str, u64> {
        &self.rejected
    }

    /// How many control messages of the stream plane were refused, by reason.
    #[must_use]
    pub const fn rejected_messages(&self) -> &BTreeMap<&'static str, u64> {
        &self.rejected_messages
    }

    /// Panics where the core contradicts itself.
    pub fn check_invariants(&self) {
        if let Some(member) = self.member() {
            member.check_invariants();
        }
    }

    fn member(&self) -> Option<&Member> {
        match &self.phase {
            Phase::Member(member) => Some(member),
            Phase::Bootstrapping(_) => None,
        }
    }

    // ---- how it decides ----------------------------------------------------------------------------------------

    /// With a secret: whether a datagram that was made with it is for this process and new.
    fn admit(&mut self, datagram: Datagram<Vec<PulseMessage>>) -> Result<Admitted, &'static str> {
        let Datagram { envelope, sequence, payload } = datagram;
        if !self.pulses.keyring.is_empty() {
            self.concerns_me(&envelope)?;
            let is_hello = envelope.to.incarnation == Incarnation::default();
            // A hello may be from a life that ended long ago: it must not take the place of one that lives.
            let is_judged = !is_hello || self.replays.knows(envelope.from);
            if is_judged && !self.replays.accept(envelope.from, sequence) {
                return Err("replayed");
            }
            if is_hello {
                return Ok(Admitted::Hello(envelope.from));
            }
        }
        Ok(Admitted::Pulses(envelope, payload))
    }

    /// Whether a message with this envelope concerns this process. A BLANK process that is addressed by name has been
    /// let in by a leader, who learned the name from its announcement: it becomes a learner of that cluster.
    fn judge(&mut self, now: Instant, envelope: &Envelope) -> Result<(), &'static str> {
        self.concerns_me(envelope)?;
        let Envelope { cluster, generation, from, .. } = *envelope;
        if cluster == ClusterId::NONE {
            return Ok(());
        }
        let wishes = match &mut self.phase {
            Phase::Member(member) if member.generation() > generation => {
                // It has missed a recovery by force.
                member.handle_stranger(now, from, None, &self.load, &mut self.pulses);
                return Err("other_generation");
            }
            Phase::Member(member) if member.generation() == generation => return Ok(()),
            // The survivors go on without the majority, and call this one by name. What it holds it keeps.
            Phase::Member(member) => member.take_wishes(),
            Phase::Bootstrapping(_) => Vec::new(),
        };
        let rng = self.rng.fork();
        let mut called = Member::learner(&self.options, self.me, cluster, generation, now, rng);
        called.keep_wishes(wishes);
        self.phase = Phase::Member(Box::new(called));
        Ok(())
    }

    fn concerns_me(&self, envelope: &Envelope) -> Result<(), &'static str> {
        let Envelope { cluster, from, to, .. } = *envelope;
        if to.slot != self.me.slot {
            return Err("other_slot");
        }
        if from.slot == self.me.slot || from.slot.index() >= self.options.slots {
            return Err("impossible_sender");
        }
        if cluster == ClusterId::NONE {
            let to_anybody = to.incarnation == Incarnation::default();
            return if to_anybody || to == self.me { Ok(()) } else { Err("other_incarnation") };
        }
        if to != self.me && !is_broken(Mutant::AnswerForAnyLife) {
            return Err("other_incarnation");
        }
        match &self.phase {
            Phase::Member(member) if member.cluster() != cluster => Err("other_cluster"),
            Phase::Member(_) | Phase::Bootstrapping(_) => Ok(()),
        }
    }

    /// Answers by name whoever says hello, and remembers nothing of it.
    fn on_hello(&mut self, from: NodeId) {
        let announcement = match &self.phase {
            Phase::Bootstrapping(bootstrap) => bootstrap.announcement(),
            Phase::Member(member) => member.announcement(),
        };
        self.pulses.push(ClusterId::NONE, from, PulseMessage::Announce(announcement));
    }

    fn on_pulse(&mut self, now: Instant, envelope: &Envelope, message: PulseMessage) {
        let from = envelope.from;
        let is_outside = envelope.cluster == ClusterId::NONE;
        match (&mut self.phase, message) {
            (Phase::Bootstrapping(bootstrap), PulseMessage::Announce(announcement)) if is_outside => {
                bootstrap.handle_announcement(now, from, announcement);
            }
            (Phase::Member(member), PulseMessage::Announce(announcement)) if is_outside => {
                let anybody = envelope.to.incarnation == Incarnation::default();
                member.handle_announcement(now, (from, anybody), announcement, &self.load, &mut self.pulses);
            }
            (Phase::Member(member), message) if !is_outside => {
                if member.is_strangers(from, &message) {
                    member.handle_stranger(now, from, Some(&message), &self.load, &mut self.pulses);
                }
                if !member.handle_pulse(now, from, message) {
                    self.reject("announcement_from_inside");
                }
            }
            _ => self.reject("outside"),
        }
    }

    /// Draws every consequence of the last input.
    fn advance(&mut self, now: Instant) {
        self.drain_bootstrap(now);
        if let Phase::Member(member) = &mut self.phase {
            let mut out = Vec::new();
            let starts_anew = member.advance(now, &self.options, &self.load, &mut self.pulses, &mut out);
            // First, so that nobody hears of a decision before this node's own shards can: a leader's read by their view.
            if !is_broken(Mutant::ToldBeforeShown) {
                self.tell_view(now);
            }
            self.outputs.extend(out);
            if starts_anew {
                self.start_anew(now);
            }
        }
        let generation = self.member().map_or(Generation::ZERO, Member::generation);
        let outputs = &mut self.outputs;
        self.pulses.flush(self.me, generation, |to, bytes| outputs.push_back(ControlOutput::Datagram { to, bytes }));
        self.tell_view(now);
        let until = self.member().map_or(Instant::ZERO, Member::lease_until);
        if std::mem::replace(&mut self.lease_told, until) != until {
            self.outputs.push_back(ControlOutput::Lease(until));
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    fn drain_bootstrap(&mut self, now: Instant) {
        while let Phase::Bootstrapping(bootstrap) = &mut self.phase {
            match bootstrap.poll_output() {
                Some(BootstrapOutput::Announce { to, announcement }) => {
                    let anybody = NodeId::new(to, Incarnation::default());
                    self.pulses.push(ClusterId::NONE, anybody, PulseMessage::Announce(announcement));
                    // With a secret that was a mere hello; who has answered one is told by name.
                    if let Some(peer) = bootstrap.heard(now, to).filter(|_| !self.pulses.keyring.is_empty()) {
                        self.pulses.push(ClusterId::NONE, peer, PulseMessage::Announce(announcement));
                    }
                }
                Some(BootstrapOutput::Founded { cluster, founders }) => {
                    self.outputs
                        .push_back(ControlOutput::Event(ControlEvent::Founded { cluster, nodes: founders.len() }));
                    let rng = self.rng.fork();
                    let member = Member::founder(&self.options, self.me, cluster, founders, now, rng);
                    self.phase = Phase::Member(Box::new(member));
                }
                Some(BootstrapOutput::Reborn { me }) => self.become_somebody(me),
                None => break,
            }
        }
    }

    /// Dies as who it was and starts as somebody else, without a cluster.
    fn start_anew(&mut self, now: Instant) {
        let incarnation = Incarnation(self.rng.bits_128());
        if let Phase::Member(member) = &mut self.phase {
            self.outputs.extend(member.give_up_wishes());
        }
        self.become_somebody(NodeId::new(self.me.slot, incarnation));
        let rng = self.rng.fork();
        self.phase =
            Phase::Bootstrapping(Bootstrap::new(self.me, self.options.slots, &self.options.cluster_name, now, rng));
    }

    fn become_somebody(&mut self, me: NodeId) {
        self.outputs.push_back(ControlOutput::Event(ControlEvent::Reborn { before: self.me, now: me }));
        self.me = me;
        self.options.me = me;
    }

    fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
    }

    /// Gives out a new view, where there is one.
    fn tell_view(&mut self, now: Instant) {
        let is_new_phase =
            self.view.me != self.me || self.view.cluster != self.member().map_or(ClusterId::NONE, Member::cluster);
        let has_changed = match &mut self.phase {
            Phase::Member(member) => std::mem::take(&mut member.changed),
            Phase::Bootstrapping(_) => false,
        };
        if is_new_phase || has_changed {
            self.view = Arc::new(self.make_view(now));
            self.outputs.push_back(ControlOutput::View(Arc::clone(&self.view)));
        }
    }

    fn make_view(&self, now: Instant) -> View {
        let slots = self.options.slots;
        let Some(member) = self.member() else {
            return View { me: self.me, peers: vec![None; slots], ..View::default() };
        };
        let state = member.state();
        // Most views differ in who leads or how far the log is; the table is shared then.
        let table: Arc<[PartitionRecord]> =
            if *self.view.table == *state.table() { Arc::clone(&self.view.table) } else { Arc::from(state.table()) };
        let leader = member.raft().leader();
        let patience = View::patience(&member.raft().timing());
        let degraded_from = leader.is_none().then(|| self.view.degraded_from.unwrap_or(now + patience));
        View {
            cluster: member.cluster(),
            generation: member.generation(),
            me: self.me,
            peers: member.peers(slots),
            registered: (0..slots).map(|slot| state.node(Slot(slot as u8)).node).collect(),
            up: state.up(),
            stopping: state.stopping(),
            let_go: state.let_go(),
            leader,
            degraded_from,
            term: member.raft().term(),
            settings: state.settings(),
            roster: state.roster(),
            applied: state.applied(),
            table,
        }
    }
}
