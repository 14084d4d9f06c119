//! What requests leave behind, and what the dashboard and its neighbours may see.

use std::sync::Arc;
use std::time::Duration;

use jumpgate::gateway::{GatewayOptions, PeerGateway};
use jumpgate::telemetry::traffic::{CutOff, Route, Traffic, Verb};

use super::raw_http::{Served, soon};

const PEER: &str = "http://127.0.0.1:7402";

async fn with_peers() -> (Served, Arc<Traffic>) {
    let peer = PeerGateway { advertised: PEER.to_owned(), address: "127.0.0.1:7402".to_owned() };
    let options = GatewayOptions { peers: vec![peer], ..GatewayOptions::default() };
    let traffic = Arc::clone(&options.traffic);
    (Served::start(options).await, traffic)
}

#[tokio::test]
async fn every_answer_has_a_request_id_the_clients_own_where_it_gave_one() {
    let (served, _) = with_peers().await;
    let mut client = served.connect().await;
    let mut made = Vec::new();
    for head in ["GET /v1/kv/a", "PUT /v1/kv/a", "PATCH /", "GET /nothing", "GET /v1/kv/a\r\nX-Request-Id: two words"] {
        let answer = client.ask(head, b"").await;
        assert_eq!(answer.header("x-request-id").len(), 16, "{head}: {answer:?}");
        made.push(answer.header("x-request-id").to_owned());
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 5, "an id came twice");
    let answer = client.ask("GET /v1/kv/a\r\nX-Request-Id: 4bf92f35-77b3", b"").await;
    assert_eq!(answer.header("x-request-id"), "4bf92f35-77b3");
    // What the checks in front of the routes refuse has one too.
    let answer = client.ask("DELETE /v1/kv/a\r\nOrigin: http://evil.example", b"").await;
    assert_eq!((answer.status, answer.header("x-request-id").len()), (403, 16));
}

#[tokio::test]
async fn requests_are_counted_by_what_they_are_about_and_what_came_of_them() {
    let (served, traffic) = with_peers().await;
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/a", b"1").await;
    client.ask("GET /v1/kv/a", b"").await;
    client.ask("GET /v1/kv/a", b"").await;
    client.ask("GET /v1/kv", b"").await;
    client.ask("BREW /coffee", b"").await;
    client.ask("DELETE /v1/kv/a\r\nOrigin: null", b"").await;
    let expected = [
        (Route::Kv, Verb::Get, "200", 2),
        (Route::Kv, Verb::Put, "201", 1),
        (Route::Kv, Verb::Delete, "403", 1),
        (Route::List, Verb::Get, "200", 1),
        (Route::Other, Verb::Other, "404", 1),
    ];
    assert_eq!(traffic.requests(), expected);
    assert_eq!((traffic.in_flight(), traffic.connections.value()), (0, 1));
    assert_eq!((traffic.data_latencies(false).count(), traffic.data_latencies(true).count()), (3, 2));
}

