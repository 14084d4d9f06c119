//! Pulse messages on their way out: those for one node share a datagram.

use std::collections::BTreeMap;

use super::message::PulseMessage;
use crate::base::{ClusterId, Generation, NodeId, Slot};
use crate::codec::{Envelope, NameHash, datagram};

/// Collects what one input caused, by receiver, and makes datagrams of it.
#[derive(Debug)]
pub(super) struct PulseOutbox {
    name: NameHash,
    sequence: u64,
    waiting: BTreeMap<(ClusterId, NodeId), Vec<PulseMessage>>,
}

impl PulseOutbox {
    pub(super) fn new(name: NameHash) -> Self {
        Self { name, sequence: 0, waiting: BTreeMap::new() }
    }

    /// Adds `message` for `to`, from inside `cluster` or, with [`ClusterId::NONE`], from outside of any.
    pub(super) fn push(&mut self, cluster: ClusterId, to: NodeId, message: PulseMessage) {
        self.waiting.entry((cluster, to)).or_default().push(message);
    }

    /// Hands every datagram that is ready to `send`.
    pub(super) fn flush(&mut self, from: NodeId, generation: Generation, mut send: impl FnMut(Slot, Vec<u8>)) {
        for ((cluster, to), messages) in std::mem::take(&mut self.waiting) {
            let generation = if cluster == ClusterId::NONE { Generation::ZERO } else { generation };
            let envelope = Envelope { cluster, generation, from, to };
            match self.datagram(&envelope, &messages) {
                Some(bytes) => send(to.slot, bytes),
                // Together they are too large: each goes alone.
                None => messages
                    .chunks(1)
                    .filter_map(|message| self.datagram(&envelope, message))
                    .for_each(|bytes| send(to.slot, bytes)),
            }
        }
    }

    fn datagram(&mut self, envelope: &Envelope, messages: &[PulseMessage]) -> Option<Vec<u8>> {
        self.sequence += 1;
        let mut bytes = Vec::with_capacity(256);
        datagram::encode(envelope, self.name, self.sequence, &messages, &mut bytes).ok().map(|()| bytes)
    }
}
