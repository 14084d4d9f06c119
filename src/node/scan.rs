//! The first keys of several partitions, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::message::{PartitionSet, Scan, Scanned};
use crate::api::Item;
use crate::base::{Instant, limits};
use crate::replica::Replica;

/// What one shard may add to a page, in bytes of keys and values. A page has one part from each shard of each node, and
/// all of them together should stay below [`limits::PAGE_BYTES_MAX`] by and large.
const PART_BYTES_MAX: usize = limits::PAGE_BYTES_MAX / 4;

/// Merges the partitions of `replicas`: at most `scan.limit` keys and [`PART_BYTES_MAX`] bytes, but at least one key.
///
/// Each partition's table is in key order, so a heap of their first keys gives the next key of all. It costs a look-up a
/// partition and a step a key of the page, whatever the store holds.
pub(super) fn first_keys<'a>(now: Instant, scan: &Scan, replicas: impl Iterator<Item = &'a Replica>) -> Scanned {
    let mut covered = PartitionSet::default();
    let mut rows = Vec::new();
    let mut heads = BinaryHeap::new();
    for replica in replicas {
        covered.insert(replica.partition());
        let mut keys = replica.scan(now, &scan.prefix, scan.after.as_ref());
        if let Some((key, record)) = keys.next() {
            heads.push(Reverse((key, rows.len())));
            rows.push((record, keys));
        }
    }
    let mut items = Vec::new();
    let mut bytes = 0;
    while let Some(Reverse((key, row))) = heads.pop() {
        if items.len() >= scan.limit as usize || (bytes > PART_BYTES_MAX && !items.is_empty()) {
            return Scanned { covered, items, more: true };
        }
        let (record, keys) = &mut rows[row];
        let item = Item {
            key: key.clone(),
            version: record.version,
            value_bytes: record.value.len() as u64,
            content_type: record.content_type.clone(),
            expires_in_ms: record.expires_at.map(|at| at.since(now).as_millis() as u64),
            value: scan.values.then(|| record.value.clone()),
        };
        bytes += key.as_bytes().len() + item.value.as_ref().map_or(0, |value| value.len());
        items.push(item);
        if let Some((key, next)) = keys.next() {
            *record = next;
            heads.push(Reverse((key, row)));
        }
    }
    Scanned { covered, items, more: false }
}