/// Waits until it is so; whoever waits here knows that it will be.
async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_connection_ends_is_counted_and_nothing_stays_in_flight() {
    let options = GatewayOptions { drain_timeout: Duration::from_millis(1), ..GatewayOptions::default() };
    let traffic = Arc::clone(&options.traffic);
    let served = Served::start(options).await;
    served.core.state().hangs = true;
    let mut client = served.connect().await;
    client.send(b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    until(|| traffic.in_flight() == 1).await;
    served.shutdown.cancel();
    until(|| traffic.in_flight() == 0 && traffic.connections.value() == 0).await;
    assert_eq!(traffic.requests(), [(Route::Kv, Verb::Get, "gone", 1)]);
}

#[tokio::test]
async fn a_viewer_that_is_told_to_go_is_counted_with_the_reason() {
    let (served, traffic) = with_peers().await;
    let mut client = served.connect().await;
    client.send(b"GET /v1/feed/sse HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    until(|| traffic.viewers.value() == 1).await;
    served.core.end_feed();
    until(|| traffic.viewers.value() == 0).await;
    assert!(traffic.cut_off().any(|reason| reason == (CutOff::ShuttingDown, 1)));
    assert_eq!(traffic.viewers_begun.value(), 1);
}

#[tokio::test]
async fn the_dashboard_is_one_page_that_may_do_little() {
    let (served, _) = with_peers().await;
    let answer = served.get("/").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.ends_with(&format!("connect-src 'self' {PEER}")), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!((answer.header("x-frame-options"), answer.header("referrer-policy")), ("DENY", "no-referrer"));
    let page = String::from_utf8(answer.body.clone()).expect("it is text");
    assert!(page.starts_with("<!doctype html>") && page.contains("/v1/kv/{key}"), "what curl shows says what to ask");
    assert_eq!(served.ask("HEAD /", b"").await.header("content-length"), answer.body.len().to_string());
}

#[tokio::test]
async fn values_are_given_out_where_they_can_run_nothing() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for (kind, policy) in [
        ("text/html", "default-src 'none'; sandbox"),
        ("image/svg+xml", "default-src 'none'; sandbox"),
        ("anything/else", "default-src 'none'; sandbox"),
        ("application/json", ""),
        ("text/plain; charset=utf-8", ""),
        ("application/octet-stream", ""),
    ] {
        client.ask(&format!("PUT /v1/kv/page\r\nContent-Type: {kind}"), b"<script>alert(1)</script>").await;
        let answer = client.ask("GET /v1/kv/page", b"").await;
        assert_eq!((answer.header("content-security-policy"), answer.header("content-type")), (policy, kind));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn pages_of_the_other_nodes_may_read_how_this_one_is_and_nothing_else() {
    let (served, _) = with_peers().await;
    let mut client = served.connect().await;
    for (path, origin, granted) in [
        ("/v1/cluster", PEER, PEER),
        ("/v1/cluster/map", PEER, PEER),
        ("/healthz", PEER, PEER),
        ("/v1/cluster", "http://127.0.0.1:7403", ""),
        ("/v1/cluster", "https://127.0.0.1:7402", ""),
        ("/v1/cluster", "null", ""),
        ("/v1/kv/a", PEER, ""),
        ("/v1/kv", PEER, ""),
        ("/metrics", PEER, ""),
        ("/", PEER, ""),
    ] {
        let answer = client.ask(&format!("GET {path}\r\nOrigin: {origin}"), b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), granted, "{path} from {origin}");
        assert_eq!(answer.header("access-control-allow-credentials"), "");
        let answer =
            client.ask(&format!("OPTIONS {path}\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: GET"), b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), granted, "{path} from {origin}, asked before");
        let headers = if granted.is_empty() { "" } else { "authorization" };
        assert_eq!(answer.header("access-control-allow-headers"), headers, "{path} from {origin}");
    }
    // A failing health check is what such a page wants to see: the mock core is not alive.
    let answer = client.ask(&format!("GET /healthz\r\nOrigin: {PEER}"), b"").await;
    assert_eq!((answer.status, answer.header("vary")), (503, "origin"));
}

#[tokio::test]
async fn the_status_says_what_clients_ask_of_the_answering_node_alone() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/a", b"1").await;
    client.ask("GET /v1/kv/a", b"").await;
    let status = client.ask("GET /v1/cluster", b"").await.json();
    let sum = |kind: &str| {
        let counts = status["nodes"][0]["traffic"][kind].as_array().expect("counts").clone();
        counts.iter().filter_map(serde_json::Value::as_u64).sum::<u64>()
    };
    assert_eq!((sum("reads"), sum("writes")), (1, 1), "{status}");
    assert!(status["nodes"][1].get("traffic").is_none(), "{status}");
    let map = client.ask("GET /v1/cluster/map", b"").await;
    assert_eq!((map.status, map.json()["partitions"].as_array().map(Vec::len)), (200, Some(0)), "{map:?}");
}
