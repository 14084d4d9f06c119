//! A seeded cluster of one partition: real replicas, a scripted control log, a network that loses what is under way when a
//! connection breaks. After every step the promises to clients are checked; at the end everything heals and must converge.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::tests::committed_since;
use super::*;
use crate::api::{FeedEvent, Key, Match, Precondition, PutMode};
use crate::base::{Blob, Incarnation, Rng, Slot, SlotSet};
use crate::store::{Effect, Stored};

const PARTITION: PartitionId = PartitionId(7);
/// So many keys are written.
const KEYS: u64 = 12;

/// What the control log said at one of its entries.
#[derive(Clone)]
struct Entry {
    record: PartitionRecord,
    nodes: Vec<Option<NodeId>>,
}

struct Node {
    id: NodeId,
    replica: Replica,
    up: bool,
    /// How many entries of the control log it has applied.
    log_seen: usize,
    /// How far its clock is ahead of the simulation's.
    clock: Duration,
}

struct World {
    rng: Rng,
    now: Instant,
    nodes: Vec<Node>,
    log: Vec<Entry>,
    /// Per ordered pair of slots: what is under way, in order.
    links: BTreeMap<(Slot, Slot), VecDeque<(Instant, Message)>>,
    proposals: Vec<(Instant, InSyncChange)>,
    min_copies: u8,
    calm: u64,
    incarnations: u128,
    requests: u64,
    /// Unanswered requests: to which process, about which key.
    open: BTreeMap<RequestId, (NodeId, Key)>,
    /// Every effect that any primary ordered.
    ordered: BTreeMap<(Epoch, Version), Effect>,
    /// What clients know of a key: nothing older may be seen from now on.
    floor: BTreeMap<Key, Version>,
    version_acked: Version,
    /// The time to live of the last write.
    ttl_ms: Option<u64>,
    /// The epoch that ordered each effect that was seen as applied.
    applied: BTreeMap<Seq, Epoch>,
    acked: usize,
    reads: usize,
    promotions: usize,
    admitted: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let count = 3 + rng.below(3) as usize;
        let copies = 2 + rng.below(2) as usize;
        let min_copies = 1 + rng.below(2) as u8;
        let mut world = Self {
            now: Instant(1_000_000_000),
            nodes: Vec::new(),
            log: Vec::new(),
            links: BTreeMap::new(),
            proposals: Vec::new(),
            min_copies,
            calm: rng.below(8),
            incarnations: 0,
            requests: 0,
            open: BTreeMap::new(),
            ordered: BTreeMap::new(),
            floor: BTreeMap::new(),
            version_acked: Version::ZERO,
            ttl_ms: None,
            applied: BTreeMap::new(),
            acked: 0,
            reads: 0,
            promotions: 0,
            admitted: 0,
            rng,
        };
        for slot in 0..count {
            let node = world.boot(Slot(slot as u8));
            world.nodes.push(node);
        }
        let record = PartitionRecord {
            epoch: Epoch(1),
            change: ChangeNumber(1),
            primary: Some(Slot(0)),
            in_sync: SlotSet::first(copies),
            learners: SlotSet::EMPTY,
            counting: SlotSet::EMPTY,
            former: None,
        };
        let nodes = world.nodes.iter().map(|node| Some(node.id)).collect();
        world.log.push(Entry { record, nodes });
        world
    }

    fn boot(&mut self, slot: Slot) -> Node {
        self.incarnations += 1;
        let id = NodeId::new(slot, Incarnation(self.incarnations));
        let options = ReplicaOptions {
            min_copies: self.min_copies,
            tail_effects_max: 4 + self.rng.below(40) as usize,
            scan_chunk_bytes: 1 + self.rng.below(300) as usize,
            prepare_bytes: 1 + self.rng.below(600) as usize,
            ..ReplicaOptions::new(id)
        };
        let replica = Replica::new(PARTITION, &Arc::new(options));
        Node { id, replica, up: true, log_seen: 0, clock: self.rng.duration(Duration::from_secs(1000)) }
    }

    fn latest(&self) -> &Entry {
        self.log.last().expect("the log begins with the founding record")
    }

    fn change_record(&mut self, change: impl FnOnce(&mut Entry, Epoch)) {
        let mut entry = self.latest().clone();
        let next_epoch = Epoch(self.log.len() as u64 + 1);
        change(&mut entry, next_epoch);
        let missing = usize::from(self.min_copies).saturating_sub(entry.record.in_sync.len());
        entry.record.counting = entry.record.learners.iter().take(missing).collect();
        entry.record.change = entry.record.change.next();
        entry.record.check_invariants();
        self.log.push(entry);
    }

    /// Runs one input on one node and files what it causes.
    fn input(&mut self, slot: usize, input: impl FnOnce(&mut Replica, Instant, u64, &mut Vec<Output>)) {
        let latest = self.latest().record.epoch;
        let (mut out, node) = (Vec::new(), &mut self.nodes[slot]);
        let id = node.id;
        let before = node.replica.ring().pushed();
        input(&mut node.replica, self.now + node.clock, self.now.0 / 1000, &mut out);
        node.replica.check_invariants();
        let events = committed_since(&node.replica, before);
        let (base, last) = (node.replica.tail.base().seq, node.replica.tail.last().seq);
        let entries: Vec<_> = node.replica.tail.range(base..=last).map(|(_, entry)| entry.clone()).collect();
        let serves_latest = node.replica.is_serving() && node.replica.epoch == latest;
        let epoch = node.replica.epoch;
        events.iter().for_each(|event| self.committed(epoch, event));
        for entry in entries {
            let version = entry.effect.version();
            let known = self.ordered.entry((entry.epoch, version)).or_insert_with(|| {
                let is_new = version == Version::ZERO || !serves_latest || version > self.version_acked;
                assert!(is_new, "version {version} was given after {} was acked", self.version_acked);
                entry.effect.clone()
            });
            let same = known.key() == entry.effect.key();
            assert!(same, "two effects of epoch {} have version {version}", entry.epoch);
        }
        for output in out {
            match output {
                Output::Send { to, message } => self.send(id, to, message),
                Output::Reply { request, result } => self.answered(request, result),
                Output::Verified | Output::Damage(_) => unreachable!("nobody compares"),
                Output::Propose(change) => {
                    if !self.rng.chance(200_000) {
                        let at = self.now + self.rng.duration(Duration::from_millis(40));
                        self.proposals.push((at, change));
                    }
                }
            }
        }
    }

    /// A lone primary commits at once, so that its effects are never seen in a tail: the feed tells them.
    fn committed(&mut self, epoch: Epoch, event: &FeedEvent) {
        assert_eq!(event.partition, PARTITION);
        let FeedEvent { key, version, content_type, .. } = event.clone();
        let effect = match &event.value {
            Some(value) => {
                let ttl_ms = self.ttl_ms;
                Effect::Put { key, value: value.clone(), content_type, version, ttl_ms, marked: None }
            }
            None => Effect::Delete { key, version, expired: event.kind == crate::api::EventKind::Expire, marked: None },
        };
        if !self.ordered.keys().any(|(_, known)| *known == version) {
            self.ordered.insert((epoch, version), effect);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let configuration = bincode::config::standard().with_limit::<{ 1 << 20 }>();
        let bytes = bincode::encode_to_vec(&message, configuration).expect("a message encodes");
        let (decoded, length) = bincode::borrow_decode_from_slice(&bytes, configuration).expect("and decodes");
        assert_eq!((&message, bytes.len()), (&decoded, length));
        let link = self.links.entry((from.slot, to.slot)).or_default();
        if self.nodes[to.slot.index()].id == to && self.nodes[to.slot.index()].up {
            let at = self.now + self.rng.duration(Duration::from_millis(4));
            link.push_back((at, decoded));
        }
    }

    fn answered(&mut self, request: RequestId, result: Result<Response, Error>) {
        let (_, key) = self.open.remove(&request).expect("a request is answered once");
        let (version, copies) = match result {
            Ok(Response::Written { version, copies, .. } | Response::Deleted { version, copies }) => (version, copies),
            _ => return,
        };
        assert!(copies >= self.min_copies, "{copies} copies were enough");
        self.acked += 1;
        self.version_acked = self.version_acked.max(version);
        let floor = self.floor.entry(key).or_default();
        *floor = version.max(*floor);
    }

    fn step(&mut self, faults: bool) {
        self.now = self.now + self.rng.duration(Duration::from_millis(2));
        match self.rng.below(if faults { 100 } else { 84 }) {
            0..35 => self.deliver(),
            35..55 => self.tell_log(),
            55..70 => self.ring(),
            70..82 if faults => self.write(),
            82..84 => self.apply_proposal(),
            84..90 => self.read(),
            90..94 => self.break_link(),
            94..96 => self.duplicate(),
            // Some seeds are calm, so that fillings end; in others nothing ever does.
            96..100 if self.rng.below(8) < self.calm => {}
            96 => self.take_down(),
            97 => self.crash(),
            98 => self.transfer(),
            99 => self.restart(),
            _ => {}
        }
        if self.rng.chance(50_000) || !faults {
            self.add_learner();
        }
        self.check();
    }

    fn deliver(&mut self) {
        let is_due = |link: &VecDeque<(Instant, Message)>| link.front().is_some_and(|(at, _)| *at <= self.now);
        let due: Vec<_> = self.links.iter().filter(|(_, link)| is_due(link)).map(|(pair, _)| *pair).collect();
        for (from, to) in due {
            let Some((_, message)) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { continue };
            let from = self.nodes[from.index()].id;
            if self.nodes[to.index()].up {
                self.input(to.index(), |replica, now, _, out| replica.handle_message(now, from, message, out));
            }
        }
    }

    fn tell_log(&mut self) {
        let slot = self.rng.below(self.nodes.len() as u64) as usize;
        let node = &mut self.nodes[slot];
        if node.up && node.log_seen < self.log.len() {
            // Now and then a node gets a snapshot and skips what is between.
            node.log_seen = if self.rng.chance(200_000) { self.log.len() } else { node.log_seen + 1 };
            let entry = self.log[node.log_seen - 1].clone();
            self.input(slot, |replica, now, _, out| replica.handle_record(now, &entry.record, &entry.nodes, out));
        }
    }

    fn ring(&mut self) {
        for slot in 0..self.nodes.len() {
            let is_due = |node: &Node, now: Instant| node.up && node.replica.next_deadline() <= now + node.clock;
            // One turn polls as many keys that have run out as it has room to delete, some of which are being deleted.
            for turn in 0.. {
                if !is_due(&self.nodes[slot], self.now) {
                    break;
                }
                assert!(turn <= KEYS, "replica {slot} is woken without an end");
                self.input(slot, |replica, now, micros, out| replica.handle_timeout(now, micros, out));
            }
        }
    }

    fn key(&mut self) -> Key {
        format!("key-{}", self.rng.below(KEYS)).parse().expect("a key")
    }

    /// A write to whoever thinks that it serves: perhaps a primary that was deposed.
    fn write(&mut self) {
        let serving: Vec<_> = (0..self.nodes.len()).filter(|slot| self.nodes[*slot].replica.is_serving()).collect();
        let up: Vec<_> = serving.into_iter().filter(|slot| self.nodes[*slot].up).collect();
        if up.is_empty() {
            return;
        }
        let slot = up[self.rng.below(up.len() as u64) as usize];
        let (key, known) = (self.key(), self.floor.values().next().copied().unwrap_or_default());
        self.requests += 1;
        let request = RequestId(self.requests);
        let precondition = match self.rng.below(6) {
            0 => Precondition { if_match: Some(Match::Any), if_none_match: None },
            1 => Precondition { if_match: None, if_none_match: Some(Match::Versions(vec![known])) },
            _ => Precondition::NONE,
        };
        self.ttl_ms = (self.rng.below(6) == 0).then(|| self.rng.below(400));
        let operation = if self.rng.below(3) == 0 {
            Operation::Delete { key: key.clone(), precondition }
        } else {
            Operation::Put {
                key: key.clone(),
                value: Blob::from(vec![b'v'; self.rng.below(60) as usize]),
                content_type: None,
                ttl_ms: self.ttl_ms,
                mode: if self.rng.below(5) == 0 { PutMode::Create } else { PutMode::Upsert },
                precondition,
            }
        };
        self.open.insert(request, (self.nodes[slot].id, key));
        self.input(slot, |replica, now, micros, out| replica.handle_write(now, micros, request, operation, out));
    }

    /// A read by whoever may hold the lease: the primary of the newest record.
    fn read(&mut self) {
        let record = self.latest().record;
        let Some(primary) = record.primary else { return };
        let (key, node) = (self.key(), &self.nodes[primary.index()]);
        if !node.up || node.replica.epoch != record.epoch {
            return;
        }
        let Ok(value) = node.replica.read(self.now + node.clock, &key) else { return };
        self.reads += 1;
        let floor = self.floor.get(&key).copied().unwrap_or_default();
        let orders = self.ordered.iter().filter(|(_, effect)| effect.key() == Some(&key));
        match value {
            Some(value) => {
                assert!(value.version >= floor, "{key}: read {}, but {floor} was seen before", value.version);
                self.floor.insert(key.clone(), value.version);
                for slot in record.in_sync.iter().filter(|slot| self.nodes[slot.index()].up) {
                    let newest = self.newest(slot, &key);
                    assert!(
                        newest >= Some(value.version),
                        "{key}: {} is visible, {slot} has {newest:?}",
                        value.version
                    );
                }
            }
            None => {
                let may_be_gone = floor == Version::ZERO
                    || orders.clone().any(|((_, version), effect)| match effect {
                        Effect::Delete { .. } => *version >= floor,
                        Effect::Put { ttl_ms, .. } => *version >= floor && ttl_ms.is_some(),
                        Effect::EpochStart { .. } => false,
                    });
                assert!(may_be_gone, "{key}: version {floor} is gone without a delete");
            }
        }
    }

    fn break_link(&mut self) {
        let links: Vec<_> = self.links.keys().copied().collect();
        if !links.is_empty() {
            let pair = links[self.rng.below(links.len() as u64) as usize];
            self.links.insert(pair, VecDeque::new());
        }
    }

    /// A connection that breaks may leave a message that is sent again on the next one: late, behind newer ones.
    fn duplicate(&mut self) {
        let at = self.now + self.rng.duration(Duration::from_millis(60));
        let loaded: Vec<_> = self.links.iter().filter(|(_, link)| !link.is_empty()).map(|(pair, _)| *pair).collect();
        if !loaded.is_empty() {
            let pair = loaded[self.rng.below(loaded.len() as u64) as usize];
            if let Some(link) = self.links.get_mut(&pair) {
                let message = link[self.rng.below(link.len() as u64) as usize].1.clone();
                link.push_back((at, message));
            }
        }
    }

    fn live_in_sync(&self) -> SlotSet {
        self.latest().record.in_sync.iter().filter(|slot| self.nodes[slot.index()].up).collect()
    }

    /// The control log declares a node down: because it is, or wrongly.
    fn take_down(&mut self) {
        let record = self.latest().record;
        let members: Vec<_> = record.members().iter().collect();
        let slot = members[self.rng.below(members.len() as u64) as usize];
        self.declare_down(slot);
    }

    fn declare_down(&mut self, slot: Slot) {
        let rest = self.live_in_sync().without(slot);
        if rest.is_empty() {
            return;
        }
        let rest: Vec<_> = rest.iter().collect();
        let heir = rest[self.rng.below(rest.len() as u64) as usize];
        self.promotions += usize::from(self.latest().record.primary == Some(slot));
        self.change_record(|entry, next_epoch| {
            entry.record.in_sync.remove(slot);
            entry.record.learners.remove(slot);
            if entry.record.primary == Some(slot) {
                entry.record.primary = Some(heir);
                entry.record.epoch = next_epoch;
            }
        });
    }

    fn crash(&mut self) {
        let slot = Slot(self.rng.below(self.nodes.len() as u64) as u8);
        if self.live_in_sync().without(slot).is_empty() {
            return;
        }
        self.nodes[slot.index()].up = false;
        let id = self.nodes[slot.index()].id;
        self.open.retain(|_, (node, _)| *node != id);
        self.links.retain(|(_, to), _| *to != slot);
    }

    /// A process that crashed comes back under a new incarnation; the log forgets the old one first.
    fn restart(&mut self) {
        let down: Vec<_> = self.nodes.iter().filter(|node| !node.up).map(|node| node.id.slot).collect();
        for slot in down {
            if self.latest().record.members().contains(slot) {
                self.declare_down(slot);
            }
            let node = self.boot(slot);
            let id = node.id;
            self.links.retain(|(from, to), _| *from != slot && *to != slot);
            self.nodes[slot.index()] = node;
            self.change_record(|entry, _| entry.nodes[slot.index()] = Some(id));
        }
    }

    fn transfer(&mut self) {
        let heirs: Vec<_> = self.live_in_sync().iter().collect();
        let heir = heirs[self.rng.below(heirs.len() as u64) as usize];
        self.promotions += 1;
        self.change_record(|entry, next_epoch| {
            entry.record.primary = Some(heir);
            entry.record.epoch = next_epoch;
        });
    }

    fn add_learner(&mut self) {
        let members = self.latest().record.members();
        let outside = self.nodes.iter().filter(|node| node.up && !members.contains(node.id.slot));
        if let Some(slot) = outside.map(|node| node.id.slot).next() {
            self.change_record(|entry, _| entry.record.learners = entry.record.learners.with(slot));
        }
    }

    /// Judged when it is applied, against the record as it is then.
    fn apply_proposal(&mut self) {
        let Some(index) = self.proposals.iter().position(|(at, _)| *at <= self.now) else { return };
        let (_, change) = self.proposals.swap_remove(index);
        let Entry { record, nodes } = self.latest();
        let proposer = nodes[change.proposer.slot.index()] == Some(change.proposer);
        if proposer && record.epoch == change.epoch && record.change == change.change {
            assert_eq!(record.primary, Some(change.proposer.slot));
            assert!(change.add.is_subset(record.learners), "{:?} are not learners of {record:?}", change.add);
            self.admitted += 1;
            self.change_record(|entry, _| {
                entry.record.in_sync = entry.record.in_sync.union(change.add);
                entry.record.learners = entry.record.learners.difference(change.add);
            });
        }
    }

    /// The newest version of `key` that a replica holds, in its tail or its table.
    fn newest(&self, slot: Slot, key: &Key) -> Option<Version> {
        let replica = &self.nodes[slot.index()].replica;
        let stored = replica.table.read(key).map(Stored::version);
        let entries = replica.tail.range(replica.tail.base().seq..=replica.tail.last().seq);
        let ordered = entries.filter(|(_, entry)| entry.effect.key() == Some(key)).map(|(_, entry)| entry);
        stored.max(ordered.map(|entry| entry.effect.version()).max())
    }

    /// What must hold after every step.
    fn check(&mut self) {
        for node in self.nodes.iter().filter(|node| node.up) {
            let Position { epoch, seq } = node.replica.applied;
            let known = *self.applied.entry(seq).or_insert(epoch);
            assert_eq!(known, epoch, "{} applied {epoch}.{seq}, another {known}.{seq}", node.id);
        }
        // What clients know is in every live in-sync member: the version itself, a newer one, or nothing where it was
        // deleted or ran out.
        for slot in self.live_in_sync().iter() {
            for (key, floor) in &self.floor {
                let newest = self.newest(slot, key);
                if newest >= Some(*floor) {
                    continue;
                }
                let gone = self.ordered.iter().any(|((_, version), effect)| {
                    version >= floor && effect.key() == Some(key) && matches!(effect, Effect::Delete { .. })
                });
                assert!(gone && newest.is_none(), "{key}: {floor} was acked, {slot} has {newest:?}");
            }
        }
    }

    /// No more faults or writes: everything must settle, and nothing be left to do.
    fn heal(&mut self) {
        self.restart();
        for _ in 0..6_000 {
            self.step(false);
            if self.rng.below(50) == 0 && self.is_settled() {
                break;
            }
        }
        assert!(self.is_settled(), "it didn't settle: {}", self.describe());
        let record = self.latest().record;
        let (first, rest) = self.nodes.split_first().expect("there are nodes");
        for node in rest {
            let parts = |stored: &Stored| (stored.key(), stored.version(), stored.to_blob());
            let all = |node: &Node| node.replica.table.scan(&[], None).map(parts).collect::<Vec<_>>();
            let same = all(first) == all(node);
            assert!(same && first.replica.table.len() == node.replica.table.len(), "{}", self.describe());
        }
        for (request, (node, _)) in &self.open {
            assert!(!self.nodes[node.slot.index()].up, "{request} was never answered: {record:?}");
        }
        for slot in 0..self.nodes.len() {
            for number in 0..12 {
                let key = format!("key-{number}").parse().expect("a key");
                let read = self.nodes[slot].replica.read_stale(self.now + self.nodes[slot].clock, &key);
                assert!(read.is_ok(), "{slot} is in sync");
            }
        }
        for _ in 0..40 {
            self.read();
        }
    }

    fn is_settled(&self) -> bool {
        let record = self.latest().record;
        record.in_sync == SlotSet::first(self.nodes.len())
            && self.proposals.is_empty()
            && self.nodes.iter().all(|node| {
                let tail = &node.replica.tail;
                node.up
                    && node.log_seen == self.log.len()
                    && node.replica.applied == tail.last()
                    && tail.len() == 0
                    && node.replica.next_deadline() == Instant::FAR
            })
            && self.nodes.iter().all(|node| node.replica.applied == self.nodes[0].replica.applied)
    }

    fn describe(&self) -> String {
        let mut lines = format!("{:?}\n", self.latest().record);
        for node in &self.nodes {
            lines += &format!("{} up {} {:?}\n  {:?}\n", node.id, node.up, node.replica.status(), node.replica);
        }
        lines
    }
}

fn run(seed: u64, steps: usize) -> World {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step(true);
    }
    world.heal();
    world
}

fn run_all(seeds: std::ops::Range<u64>) -> [usize; 4] {
    let mut sums = [0; 4];
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed, 2_000));
        let world = result.unwrap_or_else(|_| panic!("seed {seed} failed"));
        for (sum, count) in sums.iter_mut().zip([world.acked, world.reads, world.promotions, world.admitted]) {
            *sum += count;
        }
    }
    sums
}

#[test]
fn clusters_of_many_seeds_keep_their_promises_and_converge() {
    let [acked, reads, promotions, admitted] = run_all(0..200);
    let happens = acked > 10_000 && reads > 10_000 && promotions > 1_000 && admitted > 500;
    assert!(happens, "too little: {acked} acked, {reads} reads, {promotions} promotions, {admitted} admitted");
}

#[test]
#[ignore = "a minute long: for changes of the protocol"]
fn clusters_of_many_more_seeds_keep_their_promises_and_converge() {
    run_all(1_000..6_000);
}
