//! Pieces that benches of the codec and of the table work on, each with the operation that is measured.

use std::hint::black_box;

use bytes::BytesMut;
use jumpgate::api::{ContentType, Key};
use jumpgate::base::{
    Blob, ClusterId, Epoch, Generation, Incarnation, Instant, NodeId, PartitionId, Position, Seq, Slot, Version,
};
use jumpgate::codec::{self, Envelope, FrameDecoder, NameHash, Payload, frame};
use jumpgate::node::message::{PeerMessage, ShardMessage};
use jumpgate::replica::Message;
use jumpgate::store::{Effect, Table};

/// The nth of keys that look like those of a program.
pub fn key(nth: usize) -> Key {
    format!("user:{:08}", nth.wrapping_mul(7919) % 100_000_000).parse().expect("it is a key")
}

/// A change that puts `bytes` bytes under the nth key.
pub fn effect(nth: usize, bytes: usize, version: u64) -> Effect {
    Effect::Put {
        key: key(nth),
        value: Blob::from(vec![b'v'; bytes]),
        content_type: ContentType::new("application/octet-stream"),
        version: Version(version),
        ttl_ms: None,
        marked: None,
    }
}

/// Frames as they go from a primary to its backup.
pub struct Frames {
    messages: Vec<PeerMessage>,
    envelope: Envelope,
    name: NameHash,
    payload: Payload,
    wire: BytesMut,
}

impl Frames {
    /// Frames of `count` messages, each the preparation of a write of `bytes` bytes.
    pub fn new(count: usize, bytes: usize) -> Self {
        let message = |nth: usize| {
            let prepare = Message::Prepare {
                epoch: Epoch(7),
                previous: Position { epoch: Epoch(7), seq: Seq(1000) },
                commit: Seq(999),
                effects: vec![(Epoch(7), effect(nth, bytes, 1_000_000))],
            };
            PeerMessage::Shard(PartitionId(nth as u16), ShardMessage::Replica(prepare))
        };
        let node = |slot: u8| NodeId::new(Slot(slot), Incarnation(u128::from(slot) + 1));
        let mut frames = Self {
            messages: (0..count).map(message).collect(),
            envelope: Envelope { cluster: ClusterId(1), generation: Generation(0), from: node(0), to: node(1) },
            name: NameHash::of("bench"),
            payload: Payload::default(),
            wire: BytesMut::new(),
        };
        frames.encode();
        frames
    }

    /// Writes a frame.
    pub fn encode(&mut self) {
        self.payload.clear();
        for message in &self.messages {
            self.payload.append(black_box(message)).expect("it is small");
        }
        let header = frame::seal(&self.envelope, self.name, &self.payload).expect("it is small");
        self.wire.clear();
        self.wire.extend_from_slice(&header);
        self.payload.pieces().for_each(|piece| self.wire.extend_from_slice(piece));
    }

    /// Reads it again.
    pub fn decode(&self) {
        let mut wire = self.wire.clone();
        let frame = FrameDecoder::new(self.name).decode(&mut wire).expect("it is sound").expect("it is complete");
        for message in frame::messages(&frame.payload) {
            let message: PeerMessage = codec::decode(message.expect("it is whole")).expect("it is a message");
            black_box(message);
        }
    }
}

/// A table, and what is put into it.
pub struct Shelf {
    table: Table,
    effects: Vec<Effect>,
    keys: Vec<Key>,
    now: Instant,
    next: usize,
}

impl Shelf {
    /// A table of `count` records with values of `bytes` bytes.
    pub fn new(count: usize, bytes: usize) -> Self {
        let now = Instant(1_000_000_000);
        let mut table = Table::default();
        (0..count).for_each(|nth| table.apply(now, &effect(nth, bytes, 1)));
        Self {
            table,
            effects: (0..count).map(|nth| effect(nth, bytes, 2)).collect(),
            keys: (0..count).map(key).collect(),
            now,
            next: 0,
        }
    }

    fn turn(&mut self) -> usize {
        // In no order.
        self.next = (self.next + 617) % self.keys.len();
        self.next
    }

    /// Replaces a value.
    pub fn put(&mut self) {
        let at = self.turn();
        self.table.apply(self.now, black_box(&self.effects[at]));
    }

    /// Reads a value.
    pub fn get(&mut self) {
        let at = self.turn();
        let stored = self.table.read(black_box(&self.keys[at])).expect("it is there");
        black_box(stored.to_value(self.now, false));
    }

    /// Hashes about so many records again, those that follow another one.
    pub fn scrub(&mut self, count: u64) {
        let at = self.turn();
        let bytes = self.table.read(&self.keys[at]).expect("it is there").bytes() as u64;
        let scrubbed = self.table.scrub(Some(&self.keys[at]), bytes * count);
        black_box(scrubbed.records);
    }
}
