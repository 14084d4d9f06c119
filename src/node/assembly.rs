//! A whole node in one thread: the control core and the shards, wired to each other.
//!
//! This is how a simulator, a test or a benchmark runs a node. The runtime wires the same machines with threads and locks
//! between them; [`Destination`] says for both who a message is for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::{NodeMessage, PeerMessage};
use super::{ControlCore, ControlEvent, ControlOutput, ShardCore, ShardOutput, Submitted, View};
use crate::api::{AdminReport, AdminRequest, Error, FeedCursor, FeedEvent, FeedPart, Operation, Request, Response};
#[cfg(feature = "sim")]
use crate::base::PartitionId;
use crate::base::{Instant, NodeId, Options, RequestId, ShardId, Slot};
use crate::codec::{Envelope, Keyring};
use crate::placement;
#[cfg(feature = "sim")]
use crate::replica::Replica;

/// Rounds in which a node's parts hand each other their outputs after one input. A dozen do.
const ROUNDS_MAX: u32 = 1000;

/// Who inside a node a message of the stream plane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The control core.
    Control,
    /// One shard.
    Shard(ShardId),
    /// All shards.
    EveryShard,
}

impl Destination {
    /// Who, in a node of `shards` shards, `message` is for.
    #[must_use]
    pub const fn of(message: &PeerMessage, shards: u16) -> Self {
        match message {
            PeerMessage::Control(_) => Self::Control,
            PeerMessage::Shard(partition, _) => Self::Shard(ShardId::of(*partition, shards)),
            PeerMessage::EveryShard(_) => Self::EveryShard,
            PeerMessage::Answer(id, _) => Self::Shard(ShardCore::of_request(*id, shards)),
        }
    }

    /// The shard, of `shards`, that takes a client's request.
    #[must_use]
    pub fn of_request(request: &Request, partitions: u16, shards: u16) -> ShardId {
        match request.operation.key() {
            Some(key) => ShardId::of(placement::partition_of(key.as_bytes(), partitions), shards),
            None => ShardId(0),
        }
    }
}

