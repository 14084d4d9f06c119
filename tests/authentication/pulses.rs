//! Datagrams that no honest node sends now.

use std::collections::BTreeMap;
use std::time::Duration;

use jumpgate::api::{AdminAction, AdminRequest, Consistency, Key, Operation, Precondition, PutMode, Request, Response};
use jumpgate::base::{Blob, ClusterId, Incarnation, LogIndex, NodeId, Rng, Slot, SlotSet, Term};
use jumpgate::codec::{Envelope, Keyring, NameHash, datagram};
use jumpgate::control::Announcement;
use jumpgate::node::message::PulseMessage;
use jumpgate::raft::{self, LogPosition, Verdict};
use jumpgate::sim::{NAME, World, WorldOptions, is_whole};

const PATIENCE: Duration = Duration::from_secs(10);
const SECRET: &str = "correct horse battery staple";
/// The highest term that is believed of anybody.
const TERM: Term = Term(1 << 61);
const OTHER: &str = "a secret of somebody else";

fn keyring(secret: &str) -> Keyring {
    if secret.is_empty() { Keyring::default() } else { Keyring::parse(secret.as_bytes()).expect("it is long enough") }
}

/// A cluster of three whose nodes share a secret, and whose wire is tapped.
fn formed(seed: u64) -> World {
    let options = WorldOptions { secrets: SECRET.to_owned(), recording: true, ..WorldOptions::default() };
    let mut world = World::new(options, seed);
    assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form");
    world
}

fn request(operation: Operation) -> Request {
    Request::new(operation, 1500)
}

fn put(world: &mut World, slot: Slot, name: &str) {
    let operation = Operation::Put {
        key: name.parse::<Key>().expect("a key"),
        value: Blob::from(name.as_bytes()),
        content_type: None,
        ttl_ms: None,
        mode: PutMode::Upsert,
        precondition: Precondition::NONE,
    };
    world.ask(slot, request(operation)).expect("an answer within the deadline").expect("it is stored");
}

fn has(world: &mut World, slot: Slot, name: &str) -> bool {
    let key = name.parse::<Key>().expect("a key");
    let operation = Operation::Get { key, consistency: Consistency::Linearizable };
    let found = world.ask(slot, request(operation)).expect("an answer within the deadline").expect("it is read");
    matches!(found, Response::Value(value) if *value.bytes == *name.as_bytes())
}

/// Who the nodes are: the node itself, and the next one.
fn pair(world: &World, slot: Slot) -> (NodeId, NodeId) {
    let of = |slot: Slot| world.node(slot).expect("it runs").control().me();
    (of(slot), of(Slot((slot.0 + 1) % 3)))
}

/// The envelope of what a peer of `slot` would say to it.
fn envelope(world: &World, slot: Slot) -> Envelope {
    let (to, from) = pair(world, slot);
    let view = world.node(slot).expect("it runs").view();
    Envelope { cluster: view.cluster, generation: view.generation, from, to }
}

/// Everything that a peer could say to depose a leader, win a vote or confuse.
fn words() -> Vec<PulseMessage> {
    let (term, last) = (TERM, LogPosition::new(LogIndex(1 << 40), TERM));
    let sequence = raft::PulseSequence(u64::MAX);
    let raft = [
        raft::PulseMessage::Vote { term, last, transfer: true },
        raft::PulseMessage::PreVote { proposed: term, last },
        raft::PulseMessage::VoteAnswer { term, asked: term, verdict: Verdict::Refused },
        raft::PulseMessage::Heartbeat { term, sequence, matched: last, commit: last.index },
        raft::PulseMessage::HeartbeatAck { term, sequence, last, promise: Duration::from_secs(1 << 30) },
    ];
    let mut words: Vec<PulseMessage> = raft.into_iter().map(PulseMessage::Raft).collect();
    words.push(PulseMessage::Gossip(Vec::new()));
    words.push(PulseMessage::Announce(Announcement::Blank { without: SlotSet::EMPTY }));
    words
}

