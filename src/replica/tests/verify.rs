//! The rules of anti-entropy.

use super::*;
use crate::base::mutant::with_broken;
use crate::store::Record;

fn record(value: &'static str, version: u64) -> Record {
    let value = Blob::from_static(value.as_bytes());
    Record { value, content_type: None, version: Version(version), expires_at: None }
}

impl Net {
    fn filled(count: u8, in_sync: &[u8], keys: usize) -> Self {
        let mut net = Self::new(count, in_sync, 2);
        for nth in 0..keys {
            net.write(0, nth as u64, put(&format!("k{nth:04}"), "value"));
            net.deliver();
        }
        net.settle();
        net.replies();
        net
    }

    /// The primary's digest goes to its backups, and what comes of it is delivered.
    fn compare(&mut self) {
        self.tell_digests();
        self.deliver();
    }

    fn tell_digests(&mut self) {
        let (epoch, seq, digest, backups) = self.replicas[0].to_compare().expect("it serves");
        for backup in backups {
            self.run(backup.slot.index(), |replica, now, out| {
                replica.handle_digest(now, node(0), (epoch, seq), digest, out);
            });
        }
    }

    fn scrub(&mut self, slot: usize) {
        let scrubbed = self.replicas[slot].table().scrub(None, u64::MAX);
        self.run(slot, |replica, _, out| replica.handle_rotten(scrubbed.rotten, out));
        self.deliver();
    }

    fn damage(&mut self) -> Vec<(usize, Fault, Option<u8>)> {
        let damage = std::mem::take(&mut self.damage);
        let named =
            |(slot, damage): (usize, Damage)| (slot, damage.fault, damage.repaired_from.map(|from| from.slot.0));
        damage.into_iter().map(named).collect()
    }

    fn assert_equal(&self) {
        let all = |replica: &Replica| {
            let rows = replica.table.scan(&[], None).map(|stored| (stored.key(), stored.to_record()));
            rows.collect::<Vec<_>>()
        };
        let expected = all(&self.replicas[0]);
        for slot in self.record.in_sync.iter() {
            assert!(all(&self.replicas[slot.index()]) == expected, "{slot} holds something else");
            assert!(self.replicas[slot.index()].table.scrub(None, u64::MAX).rotten.is_empty());
        }
    }
}

#[test]
fn equal_copies_are_compared_with_one_message_each() {
    let mut net = Net::filled(3, &[0, 1, 2], 100);
    net.tell_digests();
    assert_eq!((net.verified, net.wire.len(), net.damage()), (2, 0, vec![]));
}

#[test]
fn what_is_under_way_is_no_difference() {
    let mut net = Net::filled(2, &[0, 1], 3);
    net.write(0, 10, put("k0001", "newer"));
    net.deliver();
    assert_eq!(net.replies().len(), 1, "the primary has applied it and the backup doesn't know yet");
    net.tell_digests();
    assert_eq!((net.verified, net.wire.len()), (0, 0), "it waits for the effect");
    net.pass(Duration::from_millis(5));
    net.deliver();
    assert_eq!((net.verified, net.damage()), (1, vec![]));
    // Behind that it is too late, and nothing is said.
    let (epoch, seq, digest, _) = net.replicas[0].to_compare().expect("it serves");
    net.write(0, 11, put("k0002", "newer"));
    net.settle();
    net.run(1, |replica, now, out| replica.handle_digest(now, node(0), (epoch, seq), digest, out));
    assert_eq!((net.verified, net.wire.len(), net.damage()), (1, 0, vec![]));
    with_broken(Mutant::CompareAnywhere, || {
        net.run(1, |replica, now, out| replica.handle_digest(now, node(0), (epoch, seq), digest, out));
        assert_eq!(net.wire.len(), 1, "compared anywhere, they differ");
    });
}

#[test]
fn copies_that_differ_are_made_what_the_primary_has() {
    let mut net = Net::filled(3, &[0, 1, 2], 3);
    net.replicas[1].forge(&key("k0000"), None);
    net.replicas[1].forge(&key("k0001"), Some(record("forged", CLOCK + 1)));
    net.replicas[1].forge(&key("extra"), Some(record("extra", CLOCK + 1)));
    net.replicas[2].forge(&key("k0002"), Some(record("older", 5)));
    net.compare();
    let mut damage = net.damage();
    damage.sort_by_key(|(slot, fault, _)| (*slot, format!("{fault:?}")));
    let from_primary = Some(0);
    let expected = [
        (1, Fault::Different, from_primary),
        (1, Fault::Missing, from_primary),
        (1, Fault::Surplus, from_primary),
        (2, Fault::Different, from_primary),
    ];
    assert_eq!(damage, expected);
    net.assert_equal();
    net.compare();
    assert_eq!((net.verified, net.damage()), (2, vec![]));
}

