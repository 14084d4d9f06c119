//! As many nodes die at once as there are backups, and then one more: row 11 of the reliability table.
//!
//! Of five nodes with three copies two may die: nothing is lost, and everything can be read. With three of them the only
//! copies of some partitions are gone, and the majority too. What is gone has to be said by name from then on, whoever is
//! asked: by the survivors without a quorum, by blank nodes that are back under the names of the dead, and by what is left
//! after a recovery by force. An empty answer (`404`), or a write that begins such a key anew, would hide the loss.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::base::{PartitionId, Slot, SlotSet};
use jumpgate::config::TimingConfig;
use jumpgate::placement;

use super::history::{Entry, History};
use super::http::{Answer, Http};
use super::load::{self, Grouping, Load, LoadOptions};
use super::processes::{Cluster, until};
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{PARTITIONS, require_ends};

const FIVE: usize = 5;
const COPIES: u8 = 3;
const DEADLINE: Duration = Duration::from_millis(500);
const FINAL_DEADLINE: Duration = Duration::from_secs(5);
/// Of writes before anybody dies.
const CALM: Duration = Duration::from_secs(2);
/// Of writes that nobody can take, after a majority died.
const AFTER: Duration = Duration::from_secs(1);
/// How long keys that are gone are asked for while blank nodes come back.
const WATCH: Duration = Duration::from_secs(4);
/// Asking for a key that no survivor has takes a second.
const SAMPLE: usize = 6;

/// Why an answer hides that a key is gone; none where its problem is one of `allowed`.
fn hides(status: u16, body: &[u8], allowed: &[&str]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let name = problem["type"].as_str().and_then(|name| name.rsplit(':').next()).unwrap_or("no problem");
    let is_named = status == 503 && allowed.contains(&name);
    (!is_named).then(|| format!("{status} {name}"))
}

/// The same of a write, whose refusal also has to be definite.
fn hides_write(status: u16, body: &[u8], allowed: &[&str]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let is_definite = problem["outcome"] == "definite";
    hides(status, body, allowed).or_else(|| (!is_definite).then(|| format!("{status}, not definite")))
}

/// Whether an answer makes a key that is gone look as if there had been nothing.
const fn pretends(status: u16) -> bool {
    status < 300 || status == 404
}

/// Whether all who should have a copy of this key are among `dead`.
fn is_gone(key: &str, dead: &[usize]) -> bool {
    let partition = placement::partition_of(key.as_bytes(), PARTITIONS);
    placement::owners(PartitionId(partition.0), SlotSet::first(FIVE), COPIES)
        .iter()
        .map(Slot::index)
        .all(|owner| dead.contains(&owner))
}

/// One cluster that lives for one round.
struct Five {
    cluster: Cluster,
    history: Arc<History>,
    load: Load,
}

impl Five {
    fn start(round: usize) -> Self {
        let cluster = Cluster::start_with(FIVE as u16, |config| {
            config.timing = TimingConfig::default();
            config.cluster.partitions = PARTITIONS;
        });
        let history = Arc::new(History::default());
        let options = LoadOptions {
            ports: (0..FIVE).map(|node| cluster.port(node)).collect(),
            avoided: None,
            partitions: PARTITIONS,
            replicas: cluster.config.replicas(),
            grouping: Grouping::default(),
            writers_per_class: 1,
            readers: FIVE,
            pinned: false,
            pause: Duration::from_millis(20),
            deadline: DEADLINE,
            name: format!("five/{round}"),
        };
        let load = Load::start(options, &history);
        thread::sleep(CALM);
        Self { cluster, history, load }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        (0..).map_while(|nth| self.history.entry(nth)).collect()
    }

    /// Judges what is left of all keys that aren't gone, through each node that runs.
    fn check(&self, dead: &[usize]) {
        for node in self.cluster.running() {
            let mut http = self.cluster.http(node);
            for entry in self.entries().iter().filter(|entry| !is_gone(&entry.key, dead)) {
                let floor = self.history.begin_read(entry);
                let found = until("a key is read", || load::read(&mut http, &entry.key, FINAL_DEADLINE));
                self.history.end_read(entry, floor, Some(found));
                self.history.end_all(entry, floor, found);
            }
        }
    }

    fn end(mut self, row: &mut Row) {
        self.load.stop();
        require_ends(row, &self.load.longest());
        let told = self.cluster.leaders_told();
        let terms: BTreeSet<u64> = told.iter().map(|(term, _)| *term).collect();
        row.require(terms.len() == told.len(), Verdict::Broken, || format!("a term had two leaders: {told:?}"));
        row.enter(&self.history.tally(), self.history.complaints());
    }
}

