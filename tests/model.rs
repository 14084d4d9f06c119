//! Everything that can happen to one small partition: sections C.3 to C.6 of the protocol, explored to their end.
//!
//! The simulator draws runs by chance; this takes every one of them, within a bound. Three nodes run the shipped machines, a
//! [`Replica`] each and one [`ControlState`] that all of them learn of entry by entry, each as late as it likes. From a
//! settled partition on there are two writes, at whoever serves at that moment, and as many deaths, wishes to evict a member
//! and changes of the in-sync set as the bound allows. At each step any of these may happen:
//!
//! | step | what it is |
//! |---|---|
//! | deliver | any message under way arrives: before others that were sent earlier, or never |
//! | tell | a node learns of the next entry of the control log, or of a later one and skips those between |
//! | write | a client's write begins at a node that serves, whether or not it is primary any more |
//! | down | a member is declared down. It may be alive and go on: a dead one is one that does nothing from then on |
//! | mute | the primary takes a member for mute and wishes it to leave |
//! | change | a wish for another in-sync set is judged by the control log, when it comes or late |
//! | ring | a node's clock has gone on by a second, and it does what is due (in the larger bound) |
//!
//! The search is breadth first, so what it finds first is shortest. Two states are the same where all that the machines hold
//! and all that is under way has the same `Debug` form, by a hash of 128 bits. No state is left out, and none is simplified.
//!
//! Left out: leases (reads are those of whoever leads by the newest record), restarts, expiry, comparing copies.
//!
//! `JUMPGATE_MODEL_BOUND=large cargo test --release --test model -- --nocapture` explores more, for a quarter of an hour.

use std::collections::{HashSet, VecDeque};
use std::fmt::{self, Debug, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant as WallClock};

use jumpgate::api::{Key, Operation, Precondition, PutMode, Response};
use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::base::{
    Blob, InSyncChange, Incarnation, Instant, LogIndex, NodeId, PartitionId, PartitionRecord, RequestId, Slot, SlotSet,
    Version,
};
use jumpgate::control::{Command, ControlState, Settings};
use jumpgate::replica::{Message, Output, Replica, ReplicaOptions};
use xxhash_rust::xxh3::Xxh3;

const NODES: usize = 3;
const PARTITION: PartitionId = PartitionId(0);

/// What is explored.
#[derive(Clone, Copy, Debug)]
struct Bound {
    replicas: u8,
    min_copies: u8,
    writes: u8,
    deaths: u8,
    mutes: u8,
    changes: u8,
    rings: u8,
}

const NOTHING: Bound = Bound { replicas: 2, min_copies: 2, writes: 0, deaths: 0, mutes: 0, changes: 0, rings: 0 };
/// Two copies of three nodes, both of which a write needs: after a death a learner counts, is filled, and is let in.
const TWO_COPIES: Bound = Bound { writes: 2, deaths: 1, changes: 1, ..NOTHING };
/// The same where a member is evicted first: learners come and go while the primary hears only of some records.
const EVICTED: Bound = Bound { writes: 1, deaths: 1, mutes: 1, changes: 2, ..NOTHING };
/// Three copies, of which one may be left. A primary dies and others have what it ordered, or have it in part.
const THREE_COPIES: Bound = Bound { replicas: 3, min_copies: 1, writes: 2, deaths: 1, ..NOTHING };
/// The same where one is evicted, filled anew, and comes back.
const COMING_BACK: Bound = Bound { replicas: 3, min_copies: 1, writes: 1, mutes: 1, changes: 2, ..NOTHING };

