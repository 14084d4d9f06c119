//! What a table promises.

use std::time::Duration;

use super::*;
use crate::api::{ContentType, Key};
use crate::base::{Blob, Instant, Version};

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn put(name: &str, version: u64, ttl_ms: Option<u64>) -> Effect {
    let value = Blob::from_static(b"value");
    Effect::Put { key: key(name), value, content_type: None, version: Version(version), ttl_ms, marked: None }
}

fn delete(name: &str, version: u64) -> Effect {
    Effect::Delete { key: key(name), version: Version(version), expired: false, marked: None }
}

fn at(milliseconds: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(milliseconds)
}

/// Keys and versions, in order.
fn contents(table: &Table) -> Vec<(String, u64)> {
    table.check_invariants();
    table.scan(&[], None).map(|stored| (stored.key().to_string(), stored.version().0)).collect()
}

fn table_of(effects: &[Effect]) -> Table {
    let mut table = Table::default();
    for effect in effects {
        table.apply(at(0), effect);
        table.check_invariants();
    }
    table
}

#[test]
fn effects_add_up_and_the_accounts_with_them() {
    let mut table = table_of(&[
        put("b", 1, None),
        put("a", 2, None),
        put("b", 3, None),
        Effect::EpochStart { version: Version(4) },
    ]);
    assert_eq!(contents(&table), [("a".to_owned(), 2), ("b".to_owned(), 3)]);
    assert_eq!((table.len(), table.bytes()), (2, 2 * (1 + 5 + RECORD_OVERHEAD_BYTES)));
    table.apply(at(0), &delete("a", 4));
    table.apply(at(0), &delete("a", 5));
    assert_eq!(contents(&table), [("b".to_owned(), 3)]);
    table.clear();
    assert_eq!((table.is_empty(), table.bytes()), (true, 0));
}

#[test]
fn a_page_begins_after_a_key_and_ends_with_the_prefix() {
    let names = ["a", "a/1", "a/2", "a/3", "b"];
    let table = table_of(&names.map(|name| put(name, 1, None)));
    let page = |prefix: &str, after: Option<&str>| {
        let after = after.map(key);
        let keys: Vec<_> =
            table.scan(prefix.as_bytes(), after.as_ref()).map(|stored| stored.key().to_string()).collect();
        keys.join(" ")
    };
    assert_eq!(page("", None), "a a/1 a/2 a/3 b");
    assert_eq!(page("", Some("a/2")), "a/3 b");
    assert_eq!(page("a/", None), "a/1 a/2 a/3");
    assert_eq!(page("a/", Some("a/1")), "a/2 a/3");
    assert_eq!(page("a/", Some("0")), "a/1 a/2 a/3", "a cursor before the prefix changes nothing");
    assert_eq!(page("a/", Some("b")), "", "one behind it ends the listing");
    assert_eq!(page("c", None), "");
}

#[test]
fn expired_records_are_handed_out_once_and_soonest_first() {
    let mut table = table_of(&[put("late", 1, Some(30)), put("soon", 2, Some(10)), put("never", 3, None)]);
    assert_eq!((table.next_deadline(), table.poll_expired(at(9), 9)), (at(10), vec![]));
    assert!(table.read(&key("soon")).is_some_and(|record| record.is_expired(at(10)) && !record.is_expired(at(9))));
    assert_eq!(table.poll_expired(at(50), 1), [(key("soon"), Version(2))]);
    assert_eq!(table.poll_expired(at(50), 9), [(key("late"), Version(1))]);
    assert_eq!((table.next_deadline(), table.poll_expired(at(50), 9)), (Instant::FAR, vec![]));
    table.rearm_expiry();
    assert_eq!(table.next_deadline(), at(10));
    assert_eq!(table.poll_expired(at(50), 1), [(key("soon"), Version(2))]);
    for effect in [delete("soon", 4), delete("late", 5)] {
        table.apply(at(50), &effect);
    }
    assert_eq!((contents(&table), table.next_deadline()), (vec![("never".to_owned(), 3)], Instant::FAR));
}