pub fn run(rounds: usize) -> Row {
    let done = format!(
        "of five nodes with {COPIES} copies two die at once under load, and in every second of {rounds} rounds three, of \
         which blank ones come back"
    );
    let bar = "two: 0 lost, everything read; three: what is gone is said by name, never 404 or a fresh write";
    let (mut row, mut times) = (Row::new("too many", done, bar), Vec::new());
    for round in 0..rounds {
        let mut five = Five::start(round);
        let leader = five.cluster.leader();
        let first = if round / 2 % 2 == 0 { leader } else { (leader + 1) % FIVE };
        let dead: Vec<usize> = (0..2 + round % 2).map(|nth| (first + nth * (1 + round / 4)) % FIVE).collect();
        let names: Vec<String> = dead.iter().map(|node| format!("n{}", node + 1)).collect();
        say(&format!("too many, round {} of {rounds}: {} die", round + 1, names.join(" and ")));
        if dead.len() == 2 {
            times.push(two_die(&mut five, &dead));
        } else {
            three_die(&mut five, &dead, &mut row);
        }
        five.end(&mut row);
    }
    row.times.extend(Times::of("two died: longest time without a write of some keys", times));
    row
}

/// Nothing may be lost; the longest time in which keys of some owners weren't written.
fn two_die(five: &mut Five, dead: &[usize]) -> Duration {
    let at = Instant::now();
    five.cluster.kill(dead);
    until("keys of all owners are written", || five.load.all_written_since(at + AFTER).then_some(()));
    let gap = five.load.worst_gap(at, Instant::now());
    say(&format!("keys of {} were not written for {} ms", gap.1, gap.0.as_millis()));
    let longest = gap.0;
    five.load.stop();
    five.check(&[]);
    longest
}

fn three_die(five: &mut Five, dead: &[usize], row: &mut Row) {
    five.cluster.kill(dead);
    thread::sleep(AFTER);
    five.load.stop();
    let survivors = five.cluster.running();
    let all = five.entries();
    let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| is_gone(&entry.key, dead));
    let sample: Vec<Arc<Entry>> = gone.iter().filter(|entry| five.history.begin_read(entry) > 0).cloned().collect();
    row.require(!sample.is_empty(), Verdict::Missed, || "no key was gone: nothing was tried".to_owned());
    let sample = &sample[..sample.len().min(SAMPLE)];
    five.cluster.wait_until("the survivors notice", |status| !status.quorum);
    // Without a quorum.
    for &node in &survivors {
        let mut http = five.cluster.http(node);
        for entry in left.iter().take(SAMPLE).chain(sample) {
            let said = put(&mut http, &entry.key);
            complain(
                row,
                node,
                "without a quorum, PUT",
                &entry.key,
                &hides_write(said.status, &said.body, &["no-quorum"]),
            );
        }
        for entry in &left {
            let floor = five.history.begin_read(entry);
            let found = until("a key is read without a quorum", || read_degraded(&mut http, &entry.key));
            five.history.end_all(entry, floor, found);
        }
        ask_for_gone(
            row,
            &mut http,
            node,
            sample,
            "without a quorum",
            &["unavailable", "partition-lost"],
            &["no-quorum"],
        );
    }
    // The dead are back with nothing: neither they nor anybody else may take that for what was there.
    dead.iter().for_each(|node| five.cluster.spawn(*node));
    ask_beside_blanks(five, &sample[..1.min(sample.len())], row);
    recover(five, survivors[0]);
    let named = |entry: &Entry, node: usize| {
        let said = five.cluster.http(node).ask(&format!("GET /v1/kv/{}?timeout=1s", entry.key), b"").ok()?;
        (pretends(said.status) || hides(said.status, &said.body, &["partition-lost"]).is_none()).then_some(())
    };
    for node in 0..FIVE {
        let mut http = five.cluster.http(node);
        sample.iter().for_each(|entry| until("a gone key is said to be lost", || named(entry, node)));
        ask_for_gone(row, &mut http, node, sample, "recovered", &["partition-lost"], &["partition-lost"]);
    }
    five.check(dead);
    let lost = five.cluster.status(survivors[0]).partitions.lost;
    say(&format!("{lost} partitions are lost; {} keys were of them", gone.len()));
    row.require(lost > 0, Verdict::Broken, || "no partition is said to be lost".to_owned());
    row.notes.push(format!(
        "three died: {lost} partitions lost by name; {} keys of them, {} others",
        gone.len(),
        left.len()
    ));
}