/// A hash of a `Debug` form, without the text.
fn print_of(value: &impl Debug) -> u128 {
    struct Sink(Xxh3);
    impl fmt::Write for Sink {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(Xxh3::new());
    write!(sink, "{value:?}").expect("a hash takes everything");
    sink.0.digest128()
}

/// Something that doesn't change, with its hash.
#[derive(Clone)]
struct Known<T>(Arc<T>, u128);

impl<T: Debug> Debug for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Debug> Known<T> {
    fn of(value: T) -> Self {
        let print = print_of(&value);
        Self(Arc::new(value), print)
    }
}

#[derive(Clone)]
struct Node {
    replica: Known<Replica>,
    /// Entries of the control log that it has learned of.
    seen: usize,
    now: Instant,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Node>,
    log: Vec<Known<ControlState>>,
    /// What is under way to each node, from whom; in no order.
    letters: Vec<(Slot, Slot, Known<Message>)>,
    wishes: Vec<InSyncChange>,
    /// Acknowledged writes, by their versions.
    acked: Vec<Version>,
    /// The highest version that had been acknowledged when each write began.
    begun: Vec<Version>,
    left: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver(usize),
    Tell(usize, usize),
    Write(usize),
    Down(Slot),
    Mute(usize, Slot),
    Change(usize),
    Ring(usize),
}

fn key() -> Key {
    "k".parse().expect("a key")
}

fn node_id(slot: usize) -> NodeId {
    NodeId::new(Slot(slot as u8), Incarnation(slot as u128 + 1))
}

impl State {
    /// A founded cluster whose partition serves.
    fn settled(bound: Bound) -> Self {
        let mut control = ControlState::default();
        let settings = Settings { partitions: 1, replicas: bound.replicas, min_copies: bound.min_copies };
        let founders = (0..NODES).map(node_id).collect();
        control.apply(LogIndex(1), &Command::Found { settings, slots: SlotSet::first(NODES), founders });
        let nodes = (0..NODES).map(|slot| {
            let options = ReplicaOptions { min_copies: bound.min_copies, ..ReplicaOptions::new(node_id(slot)) };
            let replica = Known::of(Replica::new(PARTITION, &Arc::new(options)));
            Node { replica, seen: 0, now: Instant(1_000_000_000) }
        });
        let (nodes, log) = (nodes.collect(), vec![Known::of(control)]);
        let (letters, wishes, acked, begun) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut state = Self { nodes, log, letters, wishes, acked, begun, left: bound };
        let quiet =
            |state: &Self| state.steps().into_iter().find(|step| matches!(step, Step::Deliver(_) | Step::Tell(..)));
        while let Some(step) = quiet(&state) {
            state = state.after(step).expect("nothing goes wrong in peace");
        }
        assert!(state.nodes.iter().any(|node| node.replica.0.is_serving()));
        state
    }

    fn record(&self) -> PartitionRecord {
        self.log.last().expect("the cluster was founded").0.table()[0]
    }

    fn print(&self) -> u128 {
        let mut hash = Xxh3::new();
        let mut add = |print: u128| hash.update(&print.to_le_bytes());
        for Node { replica, seen, now } in &self.nodes {
            [replica.1, *seen as u128, u128::from(now.0)].into_iter().for_each(&mut add);
        }
        self.log.iter().for_each(|entry| add(entry.1));
        let mut letters: Vec<u128> = self
            .letters
            .iter()
            .map(|(from, to, letter)| letter.1.wrapping_add(u128::from(from.0) << 64 | u128::from(to.0) << 72))
            .collect();
        letters.sort_unstable();
        letters.into_iter().for_each(&mut add);
        add(print_of(&(&self.wishes, &self.acked, &self.begun, self.left)));
        hash.digest128()
    }

    /// Everything that may happen next.
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.letters.len()).map(Step::Deliver).collect();
        let (record, left) = (self.record(), self.left);
        for (slot, node) in self.nodes.iter().enumerate() {
            steps.extend((node.seen + 1..=self.log.len()).map(|entry| Step::Tell(slot, entry)));
            let replica = &node.replica.0;
            if left.writes > 0 && replica.is_serving() {
                steps.push(Step::Write(slot));
            }
            if left.mutes > 0 && replica.is_in_office() {
                let others = replica.record().in_sync.without(Slot(slot as u8));
                steps.extend(others.iter().map(|other| Step::Mute(slot, other)));
            }
            if left.rings > 0 && replica.next_deadline() != Instant::FAR {
                steps.push(Step::Ring(slot));
            }
        }
        if left.deaths > 0 {
            steps.extend(record.members().iter().map(Step::Down));
        }
        if left.changes > 0 {
            steps.extend((0..self.wishes.len()).map(Step::Change));
        }
        steps
    }

    /// The state after a step; what is wrong with it, or in it, otherwise.
    fn after(&self, step: Step) -> Result<Self, String> {
        let mut next = self.clone();
        match step {
            Step::Deliver(nth) => {
                let (from, to, letter) = next.letters.swap_remove(nth);
                let message = letter.0.as_ref().clone();
                next.input(to.index(), |replica, now, out| {
                    replica.handle_message(now, node_id(from.index()), message, out);
                })?;
            }
            Step::Tell(slot, entry) => {
                next.nodes[slot].seen = entry;
                let control = Arc::clone(&next.log[entry - 1].0);
                let nodes: Vec<_> = control.nodes().iter().map(|entry| entry.node).collect();
                next.input(slot, |replica, now, out| replica.handle_record(now, &control.table()[0], &nodes, out))?;
            }
            Step::Write(slot) => {
                next.left.writes -= 1;
                let number = next.begun.len() as u64;
                next.begun.push(next.acked.iter().copied().max().unwrap_or_default());
                let (mode, precondition) = (PutMode::Upsert, Precondition::NONE);
                let value = Blob::from(format!("write {number}").into_bytes());
                let put = Operation::Put { key: key(), value, content_type: None, ttl_ms: None, mode, precondition };
                next.input(slot, |replica, now, out| replica.handle_write(now, 1, RequestId(number), put, out))?;
            }
            Step::Down(slot) => {
                next.left.deaths -= 1;
                let witnesses = SlotSet::first(NODES).without(slot);
                next.decide(&Command::NodeDown { node: node_id(slot.index()), witnesses });
            }
            Step::Mute(slot, other) => {
                next.left.mutes -= 1;
                next.input(slot, |replica, now, out| replica.handle_mute(now, SlotSet::EMPTY.with(other), out))?;
            }
            Step::Change(nth) => {
                let wish = next.wishes.remove(nth);
                if next.decide(&Command::ChangeInSync(vec![wish])) {
                    next.left.changes -= 1;
                }
            }
            Step::Ring(slot) => {
                next.left.rings -= 1;
                next.nodes[slot].now = next.nodes[slot].now + Duration::from_secs(1);
                next.input(slot, |replica, now, out| replica.handle_timeout(now, 1, out))?;
            }
        }
        next.check()?;
        Ok(next)
    }

    /// One more entry of the control log, if it changes anything.
    fn decide(&mut self, command: &Command) -> bool {
        let mut control = self.log.last().expect("the cluster was founded").0.as_ref().clone();
        let changes = control.apply(LogIndex(self.log.len() as u64 + 1), command);
        if changes {
            self.log.push(Known::of(control));
        }
        changes
    }

    fn input(&mut self, slot: usize, act: impl FnOnce(&mut Replica, Instant, &mut Vec<Output>)) -> Result<(), String> {
        let (mut out, mut replica) = (Vec::new(), self.nodes[slot].replica.0.as_ref().clone());
        act(&mut replica, self.nodes[slot].now, &mut out);
        replica.check_invariants();
        self.nodes[slot].replica = Known::of(replica);
        for output in out {
            match output {
                Output::Send { to, message } => self.letters.push((Slot(slot as u8), to.slot, Known::of(message))),
                Output::Propose(wish) if !self.wishes.contains(&wish) => self.wishes.push(wish),
                Output::Reply { request, result: Ok(Response::Written { version, copies, .. }) } => {
                    self.on_acknowledged(slot, self.begun[request.0 as usize], version, copies)?;
                }
                Output::Propose(_) | Output::Reply { .. } => {}
                Output::Verified | Output::Damage(_) => unreachable!("nobody compares"),
            }
        }
        Ok(())
    }

    fn on_acknowledged(&mut self, slot: usize, begun: Version, version: Version, copies: u8) -> Result<(), String> {
        if self.acked.contains(&version) || version <= begun {
            return Err(format!("version {version} was given after {begun}, and {:?}", self.acked));
        }
        self.acked.push(version);
        if copies < self.left.min_copies {
            return Err(format!("version {version} was acknowledged with {copies} copies"));
        }
        // By an older record than the newest one a copy may count that is gone since.
        let (known, newest) = (*self.nodes[slot].replica.0.record(), self.record());
        let needed = if known == newest { known.in_sync.union(known.counting) } else { SlotSet::EMPTY };
        match needed.iter().find(|slot| self.newest(slot.index()) < version) {
            Some(slot) => Err(format!("version {version} was acknowledged, and {slot}, which counts, lacks it")),
            None => Ok(()),
        }
    }

    /// The newest version of the key that a node holds, committed or not.
    fn newest(&self, slot: usize) -> Version {
        let Node { replica, now, .. } = &self.nodes[slot];
        let stored = replica.0.scan(*now, b"", None).map(|stored| stored.version()).max();
        let uncommitted = replica.0.uncommitted_records(*now);
        let uncommitted = uncommitted.into_values().flatten().map(|stored| stored.version()).max();
        stored.max(uncommitted).unwrap_or_default()
    }

    /// What must always hold.
    fn check(&self) -> Result<(), String> {
        let (record, acked) = (self.record(), self.acked.iter().copied().max().unwrap_or_default());
        for slot in record.in_sync.iter() {
            let newest = self.newest(slot.index());
            if newest < acked {
                return Err(format!("{acked} was acknowledged, and {slot}, which is in sync, has {newest}"));
            }
            let member = &self.nodes[slot.index()].replica.0;
            for (other, node) in self.nodes.iter().enumerate() {
                let applied = node.replica.0.status().applied;
                if !member.holds(applied) {
                    return Err(format!("{applied} is committed at n{other}, and {slot}, which is in sync, lacks it"));
                }
            }
        }
        let Some(primary) = record.primary else { return Ok(()) };
        let Node { replica, now, .. } = &self.nodes[primary.index()];
        if replica.0.status().epoch == record.epoch
            && let Ok(value) = replica.0.read(*now, &key())
        {
            let read = value.map_or(Version::ZERO, |value| value.version);
            if read < acked {
                return Err(format!("{primary} reads {read}, and {acked} was acknowledged"));
            }
        }
        Ok(())
    }
}

