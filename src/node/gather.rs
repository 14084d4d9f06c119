//! A page of a listing, put together from what every shard of every node answers.
//!
//! Each shard speaks for the partitions whose primary it is at that moment; the page is whole once every partition has been
//! spoken for. What nobody spoke for, because its primary is just moving, is asked for again. A page never silently lacks
//! a partition.

use std::time::Duration;

use super::message::{Scan, Scanned};
use crate::api::{Item, Key, Page};
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Instant, RequestId};

/// A page under way.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) scan: Scan,
    pub(super) deadline: Instant,
    pub(super) ask_again_at: Instant,
    /// While it is asked without a quorum: when to give up on what no survivor speaks for.
    pub(super) gives_up_at: Instant,
    /// Some part of it was asked for without a quorum.
    pub(super) degraded: bool,
    items: Vec<Item>,
    /// Keys after this one may be missing: some part ended there though it had more.
    cut: Option<Key>,
}

impl Gather {
    pub(super) const fn new(scan: Scan, deadline: Instant, ask_again_at: Instant) -> Self {
        Self { scan, deadline, ask_again_at, gives_up_at: Instant::FAR, degraded: false, items: Vec::new(), cut: None }
    }

    pub(super) const fn id(&self) -> RequestId {
        self.scan.id
    }

    /// It is asked for now, with or without a quorum; without one for so long at most.
    pub(super) fn begin_round(&mut self, now: Instant, degraded: bool, most: Duration) {
        self.scan.degraded = degraded;
        self.degraded |= degraded;
        self.gives_up_at = if degraded { self.gives_up_at.min(now + most) } else { Instant::FAR };
    }

    /// Takes one shard's part. True when the page is whole.
    pub(super) fn handle_part(&mut self, part: Scanned) -> bool {
        let mut outside = part.covered.clone();
        outside.remove_all(&self.scan.wanted);
        // A late answer to an earlier question may speak for a partition that another has spoken for since: its keys
        // would be there twice. Its own partitions are asked for again.
        if !outside.is_empty() {
            return self.is_whole();
        }
        self.scan.wanted.remove_all(&part.covered);
        if part.more {
            let last = part.items.last().map(|item| item.key.clone());
            self.cut = match (self.cut.take(), last) {
                (Some(cut), Some(last)) => Some(cut.min(last)),
                (cut, last) => cut.or(last),
            };
        }
        self.items.extend(part.items);
        self.is_whole()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.scan.wanted.is_empty() || is_broken(Mutant::PageTooEarly)
    }

    /// The page.
    pub(super) fn finish(mut self) -> Page {
        assert!(self.is_whole(), "a page lacks partitions: {:?}", self.scan.wanted);
        self.items.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        let mut has_more = self.cut.is_some();
        if let Some(cut) = self.cut.take() {
            let kept = self.items.partition_point(|item| item.key <= cut);
            self.items.truncate(kept);
        }
        if self.items.len() > self.scan.limit as usize {
            self.items.truncate(self.scan.limit as usize);
            has_more = true;
        }
        let next_after = self.items.last().filter(|_| has_more).map(|item| item.key.clone());
        Page { items: self.items, next_after, degraded: self.degraded }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::PartitionSet;
    use super::*;
    use crate::base::{Blob, PartitionId, Version};

    fn item(key: &str) -> Item {
        Item {
            key: key.parse().expect("a key"),
            version: Version(1),
            value_bytes: 0,
            content_type: None,
            expires_in_ms: None,
            value: None,
        }
    }

    fn part(partitions: &[u16], keys: &[&str], more: bool) -> Scanned {
        let mut covered = PartitionSet::default();
        partitions.iter().for_each(|&partition| covered.insert(PartitionId(partition)));
        Scanned { covered, items: keys.iter().map(|key| item(key)).collect(), more }
    }

    fn gather(limit: u32) -> Gather {
        let wanted = PartitionSet::first(3);
        let scan = Scan {
            id: RequestId(1),
            prefix: Blob::default(),
            after: None,
            limit,
            values: false,
            wanted,
            degraded: false,
        };
        Gather::new(scan, Instant::FAR, Instant::FAR)
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.items.iter().map(|item| item.key.as_str()).collect()
    }

    #[test]
    fn a_page_ends_where_the_first_part_that_had_more_ended() {
        let mut gather = gather(10);
        assert!(!gather.handle_part(part(&[0], &["a", "c"], true)));
        assert!(!gather.handle_part(part(&[2], &["b", "z"], false)));
        assert!(gather.handle_part(part(&[1], &["d"], false)));
        let page = gather.finish();
        assert_eq!(keys(&page), ["a", "b", "c"], "d may come after keys that weren't told");
        assert_eq!(page.next_after.map(|key| key.to_string()).as_deref(), Some("c"));
    }

    #[test]
    fn the_limit_cuts_and_the_last_page_says_so() {
        let mut first = gather(2);
        first.handle_part(part(&[0, 1, 2], &["a", "b", "c"], false));
        assert_eq!(first.finish().next_after.map(|key| key.to_string()).as_deref(), Some("b"));
        let mut last = gather(3);
        last.handle_part(part(&[0, 1, 2], &["a", "b", "c"], false));
        assert_eq!(last.finish().next_after, None);
    }

    #[test]
    fn a_partition_is_spoken_for_once() {
        let mut gather = gather(10);
        assert!(!gather.handle_part(part(&[0, 1], &["a"], false)));
        assert!(!gather.handle_part(part(&[1, 2], &["a"], false)), "it overlaps: ignored whole");
        assert!(gather.handle_part(part(&[2], &[], false)));
        assert_eq!(keys(&gather.finish()), ["a"]);
    }
}
