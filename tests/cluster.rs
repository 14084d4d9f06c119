//! Three nodes in one process, over real sockets: what HTTP promises, kept by a cluster.
//!
//! What the gateway makes of requests is tested over a core that is a map (`gateway.rs`), and what becomes of processes in
//! `processes.rs`. Here it is about what only a cluster can get wrong: that a rule holds whichever node is asked.

#[path = "support/http.rs"]
mod http;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Answer, Http};
use jumpgate::base::Slot;
use jumpgate::config::{Config, Ports, TimingConfig};
use jumpgate::server::{Server, Sockets};
use tokio::runtime::Runtime;

const NODES: usize = 3;
/// Longer than a start takes on a machine that does ten other things; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster that lives as long as this value.
struct Cluster {
    servers: Vec<Server>,
    ports: Vec<Ports>,
    runtime: Runtime,
}

impl Cluster {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let sockets: Vec<Sockets> = (0..NODES).map(|_| Sockets::bind_loopback(0).expect("free ports")).collect();
        let ports: Vec<Ports> = sockets.iter().map(|sockets| sockets.ports().expect("they are bound")).collect();
        let mut config = Config::loopback("cluster", &ports);
        config.cluster.partitions = 64;
        // Generous, so that a machine that is busy with other tests causes no failover of its own.
        config.timing = TimingConfig {
            heartbeat: Some(Duration::from_millis(50)),
            election: Some(Duration::from_millis(800)),
            lease: Some(Duration::from_millis(600)),
            down: Some(Duration::from_millis(700)),
        };
        change(&mut config);
        let servers = {
            let _inside = runtime.enter();
            let start = |(slot, sockets)| Server::start(&config, Slot(slot as u8), sockets, Arc::new(|_, _| {}));
            let started: Result<Vec<Server>, _> = sockets.into_iter().enumerate().map(start).collect();
            started.expect("they start")
        };
        let cluster = Self { servers, ports, runtime };
        for node in 0..NODES {
            let mut client = cluster.client(node);
            cluster.retry(|| client.ask("GET /readyz", b"").ok().filter(|answer| answer.status == 200));
        }
        cluster
    }

    fn new() -> Self {
        Self::start(|_| {})
    }

    fn client(&self, node: usize) -> Http {
        Http::new(self.ports[node % NODES].gateway)
    }

    /// Looks again until `attempt` gives something.
    fn retry<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = attempt() {
                return found;
            }
            assert!(Instant::now() < end, "it did not happen in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One request through `node`. Where that node can't serve it at the moment and nothing has happened, it is sent again.
    fn ask(&self, node: usize, head: &str, body: &[u8]) -> Answer {
        let mut client = self.client(node);
        self.retry(|| {
            let answer = client.ask(head, body).expect("a node of this process answers");
            let again = answer.is_for_a_moment() && answer.json().get("outcome").is_none_or(|it| it == "definite");
            (!again).then_some(answer)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let servers = std::mem::take(&mut self.servers);
        self.runtime.block_on(async {
            futures_util::future::join_all(servers.into_iter().map(Server::stop)).await;
        });
    }
}

#[test]
fn a_value_lives_and_dies_the_same_through_every_node() {
    let cluster = Cluster::new();
    for first in 0..NODES {
        // Each step goes through the next node; each key has a primary of its own.
        for key in ["a", "b/c", "%C3%BCber", "x y".replace(' ', "%20").as_str()] {
            let (one, two, three) = (first, first + 1, first + 2);
            let at = |method: &str| format!("{method} /v1/kv/{first}/{key}");
            assert_eq!(cluster.ask(one, &at("GET"), b"").status, 404);
            assert_eq!(cluster.ask(two, &at("DELETE"), b"").status, 404);
            let created = cluster.ask(three, &(at("PUT") + "\r\nContent-Type: text/x"), b"one");
            assert_eq!((created.status, created.header("jumpgate-copies")), (201, "2"));
            let read = cluster.ask(one, &at("GET"), b"");
            assert_eq!((read.status, &*read.body, read.header("content-type")), (200, &b"one"[..], "text/x"));
            assert_eq!(read.version(), created.version());
            let replaced = cluster.ask(two, &at("PUT"), b"two!");
            assert_eq!((replaced.status, replaced.header("jumpgate-copies")), (204, "2"));
            assert!(replaced.version() > created.version());
            let head = cluster.ask(three, &at("HEAD"), b"");
            assert_eq!((head.status, head.header("content-length")), (200, "4"));
            assert_eq!((head.version(), head.header("content-type")), (replaced.version(), "application/octet-stream"));
            let exists = cluster.ask(one, &at("POST"), b"three");
            assert_eq!((exists.status, exists.version()), (409, replaced.version()));
            assert_eq!(exists.json()["outcome"], "definite");
            let part = cluster.ask(two, &(at("GET") + "\r\nRange: bytes=1-2"), b"");
            assert_eq!((part.status, &*part.body, part.header("content-range")), (206, &b"wo"[..], "bytes 1-2/4"));
            let deleted = cluster.ask(three, &at("DELETE"), b"");
            assert_eq!((deleted.status, deleted.header("jumpgate-copies")), (204, "2"));
            assert_eq!(cluster.ask(one, &at("HEAD"), b"").status, 404);
            let created = cluster.ask(two, &at("POST"), b"");
            assert_eq!(created.status, 201);
            assert!(created.version() > replaced.version(), "a version was used twice");
            assert_eq!(cluster.ask(three, &at("GET"), b"").body, b"");
        }
    }
}

#[test]
fn preconditions_are_judged_at_the_primary() {
    let cluster = Cluster::new();
    for key in ["p", "q", "r", "s"] {
        let ask = |node: usize, method: &str, condition: &str| {
            cluster.ask(node, &format!("{method} /v1/kv/{key}\r\n{condition}"), b"v")
        };
        assert_eq!(ask(0, "PUT", "If-Match: *").status, 412);
        let first = ask(1, "PUT", "If-None-Match: *");
        assert_eq!(first.status, 201);
        let known = format!("\"{}\"", first.version());
        for (method, condition) in [
            ("PUT", "If-None-Match: *".to_owned()),
            ("PUT", "If-Match: \"1\"".to_owned()),
            ("PUT", format!("If-Match: W/{known}")),
            ("PUT", format!("If-None-Match: {known}")),
            ("DELETE", "If-Match: \"1\"".to_owned()),
        ] {
            let answer = ask(2, method, &condition);
            assert_eq!((answer.status, &answer.json()["outcome"]), (412, &"definite".into()), "{method} {condition}");
        }
        for node in 0..NODES {
            assert_eq!(ask(node, "GET", &format!("If-None-Match: {known}")).status, 304);
            assert_eq!(ask(node, "GET", "If-None-Match: \"1\"").status, 200);
            assert_eq!(ask(node, "GET", "If-Match: \"1\"").status, 412);
        }
        let second = ask(0, "PUT", &format!("If-Match: \"1\", {known}"));
        assert_eq!(second.status, 204);
        assert_eq!(ask(1, "PUT", &format!("If-Match: {known}")).status, 412, "it was replaced meanwhile");
        assert_eq!(ask(2, "DELETE", &format!("If-Match: \"{}\"", second.version())).status, 204);
    }
}

/// What came of one client's compare-and-set loop.
#[derive(Default)]
struct Tally {
    done: u64,
    unknown: u64,
    refused: u64,
}

/// Raises the counter `count` times, each step from what it has just read.
fn count_up(cluster: &Cluster, node: usize, count: u64) -> Tally {
    let mut client = cluster.client(node);
    let mut tally = Tally::default();
    while tally.done + tally.unknown < count {
        let read = cluster.ask(node, "GET /v1/kv/counter", b"");
        let value: u64 = String::from_utf8(read.body.clone()).expect("digits").parse().expect("a number");
        let head = format!("PUT /v1/kv/counter\r\nIf-Match: {}", read.header("etag"));
        let answer = client.ask(&head, (value + 1).to_string().as_bytes()).expect("a node of this process answers");
        match answer.status {
            204 => tally.done += 1,
            412 => tally.refused += 1,
            _ if answer.json()["outcome"] == "definite" => {}
            504 => tally.unknown += 1,
            _ => panic!("{answer:?}"),
        }
    }
    tally
}

#[test]
fn concurrent_increments_lose_nothing_and_count_nothing_twice() {
    const CLIENTS: usize = 6;
    const EACH: u64 = 50;
    let cluster = Cluster::new();
    assert_eq!(cluster.ask(0, "POST /v1/kv/counter", b"0").status, 201);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let cluster = &cluster;
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || count_up(cluster, client, EACH))).collect();
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    });
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (done, unknown, refused) = (sum(|tally| tally.done), sum(|tally| tally.unknown), sum(|tally| tally.refused));
    for node in 0..NODES {
        let read = cluster.ask(node, "GET /v1/kv/counter", b"");
        let value: u64 = String::from_utf8(read.body).expect("digits").parse().expect("a number");
        assert!(
            (done..=done + unknown).contains(&value),
            "n{} counts {value}; {done} were done, {unknown} perhaps, {refused} refused",
            node + 1
        );
    }
    assert!(refused > 0, "nobody was ever in another's way: this proves nothing");
}

