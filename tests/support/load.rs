//! Clients that write and read while something is done to the cluster, and remember everything that must hold.
//!
//! Keys are sorted into classes by their owners, the target primary and its first backup: what happens to one node
//! happens to certain classes. Each writer has keys of one class, and counts them up one after the other; it stays with
//! a key until that is acknowledged. (Or by partition, [`Grouping::Partitions`], where each one is looked at alone.) Readers read whatever there is. Each checks what it gets against the [`History`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jumpgate::base::{PartitionId, Rng, SlotSet};
use jumpgate::placement;

use super::history::{Entry, History, Outcome};
use super::http::Http;
use super::statistics::{Distribution, GAP_MIN, GAP_MIN_OF_ONE, Gaps, Standstills};

/// Keys of one writer.
const KEYS_PER_WRITER: usize = 8;
/// Readers prefer the newest keys, so that those of earlier trials don't take all reads.
const RECENT_KEYS: usize = 200;
/// Latencies that are kept of all writers; later ones are left out.
const LATENCIES_MAX: usize = 8 << 20;
/// So many a writer hands over at once.
const LATENCIES_PER_HANDOVER: usize = 16;

/// What makes a class of keys.
#[derive(Clone, Copy, Debug, Default)]
pub enum Grouping {
    /// Their owners.
    #[default]
    Owners,
    /// Their partition; there are keys of so many, spread over all.
    Partitions(u16),
}

/// What the load is like.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The gateways' ports, by node.
    pub ports: Vec<u16>,
    /// A node whose gateway no client uses.
    pub avoided: Option<usize>,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Copies of each value.
    pub replicas: u8,
    /// How keys are sorted.
    pub grouping: Grouping,
    /// Writers of each class. Each starts at another node.
    pub writers_per_class: usize,
    /// Readers in all. Each starts at another node.
    pub readers: usize,
    /// Whether clients stay at their node, whatever it answers.
    pub pinned: bool,
    /// How long a client rests after each request.
    pub pause: Duration,
    /// Every request's `timeout`.
    pub deadline: Duration,
    /// Different for each load on one cluster.
    pub name: String,
}

/// What is known of one class of keys.
struct Class {
    /// "n1+n2": the target primary and its first backup.
    name: String,
    gaps: Mutex<Gaps>,
}

struct Shared {
    options: LoadOptions,
    history: Arc<History>,
    classes: Vec<Class>,
    latencies: Mutex<Vec<Duration>>,
    standstills: Mutex<Standstills>,
    longest: Mutex<Longest>,
    /// Writes that were refused for good, and sent again; and those of which nobody knows.
    refused: AtomicU64,
    unknown: AtomicU64,
    stop: AtomicBool,
}

/// The request that took longest, however it ended.
#[derive(Clone, Debug, Default)]
pub struct Longest {
    /// Without the time in which its gateway's process was stopped.
    pub took: Duration,
    /// The same, in units of its deadline.
    pub deadlines: f64,
    /// Which one it was.
    pub what: String,
}

