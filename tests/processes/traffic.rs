//! What was acknowledged while nodes were killed under traffic: it is stored, and viewers were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::feed::Viewer;
use super::http::Http;
use super::processes::{Cluster, read, until};

/// Writers at once. Each goes from node to node.
const WRITERS: usize = 4;
/// Writes that must be acknowledged between two events, so that each event meets traffic.
const WRITES_BETWEEN: usize = 150;

/// What one writer knows of what it wrote.
#[derive(Default)]
struct Diary {
    /// Keys that were written once, and acknowledged.
    stored: BTreeSet<String>,
    /// Keys that were written once; nobody knows whether it happened.
    perhaps: BTreeSet<String>,
    /// The last acknowledged number in the writer's own register.
    latest: Option<usize>,
    /// Numbers of which nobody knows whether they were written: each may show up at any later time.
    latest_perhaps: BTreeSet<usize>,
}

enum Outcome {
    Done,
    NotDone,
    Unknown,
}

fn write(client: &mut Http, key: &str, value: &str) -> Outcome {
    match client.ask(&format!("PUT /v1/kv/{key}?timeout=3s"), value.as_bytes()) {
        Ok(answer) if matches!(answer.status, 201 | 204) => Outcome::Done,
        Ok(answer) if answer.is_for_a_moment() && answer.json()["outcome"] == "definite" => Outcome::NotDone,
        Ok(answer) if answer.is_for_a_moment() => Outcome::Unknown,
        Ok(answer) => panic!("PUT {key}: {answer:?}"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::NotDone,
        Err(_) => Outcome::Unknown,
    }
}

/// Writes until `stop`: a new key, then the writer's own register, through one node after the other.
fn keep_writing(cluster: &Clients, writer: usize, stop: &AtomicBool, acknowledged: &AtomicUsize) -> Diary {
    let mut clients = cluster.all();
    let mut diary = Diary::default();
    let register = format!("register/{writer}");
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let client = &mut clients[(turn + writer) % cluster.ports.len()];
        let key = format!("traffic/{writer}/{turn}");
        match write(client, &key, &key) {
            Outcome::Done => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                diary.stored.insert(key);
            }
            Outcome::Unknown => {
                diary.perhaps.insert(key);
            }
            Outcome::NotDone => {}
        }
        match write(client, &register, &turn.to_string()) {
            Outcome::Done => diary.latest = Some(turn),
            Outcome::Unknown => {
                diary.latest_perhaps.insert(turn);
            }
            Outcome::NotDone => {}
        }
    }
    diary
}

/// Where the gateways are, for writers that outlive changes of the cluster.
struct Clients {
    ports: Vec<u16>,
}

impl Clients {
    fn all(&self) -> Vec<Http> {
        self.ports.iter().map(|port| Http::new(*port)).collect()
    }
}

/// What one writer wrote is there, whichever node is asked.
fn check(cluster: &Cluster, writer: usize, diary: &Diary) {
    for node in cluster.running() {
        let mut client = cluster.http(node);
        for key in &diary.stored {
            let found = read(&mut client, key);
            assert!(found.as_deref() == Some(key.as_bytes()), "n{} has {found:?} under {key}", node + 1);
        }
        for key in &diary.perhaps {
            let found = read(&mut client, key);
            assert!(found.is_none() || found.as_deref() == Some(key.as_bytes()), "{found:?} is under {key}");
        }
        let found = read(&mut client, &format!("register/{writer}"));
        let found = found.map(|value| String::from_utf8(value).expect("digits").parse().expect("a number"));
        let may_be = found == diary.latest || found.is_some_and(|number| diary.latest_perhaps.contains(&number));
        let (latest, perhaps) = (diary.latest, &diary.latest_perhaps);
        assert!(may_be, "n{} has {found:?} in writer {writer}'s register, not {latest:?} or {perhaps:?}", node + 1);
    }
}

/// Kills and starts nodes under traffic: `victims` one after the other, the leader first of all.
fn under_traffic(nodes: u16, kills: &[usize]) {
    let mut cluster = Cluster::start(nodes);
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let clients = Clients { ports: (0..usize::from(nodes)).map(|node| cluster.port(node)).collect() };
    let diaries: BTreeMap<usize, Diary> = std::thread::scope(|scope| {
        let (clients, stop, acknowledged) = (&clients, &stop, &acknowledged);
        let _ends = Ends(stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || (writer, keep_writing(clients, writer, stop, acknowledged))))
            .collect();
        let wait_for_traffic = || {
            let target = acknowledged.load(Ordering::Relaxed) + WRITES_BETWEEN;
            until("writes go on", || (acknowledged.load(Ordering::Relaxed) >= target).then_some(()));
        };
        for count in kills {
            wait_for_traffic();
            let leader = cluster.leader();
            let victims: Vec<usize> = (0..*count).map(|next| (leader + next) % usize::from(nodes)).collect();
            cluster.kill(&victims);
            wait_for_traffic();
            victims.iter().for_each(|victim| cluster.spawn(*victim));
            cluster.wait_until_whole();
        }
        wait_for_traffic();
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("a writer ends")).collect()
    });
    diaries.iter().for_each(|(writer, diary)| check(&cluster, *writer, diary));
}

/// However a test ends, its threads do.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_was_acknowledged_while_leaders_were_killed_is_there() {
    under_traffic(3, &[1, 1, 1]);
}

#[test]
fn what_was_acknowledged_while_two_of_five_were_killed_at_once_is_there() {
    under_traffic(5, &[2, 2]);
}

