//! The feed over WebSockets.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use jumpgate::api::EventKind;
use jumpgate::gateway::GatewayOptions;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::mock_core;
use super::raw_http::{Client, Served, soon};

pub type Viewer<'a> = WebSocketStream<&'a mut tokio::net::TcpStream>;

pub async fn upgrade<'a>(client: &'a mut Client, target: &str) -> Viewer<'a> {
    let request = format!("ws://localhost{target}").into_client_request().expect("a target");
    let connected = soon(tokio_tungstenite::client_async(request, &mut client.stream)).await;
    connected.expect("an upgrade").0
}

/// The next message that isn't a ping.
async fn next_message(viewer: &mut Viewer<'_>) -> Message {
    loop {
        match soon(viewer.next()).await.expect("the feed goes on").expect("a message") {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

pub async fn next(viewer: &mut Viewer<'_>) -> serde_json::Value {
    match next_message(viewer).await {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?} came instead of an event"),
    }
}

#[tokio::test]
async fn every_viewer_gets_every_event() {
    let served = Served::new().await;
    let (mut one, mut two, mut three) = (served.connect().await, served.connect().await, served.connect().await);
    let mut one = upgrade(&mut one, "/v1/feed").await;
    let mut two = upgrade(&mut two, "/v1/feed?values=true").await;
    let mut filtered = upgrade(&mut three, "/v1/feed?prefix=b%2F&values=true").await;
    for viewer in [&mut one, &mut two, &mut filtered] {
        assert_eq!(next(viewer).await, serde_json::json!({ "type": "live", "cursor": mock_core::cursor() }));
    }
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/a\r\nContent-Type: text/plain", b"hello").await;
    client.ask("DELETE /v1/kv/a", b"").await;
    client.ask("PUT /v1/kv/b/c", b"x").await;
    served.core.publish(EventKind::Expire, "b/c", None);
    for (viewer, with_values) in [(&mut one, false), (&mut two, true)] {
        let event = next(viewer).await;
        assert_eq!((&event["type"], &event["key"], &event["version"]), (&"put".into(), &"a".into(), &1.into()));
        assert!(event["cursor"].is_string() && event["content_type"] == "text/plain");
        assert_eq!(event.get("value"), with_values.then(|| "aGVsbG8=".into()).as_ref());
        let event = next(viewer).await;
        assert_eq!((&event["type"], &event["key"], &event["version"]), (&"delete".into(), &"a".into(), &2.into()));
        assert_eq!(
            (next(viewer).await["version"].as_u64(), next(viewer).await["type"].as_str()),
            (Some(3), Some("expire"))
        );
    }
    let event = next(&mut filtered).await;
    assert_eq!((&event["key"], &event["version"], &event["value"]), (&"b/c".into(), &3.into(), &"eA==".into()));
    assert_eq!(next(&mut filtered).await["version"], 4);
}

#[tokio::test]
async fn a_change_after_the_handshake_is_never_missed() {
    let served = Served::new().await;
    served.core.feed_open.send_replace(false);
    let mut client = served.connect().await;
    let target = format!("/v1/feed?since={}", mock_core::cursor());
    let mut handshake = Box::pin(upgrade(&mut client, &target));
    // Until the subscription stands there is no answer, however often the client looks.
    while served.core.state().subscriptions == 0 {
        assert!(futures_util::poll!(&mut handshake).is_pending(), "upgraded before the subscription stood");
        tokio::task::yield_now().await;
    }
    served.core.publish(EventKind::Put, "before", None);
    served.core.feed_open.send_replace(true);
    let mut viewer = handshake.await;
    served.core.publish(EventKind::Put, "after", None);
    assert_eq!(next(&mut viewer).await["type"], "gap", "what lies before can't be had");
    assert_eq!(next(&mut viewer).await["type"], "live");
    assert_eq!(next(&mut viewer).await["key"], "after");
    served.core.feed_open.send_replace(false);
    let mut late = served.connect().await;
    let answer = late.ask(&format!("GET /v1/feed?timeout=20ms\r\n{}", HANDSHAKE.join("\r\n")), b"").await;
    assert_eq!((answer.status, answer.problem()), (503, "deadline".into()));
}

const HANDSHAKE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[tokio::test]
async fn only_a_proper_handshake_from_here_opens_the_feed() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for missing in HANDSHAKE {
        let lines: Vec<&str> = HANDSHAKE.into_iter().filter(|line| *line != missing).collect();
        let answer = client.ask(&format!("GET /v1/feed\r\n{}", lines.join("\r\n")), b"").await;
        assert_eq!((answer.status, answer.problem()), (426, "upgrade-required".into()), "without {missing}");
        assert_eq!((answer.header("upgrade"), answer.header("sec-websocket-version")), ("websocket", "13"));
    }
    let handshake = HANDSHAKE.join("\r\n");
    for origin in ["http://evil.example", "null", "http://127.0.0.1"] {
        let answer = client.ask(&format!("GET /v1/feed\r\nOrigin: {origin}\r\n{handshake}"), b"").await;
        assert_eq!((answer.status, answer.problem()), (403, "foreign-origin".into()), "{origin}");
    }
    let old =
        format!("GET /v1/feed HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\n{}\r\n\r\n", HANDSHAKE[1..].join("\r\n"));
    client.send(old.as_bytes()).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(426), "HTTP/1.0 can't become a WebSocket");
    assert_eq!(client.ask(&format!("GET /v1/feed?values=x\r\n{handshake}"), b"").await.status, 400);
    let answer = client.ask(&format!("GET /v1/feed\r\nOrigin: http://localhost:9\r\n{handshake}"), b"").await;
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

/// The code and the reason of the close that ends a feed, after any events.
pub async fn closed(viewer: &mut Viewer<'_>) -> (u16, String) {
    loop {
        if let Message::Close(frame) = next_message(viewer).await {
            let frame = frame.expect("a reason");
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

#[tokio::test]
async fn a_feed_that_ends_says_why() {
    let served = Served::new().await;
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    let mut slow = upgrade(&mut one, "/v1/feed?values=true").await;
    assert_eq!(next(&mut slow).await["type"], "live");
    // More than the socket's buffers and the feed's ring can hold.
    for _ in 0..mock_core::FEED_EVENTS_MAX + 32 {
        served.core.publish(EventKind::Put, "large", Some(&[b'x'; 1 << 20]));
        tokio::task::yield_now().await;
    }
    let (code, reason) = closed(&mut slow).await;
    assert!(code == 1013 && reason.contains("too slow"), "{code} {reason}");
    let mut viewer = upgrade(&mut two, "/v1/feed").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    served.core.end_feed();
    assert_eq!(closed(&mut viewer).await.0, 1001);
}

#[tokio::test]
async fn what_a_viewer_says_is_bounded_and_ignored() {
    let served = Served::new().await;
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    let mut viewer = upgrade(&mut one, "/v1/feed").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    viewer.send(Message::text("hello")).await.expect("it is open");
    served.core.publish(EventKind::Put, "a", None);
    assert_eq!(next(&mut viewer).await["key"], "a");
    let mut viewer = upgrade(&mut two, "/v1/feed").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    viewer.send(Message::text("x".repeat(10_000))).await.expect("it is open");
    assert!(!matches!(soon(viewer.next()).await, Some(Ok(Message::Text(_)))), "a viewer's flood was taken");
}

#[tokio::test]
async fn a_viewer_that_shows_no_life_is_cut_off_and_one_that_does_is_not() {
    let options = GatewayOptions {
        ping_interval: Duration::from_millis(30),
        idle_timeout: Duration::from_millis(30),
        header_timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let served = Served::start(options).await;
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    let mut alive = upgrade(&mut one, "/v1/feed").await;
    let answer = two.ask(&format!("GET /v1/feed\r\n{}", HANDSHAKE.join("\r\n")), b"").await;
    assert_eq!(answer.status, 101);
    // The dead one gets pings and answers none; the other one answers by reading.
    let mut pings = 0;
    let dead = async {
        while soon(tokio::io::AsyncReadExt::read(&mut two.stream, &mut [0; 64])).await.is_ok_and(|n| n > 0) {}
    };
    tokio::pin!(dead);
    loop {
        tokio::select! {
            () = &mut dead => break,
            message = alive.next() => match message {
                Some(Ok(Message::Ping(_))) => pings += 1,
                Some(Ok(Message::Text(_))) => {}
                other => panic!("the living viewer got {other:?}"),
            },
        }
    }
    served.core.publish(EventKind::Put, "a", None);
    assert_eq!(next(&mut alive).await["key"], "a", "after {pings} pings");
}

/// Reads a stream of events until `word` has come; all of it.
pub async fn read_until(client: &mut Client, word: &str) -> String {
    let mut text = String::new();
    while !text.contains(word) {
        let mut buffer = [0; 1024];
        let read =
            soon(tokio::io::AsyncReadExt::read(&mut client.stream, &mut buffer)).await.expect("the stream goes on");
        assert!(read > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

#[tokio::test]
async fn server_sent_events_tell_the_same_and_where_to_resume() {
    let served = Served::new().await;
    served.core.publish(EventKind::Put, "before", None);
    let mut client = served.connect().await;
    client.send(b"GET /v1/feed/sse?prefix=b HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let text = read_until(&mut client, "live").await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/event-stream"), "{text}");
    served.core.publish(EventKind::Put, "a", None);
    served.core.publish(EventKind::Put, "b", None);
    let text = read_until(&mut client, "\"b\"").await;
    assert!(!text.contains("\"a\"") && text.contains(&format!("id:{}", mock_core::cursor())), "{text}");
    served.core.end_feed();
    assert!(read_until(&mut client, "event:end").await.contains("shutting down"));
    for (head, status) in [
        ("GET /v1/feed/sse\r\nLast-Event-ID: 17", 400),
        ("GET /v1/feed/sse?since=17", 400),
        ("GET /v1/feed/sse\r\nOrigin: http://evil.example", 403),
        ("POST /v1/feed/sse", 405),
    ] {
        assert_eq!(served.ask(head, b"").await.status, status, "{head}");
    }
}

#[tokio::test]
async fn who_comes_back_gets_what_was_missed_or_a_gap_and_a_snapshot() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/a", b"one").await;
    client.ask("PUT /v1/kv/b", b"two").await;
    let missed = jumpgate::api::FeedPart {
        events: vec![jumpgate::api::FeedEvent {
            kind: EventKind::Delete,
            key: "gone".parse().expect("a key"),
            partition: jumpgate::base::PartitionId(3),
            version: jumpgate::base::Version(2),
            value: None,
            content_type: None,
        }],
        ..Default::default()
    };
    served.core.state().missed.push(missed);
    let target = format!("/v1/feed?values=true&since={}", mock_core::cursor());
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    let mut viewer = upgrade(&mut one, &target).await;
    assert_eq!(next(&mut viewer).await["key"], "gone");
    let live = next(&mut viewer).await;
    assert_eq!((&live["type"], &live["cursor"]), (&"live".into(), &mock_core::cursor().into()));
    let mut late = upgrade(&mut two, &target).await;
    assert_eq!(next(&mut late).await["type"], "gap");
    for (key, value) in [("a", "b25l"), ("b", "dHdv")] {
        let event = next(&mut late).await;
        assert_eq!((&event["type"], &event["key"], &event["value"]), (&"snapshot".into(), &key.into(), &value.into()));
    }
    assert_eq!(next(&mut late).await["type"], "live");
    let handshake = HANDSHAKE.join("\r\n");
    assert_eq!(client.ask(&format!("GET /v1/feed?since=x\r\n{handshake}"), b"").await.status, 400);
}