/// Clients at work. They end when this value goes.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(options: LoadOptions, history: &Arc<History>) -> Self {
        let (names, gap_min) = match options.grouping {
            Grouping::Owners => (classes(options.ports.len(), options.replicas, options.partitions), GAP_MIN),
            Grouping::Partitions(count) => (partitions(count, options.partitions), GAP_MIN_OF_ONE),
        };
        let class = |name: &String| {
            let gaps = Mutex::new(Gaps::new(Instant::now(), gap_min));
            Class { name: name.clone(), gaps }
        };
        let shared = Arc::new(Shared {
            history: Arc::clone(history),
            classes: names.iter().map(class).collect(),
            latencies: Mutex::default(),
            standstills: Mutex::default(),
            longest: Mutex::default(),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            options,
        });
        let mut threads = Vec::new();
        for nth in 0..names.len() * shared.options.writers_per_class {
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || shared.keep_writing(nth)));
        }
        for nth in 0..shared.options.readers {
            let shared = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || shared.keep_reading(nth)));
        }
        Self { shared, threads }
    }

    /// Stops all clients, and waits for what they have under way.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.history.complain("a client broke down".to_owned());
            }
        }
    }

    /// The class that went longest without an acknowledged write between `from` and `to`, and for how long.
    pub fn worst_gap(&self, from: Instant, to: Instant) -> (Duration, &str) {
        let gaps = self.shared.classes.iter().map(|class| (lock(&class.gaps).longest(from, to), class.name.as_str()));
        gaps.max_by_key(|(gap, _)| *gap).unwrap_or_default()
    }

    /// For how long each class went without an acknowledged write between `from` and `to`, at the longest.
    pub fn gaps(&self, from: Instant, to: Instant) -> Vec<Duration> {
        self.shared.classes.iter().map(|class| lock(&class.gaps).longest(from, to)).collect()
    }

    /// The classes that went longer than `least` without an acknowledged write between `from` and `to`, and how long after
    /// `from` that began.
    pub fn late(&self, from: Instant, to: Instant, least: Duration) -> Vec<String> {
        let late = self.shared.classes.iter().filter_map(|class| {
            let gaps = lock(&class.gaps);
            let (longest, since) = (gaps.longest(from, to), gaps.longest_since(from, to)?);
            let after = since.saturating_duration_since(from).as_millis();
            (longest > least).then(|| format!("{} for {} ms after {after} ms", class.name, longest.as_millis()))
        });
        late.collect()
    }

    /// How many writes were refused, and sent again; and of how many nobody knows whether they happened.
    pub fn failures(&self) -> (u64, u64) {
        (self.shared.refused.load(Ordering::Relaxed), self.shared.unknown.load(Ordering::Relaxed))
    }

    /// Whether every class had a write acknowledged since `from`.
    pub fn all_written_since(&self, from: Instant) -> bool {
        self.shared.classes.iter().all(|class| lock(&class.gaps).last() > from)
    }

    /// How long the writes took that were acknowledged since the last call, but for a few that come with the next one.
    pub fn take_latencies(&self) -> Distribution {
        Distribution::of(std::mem::take(&mut *lock(&self.shared.latencies)))
    }

    /// How long acknowledged writes took; complete once the load has been stopped.
    pub fn latencies(&self) -> Distribution {
        Distribution::of(lock(&self.shared.latencies).clone())
    }

    /// The request that took longest so far; complete once the load has been stopped.
    pub fn longest(&self) -> Longest {
        lock(&self.shared.longest).clone()
    }

    /// Says that `node`'s process is about to be stopped, or goes on again: what its clients wait for meanwhile isn't
    /// charged to it.
    pub fn note_standstill(&self, node: usize, is_stopped: bool) {
        let (mut standstills, now) = (lock(&self.shared.standstills), Instant::now());
        if is_stopped { standstills.begin(node, now) } else { standstills.end(node, now) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The node that the `nth` try goes to.
    fn node(&self, nth: usize) -> usize {
        let count = self.options.ports.len();
        let node = nth % count;
        if self.options.avoided == Some(node) { (node + 1) % count } else { node }
    }

    fn note_length(&self, what: &str, node: usize, began: Instant) {
        let took = lock(&self.standstills).net(node, began, Instant::now());
        let mut longest = lock(&self.longest);
        if took > longest.took {
            let deadlines = took.as_secs_f64() / self.options.deadline.as_secs_f64();
            *longest = Longest { took, deadlines, what: format!("{what} at n{}", node + 1) };
        }
    }

    fn clients(&self) -> Vec<Http> {
        self.options.ports.iter().map(|port| Http::new(*port)).collect()
    }

    fn keep_writing(&self, nth: usize) {
        let (class, mut node) = (&self.classes[nth % self.classes.len()], nth / self.classes.len() + nth);
        let mut clients = self.clients();
        let mut names = KeyNames::new(&self.options, &class.name, &format!("{}/w{nth}", self.options.name));
        let mut entries: Vec<Arc<Entry>> =
            (0..KEYS_PER_WRITER).filter_map(|_| Some(self.history.open(names.next()?))).collect();
        let (mut latencies, mut turn) = (Vec::new(), 0);
        while !self.is_stopped() && !entries.is_empty() {
            let place = turn % entries.len();
            let Some(number) = self.history.begin_write(&entries[place]) else {
                // Nobody knows what is there. Its writer goes on with another key of its class.
                let Some(name) = names.next() else { break };
                entries[place] = self.history.open(name);
                continue;
            };
            let (began, at) = (Instant::now(), self.node(node));
            let outcome = write(&mut clients[at], &entries[place].key, number, self.options.deadline);
            let ended = Instant::now();
            self.note_length("a write", at, began);
            self.history.end_write(&entries[place], outcome);
            match outcome {
                Outcome::Acknowledged { .. } => {}
                Outcome::Refused => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Unknown => {
                    self.unknown.fetch_add(1, Ordering::Relaxed);
                }
            }
            if let Outcome::Acknowledged { .. } = outcome {
                lock(&class.gaps).note(ended);
                latencies.push(ended - began);
                if latencies.len() == LATENCIES_PER_HANDOVER {
                    self.keep_latencies(&mut latencies);
                }
                turn += 1;
            } else if !self.options.pinned {
                node += 1;
            }
            self.rest(outcome == Outcome::Refused);
        }
        self.keep_latencies(&mut latencies);
    }

    fn keep_latencies(&self, latencies: &mut Vec<Duration>) {
        let mut all = lock(&self.latencies);
        latencies.truncate(LATENCIES_MAX.saturating_sub(all.len()));
        all.append(latencies);
    }

    fn keep_reading(&self, nth: usize) {
        let (mut clients, mut node, mut rng) = (self.clients(), nth, Rng::new(nth as u64));
        while !self.is_stopped() {
            let keys = self.history.len();
            let recent = keys.saturating_sub(RECENT_KEYS);
            let first = if rng.chance(900_000) { recent } else { 0 };
            let drawn = (keys > 0).then(|| first + rng.below((keys - first) as u64) as usize);
            let Some(entry) = drawn.and_then(|drawn| self.history.entry(drawn)) else {
                self.rest(true);
                continue;
            };
            let floor = self.history.begin_read(&entry);
            let (began, at) = (Instant::now(), self.node(node));
            let found = read(&mut clients[at], &entry.key, self.options.deadline);
            self.note_length("a read", at, began);
            self.history.end_read(&entry, floor, found);
            if found.is_none() && !self.options.pinned {
                node += 1;
            }
            self.rest(found.is_none());
        }
    }

    /// What is refused at once would otherwise be asked again at once.
    fn rest(&self, was_refused: bool) {
        let least = if was_refused { Duration::from_millis(5) } else { Duration::ZERO };
        let pause = self.options.pause.max(least);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// Writes `number`; how that ended.
pub fn write(client: &mut Http, key: &str, number: u64, deadline: Duration) -> Outcome {
    let head = format!("PUT /v1/kv/{key}?timeout={}ms", deadline.as_millis());
    match client.ask(&head, number.to_string().as_bytes()) {
        Ok(answer) if matches!(answer.status, 201 | 204) => Outcome::Acknowledged { version: answer.version() },
        Ok(answer) if answer.is_for_a_moment() && is_definite(&answer.body) => Outcome::Refused,
        Ok(_) => Outcome::Unknown,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    }
}

fn is_definite(body: &[u8]) -> bool {
    let problem: Result<serde_json::Value, _> = serde_json::from_slice(body);
    problem.is_ok_and(|problem| problem["outcome"] == "definite")
}

/// The number that is stored, 0 where there is no such key; none where the read failed.
pub fn read(client: &mut Http, key: &str, deadline: Duration) -> Option<u64> {
    let answer = client.ask(&format!("GET /v1/kv/{key}?timeout={}ms", deadline.as_millis()), b"").ok()?;
    match answer.status {
        // Said to be perhaps stale, by a node without a quorum: no read that promises anything.
        _ if answer.header("jumpgate-degraded") == "true" => None,
        200 => Some(std::str::from_utf8(&answer.body).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)),
        404 => Some(0),
        _ => None,
    }
}

// ---- keys and their classes ------------------------------------------------------------------------------------

/// Names of keys of one class, each a new one.
struct KeyNames {
    class: String,
    prefix: String,
    next: usize,
    grouping: Grouping,
    nodes: usize,
    replicas: u8,
    partitions: u16,
}

impl KeyNames {
    fn new(options: &LoadOptions, class: &str, prefix: &str) -> Self {
        Self {
            class: class.to_owned(),
            prefix: prefix.to_owned(),
            next: 0,
            grouping: options.grouping,
            nodes: options.ports.len(),
            replicas: options.replicas,
            partitions: options.partitions,
        }
    }
}

impl Iterator for KeyNames {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let name = format!("{}/{}", self.prefix, self.next);
            self.next += 1;
            let partition = placement::partition_of(name.as_bytes(), self.partitions);
            let is_meant = match self.grouping {
                Grouping::Owners => class_of(partition, self.nodes, self.replicas) == self.class,
                Grouping::Partitions(_) => {
                    self.class.strip_prefix('p').is_some_and(|nth| nth == partition.0.to_string())
                }
            };
            if is_meant {
                return Some(name);
            }
        }
    }
}

