//! The replicas of one partition in one thread, for benches: what a write costs without sockets, threads and clocks.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use jumpgate::api::{Key, Operation, Precondition, PutMode};
use jumpgate::base::{
    Blob, ChangeNumber, ClusterId, Epoch, Generation, Incarnation, Instant, NodeId, PartitionId, PartitionRecord,
    RequestId, Slot, SlotSet,
};
use jumpgate::codec::{self, Envelope, FrameDecoder, NameHash, Payload, frame};
use jumpgate::node::message::{PeerMessage, ShardMessage};
use jumpgate::replica::{Message, Output, Replica, ReplicaOptions};

/// What is written.
pub const VALUE: Blob = Blob::from_static(&[b'v'; 128]);
/// A primary and two backups.
pub const COPIES: usize = 3;
const PARTITION: PartitionId = PartitionId(7);

/// A write of [`VALUE`].
pub fn put(key: Key) -> Operation {
    Operation::Put {
        key,
        value: VALUE,
        content_type: None,
        ttl_ms: None,
        mode: PutMode::Upsert,
        precondition: Precondition::NONE,
    }
}

/// How messages get from one replica to another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Values,
    Frames,
}

/// The replicas of one partition, and what is under way between them.
pub struct Trio {
    ids: Vec<NodeId>,
    replicas: Vec<Replica>,
    /// By sender and addressee.
    links: Vec<VecDeque<Message>>,
    carrier: Carrier,
    now: Instant,
    requests: u64,
    /// Writes that were answered.
    pub answered: u64,
    /// Frames between the replicas, where they are frames, and their bytes.
    pub frames: u64,
    pub frame_bytes: u64,
    out: Vec<Output>,
    payload: Payload,
    received: BytesMut,
}

impl Trio {
    /// Three replicas, the first of them in office.
    pub fn new(carrier: Carrier) -> Self {
        let ids: Vec<NodeId> =
            (0..COPIES).map(|slot| NodeId::new(Slot(slot as u8), Incarnation(slot as u128 + 1))).collect();
        let replica = |id: &NodeId| {
            let options = ReplicaOptions { min_copies: COPIES as u8, ..ReplicaOptions::new(*id) };
            Replica::new(PARTITION, &Arc::new(options))
        };
        let mut trio = Self {
            replicas: ids.iter().map(replica).collect(),
            ids,
            links: vec![VecDeque::new(); COPIES * COPIES],
            carrier,
            now: Instant(1_000_000_000),
            requests: 0,
            answered: 0,
            frames: 0,
            frame_bytes: 0,
            out: Vec::new(),
            payload: Payload::default(),
            received: BytesMut::new(),
        };
        let record = PartitionRecord {
            epoch: Epoch(1),
            change: ChangeNumber(1),
            primary: Some(Slot(0)),
            in_sync: SlotSet::first(COPIES),
            learners: SlotSet::EMPTY,
            counting: SlotSet::EMPTY,
            former: None,
        };
        let registered: Vec<Option<NodeId>> = trio.ids.iter().copied().map(Some).collect();
        for slot in 0..COPIES {
            trio.act(slot, |replica, now, out| replica.handle_record(now, &record, &registered, out));
        }
        trio.settle();
        assert!(trio.replicas[0].is_serving(), "the primary didn't take office");
        trio
    }

    /// Hands in `keys.len()` writes at once and sees them through to their answers.
    pub fn put_all(&mut self, keys: &[Key]) {
        let answered = self.answered + keys.len() as u64;
        for key in keys {
            self.requests += 1;
            self.now = self.now + Duration::from_micros(10);
            let (request, micros) = (RequestId(self.requests), self.now.0 / 1000);
            self.act(0, |replica, now, out| replica.handle_write(now, micros, request, put(key.clone()), out));
        }
        self.settle();
        assert_eq!(self.answered, answered, "not every write was answered");
    }

    fn act(&mut self, slot: usize, act: impl FnOnce(&mut Replica, Instant, &mut Vec<Output>)) {
        let mut out = std::mem::take(&mut self.out);
        act(&mut self.replicas[slot], self.now, &mut out);
        for output in out.drain(..) {
            match output {
                Output::Send { to, message } => self.links[slot * COPIES + to.slot.index()].push_back(message),
                Output::Reply { result, .. } => {
                    self.answered += 1;
                    black_box(result).expect("nothing stands in the way of a write");
                }
                Output::Verified | Output::Damage(_) => unreachable!("nobody compares"),
                Output::Propose(change) => unreachable!("there are no learners: {change:?}"),
            }
        }
        self.out = out;
    }

    /// Carries messages until there are none.
    fn settle(&mut self) {
        while let Some(link) = self.links.iter().position(|link| !link.is_empty()) {
            let (from, to) = (link / COPIES, link % COPIES);
            let mut messages = std::mem::take(&mut self.links[link]);
            if self.carrier == Carrier::Frames {
                self.carry_as_frame(from, to, &mut messages);
            }
            let sender = self.ids[from];
            for message in messages.drain(..) {
                self.act(to, |replica, now, out| replica.handle_message(now, sender, message, out));
            }
            if self.links[link].is_empty() {
                self.links[link] = messages;
            }
        }
    }

    /// Makes a frame of `messages` and puts what it reads as in their place, as two connected nodes would.
    fn carry_as_frame(&mut self, from: usize, to: usize, messages: &mut VecDeque<Message>) {
        let name = NameHash::of("bench");
        self.payload.clear();
        for message in messages.drain(..) {
            let message = PeerMessage::Shard(PARTITION, ShardMessage::Replica(message));
            self.payload.append(&message).expect("it is small");
        }
        let envelope =
            Envelope { cluster: ClusterId(1), generation: Generation(0), from: self.ids[from], to: self.ids[to] };
        let header = frame::seal(&envelope, name, &self.payload).expect("it is small");
        self.received.reserve(header.len() + self.payload.len());
        self.received.extend_from_slice(&header);
        self.payload.pieces().for_each(|piece| self.received.extend_from_slice(piece));
        self.frames += 1;
        self.frame_bytes += self.received.len() as u64;
        let frame = FrameDecoder::new(name).decode(&mut self.received).expect("it is sound").expect("it is complete");
        for message in frame::messages(&frame.payload) {
            match codec::decode(message.expect("it is whole")).expect("it is a message") {
                PeerMessage::Shard(_, ShardMessage::Replica(message)) => messages.push_back(message),
                other => unreachable!("{other:?} was not sent"),
            }
        }
    }
}