fn sealed(envelope: &Envelope, sequence: u64, words: &[PulseMessage], secret: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    datagram::encode(envelope, NameHash::of(NAME), sequence, &words, &keyring(secret), &mut bytes).expect("it fits");
    bytes
}

/// Hands `slot` each of `datagrams`. Nothing may come of it: no datagram, no other state. How many were refused, by
/// reason.
fn rejected(world: &mut World, slot: Slot, datagrams: &[Vec<u8>]) -> BTreeMap<&'static str, u64> {
    // Whatever is due anyway at this moment is done first.
    world.inject(slot, b"");
    let state = |world: &World| {
        let control = world.node(slot).expect("it runs").control();
        (format!("{:?} {:?} {:?}", control.raft(), control.state(), control.view()), control.rejected().clone())
    };
    let (before, counted) = state(world);
    let sent = world.recorded().len();
    datagrams.iter().for_each(|bytes| world.inject(slot, bytes));
    let (after, mut counts) = state(world);
    assert_eq!(before, after, "a datagram that was to be refused changed something");
    assert_eq!(world.recorded().len(), sent, "a datagram that was to be refused was answered");
    counts.iter_mut().for_each(|(reason, count)| *count -= counted.get(reason).copied().unwrap_or(0));
    counts.retain(|_, count| *count > 0);
    counts
}

#[test]
fn nodes_with_a_secret_found_a_cluster_serve_and_take_a_restarted_node_back() {
    let mut world = formed(1);
    put(&mut world, Slot(0), "before");
    for slot in [world.leader().expect("it has one"), Slot(1)] {
        world.kill(slot);
        world.run(Duration::from_millis(500));
        world.start(slot);
        assert!(world.run_until(PATIENCE, is_whole), "{slot} did not come back");
    }
    put(&mut world, Slot(1), "after");
    assert!(has(&mut world, Slot(2), "before") && has(&mut world, Slot(0), "after"));
}

#[test]
fn forged_words_with_the_highest_term_change_nothing_and_are_not_answered() {
    let mut world = formed(2);
    for slot in (0..3).map(Slot) {
        let envelope = envelope(&world, slot);
        let words = words();
        let each = |secret| {
            words.iter().map(|word| sealed(&envelope, 1 << 40, std::slice::from_ref(word), secret)).collect::<Vec<_>>()
        };
        let all = words.len() as u64;
        assert_eq!(rejected(&mut world, slot, &each("")), BTreeMap::from([("unauthenticated", all)]));
        assert_eq!(rejected(&mut world, slot, &each(OTHER)), BTreeMap::from([("bad_code", all)]));
    }
    // The same words by somebody who has the secret do depose a leader: the test could fail.
    let leader = world.leader().expect("it has one");
    let word = words().swap_remove(3);
    world.inject(leader, &sealed(&envelope(&world, leader), 1 << 40, &[word], SECRET));
    let raft = world.node(leader).expect("it runs").control().raft().expect("it is a member");
    assert_eq!(raft.term(), TERM);
}

#[test]
fn twenty_thousand_mutated_datagrams_change_nothing() {
    let mut world = formed(3);
    let leader = world.leader().expect("it has one");
    let mut rng = Rng::new(3);
    let to_leader: Vec<Vec<u8>> =
        world.recorded().iter().filter(|(to, _)| *to == leader).map(|(_, bytes)| bytes.clone()).collect();
    let mut mutants = Vec::new();
    for _ in 0..20_000 {
        let mut bytes = to_leader[rng.below(to_leader.len() as u64) as usize].clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        // Most attackers know how to write a checksum.
        if rng.chance(900_000) {
            let said = bytes.len() - 4;
            let (checked, checksum) = bytes.split_at_mut(said);
            checksum.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
        }
        mutants.push(bytes);
    }
    // What was still under way has arrived now.
    world.run(Duration::from_millis(10));
    // Two changes may cancel each other out: then it is a datagram that was here before.
    let counts = rejected(&mut world, leader, &mutants);
    assert_eq!(counts.values().sum::<u64>(), 20_000);
    assert!(counts["bad_code"] > 10_000, "{counts:?}");
    assert!(counts.keys().all(|reason| *reason != "malformed"), "something was decoded: {counts:?}");
}