#[test]
fn only_one_of_many_creates() {
    let cluster = Cluster::new();
    for round in 0..10 {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let cluster = &cluster;
            let create = move |client: usize| {
                let value = client.to_string();
                cluster.ask(client, &format!("POST /v1/kv/only/{round}"), value.as_bytes()).status
            };
            let clients: Vec<_> = (0..6).map(|client| scope.spawn(move || create(client))).collect();
            clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
        });
        let created: Vec<usize> = (0..6).filter(|&client| statuses[client] == 201).collect();
        assert!(created.len() == 1 && statuses.iter().filter(|status| **status == 409).count() == 5, "{statuses:?}");
        for node in 0..NODES {
            let found = cluster.ask(node, &format!("GET /v1/kv/only/{round}"), b"").body;
            assert_eq!(found, created[0].to_string().as_bytes(), "round {round}");
        }
    }
}

#[test]
fn a_write_is_seen_by_whoever_reads_after_it() {
    let cluster = Cluster::new();
    for nth in 0..60_usize {
        let (key, value) = (nth % 7, nth.to_string());
        let written = cluster.ask(nth, &format!("PUT /v1/kv/latest/{key}"), value.as_bytes());
        assert!(matches!(written.status, 201 | 204), "{written:?}");
        for node in 0..NODES {
            let read = cluster.ask(node, &format!("GET /v1/kv/latest/{key}"), b"");
            assert_eq!((read.status, &*read.body), (200, value.as_bytes()), "n{} is behind", node + 1);
        }
    }
}

