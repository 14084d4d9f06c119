//! What operators ask over HTTP.

use std::sync::Arc;

use jumpgate::api::{AdminAction, AdminRequest, Error};
use jumpgate::base::FollowerMode;
use jumpgate::gateway::{GatewayOptions, PeerGateway};
use jumpgate::port::Leadership;

use super::raw_http::Served;

const JSON: &str = "Content-Type: application/json";

fn done(action: AdminAction) -> AdminRequest {
    AdminRequest { action, dry_run: false }
}

fn planned(action: AdminAction) -> AdminRequest {
    AdminRequest { action, dry_run: true }
}

fn transfer(to: Option<&str>) -> AdminAction {
    AdminAction::Transfer { to: to.map(str::to_owned) }
}

#[tokio::test]
async fn each_route_is_an_action() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let n2 = || "n2".to_owned();
    let cases = [
        ("transfer", "", transfer(None)),
        ("transfer", "{\"to\":\"n3\"}", transfer(Some("n3"))),
        ("nodes/n2/add", "", AdminAction::AddNode { node: n2() }),
        ("nodes/n2/remove", "{}", AdminAction::RemoveNode { node: n2() }),
        ("nodes/%6e2/drain", "", AdminAction::Drain { node: n2() }),
        ("init", "{\"without\":[\"n2\",\"n3\"]}", AdminAction::InitForce { without: vec![n2(), "n3".to_owned()] }),
        ("unsafe-recover", "", AdminAction::UnsafeRecover),
    ];
    for (path, body, action) in cases {
        let header = if body.is_empty() { String::new() } else { format!("\r\n{JSON}; charset=utf-8") };
        for (query, expected) in [
            ("", done(action.clone())),
            ("?dry_run=false&timeout=3s", done(action.clone())),
            ("?dry_run=true", planned(action.clone())),
        ] {
            let answer = client.ask(&format!("POST /v1/admin/{path}{query}{header}"), body.as_bytes()).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}{query}");
            assert_eq!(answer.json()["steps"], serde_json::json!([format!("{action:?}")]));
            assert_eq!(served.core.state().admins.pop(), Some(expected), "{path}{query}");
        }
    }
    assert!(served.core.state().requests.is_empty() && served.core.state().admins.is_empty());
}

#[tokio::test]
async fn what_is_misspelt_changes_nothing() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for (target, body) in [
        ("transfer?dryrun=true", ""),
        ("transfer?dry_run", ""),
        ("transfer?dry_run=yes", ""),
        ("transfer?dry_run=true&dry_run=false", ""),
        ("transfer?timeout=soon", ""),
        ("transfer", "{\"dry_run\":true}"),
        ("transfer", "n2"),
        ("init", ""),
        ("nodes/%/add", ""),
    ] {
        let answer = client.ask(&format!("POST /v1/admin/{target}\r\n{JSON}"), body.as_bytes()).await;
        assert_eq!((answer.status, answer.problem()), (400, "bad-request".into()), "{target} {body}");
        assert_eq!(answer.json()["outcome"], "definite");
    }
    for (target, body) in [
        ("nodes/n4/drain", ""),
        ("nodes/N1/add", ""),
        ("transfer", "{\"to\":\"n4\"}"),
        ("init", "{\"without\":[\"n1\",\"\"]}"),
    ] {
        let answer = client.ask(&format!("POST /v1/admin/{target}?dry_run=true\r\n{JSON}"), body.as_bytes()).await;
        assert_eq!((answer.status, answer.problem()), (400, "bad-request".into()), "{target} {body}");
        let detail = answer.json()["detail"].as_str().expect("text").to_owned();
        assert!(detail.contains("configured are n1, n2, n3"), "{detail}");
    }
    for path in ["", "/", "/nodes/n1", "/nodes/n1/kill", "/nodes/n1/add/", "/transfer/", "/unsafe_recover"] {
        let answer = client.ask(&format!("POST /v1/admin{path}"), b"").await;
        assert_eq!((answer.status, answer.problem()), (404, "no-such-path".into()), "{path}");
    }
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let answer = client.ask(&format!("{method} /v1/admin/transfer"), b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST, OPTIONS"), "{method}");
    }
    let answer = client.ask("OPTIONS /v1/admin/nodes/n1/add", b"").await;
    assert_eq!((answer.status, answer.header("allow")), (204, "POST, OPTIONS"));
    let long = format!("{{\"to\":\"{}\"}}", "n".repeat(64 << 10));
    assert_eq!(client.ask(&format!("POST /v1/admin/transfer\r\n{JSON}"), long.as_bytes()).await.status, 413);
    assert!(served.core.state().admins.is_empty(), "a bad request was handed in");
}