/// What a search has come to.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    steps: usize,
    depth: usize,
    /// States in which all writes were acknowledged, another one served, a learner had been let in.
    all_acked: usize,
    promoted: usize,
    admitted: usize,
    /// The first thing that went wrong, and how it came about.
    wrong: Option<(String, Vec<Step>)>,
}

/// Explores every state that can be reached, or until something is wrong.
fn explore(first: State) -> Explored {
    let bound = first.left;
    let (epoch, mut explored) = (first.record().epoch, Explored::default());
    let mut known = HashSet::from([first.print()]);
    // How each state was reached: from which, by what.
    let mut ways: Vec<(usize, Step)> = vec![(0, Step::Ring(0))];
    let mut queue = VecDeque::from([(first, 0, 0)]);
    while let Some((state, place, depth)) = queue.pop_front() {
        explored.states += 1;
        explored.depth = depth;
        let (is_acked, record) = (state.acked.len() == usize::from(bound.writes), state.record());
        let is_promoted = record.epoch != epoch
            && record.primary.is_some_and(|slot| {
                let replica = &state.nodes[slot.index()].replica.0;
                replica.is_serving() && replica.status().epoch == record.epoch
            });
        explored.all_acked += usize::from(is_acked);
        explored.promoted += usize::from(is_promoted);
        explored.admitted += usize::from(state.left.changes < bound.changes && record.learners.is_empty());
        for step in state.steps() {
            explored.steps += 1;
            let next = catch_unwind(AssertUnwindSafe(|| state.after(step)));
            let next = next.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                Err(format!("an assertion: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()))
            });
            let next = match next {
                Ok(next) => next,
                Err(wrong) => {
                    let mut steps = vec![step];
                    let mut at = place;
                    while at != 0 {
                        steps.push(ways[at].1);
                        at = ways[at].0;
                    }
                    steps.reverse();
                    explored.wrong = Some((wrong, steps));
                    return explored;
                }
            };
            if known.insert(next.print()) {
                ways.push((place, step));
                queue.push_back((next, ways.len() - 1, depth + 1));
            }
        }
    }
    explored
}

