//! What clients get from a healthy cluster of processes, whichever node they ask.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use jumpgate::api::json::{EventJson, PageJson, RecordJson, from_base64, to_base64};
use jumpgate::base::FollowerMode;

use super::feed::Viewer;
use super::http::Http;
use super::processes::{Cluster, Contents, Process, Start, contents, program, put, read, until};
use super::secrets::metric;

#[test]
fn every_node_writes_and_reads_every_key() {
    let cluster = Cluster::start(3);
    let status = cluster.status(0);
    assert!(status.nodes.iter().all(|node| node.primaries > 0), "one node leads nothing: {status:?}");
    let mut stored = Contents::new();
    for node in 0..3 {
        // A hundred keys meet partitions of every primary, so most are somebody else's.
        let through_this = contents(&format!("through-n{}/", node + 1), 100);
        cluster.put_all(&[node], &through_this);
        stored.extend(through_this);
    }
    cluster.expect(&[0, 1, 2], &stored);
    for key in stored.keys().step_by(17) {
        let versions: Vec<u64> = (0..3)
            .map(|node| cluster.http(node).ask(&format!("GET /v1/kv/{key}"), b"").expect("an answer").version())
            .collect();
        assert!(versions.iter().all(|version| *version == versions[0]), "{key} has versions {versions:?}");
    }
}

#[test]
fn followers_send_clients_to_the_leader_where_they_are_told_to() {
    let cluster = Cluster::start_with(3, |config| config.gateway.followers = FollowerMode::Redirect);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let base = &cluster.config.nodes[leader].advertise;
    for target in ["/v1/kv/a", "/v1/kv/a%2Fb/../%c3%bc?ttl=1h&timeout=2s", "/v1/kv?prefix=a%26&limit=3", "/v1/kv/a?"] {
        for method in ["PUT", "GET", "DELETE"] {
            if target.starts_with("/v1/kv?") && method != "GET" {
                continue;
            }
            let answer = cluster.http(follower).ask(&format!("{method} {target}"), b"").expect("an answer");
            assert_eq!((answer.status, answer.header("location")), (307, &*format!("{base}{target}")), "{method}");
        }
    }
    assert_eq!(cluster.http(follower).ask("GET /readyz", b"").expect("an answer").status, 200);
    put(&mut cluster.http(leader), "a", b"followed");
    assert_eq!(read(&mut cluster.http(leader), "a").as_deref(), Some(&b"followed"[..]));
    // The command line follows by itself.
    let url = &cluster.config.nodes[follower].advertise;
    let get = program(&["get", "a", "--url", url]).output().expect("it starts");
    assert_eq!(get.stdout, b"followed", "{}", String::from_utf8_lossy(&get.stderr));
}

#[test]
fn followers_go_straight_to_the_primary_where_they_are_told_to() {
    let cluster = Cluster::start_with(3, |config| config.gateway.followers = FollowerMode::Route);
    let stored = contents("routed/", 100);
    cluster.put_all(&[0, 1, 2], &stored);
    cluster.expect(&[0, 1, 2], &stored);
}

/// `jumpgate import` of `stored` into `cluster`.
fn import(cluster: &Cluster, stored: &Contents) {
    let mut import = program(&["import", "--url", &cluster.urls()]);
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = Vec::new();
    for (key, value) in stored {
        let record = RecordJson { key: key.clone(), value: to_base64(value), content_type: None, ttl_ms: None };
        serde_json::to_writer(&mut lines, &record).expect("a record");
        lines.push(b'\n');
    }
    import.stdin.take().expect("a pipe").write_all(&lines).expect("it reads");
    let output = import.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && said.starts_with(&format!("imported {} keys", stored.len())), "{said}");
}

/// One page; none where this node doesn't answer or can't at the moment.
fn page(client: &mut Http, target: &str) -> Option<PageJson> {
    let answer = client.ask(&format!("GET {target}"), b"").ok()?;
    assert!(answer.status == 200 || answer.is_for_a_moment(), "{answer:?}");
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).expect("a page"))
}

