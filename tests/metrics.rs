//! `/metrics` of a real node: text as Prometheus reads it, and every number that documents, alarms and the Grafana
//! dashboard speak of is in it.

#[path = "support/http.rs"]
#[allow(dead_code, reason = "other tests ask for more")]
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Http;
use jumpgate::base::Slot;
use jumpgate::config::{Config, TimingConfig};
use jumpgate::server::{Server, Sockets};

const PATIENCE: Duration = Duration::from_secs(90);

/// What a node of one answers after a few requests.
fn scraped() -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let nodes: Vec<Sockets> = (0..2).map(|_| Sockets::bind_loopback(0).expect("free ports")).collect();
    let ports: Vec<_> = nodes.iter().map(|sockets| sockets.ports().expect("they are bound")).collect();
    let mut config = Config::loopback("metrics", &ports);
    config.cluster.partitions = 16;
    // Generous, so that a machine that is busy with other tests causes no failover of its own.
    config.timing = TimingConfig {
        heartbeat: Some(Duration::from_millis(50)),
        election: Some(Duration::from_millis(800)),
        lease: Some(Duration::from_millis(600)),
        down: Some(Duration::from_millis(700)),
    };
    let servers: Vec<Server> = {
        let _inside = runtime.enter();
        let start = |(slot, sockets)| Server::start(&config, Slot(slot as u8), sockets, Arc::new(|_, _| {}));
        nodes.into_iter().enumerate().map(start).collect::<Result<_, _>>().expect("they start")
    };
    let mut client = Http::new(ports[0].gateway);
    let end = Instant::now() + PATIENCE;
    while client.ask("GET /readyz", b"").expect("it answers").status != 200 {
        assert!(Instant::now() < end, "it was not ready in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.ask("PUT /v1/kv/a?timeout=30s", b"one").expect("it answers").status, 201);
    assert_eq!(client.ask("GET /v1/kv/b", b"").expect("it answers").status, 404);
    let page = loop {
        let page = client.ask("GET /metrics", b"").expect("it answers");
        assert_eq!((page.status, page.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
        // A copy that lags behind on a busy machine catches up.
        if String::from_utf8_lossy(&page.body).contains("jumpgate_partitions{state=\"full\"} 16\n") {
            break page;
        }
        assert!(Instant::now() < end, "the partitions are not whole in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    runtime.block_on(futures_util::future::join_all(servers.into_iter().map(Server::stop)));
    String::from_utf8(page.body).expect("it is text")
}

/// A family as it was read.
#[derive(Debug, Default)]
struct Read {
    kind: String,
    /// By name and labels.
    samples: BTreeMap<String, f64>,
}

/// Reads the text by the letter of the format: complains of whatever Prometheus, or `promtool check metrics`, would.
fn read(text: &str) -> Result<BTreeMap<String, Read>, String> {
    let mut families: BTreeMap<String, Read> = BTreeMap::new();
    let mut name = "";
    let mut help = "";
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((of, words)) = rest.split_once(' ') else { return wrong("no words") };
            if words.trim().is_empty() || families.contains_key(of) {
                return wrong("no help, or a second one");
            }
            help = of;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((of, kind)) = rest.split_once(' ') else { return wrong("no type") };
            if of != help || !matches!(kind, "counter" | "gauge" | "histogram") {
                return wrong("a type without help, or of no kind");
            }
            let is_named = of.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            if !is_named || (kind == "counter") != of.ends_with("_total") {
                return wrong("a name against the conventions");
            }
            let ours = of.starts_with("jumpgate_") || of.starts_with("process_");
            if !ours || of.contains("_ms") || of.contains("milli") || of.contains("_kib") {
                return wrong("a name of another program, or not in seconds and bytes");
            }
            name = of;
            families.insert(of.to_owned(), Read { kind: kind.to_owned(), ..Read::default() });
        } else {
            let Some((of, number)) = line.rsplit_once(' ') else { return wrong("no number") };
            let Ok(number) = number.parse::<f64>() else { return wrong("no number") };
            let (bare, labels) = of.split_once('{').map_or((of, ""), |(bare, labels)| (bare, labels));
            if !labels.is_empty() && !labels.ends_with("\"}") {
                return wrong("labels without end");
            }
            let family = families.get_mut(name).ok_or("a number before any family")?;
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !bare.strip_prefix(name).is_some_and(|suffix| suffixes.contains(&suffix)) {
                return wrong("a number of another family");
            }
            if family.samples.insert(of.to_owned(), number).is_some() || number.is_nan() {
                return wrong("the same number twice, or none");
            }
        }
    }
    Ok(families)
}

/// Names of metrics in a document: words that begin as ours do, in running text, queries and rules.
fn names_in(document: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = document.split(|letter: char| !is_part(letter));
    let named = words.filter(|word| word.starts_with("jumpgate_") || word.starts_with("process_"));
    named.map(str::to_owned).collect()
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_node_writes_what_prometheus_reads_and_documents_name_nothing_else() {
    let text = scraped();
    let families = read(&text).unwrap_or_else(|complaint| panic!("{complaint}\n{text}"));

    // What was asked is counted.
    let sample = |family: &str, labels: &str| families[family].samples.get(&format!("{family}{labels}")).copied();
    let asked = |method: &str, status: &str| {
        sample("jumpgate_http_requests_total", &format!("{{route=\"kv\",method=\"{method}\",status=\"{status}\"}}"))
    };
    assert_eq!((asked("PUT", "201"), asked("GET", "404")), (Some(1.0), Some(1.0)), "{text}");
    let taken = &families["jumpgate_http_request_duration_seconds"].samples;
    let bucket = "jumpgate_http_request_duration_seconds_bucket{route=\"kv\",kind=\"write\",le=\"+Inf\"}";
    assert_eq!(taken.get(bucket), Some(&1.0), "{text}");
    assert_eq!(sample("jumpgate_partitions", "{state=\"full\"}"), Some(16.0), "{text}");
    assert_eq!(sample("jumpgate_keys", ""), Some(1.0), "{text}");
    assert_eq!(sample("jumpgate_quorum", ""), Some(1.0));
    assert!(sample("jumpgate_leader_changes_total", "").is_some_and(|count| count >= 1.0), "{text}");

    // A histogram's buckets rise, and the last one has all.
    let mut below: BTreeMap<&str, f64> = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains("_bucket{")) {
        let (labels, number) = line.rsplit_once(' ').expect("it was read");
        let series = labels.split(",le=").next().unwrap_or_default();
        let number: f64 = number.parse().expect("it was read");
        assert!(below.insert(series, number).is_none_or(|before| before <= number), "{line}");
    }

    // Every name that people are told of is there: a family, or a number of a histogram.
    let known = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"].map(|suffix| name.strip_suffix(suffix));
        families.contains_key(name) || parts.into_iter().flatten().any(|name| families.contains_key(name))
    };
    for name in ["docs/interface.md", "docs/operations.md", "deploy/grafana-dashboard.json", "deploy/alerts.yaml"] {
        let names = names_in(&document(name));
        assert!(!names.is_empty(), "{name} names no metric");
        let unknown: Vec<&String> = names.iter().filter(|name| !known(name) && !name.ends_with('_')).collect();
        assert!(unknown.is_empty(), "{name} names what no node shows: {unknown:?}");
    }
    // And the other way round: each family is explained.
    let explained = names_in(&document("docs/interface.md"));
    let dumb: Vec<&String> = families.keys().filter(|name| !explained.contains(*name)).collect();
    assert!(dumb.is_empty(), "docs/interface.md says nothing of {dumb:?}");

    // Each alarm is explained, too.
    let pages = document("docs/operations.md");
    let alarms = document("deploy/alerts.yaml");
    let alarms: Vec<&str> = alarms.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alarms.len() > 5, "deploy/alerts.yaml has {alarms:?}");
    for alarm in alarms {
        assert!(pages.contains(&format!("`{alarm}`")), "docs/operations.md says nothing of {alarm}");
    }
    let grafana: serde_json::Value = serde_json::from_str(&document("deploy/grafana-dashboard.json")).expect("JSON");
    assert!(grafana["panels"].as_array().is_some_and(|panels| panels.len() > 5));
}

#[test]
fn text_that_prometheus_would_not_take_is_noticed() {
    let head = "# HELP jumpgate_a_total A.\n# TYPE jumpgate_a_total counter\n";
    assert!(read(&format!("{head}jumpgate_a_total 1\n")).is_ok());
    for (text, complaint) in [
        ("jumpgate_a_total 1\n".to_owned(), "before any family"),
        (format!("{head}jumpgate_a_total 1\njumpgate_a_total 1\n"), "twice"),
        (format!("{head}jumpgate_b_total 1\n"), "another family"),
        (format!("{head}{head}"), "a second one"),
        (format!("{head}jumpgate_a_total one\n"), "no number"),
        ("# HELP jumpgate_a A.\n# TYPE jumpgate_a counter\n".to_owned(), "conventions"),
        ("# HELP jumpgate_a_ms A.\n# TYPE jumpgate_a_ms gauge\n".to_owned(), "seconds"),
        ("# TYPE jumpgate_a gauge\n".to_owned(), "without help"),
        (format!("{head}jumpgate_a_total 1"), "no end"),
    ] {
        let found = read(&text).expect_err(&text);
        assert!(found.contains(complaint), "{found}, not {complaint}");
    }
}
