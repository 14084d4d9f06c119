//! Who says it to whom, in which cluster.

use bincode::{Decode, Encode};

use super::CodecError;
use super::fields::{FieldReader, put};
use crate::base::{ClusterId, Generation, Incarnation, NodeId, Slot};

/// Who says it to whom, in which cluster: part of the header of every datagram and every frame.
///
/// A BLANK sender writes [`ClusterId::NONE`]. An addressee of incarnation 0 means whoever sits in that slot; the cores
/// allow that for announcements only, since nobody may answer for another incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// The cluster that the sender belongs to.
    pub cluster: ClusterId,
    /// How often that cluster was recovered by force, as far as the sender knows.
    pub generation: Generation,
    /// Who says it.
    pub from: NodeId,
    /// Whom it is meant for.
    pub to: NodeId,
}

impl Envelope {
    /// How many bytes [`Envelope::write`] appends.
    pub(super) const BYTES: usize = 16 + 4 + 1 + 1 + 16 + 16;

    /// Appends it at fixed width: cluster (16), generation (4), slot from (1), slot to (1), incarnation from (16),
    /// incarnation to (16).
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, self.cluster.0.to_le_bytes());
        put(out, self.generation.0.to_le_bytes());
        put(out, [self.from.slot.0, self.to.slot.0]);
        put(out, self.from.incarnation.0.to_le_bytes());
        put(out, self.to.incarnation.0.to_le_bytes());
    }

    /// Reads what [`Envelope::write`] wrote. Every combination of bits is an envelope.
    pub(super) fn read(fields: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        let cluster = ClusterId(u128::from_le_bytes(fields.take()?));
        let generation = Generation(u32::from_le_bytes(fields.take()?));
        let [from, to] = fields.take()?.map(Slot);
        Ok(Self {
            cluster,
            generation,
            from: NodeId::new(from, Incarnation(u128::from_le_bytes(fields.take()?))),
            to: NodeId::new(to, Incarnation(u128::from_le_bytes(fields.take()?))),
        })
    }
}

/// The hash of a cluster's configured name. It stands in every header, so that nodes of two clusters that were pointed at
/// each other by mistake refuse each other from the first byte, before either is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHash(u64);

impl NameHash {
    /// The hash of `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        // The seed is part of the format: another one would make nodes of two releases strangers.
        Self(xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), 0))
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        put(out, self.0.to_le_bytes());
    }

    pub(super) fn read(fields: &mut FieldReader<'_>) -> Result<Self, CodecError> {
        Ok(Self(u64::from_le_bytes(fields.take()?)))
    }
}
