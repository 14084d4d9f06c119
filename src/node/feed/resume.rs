//! What a viewer that comes back has missed, put together from what every shard of every node answers.
//!
//! As for a listing, each shard speaks for the partitions that it may answer reads of at that moment, and what nobody spoke
//! for is asked for again. Unlike a listing, nothing has to be in order: a part is handed on as soon as it is large enough.

use super::MESSAGE_BYTES_MAX;
use super::message::{Since, SincePart};
use crate::api::{FeedEvent, FeedPart};
use crate::base::Instant;

/// A part under way.
#[derive(Debug)]
pub struct Resume {
    pub since: Since,
    pub deadline: Instant,
    pub ask_again_at: Instant,
    events: Vec<FeedEvent>,
    bytes: usize,
    gap: bool,
}

impl Resume {
    pub const fn new(since: Since, deadline: Instant, ask_again_at: Instant) -> Self {
        Self { since, deadline, ask_again_at, events: Vec::new(), bytes: 0, gap: false }
    }

    /// Takes one shard's part. True when enough is there.
    pub fn handle_part(&mut self, part: SincePart) -> bool {
        let mut outside = part.covered.clone();
        outside.remove_all(&self.since.wanted);
        // A late answer to an earlier question: another has spoken for some of it. The rest is asked for again.
        if outside.is_empty() {
            self.since.wanted.remove_all(&part.covered);
            self.gap |= part.gap;
            let size = |event: &FeedEvent| event.key.as_bytes().len() + event.value.as_ref().map_or(0, |it| it.len());
            self.bytes += part.events.iter().map(size).sum::<usize>();
            self.events.extend(part.events);
        }
        self.gap || self.bytes >= MESSAGE_BYTES_MAX || self.since.wanted.is_empty()
    }

    pub fn finish(self) -> FeedPart {
        FeedPart { events: self.events, gap: self.gap, remaining: self.since.wanted.into_words() }
    }
}