#[test]
fn many_differences_take_many_messages_and_are_all_found() {
    let mut net = Net::filled(2, &[0, 1], 1300);
    for nth in 0..1300 {
        match nth % 3 {
            0 => net.replicas[1].forge(&key(&format!("k{nth:04}")), None),
            1 => net.replicas[1].forge(&key(&format!("l{nth:04}")), Some(record("extra", 1))),
            _ => {}
        }
    }
    net.compare();
    assert_eq!(net.damage().len(), 867);
    net.assert_equal();
}

#[test]
fn large_records_come_in_parts() {
    let mut net = Net::new(2, &[0, 1], 2);
    let value: &'static str = Box::leak("v".repeat(100_000).into_boxed_str());
    for nth in 0..10 {
        net.write(0, nth, put(&format!("k{nth}"), value));
        net.settle();
        net.replicas[1].forge(&key(&format!("k{nth}")), None);
    }
    net.tell_digests();
    let mut parts = 0;
    while let Some((from, to, message)) = net.wire.pop_front() {
        if let Message::Check { check, .. } = &message
            && let Check::Records { records, .. } = &**check
        {
            assert!(records.len() <= 3, "{} records of 100 kB in a message", records.len());
            parts += 1;
        }
        net.message(from.slot.0, to.slot.index(), message);
    }
    assert_eq!((parts, net.damage().len()), (4, 10));
    net.assert_equal();
}

#[test]
fn a_rotten_record_is_not_shown_and_comes_from_a_copy_that_is_sound() {
    for (rotten, healthy) in [(0, 1), (1, 0), (2, 0)] {
        let mut net = Net::filled(3, &[0, 1, 2], 3);
        assert!(net.replicas[rotten].rot(&key("k0001")));
        let found = net.replicas[rotten].table().scrub(None, u64::MAX).rotten;
        net.run(rotten, |replica, _, out| replica.handle_rotten(found, out));
        assert_eq!(net.replicas[rotten].read_stale(net.now, &key("k0001")), Err(NotServing));
        assert_eq!(net.replicas[rotten].read_degraded(net.now, &key("k0001")), Err(NotServing));
        assert!(net.replicas[rotten].read_stale(net.now, &key("k0002")).is_ok());
        if rotten == 0 {
            assert_eq!(net.replicas[0].read(net.now, &key("k0001")), Err(NotServing));
            with_broken(Mutant::ShowRotten, || assert!(net.replicas[0].read(net.now, &key("k0001")).is_ok()));
        }
        net.deliver();
        assert_eq!(net.damage(), [(rotten, Fault::Rotten, None), (rotten, Fault::Rotten, Some(healthy))]);
        net.assert_equal();
        assert!(net.replicas[rotten].read_stale(net.now, &key("k0001")).is_ok());
        net.compare();
        assert_eq!((net.verified, net.damage()), (2, vec![]));
    }
}

#[test]
fn what_nobody_has_sound_is_not_shown_until_it_is_written_anew() {
    let mut net = Net::filled(3, &[0, 1, 2], 3);
    (0..3).for_each(|slot| assert!(net.replicas[slot].rot(&key("k0001"))));
    net.scrub(0);
    for _ in 0..10 {
        net.run(0, |replica, _, out| replica.chase_rotten(out));
        net.deliver();
    }
    assert_eq!(net.replicas[0].read(net.now, &key("k0001")), Err(NotServing));
    let found: Vec<usize> = net.damage().into_iter().map(|(slot, _, _)| slot).collect();
    assert_eq!(found, [0, 1, 2], "who is asked looks, each is found once, and nobody repairs");
    net.write(0, 10, put("k0001", "anew"));
    net.settle();
    assert_eq!(net.read(0, "k0001"), Some(b"anew".to_vec()));
    net.run(0, |replica, _, out| replica.chase_rotten(out));
    assert_eq!((net.replicas[0].rotten(), net.wire.len()), (0, 0));
    net.assert_equal();
}

#[test]
fn a_repair_never_undoes_a_later_effect() {
    let race = |net: &mut Net| {
        net.replicas[1].forge(&key("k0001"), None);
        net.tell_digests();
        // All but the last message of the round, which the effect overtakes.
        while !matches!(net.wire.front(), Some((_, _, Message::Check { check, .. })) if matches!(**check, Check::Records { .. }))
        {
            let (from, to, message) = net.wire.pop_front().expect("the records come");
            net.message(from.slot.0, to.slot.index(), message);
        }
        let late = net.wire.pop_front().expect("the records");
        net.write(0, 10, put("k0001", "newer"));
        net.settle();
        net.wire.push_back(late);
        net.deliver();
    };
    let mut net = Net::filled(2, &[0, 1], 3);
    race(&mut net);
    net.assert_equal();
    let mut net = Net::filled(2, &[0, 1], 3);
    with_broken(Mutant::RepairOverNewer, || race(&mut net));
    let value = net.replicas[1].table.read(&key("k0001")).map(|stored| stored.value().to_vec());
    assert_eq!(value, Some(b"value".to_vec()), "put in when it came, it is an older one");
}