#[test]
fn limits_hold_on_every_node() {
    let cluster = Cluster::start(|config| {
        config.limits.value_bytes = 100_000;
        config.limits.key_bytes = 20;
    });
    let largest: Vec<u8> = (0..100_000_u32).map(|at| (at >> 3) as u8).collect();
    for node in 0..NODES {
        let key = format!("large/{node}");
        let too_large = cluster.ask(node, &format!("PUT /v1/kv/{key}"), &[&largest[..], b"x"].concat());
        assert_eq!((too_large.status, &too_large.json()["outcome"]), (413, &"definite".into()));
        assert_eq!(cluster.ask(node, &format!("PUT /v1/kv/{key}"), &largest).status, 201);
        assert!(cluster.ask(node + 1, &format!("GET /v1/kv/{key}"), b"").body == largest, "it changed on the way");
        let long = "k".repeat(21);
        assert_eq!(cluster.ask(node, &format!("PUT /v1/kv/{long}"), b"x").status, 400);
    }
}

#[test]
fn health_says_who_leads() {
    let cluster = Cluster::new();
    let status = |node: usize, path: &str| {
        cluster.client(node).ask(&format!("GET {path}"), b"").expect("a node of this process answers").status
    };
    cluster.retry(|| {
        let leaders: Vec<usize> = (0..NODES).filter(|&node| status(node, "/leaderz") == 200).collect();
        let view = cluster.client(0).ask("GET /v1/cluster", b"").expect("an answer").json();
        let leader = view["leader"].as_str().and_then(|name| name.strip_prefix('n')?.parse::<usize>().ok());
        (leader.is_some_and(|leader| leaders == [leader - 1])).then_some(())
    });
    for node in 0..NODES {
        assert_eq!((status(node, "/healthz"), status(node, "/readyz")), (200, 200));
    }
}

#[test]
fn every_node_says_alike_where_a_key_lives() {
    let cluster = Cluster::new();
    let said: Vec<_> = (0..NODES).map(|node| cluster.ask(node, "GET /v1/locate/b%2F%C3%BCber", b"").json()).collect();
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    assert_eq!(said[0]["key"], "b/\u{fc}ber");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let list = |field: &str| said[0][field].as_array().expect("a list").iter().filter_map(text).collect::<Vec<_>>();
    let primary = text(&said[0]["primary"]).expect("somebody leads it");
    assert!(list("in_sync").len() == 2 && list("in_sync").contains(&primary), "{said:?}");
    assert_eq!(list("owners").first(), Some(&primary), "a cluster that has just begun is led as it should be");
    // The map says the same of its partition.
    let map = cluster.ask(0, "GET /v1/cluster/map", b"").json();
    let number = said[0]["partition"].as_u64().expect("a number") as usize;
    let state = &map["states"][map["partitions"][number].as_u64().expect("a place") as usize];
    assert_eq!(map["nodes"][state["primary"].as_u64().expect("a place") as usize], said[0]["primary"]);
    // The same key with a plain slash; what is no key; what isn't asked so.
    assert_eq!(cluster.ask(1, "GET /v1/locate/b/%C3%BCber", b"").json(), said[0]);
    for (head, status) in [("GET /v1/locate/", 400), ("GET /v1/locate/%FF", 400), ("PUT /v1/locate/a", 405)] {
        assert_eq!(cluster.ask(2, head, b"").status, status, "{head}");
    }
}