/// What each of these steps led to.
fn story(bound: Bound, steps: &[Step]) -> String {
    let mut state = State::settled(bound);
    let mut story = String::new();
    for step in steps {
        let what = match *step {
            Step::Deliver(nth) => format!("{:?}", state.letters[nth]),
            Step::Change(nth) => format!("{:?}", state.wishes[nth]),
            _ => String::new(),
        };
        let next = catch_unwind(AssertUnwindSafe(|| state.after(*step)));
        let _ = writeln!(story, "{step:?} {what}");
        let Ok(Ok(next)) = next else { break };
        state = next;
        let _ = writeln!(story, "    {:?}", state.record());
        for node in &state.nodes {
            let _ = writeln!(story, "    {:?}", node.replica.0.status());
        }
    }
    story
}

/// Explores all of it, and expects nothing wrong; and that what matters happened.
fn report(name: &str, bound: Bound) {
    let begin = WallClock::now();
    let explored = explore(State::settled(bound));
    let Explored { states, steps, depth, all_acked, promoted, admitted, .. } = explored;
    eprintln!(
        "{name}: {states} states by {steps} steps, {depth} deep, in {:.1?}; all acknowledged in {all_acked}, another primary \
         in {promoted}, a learner let in in {admitted}",
        begin.elapsed()
    );
    if let Some((wrong, steps)) = &explored.wrong {
        panic!("{name}: {}\n{wrong}", story(bound, steps));
    }
    assert!(all_acked > 0, "no write was ever acknowledged");
    assert!(bound.deaths == 0 || promoted > 0, "nobody was ever promoted");
    assert!(bound.changes == 0 || admitted > 0, "no learner was ever let in");
}