/// Writes to few keys until `stop`, together with the other writers; notes what was acknowledged, by key and version.
fn keep_replacing(clients: &Clients, stop: &AtomicBool, acknowledged: &Mutex<BTreeSet<(String, u64)>>) {
    let mut clients = clients.all();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("hot/{}", turn % 6);
        let count = clients.len();
        let answer = clients[turn % count].ask(&format!("PUT /v1/kv/{key}?timeout=3s"), b"again");
        if let Some(answer) = answer.ok().filter(|answer| matches!(answer.status, 201 | 204)) {
            acknowledged.lock().expect("no writer panics").insert((key, answer.version()));
        }
    }
}

/// Kills a node while others replace values; what was acknowledged, by key and version.
fn kill_under_traffic(cluster: &mut Cluster, victim: usize) -> BTreeSet<(String, u64)> {
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::default());
    let clients = Clients { ports: (0..cluster.config.nodes.len()).map(|node| cluster.port(node)).collect() };
    std::thread::scope(|scope| {
        let (clients, stop, acknowledged) = (&clients, &stop, &acknowledged);
        let _ends = Ends(stop);
        (0..2 * WRITERS).for_each(|_| drop(scope.spawn(move || keep_replacing(clients, stop, acknowledged))));
        let wait_for_traffic = || {
            let count = || acknowledged.lock().expect("no writer panics").len();
            let target = count() + 2 * WRITES_BETWEEN;
            until("writes go on", || (count() >= target).then_some(()));
        };
        wait_for_traffic();
        cluster.kill(&[victim]);
        wait_for_traffic();
    });
    acknowledged.into_inner().expect("no writer panicked")
}

#[test]
fn viewers_hear_what_was_acknowledged_while_the_leader_was_killed() {
    let mut cluster = Cluster::start(3);
    let victim = cluster.leader();
    let survivors = [(victim + 1) % 3, (victim + 2) % 3];
    let mut viewers =
        survivors.map(|node| until("the feed opens", || Viewer::open(cluster.config.nodes[node].gateway.port, "")));
    let stop_watching = AtomicBool::new(false);
    let seen = [const { Mutex::new(Vec::new()) }; 2];
    std::thread::scope(|scope| {
        let (stop_watching, seen) = (&stop_watching, &seen);
        let _ends = Ends(stop_watching);
        for (viewer, seen) in viewers.iter_mut().zip(seen) {
            scope.spawn(move || {
                while !stop_watching.load(Ordering::Relaxed) {
                    let change = viewer.poll().and_then(|event| Some((event.key?, event.version?)));
                    seen.lock().expect("nobody panics with it").extend(change);
                }
            });
        }
        let acknowledged = kill_under_traffic(&mut cluster, victim);
        for seen in seen {
            until("every acknowledged change has been seen", || {
                let seen: BTreeSet<(String, u64)> =
                    seen.lock().expect("nobody panics with it").iter().cloned().collect();
                acknowledged.is_subset(&seen).then_some(())
            });
        }
    });
    for seen in seen {
        let mut latest = BTreeMap::new();
        for (key, version) in seen.into_inner().expect("nobody panicked with it") {
            let before = latest.insert(key.clone(), version);
            assert!(before.is_none_or(|before| before < version), "{key}: version {version} came after {before:?}");
        }
    }
}

/// A viewer that goes to another node, with its last cursor, when its feed ends: what it has seen, and its gaps.
fn follow(ports: &[u16], stop: &AtomicBool, seen: &Mutex<BTreeSet<(String, u64)>>) -> usize {
    let (mut cursor, mut turn, mut gaps) = (String::new(), 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let Some(mut viewer) = Viewer::resume(ports[turn % ports.len()], &format!("?since={cursor}")) else {
            turn += 1;
            std::thread::sleep(std::time::Duration::from_millis(50));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let Ok(event) = viewer.look() else { break };
            let Some(event) = event else { continue };
            gaps += usize::from(event.kind == "gap");
            cursor = event.cursor.unwrap_or(cursor);
            let change = event.key.zip(event.version);
            seen.lock().expect("nobody panics with it").extend(change);
        }
        turn += 1;
    }
    gaps
}

#[test]
fn viewers_of_a_killed_gateway_resume_at_others_and_miss_nothing() {
    let mut cluster = Cluster::start(3);
    let victim = cluster.leader();
    let stop_watching = AtomicBool::new(false);
    let seen = [const { Mutex::new(BTreeSet::new()) }; 4];
    let ports: Vec<u16> = (0..3).map(|turn| cluster.port((victim + turn) % 3)).collect();
    std::thread::scope(|scope| {
        let (stop_watching, ports, seen) = (&stop_watching, &ports[..], &seen);
        let _ends = Ends(stop_watching);
        let viewers: Vec<_> = seen.iter().map(|seen| scope.spawn(move || follow(ports, stop_watching, seen))).collect();
        // Each has seen a change of its own begin, so that it has a cursor.
        until("all viewers see changes", || {
            cluster.put((victim + 1) % 3, "first", b"again");
            seen.iter().all(|seen| !seen.lock().expect("nobody panics with it").is_empty()).then_some(())
        });
        let acknowledged = kill_under_traffic(&mut cluster, victim);
        for seen in seen {
            until("every acknowledged change has been seen", || {
                let seen = seen.lock().expect("nobody panics with it");
                acknowledged.is_subset(&seen).then_some(())
            });
        }
        stop_watching.store(true, Ordering::Relaxed);
        for viewer in viewers {
            assert_eq!(viewer.join().expect("a viewer ends"), 0, "a gap");
        }
    });
}
