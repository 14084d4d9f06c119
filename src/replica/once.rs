//! Writes that are executed once: a primary's answer to one that it knows already.
//!
//! A write with an idempotency key leaves a mark in its effect. So whoever has the effect, in its table or in its tail, knows
//! that it was done and how it was answered; and a primary serves only once everything that its predecessors may have
//! committed is in its own history. A retry therefore meets either the effect, and is told the first answer, or nothing, and
//! is executed.

use super::{Output, Replica};
use crate::api::{Error, Once, Response};
use crate::base::RequestId;
use crate::store::Remembered;

impl Replica {
    /// Whether this write was ordered before and is remembered.
    #[must_use]
    pub fn remembers(&self, once: &Once) -> bool {
        self.find_done(once).is_some()
    }

    /// Answers a write that was ordered before, as it was answered then. False where it wasn't, or nobody knows any more.
    pub(super) fn maybe_replay(&mut self, request: RequestId, once: &Once, out: &mut Vec<Output>) -> bool {
        if !self.is_serving() {
            return false;
        }
        let Some((known, is_pending)) = self.find_done(once) else { return false };
        let copies = self.record.in_sync.len() as u8;
        let result = if known.marked.once.request == once.request {
            Ok(Response::Replayed { version: known.version, done: known.marked.done, copies })
        } else {
            Err(Error::IdempotencyMismatch)
        };
        self.refuse(request, result, is_pending, out);
        true
    }

    /// What was done under this idempotency key, and whether that is still to be committed.
    fn find_done(&self, once: &Once) -> Option<(Remembered, bool)> {
        if let Some(known) = self.table.recent().and_then(|recent| recent.find(&once.key)) {
            return Some((known, false));
        }
        let uncommitted = self.tail.range(self.applied.seq.next()..=self.tail.last().seq);
        let mut marks = uncommitted.filter_map(|(_, entry)| {
            let marked = entry.effect.marked().filter(|marked| marked.once.key == once.key)?;
            Some(Remembered { marked, version: entry.effect.version() })
        });
        marks.next().map(|known| (known, true))
    }
}