/// What a node gives out.
#[derive(Clone, Debug)]
pub enum NodeOutput {
    /// Send this to the pulse address of the slot.
    Datagram {
        /// Which slot.
        to: Slot,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// Send this over the stream plane.
    Message {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// The answer to a request that was not answered in the call.
    Reply {
        /// The shard that it was handed to.
        shard: ShardId,
        /// Which request of that shard.
        request: RequestId,
        /// What.
        result: Result<Response, Error>,
    },
    /// A committed change, for this node's viewers.
    FeedEvent {
        /// The change.
        event: FeedEvent,
        /// Where a viewer is that has seen this and everything before.
        cursor: Arc<str>,
    },
    /// Everybody sends changes here from now on.
    FeedLive,
    /// Changes can't be told without a hole: the viewers of this node are to be cut off.
    FeedCut,
    /// A part of what a viewer that came back has missed.
    FeedPart {
        /// Which request.
        request: RequestId,
        /// The part.
        result: Result<FeedPart, Error>,
    },
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

/// One node.
#[derive(Debug)]
pub struct Node {
    control: ControlCore,
    shards: Vec<ShardCore>,
    options: Arc<Options>,
    outputs: VecDeque<NodeOutput>,
}

impl Node {
    /// A process that has just started.
    #[must_use]
    pub fn new(options: Options, now: Instant) -> Self {
        let shared = Arc::new(options.clone());
        let shards = (0..options.shards).map(|shard| ShardCore::new(ShardId(shard), Arc::clone(&shared))).collect();
        let mut node =
            Self { control: ControlCore::new(options, now), shards, options: shared, outputs: VecDeque::new() };
        node.drain(now);
        node
    }

    /// Takes the secrets that are valid from now on.
    pub fn handle_keyring(&mut self, keyring: Arc<Keyring>) {
        self.control.handle_keyring(keyring);
    }

    /// Takes a datagram as it came from the socket.
    pub fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) {
        self.control.handle_datagram(now, bytes);
        self.drain(now);
    }

    /// Takes one message out of a frame with this envelope.
    pub fn handle_message(&mut self, now: Instant, envelope: &Envelope, message: PeerMessage) {
        let destination = Destination::of(&message, self.options.shards);
        let from = envelope.from;
        if destination != Destination::Control && self.control.view().accept(envelope).is_err() {
            return;
        }
        match (destination, message) {
            (_, PeerMessage::Control(message)) => self.control.handle_message(now, envelope, message),
            (Destination::Shard(shard), PeerMessage::Shard(partition, message)) => {
                self.shards[shard.index()].handle_message(now, from, partition, message);
            }
            (Destination::Shard(shard), PeerMessage::Answer(id, answer)) => {
                self.shards[shard.index()].handle_answer(now, from, id, answer);
            }
            (_, PeerMessage::EveryShard(message)) => self.tell_every_shard(now, from, &message),
            (destination, message) => unreachable!("{message:?} is for {destination:?}"),
        }
        self.drain(now);
    }

    /// Takes a client's request. The number of an answer that comes later counts for the returned shard.
    pub fn handle_request(&mut self, now: Instant, request: Request) -> (ShardId, Submitted) {
        let partitions = self.control.view().settings.map_or(self.options.partitions, |settings| settings.partitions);
        let shard = match request.operation {
            Operation::List { .. } => ShardId(0),
            _ => Destination::of_request(&request, partitions, self.options.shards),
        };
        let submitted = self.shards[shard.index()].handle_request(now, request);
        self.drain(now);
        (shard, submitted)
    }

    /// Notes that the slowest of this node's workers made progress at `at`. Where nobody ever tells, they count as well.
    pub fn handle_progress(&mut self, now: Instant, at: Instant) {
        self.control.handle_progress(now, at);
        self.drain(now);
    }

    /// Takes an operator's wish. Its answer comes as [`NodeOutput::Admin`].
    pub fn handle_admin(&mut self, now: Instant, ticket: u64, request: &AdminRequest) {
        self.control.handle_admin(now, ticket, request);
        self.drain(now);
    }

    /// This process is told to stop. When it may, or why it isn't let go, comes as [`NodeOutput::Admin`].
    pub fn handle_stop(&mut self, now: Instant, ticket: u64) {
        self.control.handle_stop(now, ticket);
        self.drain(now);
    }

    /// There are viewers of the feed here, or none any more.
    pub fn handle_feed_wanted(&mut self, now: Instant, wanted: bool) {
        self.shards[0].handle_feed_wanted(now, wanted);
        self.drain(now);
    }

    /// Where a viewer of this node is that has been shown everything so far.
    #[must_use]
    pub fn feed_cursor(&self) -> Arc<str> {
        self.shards[0].feed_cursor()
    }

    /// Gathers what a viewer with this cursor has missed; the answer is a [`NodeOutput::FeedPart`] with this number.
    pub fn handle_feed_since(
        &mut self,
        now: Instant,
        cursor: &FeedCursor,
        remaining: Vec<u64>,
        wait: std::time::Duration,
    ) -> RequestId {
        let id = self.shards[0].handle_feed_since(now, cursor, remaining, wait);
        self.drain(now);
        id
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.control.poll_timeout() <= now {
            self.control.handle_timeout(now);
        }
        for shard in &mut self.shards {
            if shard.poll_timeout() <= now {
                shard.handle_timeout(now);
            }
        }
        self.drain(now);
    }

    /// When something is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.shards.iter().map(ShardCore::poll_timeout).fold(self.control.poll_timeout(), Instant::min)
    }

    /// What the inputs caused.
    pub fn poll_output(&mut self) -> Option<NodeOutput> {
        self.outputs.pop_front()
    }

    /// Whether no change of an in-sync set is wished for here, or on its way to a decision, as far as this node knows.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.control.is_at_rest() && self.shards.iter().all(ShardCore::is_at_rest)
    }