#[test]
fn recorded_datagrams_are_refused_in_the_same_run_by_others_and_after_a_restart() {
    let mut world = formed(4);
    world.run(Duration::from_secs(2));
    let recorded = world.recorded().to_vec();
    assert!(recorded.len() > 300);
    for slot in (0..3).map(Slot) {
        let to = |wanted: bool| recorded.iter().filter(move |(to, _)| (*to == slot) == wanted);
        let (to_it, to_others): (Vec<_>, Vec<_>) =
            (to(true).map(|(_, bytes)| bytes.clone()).collect(), to(false).map(|(_, bytes)| bytes.clone()).collect());
        let all = to_it.len() as u64;
        // Those that are still under way have yet to arrive, and are new.
        world.run(Duration::from_millis(10));
        assert_eq!(rejected(&mut world, slot, &to_it), BTreeMap::from([("replayed", all)]));
        let all = to_others.len() as u64;
        assert_eq!(rejected(&mut world, slot, &to_others), BTreeMap::from([("other_slot", all)]));
    }

    let leader = world.leader().expect("it has one");
    let restarted = Slot((leader.0 + 1) % 3);
    world.kill(restarted);
    world.start(restarted);
    let before = world.node(restarted).expect("it runs").control().me();
    // It knows nobody yet: what is addressed to whoever sits there could be from any time, and founds nothing.
    let hellos = recorded.iter().filter(|(to, _)| *to == restarted).map(|(_, bytes)| bytes.clone());
    for bytes in hellos.collect::<Vec<_>>() {
        world.inject(restarted, &bytes);
    }
    let control = world.node(restarted).expect("it runs").control();
    assert!(control.raft().is_none() && control.me() == before);
    assert!(control.rejected()["other_incarnation"] > 100);
    assert!(world.run_until(PATIENCE, is_whole), "it did not come back");
    // Once it knows its peers, not even their old hellos are answered.
    world.run(Duration::from_secs(3));
    let to_it: Vec<_> = recorded.iter().filter(|(to, _)| *to == restarted).map(|(_, bytes)| bytes.clone()).collect();
    let counts = rejected(&mut world, restarted, &to_it);
    assert!(counts.keys().all(|reason| matches!(*reason, "other_incarnation" | "replayed")), "{counts:?}");
}

#[test]
fn words_with_the_secret_to_another_life_or_cluster_change_nothing() {
    let mut world = formed(5);
    let slot = world.leader().expect("it has one");
    let right = envelope(&world, slot);
    let stranger = Incarnation(7);
    let wrong = [
        ("other_slot", Envelope { to: NodeId::new(right.from.slot, right.to.incarnation), ..right }),
        ("other_incarnation", Envelope { to: NodeId::new(slot, stranger), ..right }),
        ("other_incarnation", Envelope { to: NodeId::new(slot, Incarnation::default()), ..right }),
        ("other_cluster", Envelope { cluster: ClusterId(7), ..right }),
        ("impossible_sender", Envelope { from: NodeId::new(slot, stranger), ..right }),
        ("impossible_sender", Envelope { from: NodeId::new(Slot(3), stranger), ..right }),
    ];
    for (reason, envelope) in wrong {
        let datagram = sealed(&envelope, 1 << 40, &words(), SECRET);
        assert_eq!(rejected(&mut world, slot, &[datagram]), BTreeMap::from([(reason, 1)]), "{envelope:?}");
    }
}