#[test]
fn any_copy_may_answer_who_asks_for_no_more() {
    let cluster = Cluster::new();
    let mut stale = 0;
    for nth in 0..30 {
        let key = format!("any/{nth}");
        cluster.ask(nth, &format!("PUT /v1/kv/{key}"), key.as_bytes());
        for node in 0..NODES {
            // A backup learns that a write is committed a moment after the client does.
            let read = cluster.retry(|| {
                let read = cluster.ask(node, &format!("GET /v1/kv/{key}?consistency=stale"), b"");
                (read.status == 200).then_some(read)
            });
            assert_eq!(read.body, key.as_bytes());
            stale += usize::from(read.header("jumpgate-stale") == "true");
        }
    }
    assert!(stale > 0, "no backup ever answered");
}

#[test]
fn a_batch_is_done_through_any_node_and_seen_through_every_other() {
    let cluster = Cluster::new();
    for node in 0..NODES {
        // In every partition, of every primary, several.
        let put = |nth: usize| format!(r#"{{"op":"put","key":"{node}/{nth:03}","value":"{:04}"}}"#, 1000 + nth);
        let then = |nth: usize| format!(r#"{{"op":"put","key":"{node}/{nth:03}","value":"{:04}"}}"#, 2000 + nth);
        let ask = |node: usize, ops: Vec<String>| {
            let body = format!("{{\"ops\":[{}]}}", ops.join(","));
            let answer = cluster.ask(node, "POST /v1/batch\r\nContent-Type: application/json", body.as_bytes());
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["results"].as_array().expect("results").clone()
        };
        let written = ask(node, (0..300).map(put).chain((0..300).map(then)).collect());
        let statuses: Vec<u64> = written.iter().filter_map(|result| result["status"].as_u64()).collect();
        assert_eq!(statuses, [[201; 300], [204; 300]].concat(), "the first of two writes of a key is done first");
        let read = ask(node + 1, (0..300).map(|nth| format!(r#"{{"op":"get","key":"{node}/{nth:03}"}}"#)).collect());
        for (nth, result) in read.iter().enumerate() {
            assert_eq!(result["value"], format!("{:04}", 2000 + nth), "{result}");
            assert_eq!(result["version"], written[300 + nth]["version"]);
        }
    }
}

#[test]
fn a_write_that_is_sent_twice_is_done_once_through_any_node() {
    let cluster = Cluster::new();
    for node in 0..NODES {
        let head = |method: &str| format!("{method} /v1/kv/once/{node}\r\nIdempotency-Key: {method}-{node}");
        let created = cluster.ask(node, &head("POST"), b"one");
        assert_eq!((created.status, created.header("idempotency-replayed")), (201, ""));
        let replaced = cluster.ask(node + 1, &format!("PUT /v1/kv/once/{node}"), b"two");
        assert_eq!(replaced.status, 204);
        let again = cluster.ask(node + 2, &head("POST"), b"one");
        let told = (again.status, again.header("idempotency-replayed"), again.header("etag"));
        assert_eq!(told, (201, "true", created.header("etag")));
        assert_eq!(cluster.ask(node, &format!("GET /v1/kv/once/{node}"), b"").body, b"two", "it was done twice");
        assert_eq!(cluster.ask(node + 1, &head("POST"), b"other").status, 422);
        assert_eq!(cluster.ask(node + 1, &head("DELETE"), b"").status, 204);
        let again = cluster.ask(node + 2, &head("DELETE"), b"");
        assert_eq!((again.status, again.header("idempotency-replayed")), (204, "true"));
        let op = format!(
            r#"{{"ops":[{{"op":"create","key":"batch/{node}","value":"eA==","idempotency_key":"b-{node}"}}]}}"#
        );
        let batch = |at: usize| {
            let answer = cluster.ask(at, "POST /v1/batch\r\nContent-Type: application/json", op.as_bytes());
            answer.json()["results"][0].clone()
        };
        let (first, second) = (batch(node), batch(node + 1));
        assert_eq!((&first["status"], &first["replayed"]), (&201.into(), &serde_json::Value::Null), "{first}");
        assert_eq!((&second["status"], &second["replayed"]), (&201.into(), &true.into()), "{second}");
        assert_eq!(first["version"], second["version"]);
    }
}