/// Reads the whole listing in pages of `limit`, each from the next node that answers.
fn walk(cluster: &Cluster, limit: usize, walked: &AtomicUsize) -> Vec<String> {
    let mut clients: Vec<Http> = (0..3).map(|node| cluster.http(node)).collect();
    let (mut keys, mut cursor, mut turn) = (Vec::new(), String::new(), limit);
    loop {
        let target = format!("/v1/kv?limit={limit}{cursor}");
        turn += 1;
        let page = until("a page", || (0..3).find_map(|next| page(&mut clients[(turn + next) % 3], &target)));
        assert!(page.items.len() <= limit);
        assert!(!page.items.is_empty() || page.cursor.is_none(), "a page without keys that isn't the last");
        keys.extend(page.items.into_iter().map(|item| item.key));
        walked.fetch_add(1, Ordering::Relaxed);
        match page.cursor {
            Some(next) => {
                cursor = format!("&cursor={}", next.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
            }
            None => return keys,
        }
    }
}

#[test]
fn a_listing_is_complete_and_in_order_while_a_node_dies() {
    let mut cluster = Cluster::start(3);
    let stored = contents("page/", 5000);
    import(&cluster, &stored);
    let expected: Vec<String> = stored.into_keys().collect();
    let walked = AtomicUsize::new(0);
    assert!(walk(&cluster, 1000, &walked) == expected, "the listing of a whole cluster is wrong");
    let victim = cluster.leader();
    let mut killed = None;
    std::thread::scope(|scope| {
        let walks = [1, 7, 1000].map(|limit| {
            let (cluster, walked) = (&cluster, &walked);
            scope.spawn(move || (limit, walk(cluster, limit, walked)))
        });
        until("the walks are under way", || (walked.load(Ordering::Relaxed) > 300).then_some(()));
        cluster.process(victim).signal("KILL");
        for walk in walks {
            let (limit, keys) = walk.join().expect("a walk ends");
            let wrong = keys.iter().zip(&expected).find(|(found, expected)| found != expected);
            assert!(keys == expected, "in pages of {limit}: {} keys, the first wrong one {wrong:?}", keys.len());
        }
        killed = Some(victim);
    });
    cluster.kill(&[killed.expect("the walks ended")]);
    assert!(walk(&cluster, 1000, &walked) == expected, "the listing after the death is wrong");
}

/// What happened to each key, in the order of the feed: (kind, version).
type Histories = BTreeMap<String, Vec<(String, u64)>>;

/// Reads events until there were `count`.
fn histories(mut next: impl FnMut() -> EventJson, count: usize) -> Histories {
    let mut histories = Histories::new();
    for _ in 0..count {
        let event = next();
        let key = event.key.unwrap_or_else(|| panic!("the feed said {}: {:?}", event.kind, event.detail));
        histories.entry(key).or_default().push((event.kind, event.version.expect("a change has a version")));
    }
    histories
}

/// Puts, replaces and deletes, each through another node: what the feed must say. A delete tells its version only there: 0.
fn make_changes(cluster: &Cluster) -> Histories {
    let mut clients: Vec<Http> = (0..3).map(|node| cluster.http(node)).collect();
    let mut expected = Histories::new();
    for change in 0..200_usize {
        let key = format!("{}/{:02}", if change % 3 == 0 { "odd" } else { "even" }, change % 80);
        let client = &mut clients[(change / 2) % 3];
        let told = expected.entry(key.clone()).or_default();
        if change >= 80 && change % 5 == 0 && told.last().is_some_and(|(kind, _)| kind == "put") {
            let answer = client.ask(&format!("DELETE /v1/kv/{key}"), b"").expect("an answer");
            assert_eq!(answer.status, 204, "{answer:?}");
            told.push(("delete".to_owned(), 0));
        } else {
            let answer = client.ask(&format!("PUT /v1/kv/{key}"), format!("value {change}").as_bytes());
            let answer = answer.expect("an answer");
            assert!(matches!(answer.status, 201 | 204), "{answer:?}");
            told.push(("put".to_owned(), answer.version()));
        }
    }
    expected
}

/// Fails where a history isn't as expected or its versions don't rise.
fn compare(viewer: &str, seen: &Histories, expected: &Histories) {
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{viewer} saw other keys");
    for (key, expected) in expected {
        let seen = &seen[key];
        let same = |(seen, expected): (&(String, u64), &(String, u64))| {
            seen.0 == expected.0 && (expected.1 == 0 || seen.1 == expected.1)
        };
        assert!(
            seen.len() == expected.len() && seen.iter().zip(expected).all(same),
            "{viewer} saw {seen:?} of {key} instead of {expected:?}"
        );
        assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1), "{viewer} saw versions that don't rise: {seen:?}");
    }
}

#[test]
fn every_viewer_on_every_node_gets_every_change() {
    let cluster = Cluster::start(3);
    let open = |node: usize, query: &str| {
        until("the feed opens", || Viewer::open(cluster.config.nodes[node].gateway.port, query))
    };
    // Two on one node, one on each other, and one that wants only a part: none takes another's events.
    let mut viewers = [open(0, ""), open(0, "?values=true"), open(1, ""), open(2, "")];
    let mut of_prefix = open(2, "?prefix=odd/");
    let mut watch = program(&["watch", "--json", "--limit", "200", "--url", &cluster.config.nodes[1].advertise]);
    watch.env("NO_COLOR", "1");
    let mut watch = Process::start(watch, cluster.scratch(), "watch");
    until("the watch command is live", || watch.output().contains("\"live\"").then_some(()));

    let expected = make_changes(&cluster);
    for (at, viewer) in viewers.iter_mut().enumerate() {
        compare(&format!("viewer {at}"), &histories(|| viewer.next(), 200), &expected);
    }
    let of_odd: Histories = expected.clone().into_iter().filter(|(key, _)| key.starts_with("odd/")).collect();
    let count = of_odd.values().map(Vec::len).sum();
    compare("the viewer of a prefix", &histories(|| of_prefix.next(), count), &of_odd);
    until("the watch command has seen all", || (!watch.is_running()).then_some(()));
    let output = watch.output();
    let mut lines = output.lines().map(|line| serde_json::from_str::<EventJson>(line).expect("an event"));
    assert_eq!(lines.next().map(|event| event.kind).as_deref(), Some("live"));
    compare("the watch command", &histories(|| lines.next().expect("another line"), 200), &expected);
    assert_eq!(lines.count(), 0);

    // Nothing came twice: the next event is the next change.
    cluster.put(0, "odd/last", b"the end");
    for viewer in viewers.iter_mut().chain([&mut of_prefix]) {
        let event = viewer.next();
        assert_eq!((event.kind.as_str(), event.key.as_deref()), ("put", Some("odd/last")));
    }
}