/// While blank nodes come back, any refusal will do, also one that leaves open what became of a write: a node that has just
/// started may hand it on to one that isn't there. But nobody may say that there is nothing, or begin anew.
fn ask_beside_blanks(five: &Five, gone: &[Arc<Entry>], row: &mut Row) {
    let (end, mut unclear) = (Instant::now() + WATCH, 0);
    while Instant::now() < end {
        for node in 0..FIVE {
            let mut http = five.cluster.http(node);
            for (entry, method) in gone.iter().flat_map(|entry| [(entry, "GET"), (entry, "PUT")]) {
                let Ok(said) = http.ask(&format!("{method} /v1/kv/{}?timeout=2s", entry.key), b"1000000") else {
                    continue;
                };
                let wrong = pretends(said.status).then(|| said.status.to_string());
                complain(row, node, &format!("beside blank nodes, {method}"), &entry.key, &wrong);
                unclear += usize::from(said.status == 504);
            }
        }
    }
    if unclear > 0 {
        row.notes.push(format!("beside blank nodes without a quorum {unclear} requests were answered 504, as unknown"));
    }
}

/// Reads and writes keys that are gone at one node; whatever hides that is complained of.
fn ask_for_gone(
    row: &mut Row,
    http: &mut Http,
    node: usize,
    gone: &[Arc<Entry>],
    when: &str,
    reads: &[&str],
    writes: &[&str],
) {
    for entry in gone {
        if let Ok(said) = http.ask(&format!("GET /v1/kv/{}?timeout=2s", entry.key), b"") {
            complain(row, node, &format!("{when}, GET"), &entry.key, &hides(said.status, &said.body, reads));
        }
        let said = put(http, &entry.key);
        complain(row, node, &format!("{when}, PUT"), &entry.key, &hides_write(said.status, &said.body, writes));
    }
}

fn complain(row: &mut Row, node: usize, what: &str, key: &str, hides: &Option<String>) {
    const NOTES_MAX: usize = 12;
    if let Some(said) = hides {
        row.verdict = row.verdict.max(Verdict::Broken);
        if row.notes.len() < NOTES_MAX {
            row.notes.push(format!("{what} {key} at n{}: {said}", node + 1));
        }
    }
}

fn put(http: &mut Http, key: &str) -> Answer {
    until("a write is answered", || http.ask(&format!("PUT /v1/kv/{key}?timeout=2s"), b"1000000").ok())
}

/// The number that a node without a quorum finds: it says that it is one.
fn read_degraded(http: &mut Http, key: &str) -> Option<u64> {
    let said = http.ask(&format!("GET /v1/kv/{key}?timeout=2s"), b"").ok()?;
    match said.status {
        _ if said.header("jumpgate-degraded") != "true" => None,
        200 => std::str::from_utf8(&said.body).ok()?.parse().ok(),
        404 => Some(0),
        _ => None,
    }
}

/// The survivors go on without the dead.
fn recover(five: &Five, node: usize) {
    let said = until("a survivor recovers by force", || {
        let head = "POST /v1/admin/unsafe-recover\r\nContent-Type: application/json";
        let said = five.cluster.http(node).ask(head, b"{}").ok()?;
        if said.status != 200 {
            say(&format!("unsafe-recover: {} {}", said.status, String::from_utf8_lossy(&said.body)));
        }
        (said.status == 200).then_some(said)
    });
    let lost = said.json()["recovered"]["lost"].as_array().map_or(0, Vec::len);
    say(&format!("recovered by force: {lost} partitions have no copy left"));
    five.cluster.wait_until("there is a quorum", |status| status.quorum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str, outcome: &str) -> Vec<u8> {
        format!(r#"{{"type":"urn:jumpgate:problem:{name}","outcome":"{outcome}"}}"#).into_bytes()
    }

    #[test]
    fn only_a_named_problem_of_those_expected_doesnt_hide_a_loss() {
        let lost = ["partition-lost"];
        assert_eq!(hides(503, &problem("partition-lost", "definite"), &lost), None);
        assert_eq!(hides(503, &problem("unavailable", "definite"), &lost).as_deref(), Some("503 unavailable"));
        assert_eq!(hides(404, &problem("not-found", "definite"), &lost).as_deref(), Some("404 not-found"));
        assert_eq!(hides(201, b"", &lost).as_deref(), Some("201 no problem"));
        assert_eq!(hides_write(503, &problem("partition-lost", "definite"), &lost), None);
        let unknown = hides_write(503, &problem("partition-lost", "unknown"), &lost);
        assert_eq!(unknown.as_deref(), Some("503, not definite"));
        assert!(hides_write(204, b"", &lost).is_some());
        assert!([200, 201, 204, 404].into_iter().all(pretends) && ![503, 504].into_iter().any(pretends));
    }

    #[test]
    fn two_deaths_leave_a_copy_of_every_key_and_three_dont() {
        let keys = || (0..1000).map(|nth| format!("a/{nth}"));
        assert!(!keys().any(|key| is_gone(&key, &[0, 1])));
        let gone = keys().filter(|key| is_gone(key, &[0, 1, 2])).count();
        assert!((50..200).contains(&gone), "a tenth of all sets of three: {gone}");
    }
}
