//! The first keys of several partitions, in order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::message::{PartitionSet, Scan, Scanned};
use crate::api::{Item, Key};
use crate::base::{Instant, PartitionId, limits};
use crate::replica::Replica;
use crate::store::Stored;

/// What one shard may add to a page, in bytes of keys and values. A page has one part from each shard of each node, and
/// all of them together should stay below [`limits::PAGE_BYTES_MAX`] by and large.
const PART_BYTES_MAX: usize = limits::PAGE_BYTES_MAX / 4;

/// The first keys of `replicas`, of what is committed.
pub(super) fn first_keys<'a>(now: Instant, scan: &'a Scan, replicas: impl Iterator<Item = &'a Replica>) -> Scanned {
    let keys_of = |replica: &'a Replica| replica.scan(now, &scan.prefix, scan.after.as_ref());
    merge(now, scan, replicas.map(|replica| (replica.partition(), keys_of(replica))))
}

/// The first keys of `replicas`, with what isn't committed.
pub(super) fn first_keys_degraded<'a>(
    now: Instant,
    scan: &'a Scan,
    replicas: impl Iterator<Item = &'a Replica>,
) -> Scanned {
    let replicas: Vec<(&Replica, BTreeMap<Key, Option<Stored>>)> =
        replicas.map(|replica| (replica, replica.uncommitted_records(now))).collect();
    let rows = replicas.iter().map(|(replica, uncommitted)| {
        let committed = replica.scan(now, &scan.prefix, scan.after.as_ref());
        (replica.partition(), overlaid(committed, uncommitted, scan))
    });
    merge(now, scan, rows)
}

/// Records with others laid over them; nothing where a key is gone.
fn overlaid<'a>(
    committed: impl Iterator<Item = &'a Stored> + 'a,
    overlay: &'a BTreeMap<Key, Option<Stored>>,
    scan: &'a Scan,
) -> impl Iterator<Item = &'a Stored> + 'a {
    let is_asked_for = |key: &Key| key.as_bytes().starts_with(&scan.prefix) && Some(key) > scan.after.as_ref();
    let mut below = committed.filter(|stored| !overlay.contains_key(stored.key_bytes())).peekable();
    let above = overlay.iter().filter(move |(key, _)| is_asked_for(key));
    let mut above = above.filter_map(|(_, stored)| stored.as_ref()).peekable();
    std::iter::from_fn(move || match (below.peek(), above.peek()) {
        (Some(lower), Some(upper)) if lower > upper => above.next(),
        (None, Some(_)) => above.next(),
        _ => below.next(),
    })
}

/// Merges the partitions in `rows`: at most `scan.limit` keys and [`PART_BYTES_MAX`] bytes, but at least one key.
///
/// Each partition's table is in key order, so a heap of their first keys gives the next key of all. It costs a look-up a
/// partition and a step a key of the page, whatever the store holds.
fn merge<'a, K>(now: Instant, scan: &Scan, partitions: impl Iterator<Item = (PartitionId, K)>) -> Scanned
where
    K: Iterator<Item = &'a Stored>,
{
    let mut covered = PartitionSet::default();
    let mut rows = Vec::new();
    let mut heads = BinaryHeap::new();
    for (partition, mut keys) in partitions {
        covered.insert(partition);
        if let Some(stored) = keys.next() {
            heads.push(Reverse((stored, rows.len())));
            rows.push(keys);
        }
    }
    let mut items = Vec::new();
    let mut bytes = 0;
    while let Some(Reverse((stored, row))) = heads.pop() {
        if items.len() >= scan.limit as usize || (bytes > PART_BYTES_MAX && !items.is_empty()) {
            return Scanned { covered, items, more: true };
        }
        let item = Item {
            key: stored.key(),
            version: stored.version(),
            value_bytes: stored.value().len() as u64,
            content_type: stored.content_type(),
            expires_in_ms: stored.expires_at().map(|at| at.since(now).as_millis() as u64),
            value: scan.values.then(|| stored.to_blob()),
        };
        bytes += item.key.as_bytes().len() + item.value.as_ref().map_or(0, |value| value.len());
        items.push(item);
        if let Some(next) = rows[row].next() {
            heads.push(Reverse((next, row)));
        }
    }
    Scanned { covered, items, more: false }
}