#[test]
fn a_value_with_a_time_to_live_goes_by_itself_and_viewers_hear_it() {
    let cluster = Cluster::start(3);
    let mut viewer =
        until("the feed opens", || Viewer::open(cluster.config.nodes[2].gateway.port, "?prefix=mortal&values=true"));
    let mut expected = BTreeMap::new();
    for nth in 0..12 {
        let key = format!("mortal/{nth}");
        // The longer life is only there to be overwritten by the shorter one.
        for ttl in ["1h", "300ms"] {
            let answer = cluster.http(nth % 3).ask(&format!("PUT /v1/kv/{key}?ttl={ttl}"), b"briefly");
            assert!(matches!(answer.expect("an answer").status, 201 | 204));
        }
        expected.insert(key, ["put", "put", "expire"]);
    }
    cluster.put(0, "immortal", b"stays");
    for key in expected.keys() {
        for node in 0..3 {
            until("it is gone", || read(&mut cluster.http(node), key).is_none().then_some(()));
        }
    }
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..3 * expected.len() {
        let event = viewer.next();
        let value = event.value.map(|value| from_base64(&value).expect("base64"));
        assert_eq!(value.as_deref(), (event.kind == "put").then_some(&b"briefly"[..]), "{}", event.kind);
        seen.entry(event.key.expect("a key")).or_default().push(event.kind);
    }
    for (key, expected) in &expected {
        assert_eq!(seen[key], expected, "{key}");
    }
    assert_eq!(read(&mut cluster.http(1), "immortal").as_deref(), Some(&b"stays"[..]));
    let listed = cluster.http(0).ask("GET /v1/kv?prefix=mortal", b"").expect("an answer").json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(0), "the dead are listed");
}

/// What a node's tables hold.
fn memory(cluster: &Cluster, node: usize) -> u64 {
    metric(cluster, node, "jumpgate_memory_bytes")
}

#[test]
fn a_node_tells_what_its_tables_hold_and_warns_when_that_is_four_fifths_of_what_they_may() {
    const LIMIT: u64 = 64 << 20;
    let cluster = Cluster::start_with(3, |config| config.limits.memory_bytes = LIMIT);
    let warned = |node: usize| cluster.process(node).log().matches("[limits] memory").count();
    let value = vec![b'm'; 1 << 20];
    let mut stored = 0;
    // The node that holds most of them has two thirds at least.
    while (0..3).all(|node| warned(node) == 0) {
        assert!(stored < 200, "200 MiB are stored, and nobody has warned");
        put(&mut cluster.http(stored % 3), &format!("large/{stored}"), &value);
        stored += 1;
        if (0..3).all(|node| memory(&cluster, node) < LIMIT / 10 * 7) {
            assert!((0..3).all(|node| warned(node) == 0), "warned too early");
        }
        if (0..3).any(|node| memory(&cluster, node) >= LIMIT / 5 * 4) {
            until("whoever holds four fifths warns", || (0..3).any(|node| warned(node) > 0).then_some(()));
        }
    }
    let node = (0..3).find(|node| warned(*node) > 0).expect("one has warned");
    let (bytes, limit) = (memory(&cluster, node), metric(&cluster, node, "jumpgate_memory_limit_bytes"));
    assert!(limit == LIMIT && bytes >= LIMIT / 5 * 4, "{bytes} of {limit}");
    let log = cluster.process(node).log();
    let line = log.lines().find(|line| line.contains("[limits] memory")).expect("a line");
    assert!(line.contains("WARN") && line.contains("64.0 MiB"), "{line}");
}

/// A full pipe that nobody empties makes whoever writes to it wait for ever.
#[test]
fn nodes_go_on_though_nobody_reads_what_they_print() {
    let mut cluster = Cluster::prepare(3, |_| {});
    for node in 0..3 {
        let pipe = cluster.scratch().file(&format!("n{node}.pipe")).display().to_string();
        // More than a pipe takes: it is full before the node begins, and the shell's own write is given up.
        let fill = format!("mkfifo '{pipe}' && exec 3<>'{pipe}' && timeout 1 head -c 2000000 /dev/zero >&3");
        let shell = format!("{fill}; exec \"$@\" 1>&3 2>&3");
        let prefix = ["sh", "-c", &shell, "sh"].map(str::to_owned).to_vec();
        let environment = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        cluster.start_by(node, Start { prefix, environment });
        cluster.spawn(node);
    }
    cluster.wait_until_whole();
    let stored = contents("unread/", 100);
    cluster.put_all(&[0, 1, 2], &stored);
    cluster.expect(&[0, 1, 2], &stored);
}