#[test]
fn words_of_a_generation_that_is_over_change_nothing() {
    let mut world = formed(7);
    let slot = Slot(2);
    let before = envelope(&world, slot);
    (0..2).map(Slot).for_each(|dead| world.kill(dead));
    world.run(Duration::from_secs(3));
    let recover = AdminRequest { action: AdminAction::UnsafeRecover, dry_run: false };
    world.request(slot, &recover, PATIENCE).expect("an answer").expect("the survivor goes on");
    world.run(Duration::from_secs(1));
    let said = |world: &World| format!("{:?}", world.node(slot).map(|node| (node.control().state(), node.view())));
    let term = |world: &World| world.node(slot).and_then(|node| node.control().raft()).map(|raft| raft.term());
    let is_before = (said(&world), term(&world));
    assert!(is_before.0.contains("Generation(1)"));
    world.inject(slot, &sealed(&before, 1 << 40, &words(), SECRET));
    assert_eq!((said(&world), term(&world)), is_before);
    let rejected = world.node(slot).map(|node| node.control().rejected()["other_generation"]);
    assert_eq!(rejected, Some(words().len() as u64), "each of them is refused");
}

#[test]
fn a_founding_is_not_disturbed_by_recordings_of_earlier_ones() {
    // Everything that was said by earlier lives of the same nodes with the same secret, again and again.
    let mut earlier = formed(6);
    earlier.run(Duration::from_secs(1));
    let recorded = earlier.recorded().to_vec();
    let options = WorldOptions { secrets: SECRET.to_owned(), recording: true, ..WorldOptions::default() };
    let mut world = World::new(options, 7);
    let founders: Vec<NodeId> = (0..3).map(|slot| world.node(Slot(slot)).expect("it runs").control().me()).collect();
    for _ in 0..40 {
        for (to, bytes) in &recorded[..200] {
            world.inject(*to, bytes);
        }
        world.run(Duration::from_millis(5));
    }
    assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form");
    let now: Vec<NodeId> = (0..3).map(|slot| world.node(Slot(slot)).expect("it runs").control().me()).collect();
    assert_eq!(now, founders, "nobody had to start anew");
}

#[test]
fn a_node_without_the_secret_is_alone_and_the_others_are_not_disturbed() {
    for secret in ["", OTHER] {
        let mut world = formed(8);
        let leader = world.leader().expect("it has one");
        let stranger = Slot((leader.0 + 1) % 3);
        let term = world.node(leader).expect("it runs").view().term;
        world.kill(stranger);
        world.options.secrets = secret.to_owned();
        world.start(stranger);
        world.run(Duration::from_secs(5));
        let alone = world.node(stranger).expect("it runs").control();
        assert!(alone.raft().is_none(), "it got into the cluster");
        let expected = if secret.is_empty() { "no_secret" } else { "bad_code" };
        assert!(alone.rejected()[expected] > 100);
        let view = world.node(leader).expect("it runs").view();
        assert_eq!((view.leader.map(|node| node.slot), view.term), (Some(leader), term));
        put(&mut world, leader, "two are enough");
    }
}

#[test]
fn a_secret_is_replaced_step_by_step_without_an_election() {
    let mut world = formed(9);
    let leader = world.leader().expect("it has one");
    let term = world.node(leader).expect("it runs").view().term;
    let steps = [format!("{SECRET}\n{OTHER}"), format!("{OTHER}\n{SECRET}"), OTHER.to_owned()];
    for secrets in &steps {
        for slot in (0..3).map(Slot) {
            world.set_secrets(slot, secrets);
            world.run(Duration::from_millis(300));
            put(&mut world, slot, "a write between two steps");
        }
    }
    for slot in (0..3).map(Slot) {
        let node = world.node(slot).expect("it runs");
        assert_eq!((node.view().leader.map(|node| node.slot), node.view().term), (Some(leader), term));
        assert!(!node.control().rejected().contains_key("bad_code"), "at {slot}");
    }
    // The old secret is dead.
    let (envelope, words) = (envelope(&world, leader), words());
    let forged = sealed(&envelope, 1 << 40, &words, SECRET);
    assert_eq!(rejected(&mut world, leader, &[forged]), BTreeMap::from([("bad_code", 1)]));
}