#[test]
fn a_put_takes_its_predecessors_deadline_away() {
    let mut table = table_of(&[put("k", 1, Some(10)), put("k", 2, None)]);
    assert_eq!(table.next_deadline(), Instant::FAR);
    table.apply(at(0), &put("k", 3, Some(10)));
    assert_eq!(table.poll_expired(at(10), 9).len(), 1);
    table.apply(at(0), &put("k", 4, Some(10)));
    table.check_invariants();
    assert_eq!(table.poll_expired(at(10), 9), [(key("k"), Version(4))], "the same deadline again, of a new value");
}

#[test]
fn time_to_live_counts_from_when_the_effect_came() {
    let mut table = Table::default();
    table.apply(at(1000), &put("k", 1, Some(50)));
    let record = table.read(&key("k")).expect("it is there");
    assert_eq!((record.expires_at(), record.ttl_ms(at(1010))), (Some(at(1050)), Some(40)));
    assert_eq!(record.ttl_ms(Instant(at(1010).0 + 1)), Some(40), "rounded up: no copy lets go early");
    table.apply(at(1000), &put("far", 2, Some(u64::MAX)));
    assert_eq!(table.read(&key("far")).and_then(Stored::expires_at), Some(Instant::FAR));
}

#[test]
fn while_scanning_only_what_is_newer_goes_in() {
    let scanned = |version| Record {
        value: Blob::from_static(b"scanned"),
        content_type: None,
        version: Version(version),
        expires_at: None,
    };
    let mut table = Table::default();
    table.begin_scan();
    table.apply(at(0), &put("live", 5, None));
    table.apply(at(0), &delete("gone", 6));
    assert!(!table.insert_newer(&key("live"), scanned(4)) && !table.insert_newer(&key("live"), scanned(5)));
    assert!(!table.insert_newer(&key("gone"), scanned(3)), "a scanned entry brought a deleted key back");
    assert!(table.insert_newer(&key("gone"), scanned(9)));
    assert!(table.insert_newer(&key("ahead"), scanned(8)));
    // The live stream comes to where the scan was before it.
    table.apply(at(0), &put("ahead", 7, None));
    table.apply(at(0), &delete("ahead", 7));
    let expected = [("ahead", 8), ("gone", 9), ("live", 5)].map(|(name, version)| (name.to_owned(), version));
    assert_eq!(contents(&table), expected);
    table.end_scan();
    table.apply(at(0), &delete("gone", 10));
    assert!(table.insert_newer(&key("gone"), scanned(3)), "no tombstones are kept once nothing older can come");
}

#[test]
fn equal_tables_have_equal_digests_whatever_the_order() {
    let effects: Vec<Effect> = (0..400).map(|nth| put(&format!("key {nth}"), nth + 1, None)).collect();
    let one = table_of(&effects);
    let mut other = Table::default();
    for (nth, effect) in effects.iter().rev().enumerate() {
        other.apply(at(nth as u64), effect);
    }
    assert_eq!((one.digest(), one.buckets()), (other.digest(), other.buckets()));
    other.apply(at(0), &put("key 7", 1000, None));
    other.apply(at(0), &delete("key 9", 1001));
    other.check_invariants();
    assert_ne!(one.digest(), other.digest());
    let differing = BucketSet::differing(&one.buckets(), &other.buckets());
    assert!(differing.contains(b"key 7") && differing.contains(b"key 9"));
    let seventh = key("key 7");
    let listed: Vec<Key> = one.in_buckets(differing, Some(&seventh)).map(Stored::key).collect();
    assert!(listed.is_sorted() && listed.contains(&key("key 9")) && !listed.contains(&key("key 7")));
    assert!(listed.len() < 40, "two buckets of 64 have a small part of the keys");
    other.clear();
    assert_eq!((other.digest(), other.buckets()), (Digest::default(), [0; BUCKETS]));
}