#[test]
fn a_primary_whose_own_record_is_rotten_repairs_itself_and_nobody_else() {
    let differ = |net: &mut Net| {
        // The primary's hash fits what is rotten no longer; the backup has lost another record beside it.
        assert!(net.replicas[0].rot(&key("k0001")));
        net.replicas[1].forge(&key("k0001"), Some(record("forged", CLOCK + 1)));
        net.compare();
    };
    let mut net = Net::filled(3, &[0, 1, 2], 3);
    differ(&mut net);
    // Whom it asks first has the forged one, of the same version: nothing tells that from the right one. What counts is
    // that it didn't hand on what is rotten.
    assert!(net.damage().contains(&(0, Fault::Rotten, None)));
    assert!(net.replicas.iter().all(|replica| replica.table.is_sound(&key("k0001"))));
    let mut net = Net::filled(3, &[0, 1, 2], 3);
    with_broken(Mutant::RepairUnverified, || differ(&mut net));
    let value = net.replicas[1].table.read(&key("k0001")).map(|stored| stored.value().to_vec());
    assert_eq!(value, Some(b"walue".to_vec()).map(|_| vec![b'v' ^ 1, b'a', b'l', b'u', b'e']));
}

#[test]
fn a_learner_gets_what_is_rotten_from_somebody_who_has_it_sound() {
    let fill = |net: &mut Net| {
        assert!(net.replicas[0].rot(&key("k0001")));
        net.change(|record| record.learners = set(&[2]));
        net.tell_all();
        net.settle_until_proposed();
    };
    let mut net = Net::filled(3, &[0, 1], 3);
    fill(&mut net);
    assert_eq!(net.damage(), [(0, Fault::Rotten, None), (0, Fault::Rotten, Some(1))]);
    assert_eq!(net.proposals.first().map(|proposal| proposal.add), Some(set(&[2])));
    let learned = net.replicas[2].table.read(&key("k0001")).map(|stored| stored.value().to_vec());
    assert_eq!(learned, Some(b"value".to_vec()));
    let mut net = Net::filled(3, &[0, 1], 3);
    with_broken(Mutant::ScanUnverified, || fill(&mut net));
    let learned = net.replicas[2].table.read(&key("k0001")).map(|stored| stored.value().to_vec());
    assert!(
        learned != Some(b"value".to_vec()) && net.replicas[2].table.is_sound(&key("k0001")),
        "nobody knows any more"
    );
}

#[test]
fn a_learner_gets_what_nobody_has_sound_and_knows_that_it_is_rotten() {
    let mut net = Net::filled(3, &[0, 1], 3);
    (0..2).for_each(|slot| assert!(net.replicas[slot].rot(&key("k0001"))));
    net.change(|record| record.learners = set(&[2]));
    net.tell_all();
    for _ in 0..100 {
        net.deliver();
        net.run(0, |replica, _, out| replica.chase_rotten(out));
        net.pass(Duration::from_millis(150));
    }
    assert!(net.proposals.iter().any(|proposal| proposal.add == set(&[2])), "the rest is filled all the same");
    assert_eq!((net.replicas[2].table.len(), net.replicas[2].rotten()), (3, 1));
}

#[test]
fn another_epoch_ends_a_comparison() {
    let mut net = Net::filled(3, &[0, 1, 2], 3);
    net.replicas[1].forge(&key("k0001"), None);
    net.write(0, 10, put("k0002", "newer"));
    net.deliver();
    net.tell_digests();
    let before = net.replicas[0].to_compare();
    net.promote(2, &[0, 1, 2]);
    net.tell_all();
    net.settle();
    assert_eq!((net.verified, net.damage()), (0, vec![]), "what waited for an effect is forgotten");
    let (epoch, seq, digest, _) = before.expect("it served");
    net.run(1, |replica, now, out| replica.handle_digest(now, node(0), (epoch, seq), digest, out));
    assert_eq!((net.verified, net.wire.len()), (0, 0));
    assert!(net.replicas[0].to_compare().is_none() && net.replicas[2].to_compare().is_some());
}

#[test]
fn a_lost_message_ends_a_round_and_a_later_comparison_begins_another() {
    let mut net = Net::filled(2, &[0, 1], 3);
    net.replicas[1].forge(&key("k0001"), None);
    net.tell_digests();
    net.wire.clear();
    net.compare();
    assert_eq!(net.damage(), [], "a round may still be under way");
    net.now = net.now + Duration::from_secs(3);
    net.compare();
    assert_eq!(net.damage(), [(1, Fault::Missing, Some(0))]);
    net.assert_equal();
}