#[tokio::test]
async fn a_page_of_another_origin_can_not_operate_the_cluster() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for kind in [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain; application/json",
        "application/jsonp",
        "application/json\r\nContent-Type: text/plain",
    ] {
        for body in ["", "{}"] {
            let answer = client.ask(&format!("POST /v1/admin/transfer\r\nContent-Type: {kind}"), body.as_bytes()).await;
            assert_eq!((answer.status, answer.problem()), (415, "unsupported-media-type".into()), "{kind} {body:?}");
        }
    }
    let answer = client.ask("POST /v1/admin/transfer", b"{}").await;
    assert_eq!((answer.status, answer.problem()), (415, "unsupported-media-type".into()), "a body without a type");
    let answer = client.ask("POST /v1/admin/transfer\r\nOrigin: http://evil.example", b"").await;
    assert_eq!((answer.status, answer.problem()), (403, "foreign-origin".into()));
    client.send(b"POST /v1/admin/transfer HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    let answer = client.answer(false).await.expect("an answer");
    assert_eq!((answer.status, answer.problem()), (421, "foreign-host".into()));
    assert!(served.core.state().admins.is_empty(), "a refused request was handed in");
    assert_eq!(client.ask("POST /v1/admin/transfer\r\nContent-Type: Application/JSON", b"{}").await.status, 200);
}

#[tokio::test]
async fn what_the_core_says_no_to_is_a_problem() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let cases = [
        (Error::BadRequest("no such thing".into()), 400, "bad-request", "definite"),
        (Error::Conflict("n2 is already drained".into()), 409, "conflict", "definite"),
        (Error::NoQuorum("alone".into()), 503, "no-quorum", "definite"),
        (Error::OutcomeUnknown("it went away".into()), 504, "no-answer-in-time", "unknown"),
    ];
    for (error, status, name, outcome) in cases {
        let said = error.to_string();
        served.core.state().failures.push(error);
        let answer = client.ask("POST /v1/admin/nodes/n2/drain", b"").await;
        assert_eq!((answer.status, &*answer.problem()), (status, name));
        assert_eq!(answer.json()["outcome"], outcome);
        assert_eq!(answer.json()["detail"], said);
    }
    served.core.state().hangs = true;
    let answer = client.ask("POST /v1/admin/nodes/n2/drain?timeout=20ms", b"").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (504, &"unknown".into()));
    let answer = client.ask("POST /v1/admin/nodes/n2/drain?timeout=20ms&dry_run=true", b"").await;
    assert_eq!((answer.status, answer.problem()), (503, "deadline".into()), "a plan that isn't told changes nothing");
}

const ADVERTISED: &str = "http://leader.example:7401";

/// A leader that is told by a name that only clients can resolve, and a follower that knows where it really is.
async fn leader_and_follower(followers: FollowerMode) -> (Served, Served) {
    let hosts = vec![ADVERTISED.to_owned()];
    let leader = Served::start(GatewayOptions { hosts: hosts.clone(), ..Default::default() }).await;
    let peers = vec![PeerGateway { advertised: ADVERTISED.to_owned(), address: leader.address.to_string() }];
    let follower = Served::start(GatewayOptions { hosts, peers, ..Default::default() }).await;
    let leadership = Leadership { followers, is_leader: false, leader_url: Some(Arc::from(ADVERTISED)) };
    follower.core.state().leadership = leadership;
    (leader, follower)
}

