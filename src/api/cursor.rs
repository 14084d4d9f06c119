//! Where a viewer of the feed is: what it gives back to go on from there, at any node.
//!
//! A cursor names processes, not partitions: for each process that has ordered writes, a version. It says "of what this
//! process committed, the viewer was sent everything up to this version". Why that is enough, for thousands of partitions
//! and across failovers, is in `docs/protocol.md`, section E. Clients take it for an opaque word.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bincode::{Decode, Encode};
use thiserror::Error;

use crate::base::{ClusterId, Generation, NodeId, Version};
use crate::codec;

/// Places that a cursor may have: every node, and some that died lately.
const PLACES_MAX: usize = 192;
/// A cursor as text; a longer one is none.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// The checksum at its end, in bytes.
const CHECKSUM_BYTES: usize = 4;

/// A viewer's place in the feed of one generation of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct FeedCursor {
    cluster: u64,
    generation: u32,
    /// In the order of slots and lives.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Place {
    slot: u8,
    /// The lower bits of the incarnation: of the few lives that a slot has while a ring lasts, no two share them.
    life: u64,
    version: Version,
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is no cursor of a feed: take one exactly as an event told it")]
pub struct BadCursor;

impl FeedCursor {
    /// A cursor that has seen nothing.
    #[must_use]
    pub const fn new(cluster: ClusterId, generation: Generation) -> Self {
        Self { cluster: cluster.0 as u64, generation: generation.0, places: Vec::new() }
    }

    /// Whether it speaks of this cluster: in another one, or after a recovery that may have lost something, versions and
    /// processes mean nothing.
    #[must_use]
    pub const fn is_of(&self, cluster: ClusterId, generation: Generation) -> bool {
        self.cluster == cluster.0 as u64 && self.generation == generation.0
    }

    /// Everything that `node` committed up to `version` has been shown. True where that is news.
    pub fn advance(&mut self, node: NodeId, version: Version) -> bool {
        let (slot, life) = key_of(node);
        match self.places.binary_search_by_key(&(slot, life), |place| (place.slot, place.life)) {
            Ok(index) => {
                let is_news = version > self.places[index].version;
                self.places[index].version = self.places[index].version.max(version);
                is_news
            }
            Err(index) => {
                self.places.insert(index, Place { slot, life, version });
                if self.places.len() > PLACES_MAX
                    && let Some(oldest) = (0..self.places.len()).min_by_key(|index| self.places[*index].version)
                {
                    self.places.remove(oldest);
                }
                true
            }
        }
    }

    /// Says nothing of `node` any more. What it would have covered is shown again, or is a gap.
    pub fn forget(&mut self, node: NodeId) {
        let key = key_of(node);
        self.places.retain(|place| (place.slot, place.life) != key);
    }

    /// Whether everything that `node` committed up to `version` has been shown.
    #[must_use]
    pub fn covers(&self, node: NodeId, version: Version) -> bool {
        let key = key_of(node);
        self.places.iter().any(|place| (place.slot, place.life) == key && version <= place.version)
    }

    /// As clients see it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        codec::encode_into(self, &mut bytes).expect("a bounded list of numbers fits a frame");
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`FeedCursor::to_text`] wrote.
    ///
    /// # Errors
    /// Where it is anything else.
    pub fn from_text(text: &str) -> Result<Self, BadCursor> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(BadCursor)?;
        if crc32fast::hash(body).to_le_bytes() != *checksum {
            return Err(BadCursor);
        }
        let cursor: Self = codec::decode(body).map_err(|_| BadCursor)?;
        let is_sorted = cursor.places.is_sorted_by(|left, right| (left.slot, left.life) < (right.slot, right.life));
        if is_sorted && cursor.places.len() <= PLACES_MAX { Ok(cursor) } else { Err(BadCursor) }
    }
}

const fn key_of(node: NodeId) -> (u8, u64) {
    (node.slot.0, node.incarnation.0 as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Incarnation, Slot};

    fn node(slot: u8, life: u128) -> NodeId {
        NodeId::new(Slot(slot), Incarnation(life))
    }

    #[test]
    fn a_cursor_covers_what_it_was_told_and_no_other_life() {
        let mut cursor = FeedCursor::new(ClusterId(7), Generation(1));
        assert!(!cursor.covers(node(1, 5), Version(0)));
        assert!(cursor.advance(node(1, 5), Version(100)) && !cursor.advance(node(1, 5), Version(99)));
        assert!(cursor.covers(node(1, 5), Version(100)) && !cursor.covers(node(1, 5), Version(101)));
        assert!(!cursor.covers(node(1, 6), Version(1)) && !cursor.covers(node(2, 5), Version(1)));
        assert!(cursor.is_of(ClusterId(7), Generation(1)) && !cursor.is_of(ClusterId(7), Generation(2)));
        cursor.forget(node(1, 5));
        assert!(!cursor.covers(node(1, 5), Version(1)));
    }

    #[test]
    fn a_text_is_read_back_and_any_other_is_refused() {
        let mut cursor = FeedCursor::new(ClusterId(u128::MAX), Generation(3));
        for slot in 0..5 {
            cursor.advance(node(slot, u128::MAX - 9), Version(1_700_000_000_000_000));
        }
        let text = cursor.to_text();
        assert!(text.len() < 250, "{} characters", text.len());
        assert_eq!(FeedCursor::from_text(&text), Ok(cursor));
        for index in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[index] = if other[index] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            assert_eq!(FeedCursor::from_text(&other), Err(BadCursor), "at {index}");
        }
        for bad in ["", "3.17", "live", &text[1..], &text.repeat(100)] {
            assert_eq!(FeedCursor::from_text(bad), Err(BadCursor));
        }
    }

    #[test]
    fn places_are_bounded_and_the_oldest_goes() {
        let mut cursor = FeedCursor::default();
        for life in 1..=300 {
            cursor.advance(node(1, life), Version(life as u64));
        }
        assert_eq!(cursor.places.len(), PLACES_MAX);
        assert!(cursor.covers(node(1, 300), Version(300)) && !cursor.covers(node(1, 1), Version(1)));
    }
}