#[test]
fn two_copies_and_a_learner_that_counts() {
    report("two copies", TWO_COPIES);
}

#[test]
fn three_copies_and_a_primary_that_dies() {
    report("three copies", THREE_COPIES);
}

#[test]
fn a_member_that_is_evicted_and_comes_back() {
    report("coming back", COMING_BACK);
}

#[test]
fn more_where_there_is_time() {
    if std::env::var("JUMPGATE_MODEL_BOUND").as_deref() != Ok("large") {
        return;
    }
    report("two copies, one evicted", EVICTED);
    report("two copies, two deaths", Bound { deaths: 2, changes: 2, ..TWO_COPIES });
    report("three copies, one evicted", Bound { deaths: 1, changes: 1, ..COMING_BACK });
    report("two copies, with clocks", Bound { rings: 1, ..TWO_COPIES });
}

/// Rules whose breaking is found, each by the smallest of these bounds that finds it.
const BROKEN: [(Mutant, Bound); 9] = [
    (Mutant::AckBeforeCopies, TWO_COPIES),
    (Mutant::CountingDontAck, TWO_COPIES),
    (Mutant::ProposeBeforeScanned, TWO_COPIES),
    (Mutant::VersionByClock, TWO_COPIES),
    (Mutant::ServeBeforeStart, THREE_COPIES),
    (Mutant::MatchByNumber, THREE_COPIES),
    (Mutant::PrepareWithoutMatch, THREE_COPIES),
    (Mutant::ProposedDontCount, COMING_BACK),
    (Mutant::EvictedDontCount, COMING_BACK),
];

#[test]
fn broken_rules_are_found() {
    let mut missed: Vec<Mutant> = Vec::new();
    for (mutant, bound) in BROKEN {
        let settled = State::settled(bound);
        let explored = with_broken(mutant, || explore(settled));
        let Some((wrong, steps)) = explored.wrong else {
            missed.push(mutant);
            continue;
        };
        eprintln!("{mutant:?}: {wrong}; {} steps, after {} states", steps.len(), explored.states);
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