#[tokio::test]
async fn a_follower_passes_on_what_is_the_leaders_to_do() {
    for mode in [FollowerMode::Relay, FollowerMode::Route] {
        let (leader, follower) = leader_and_follower(mode).await;
        let mut client = follower.connect().await;
        let body = b"{\"to\":\"n2\"}";
        let answer = client.ask(&format!("POST /v1/admin/transfer?dry_run=true\r\n{JSON}"), body).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{answer:?}");
        assert_eq!(answer.json()["steps"][0], format!("{:?}", transfer(Some("n2"))));
        assert_eq!(client.ask("POST /v1/admin/nodes/n%32/remove", b"").await.status, 200);
        let remove = AdminAction::RemoveNode { node: "n2".to_owned() };
        assert_eq!(leader.core.state().admins, [planned(transfer(Some("n2"))), done(remove)]);
        leader.core.state().failures.push(Error::Conflict("n2 is behind".into()));
        let answer = client.ask("POST /v1/admin/transfer", b"").await;
        assert_eq!((answer.status, answer.problem()), (409, "conflict".into()));
        assert_eq!(answer.json()["detail"], "n2 is behind", "the leader's own words");
        leader.core.state().failures.push(Error::NoQuorum("alone".into()));
        assert_eq!(client.ask("POST /v1/admin/transfer", b"").await.header("retry-after"), "1");
        assert!(follower.core.state().admins.is_empty(), "the follower did it too");
    }
}

#[tokio::test]
async fn a_follower_that_redirects_sends_operators_to_the_leader() {
    let (leader, follower) = leader_and_follower(FollowerMode::Redirect).await;
    for target in ["/v1/admin/transfer", "/v1/admin/nodes/n%31/add?dry_run=true&"] {
        let answer = follower.ask(&format!("POST {target}"), b"").await;
        assert_eq!((answer.status, answer.problem()), (307, "elsewhere".into()));
        assert_eq!(answer.header("location"), format!("{ADVERTISED}{target}"));
    }
    assert!(leader.core.state().admins.is_empty() && follower.core.state().admins.is_empty());
}

#[tokio::test]
async fn what_concerns_the_asked_node_is_not_passed_on() {
    for mode in [FollowerMode::Relay, FollowerMode::Redirect] {
        let (leader, follower) = leader_and_follower(mode).await;
        let init = AdminAction::InitForce { without: vec!["n3".to_owned()] };
        let body = b"{\"without\":[\"n3\"]}";
        assert_eq!(follower.ask(&format!("POST /v1/admin/init\r\n{JSON}"), body).await.status, 200);
        assert_eq!(follower.ask("POST /v1/admin/unsafe-recover?dry_run=true", b"").await.status, 200);
        assert_eq!(follower.core.state().admins, [done(init), planned(AdminAction::UnsafeRecover)]);
        assert!(leader.core.state().admins.is_empty());
    }
}

#[tokio::test]
async fn without_a_leader_there_is_no_waiting_and_no_going_round() {
    let (leader, follower) = leader_and_follower(FollowerMode::Relay).await;
    // Each takes the other for the leader, or a moment ago did.
    let elsewhere = follower.core.state().leadership.clone();
    leader.core.state().leadership = elsewhere;
    let answer = follower.ask("POST /v1/admin/transfer", b"").await;
    assert_eq!((answer.status, answer.problem(), answer.header("retry-after")), (503, "no-quorum".into(), "1"));
    assert!(answer.json()["detail"].as_str().expect("text").contains("soon agree"), "{answer:?}");
    for mode in [FollowerMode::Relay, FollowerMode::Redirect] {
        follower.core.state().leadership = Leadership { followers: mode, ..Leadership::default() };
        let answer = follower.ask("POST /v1/admin/transfer", b"").await;
        assert_eq!((answer.status, answer.problem(), answer.header("retry-after")), (503, "no-quorum".into(), "1"));
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let leader_url = Some(Arc::from(format!("http://{gone}")));
    follower.core.state().leadership = Leadership { leader_url, ..Leadership::default() };
    let answer = follower.ask("POST /v1/admin/transfer", b"").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (503, &"definite".into()));
    assert!(leader.core.state().admins.is_empty() && follower.core.state().admins.is_empty());
}

#[tokio::test]
async fn a_leader_that_falls_silent_leaves_the_outcome_unknown() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let served = Served::new().await;
    let leader_url = silent.local_addr().map(|address| Arc::from(format!("http://{address}"))).ok();
    served.core.state().leadership = Leadership { leader_url, ..Leadership::default() };
    let answer = served.ask("POST /v1/admin/transfer?timeout=20ms", b"").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (504, &"unknown".into()));
    let answer = served.ask("POST /v1/admin/transfer?timeout=20ms&dry_run=true", b"").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (503, &"definite".into()), "a plan changes nothing");
}