/// The target primary and the first backup of a partition, by name.
fn class_of(partition: PartitionId, nodes: usize, replicas: u8) -> String {
    let owners = placement::owners(partition, SlotSet::first(nodes), replicas);
    let names: Vec<String> = owners.iter().take(2).map(|slot| format!("n{}", slot.index() + 1)).collect();
    names.join("+")
}

/// All classes that a cluster has.
fn classes(nodes: usize, replicas: u8, partitions: u16) -> Vec<String> {
    let all = (0..partitions).map(|partition| class_of(PartitionId(partition), nodes, replicas));
    all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// So many partitions, spread evenly.
fn partitions(count: u16, of: u16) -> Vec<String> {
    let count = u32::from(count.min(of));
    (0..count).map(|nth| format!("p{}", nth * u32::from(of) / count)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_nodes_with_two_copies_have_six_classes_and_names_are_of_theirs() {
        let all = classes(3, 2, 256);
        assert_eq!(all, ["n1+n2", "n1+n3", "n2+n1", "n2+n3", "n3+n1", "n3+n2"]);
        let options = LoadOptions {
            ports: vec![1, 2, 3],
            avoided: None,
            partitions: 256,
            replicas: 2,
            grouping: Grouping::Owners,
            writers_per_class: 1,
            readers: 0,
            pinned: false,
            pause: Duration::ZERO,
            deadline: Duration::ZERO,
            name: String::new(),
        };
        for class in all {
            let names: Vec<String> = KeyNames::new(&options, &class, "w").take(20).collect();
            for name in &names {
                assert_eq!(class_of(placement::partition_of(name.as_bytes(), 256), 3, 2), class);
            }
            let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
            assert_eq!(distinct.len(), names.len());
        }
        let options = LoadOptions { grouping: Grouping::Partitions(4), ..options };
        let all = partitions(4, 256);
        assert_eq!(all, ["p0", "p64", "p128", "p192"]);
        for name in KeyNames::new(&options, "p64", "w").take(3) {
            assert_eq!(placement::partition_of(name.as_bytes(), 256), PartitionId(64));
        }
    }
}