#[test]
fn a_digest_depends_on_all_that_copies_must_agree_on_and_not_on_when_a_record_runs_out() {
    let stored = |content_type: Option<&str>, value: &'static [u8], version, ttl_ms| {
        let content_type = content_type.map(|text| ContentType::new(text).expect("a content type"));
        let value = Blob::from_static(value);
        let put = Effect::Put { key: key("k"), value, content_type, version: Version(version), ttl_ms, marked: None };
        table_of(&[put]).digest()
    };
    let plain = stored(None, b"value", 1, None);
    let others = [
        stored(None, b"valuf", 1, None),
        stored(None, b"value", 2, None),
        stored(Some("text/plain"), b"value", 1, None),
        stored(None, b"value", 1, Some(10)),
        table_of(&[put("l", 1, None)]).digest(),
    ];
    assert!(others.iter().all(|other| *other != plain), "{plain:?} {others:?}");
    assert_eq!(stored(None, b"value", 1, Some(10)), stored(None, b"value", 1, Some(20)));
    assert_eq!(plain, table_of(&[put("k", 1, None)]).digest());
}

#[test]
#[cfg(feature = "sim")]
fn bits_that_flip_are_found_by_hashing_again_and_leave_the_sums_as_they_were() {
    let names = ["a", "b", "c", "d"];
    let mut table = table_of(&names.map(|name| put(name, 1, None)));
    let before = table.digest();
    assert!(table.rot(&key("c")) && !table.rot(&key("x")));
    assert_eq!((table.digest(), table.is_sound(&key("b")), table.is_sound(&key("c"))), (before, true, false));

    let (mut after, mut found) = (None, Vec::new());
    let mut parts = 0;
    loop {
        let scrubbed = table.scrub(after.as_ref(), 2 * RECORD_OVERHEAD_BYTES as u64);
        assert!(scrubbed.records <= 2 && scrubbed.bytes > 0 || scrubbed.reached.is_none());
        found.extend(scrubbed.rotten);
        after = scrubbed.reached;
        parts += 1;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((found, parts), (vec![(key("c"), Version(1))], 3));
    table.apply(at(0), &delete("c", 2));
    table.check_invariants();
    assert_eq!(table.digest(), table_of(&["a", "b", "d"].map(|name| put(name, 1, None))).digest());

    // A hash may rot, too: then the sums are wrong once its record is gone.
    assert!(table.rot_hash(&key("a")) && !table.is_sound(&key("a")));
    assert!(table.recount() && !table.recount());
    table.check_invariants();
}

#[test]
fn a_repair_puts_in_what_is_older_and_takes_out_what_should_not_be() {
    let mut table = table_of(&[put("a", 5, Some(10)), put("b", 6, None)]);
    let record = Record { value: Blob::from_static(b"old"), content_type: None, version: Version(2), expires_at: None };
    table.repair(&key("a"), Some(record));
    table.repair(&key("b"), None);
    table.repair(&key("c"), None);
    assert_eq!(contents(&table), [("a".to_owned(), 2)]);
    assert_eq!(table.next_deadline(), Instant::FAR);
}

#[test]
fn a_record_that_was_rotten_elsewhere_is_known_to_be_here() {
    let mut table = Table::default();
    let record = Record { value: Blob::from_static(b"x"), content_type: None, version: Version(2), expires_at: None };
    assert!(table.insert_hashed(&key("a"), record, RecordHash(7)));
    table.check_invariants();
    assert_eq!(table.scrub(None, 1 << 20).rotten, [(key("a"), Version(2))]);
}

#[test]
#[cfg(feature = "sim")]
fn a_digest_that_kept_what_was_deleted_would_be_seen() {
    use crate::base::mutant::{Mutant, with_broken};
    let mut table = table_of(&[put("a", 1, None), put("b", 2, None)]);
    with_broken(Mutant::DigestKeepsDeleted, || table.apply(at(0), &delete("b", 3)));
    assert_ne!(table.digest(), table_of(&[put("a", 1, None)]).digest());
    assert!(table.recount() && table.digest() == table_of(&[put("a", 1, None)]).digest());
}
