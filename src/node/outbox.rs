//! Pulse messages on their way out: those for one node share a datagram.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::PulseMessage;
use crate::base::{ClusterId, Generation, NodeId, Slot};
use crate::codec::{Envelope, Keyring, NameHash, datagram};

/// Collects what one input caused, by receiver, and makes datagrams of it.
#[derive(Debug)]
pub(super) struct PulseOutbox {
    name: NameHash,
    /// What datagrams are signed with.
    pub(super) keyring: Arc<Keyring>,
    /// The last sequence number for each addressee: the windows that look for replays are narrow, and would be left behind
    /// by a count of what is sent to everybody.
    sequences: BTreeMap<Slot, u64>,
    waiting: BTreeMap<(ClusterId, NodeId), Vec<PulseMessage>>,
}

impl PulseOutbox {
    pub(super) fn new(name: NameHash) -> Self {
        Self { name, keyring: Arc::default(), sequences: BTreeMap::new(), waiting: BTreeMap::new() }
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
        let sequence = self.sequences.entry(envelope.to.slot).or_default();
        *sequence += 1;
        let mut bytes = Vec::with_capacity(256);
        datagram::encode(envelope, self.name, *sequence, &messages, &self.keyring, &mut bytes).ok().map(|()| bytes)
    }
}