    /// Does harm to the copy of `partition`, and draws no consequences but in the accounts.
    #[cfg(feature = "sim")]
    pub fn harm(&mut self, now: Instant, partition: PartitionId, act: impl FnOnce(&mut Replica)) {
        let shard = ShardId::of(partition, self.options.shards);
        self.shards[shard.index()].harm(now, partition, act);
        self.drain(now);
    }

    /// The control core.
    #[must_use]
    pub const fn control(&self) -> &ControlCore {
        &self.control
    }

    /// The shards.
    #[must_use]
    pub fn shards(&self) -> &[ShardCore] {
        &self.shards
    }

    /// The latest view.
    #[must_use]
    pub const fn view(&self) -> &Arc<View> {
        self.control.view()
    }

    /// Panics where the node contradicts itself.
    pub fn check_invariants(&self) {
        self.control.check_invariants();
        self.shards.iter().for_each(ShardCore::check_invariants);
    }

    /// Carries outputs from part to part until nothing is left to carry. Panics where parts answer each other without end: a
    /// leader that decides alone obeys its own shards in the same moment.
    fn drain(&mut self, now: Instant) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "{}: its parts answer each other without end", self.control.me());
            let mut carried = false;
            while let Some(output) = self.control.poll_output() {
                carried = true;
                self.on_control_output(now, output);
            }
            for index in 0..self.shards.len() {
                while let Some(output) = self.shards[index].poll_output() {
                    carried = true;
                    self.on_shard_output(now, ShardId(index as u16), output);
                }
            }
            if !carried {
                return;
            }
        }
    }

    fn on_control_output(&mut self, now: Instant, output: ControlOutput) {
        match output {
            ControlOutput::Datagram { to, bytes } => self.outputs.push_back(NodeOutput::Datagram { to, bytes }),
            ControlOutput::Stream { to, message } => {
                self.outputs.push_back(NodeOutput::Message { to, message: PeerMessage::Control(message) });
            }
            ControlOutput::View(view) => self.shards.iter_mut().for_each(|shard| shard.handle_view(now, &view)),
            ControlOutput::Lease(until) => self.shards.iter_mut().for_each(|shard| shard.handle_lease(now, until)),
            ControlOutput::Event(event) => self.outputs.push_back(NodeOutput::Event(event)),
            ControlOutput::Admin { ticket, result } => self.outputs.push_back(NodeOutput::Admin { ticket, result }),
        }
    }

    fn on_shard_output(&mut self, now: Instant, shard: ShardId, output: ShardOutput) {
        match output {
            ShardOutput::Peer { to, message } => self.outputs.push_back(NodeOutput::Message { to, message }),
            ShardOutput::EveryShard(message) => self.tell_every_shard(now, self.control.me(), &message),
            ShardOutput::Answer(id, answer) => {
                let to = ShardCore::of_request(id, self.options.shards);
                self.shards[to.index()].handle_answer(now, self.control.me(), id, answer);
            }
            ShardOutput::Reply { request, result } => {
                self.outputs.push_back(NodeOutput::Reply { shard, request, result });
            }
            ShardOutput::Event { event, cursor } => self.outputs.push_back(NodeOutput::FeedEvent { event, cursor }),
            ShardOutput::FeedLive => self.outputs.push_back(NodeOutput::FeedLive),
            ShardOutput::FeedCut => self.outputs.push_back(NodeOutput::FeedCut),
            ShardOutput::FeedPart { request, result } => {
                self.outputs.push_back(NodeOutput::FeedPart { request, result });
            }
            ShardOutput::Notice(event) => self.outputs.push_back(NodeOutput::Event(event)),
            ShardOutput::Propose(change) => self.control.handle_proposals(now, vec![change]),
        }
    }

    fn tell_every_shard(&mut self, now: Instant, from: NodeId, message: &NodeMessage) {
        for shard in &mut self.shards {
            shard.handle_node_message(now, from, message.clone());
        }
    }
}
