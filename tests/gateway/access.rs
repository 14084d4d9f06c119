//! Who may do what: each route with each role, tokens that are taken back, and addresses that guess.

use std::sync::Arc;

use jumpgate::access::{self, Access, Role};
use jumpgate::api::EventKind;
use jumpgate::gateway::{GatewayOptions, Guard};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::feed::{closed, next, read_until};
use super::raw_http::{Client, Served, soon};

const JSON: &str = "Content-Type: application/json";

/// A gateway that asks for tokens: one a role, and one that writes below `a/` only.
struct Guarded {
    served: Served,
    guard: Arc<Guard>,
    lines: [String; 4],
    tokens: [String; 4],
}

const READER: usize = 0;
const WRITER: usize = 1;
const ADMIN: usize = 2;
const LIMITED: usize = 3;

impl Guarded {
    async fn new() -> Self {
        let tokens = [1, 2, 3, 4].map(|seed| access::token_of([seed; 32]));
        let line = |nth: usize, role, prefixes: &[&str]| {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            access::line(&format!("t{nth}"), role, &prefixes, &tokens[nth]).expect("it can be written")
        };
        let lines = [
            line(READER, Role::Read, &[]),
            line(WRITER, Role::Write, &[]),
            line(ADMIN, Role::Admin, &[]),
            line(LIMITED, Role::Write, &["a/", "b/"]),
        ];
        let guard = Arc::new(Guard::new(Access::parse(lines.join("\n").as_bytes()).expect("a good file")));
        let options = GatewayOptions { guard: Arc::clone(&guard), ..Default::default() };
        Self { served: Served::start(options).await, guard, lines, tokens }
    }

    /// Takes one token back.
    fn revoke(&self, gone: usize) {
        let left: Vec<&str> = (0..4).filter(|nth| *nth != gone).map(|nth| &*self.lines[nth]).collect();
        self.guard.replace(Access::parse(left.join("\n").as_bytes()).expect("a good file"));
    }

    fn header(&self, nth: usize) -> String {
        format!("Authorization: Bearer {}", self.tokens[nth])
    }
}

#[tokio::test]
async fn each_route_with_each_role() {
    // (request, body, what these get one after the other: nobody, a stranger, read, write, admin, and who writes below a/ and
    // b/ only)
    let cases: [(&str, &str, [u16; 6]); 29] = [
        ("GET /v1/kv/a/1", "", [401, 401, 404, 404, 404, 404]),
        ("HEAD /v1/kv/a/1", "", [401, 401, 404, 404, 404, 404]),
        ("GET /v1/kv/c/1", "", [401, 401, 404, 404, 404, 403]),
        ("GET /v1/kv/%61%2F1", "", [401, 401, 404, 404, 404, 404]),
        ("PUT /v1/kv/c/2", "x", [401, 401, 403, 201, 204, 403]),
        ("POST /v1/kv/c/3", "x", [401, 401, 403, 201, 409, 403]),
        ("DELETE /v1/kv/c/3", "", [401, 401, 403, 404, 404, 403]),
        ("PUT /v1/kv/a/2", "x", [401, 401, 403, 201, 204, 204]),
        ("PUT /v1/kv/a", "x", [401, 401, 403, 201, 204, 403]),
        ("GET /v1/kv", "", [401, 401, 200, 200, 200, 403]),
        ("GET /v1/kv?prefix=a/x", "", [401, 401, 200, 200, 200, 200]),
        ("GET /v1/kv?prefix=a", "", [401, 401, 200, 200, 200, 403]),
        ("GET /v1/kv?prefix=%61%2F&cursor=Yy8x", "", [401, 401, 200, 200, 200, 200]),
        ("POST /v1/batch\r\nContent-Type: application/json", "{\"ops\":[]}", [401, 401, 200, 200, 200, 200]),
        ("GET /v1/feed", "", [401, 401, 426, 426, 426, 403]),
        ("GET /v1/feed?prefix=b/", "", [401, 401, 426, 426, 426, 426]),
        ("GET /v1/feed/sse?since=17", "", [401, 401, 400, 400, 400, 400]),
        ("GET /v1/feed/sse?prefix=c/", "", [401, 401, ENDLESS, ENDLESS, ENDLESS, 403]),
        ("GET /v1/cluster", "", [401, 401, 200, 200, 200, 200]),
        ("GET /metrics", "", [401, 401, 200, 200, 200, 200]),
        ("POST /v1/admin/unsafe-recover", "x", [401, 401, 403, 403, 415, 403]),
        ("GET /v1/admin/unsafe-recover", "", [401, 401, 403, 403, 405, 403]),
        ("GET /v1/nothing", "", [401, 401, 404, 404, 404, 404]),
        ("PUT /v1/nothing", "x", [401, 401, 403, 404, 404, 404]),
        ("GET /healthz", "", [503; 6]),
        ("GET /readyz", "", [503; 6]),
        ("GET /leaderz", "", [503; 6]),
        ("GET /", "", [200; 6]),
        ("PUT /", "x", [405; 6]),
    ];
    for (head, body, expected) in cases {
        let guarded = Guarded::new().await;
        let stranger = "Authorization: Bearer jgt_of_nobody".to_owned();
        let shown = [None, Some(stranger)].into_iter().chain((0..4).map(|nth| Some(guarded.header(nth))));
        for (header, expected) in shown.zip(expected).filter(|(_, expected)| *expected != ENDLESS) {
            let header = header.map_or_else(String::new, |header| format!("\r\n{header}"));
            let answer = guarded.served.ask(&format!("{head}{header}"), body.as_bytes()).await;
            assert_eq!(answer.status, expected, "{head} with {header:?}");
            let challenge = if expected == 401 { "Bearer realm=\"jumpgate\"" } else { "" };
            assert!(answer.header("www-authenticate").starts_with(challenge), "{head}: {answer:?}");
            if !head.starts_with("HEAD") && matches!(expected, 401 | 403) {
                let name = if expected == 401 { "unauthorized" } else { "forbidden" };
                assert_eq!(answer.problem(), name, "{head}");
            }
        }
    }
}

/// An answer that doesn't end: it is had elsewhere.
const ENDLESS: u16 = 0;

#[tokio::test]
async fn a_batch_is_judged_operation_by_operation() {
    let guarded = Guarded::new().await;
    let batch = r#"{"ops":[{"op":"put","key":"a/1","value":"eA=="},{"op":"put","key":"c/1","value":"eA=="},
        {"op":"get","key":"a/1"},{"op":"get","key":"c/1"},{"op":"delete","key":"c/1"},{"op":"delete","key":"a/1"}]}"#;
    for (who, expected) in [
        (READER, [403, 403, 404, 404, 403, 403]),
        (LIMITED, [201, 403, 200, 403, 403, 204]),
        (WRITER, [201, 201, 200, 200, 204, 204]),
        (ADMIN, [201, 201, 200, 200, 204, 204]),
    ] {
        let head = format!("POST /v1/batch\r\n{JSON}\r\n{}", guarded.header(who));
        let answer = guarded.served.ask(&head, batch.as_bytes()).await;
        let json = answer.json();
        let results = json["results"].as_array().expect("results");
        let statuses: Vec<u64> = results.iter().filter_map(|result| result["status"].as_u64()).collect();
        assert_eq!(statuses, expected, "token {who}");
        for denied in results.iter().filter(|result| result["status"] == 403) {
            assert_eq!(denied["type"], "urn:jumpgate:problem:forbidden");
        }
        let outcome = if who == READER || who == LIMITED { "definite".into() } else { serde_json::Value::Null };
        assert_eq!(results[1]["outcome"], outcome, "a denied write says that it did not happen");
    }
}

#[tokio::test]
async fn a_token_that_is_taken_back_is_dead_on_open_connections() {
    let guarded = Guarded::new().await;
    let header = guarded.header(WRITER);
    let (mut kept, mut uploading) = (guarded.served.connect().await, guarded.served.connect().await);
    let (mut socket, mut events) = (guarded.served.connect().await, guarded.served.connect().await);
    let mut other = guarded.served.connect().await;
    assert_eq!(kept.ask(&format!("PUT /v1/kv/a\r\n{header}"), b"x").await.status, 201);
    let mut viewer = watch(&mut socket, "/v1/feed", &guarded.tokens[WRITER], "authorization").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    let mut unharmed = watch(&mut other, "/v1/feed", &guarded.tokens[READER], "authorization").await;
    assert_eq!(next(&mut unharmed).await["type"], "live");
    events.send(format!("GET /v1/feed/sse HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n").as_bytes()).await;
    read_until(&mut events, "live").await;
    // That it is told to go on shows that it was let in.
    let head = format!("PUT /v1/kv/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n{header}");
    uploading.send(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await;
    assert_eq!(uploading.answer(false).await.map(|answer| answer.status), Some(100));
    uploading.send(b"ab").await;

    guarded.revoke(WRITER);
    let (code, reason) = closed(&mut viewer).await;
    assert!(code == 1008 && reason.contains("not valid any more"), "{code} {reason}");
    assert!(read_until(&mut events, "event:end").await.contains("not valid any more"));
    let answer = kept.ask(&format!("GET /v1/kv/a\r\n{header}"), b"").await;
    assert_eq!((answer.status, answer.problem()), (401, "unauthorized".into()));
    assert!(answer.header("www-authenticate").contains("invalid_token"), "{answer:?}");
    uploading.send(b"cd").await;
    assert_eq!(uploading.answer(false).await.map(|answer| answer.status), Some(401), "a write outlived its token");
    assert!(!guarded.served.core.state().table.contains_key(&b"b"[..]));
    guarded.served.core.publish(EventKind::Put, "a", None);
    assert_eq!(next(&mut unharmed).await["key"], "a", "another token's feed ended");
}

/// Opens a feed with the token in `header`.
async fn watch<'a>(client: &'a mut Client, target: &str, token: &str, header: &str) -> super::feed::Viewer<'a> {
    let mut request = format!("ws://localhost{target}").into_client_request().expect("a target");
    let (name, value) = match header {
        "authorization" => ("authorization", format!("Bearer {token}")),
        _ => ("sec-websocket-protocol", format!("jumpgate.feed, bearer.{token}")),
    };
    request.headers_mut().insert(name, value.parse().expect("a header"));
    let (socket, answer) =
        soon(tokio_tungstenite::client_async(request, &mut client.stream)).await.expect("an upgrade");
    let chosen = answer.headers().get("sec-websocket-protocol").and_then(|chosen| chosen.to_str().ok());
    assert_eq!(chosen, (header != "authorization").then_some("jumpgate.feed"));
    socket
}

#[tokio::test]
async fn a_page_shows_its_token_as_a_subprotocol_of_the_feed_and_nowhere_else() {
    let guarded = Guarded::new().await;
    let mut client = guarded.served.connect().await;
    let mut viewer = watch(&mut client, "/v1/feed?prefix=a/", &guarded.tokens[LIMITED], "subprotocol").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    guarded.served.core.publish(EventKind::Put, "c/1", None);
    guarded.served.core.publish(EventKind::Put, "a/1", None);
    assert_eq!(next(&mut viewer).await["key"], "a/1");
    let offered = format!("Sec-WebSocket-Protocol: jumpgate.feed, bearer.{}", guarded.tokens[ADMIN]);
    for target in ["/v1/kv/a", "/v1/feed/sse", "/v1/cluster"] {
        assert_eq!(guarded.served.ask(&format!("GET {target}\r\n{offered}"), b"").await.status, 401, "{target}");
    }
    assert_eq!(guarded.served.get(&format!("/v1/kv/a?access_token={}", guarded.tokens[ADMIN])).await.status, 401);
}

#[tokio::test]
async fn guessing_is_throttled_after_ten_failures() {
    let guarded = Guarded::new().await;
    let mut at_work = guarded.served.connect().await;
    let good = guarded.header(READER);
    assert_eq!(at_work.ask(&format!("GET /v1/kv/a\r\n{good}"), b"").await.status, 404);
    let mut guesser = guarded.served.connect().await;
    for nth in 0..10 {
        let guess = format!("GET /v1/kv/a\r\nAuthorization: Bearer guess-{nth}");
        assert_eq!(guesser.ask(&guess, b"").await.status, 401, "guess {nth}");
    }
    for (what, header) in [("a guess", "Authorization: Bearer guess-10"), ("what may be right", &*good)] {
        let mut fresh = guarded.served.connect().await;
        for client in [&mut guesser, &mut fresh] {
            let answer = client.ask(&format!("GET /v1/kv/a\r\n{header}"), b"").await;
            assert_eq!((answer.status, answer.problem()), (429, "throttled".into()), "{what}");
            let seconds: u64 = answer.header("retry-after").parse().expect("a number of seconds");
            assert!((1..=60).contains(&seconds), "{seconds}");
        }
    }
    assert_eq!(guesser.ask("GET /v1/kv/a", b"").await.status, 401, "who shows nothing guesses nothing");
    assert_eq!(guesser.ask("GET /healthz", b"").await.status, 503);
    assert_eq!(at_work.ask(&format!("GET /v1/kv/a\r\n{good}"), b"").await.status, 404, "a neighbour was locked out");
    let counted: Vec<(&str, u64)> = guarded.guard.refused().collect();
    assert_eq!(counted, [("no_token", 1), ("unknown_token", 10), ("throttled", 4), ("forbidden", 0)]);
}

#[tokio::test]
async fn who_is_refused_hears_it_even_while_still_sending() {
    let guarded = Guarded::new().await;
    for header in ["X: y".to_owned(), guarded.header(READER), "Host: evil.example".to_owned()] {
        let answer = guarded.served.ask(&format!("PUT /v1/kv/a\r\n{header}"), &vec![b'x'; 8 << 20]).await;
        assert!(matches!(answer.status, 401 | 403 | 400), "{header}: {answer:?}");
    }
    let twice = format!("GET /v1/kv/a\r\n{0}\r\n{0}", guarded.header(READER));
    assert_eq!(guarded.served.ask(&twice, b"").await.status, 400, "two tokens are none");
    assert!(guarded.served.core.state().requests.is_empty());
}

#[tokio::test]
async fn a_feed_is_refused_before_it_is_opened() {
    let guarded = Guarded::new().await;
    let mut client = guarded.served.connect().await;
    let mut request = "ws://localhost/v1/feed?prefix=c/".into_client_request().expect("a target");
    let value = format!("Bearer {}", guarded.tokens[LIMITED]);
    request.headers_mut().insert("authorization", value.parse().expect("a header"));
    let refused = soon(tokio_tungstenite::client_async(request, &mut client.stream)).await.err();
    let Some(tokio_tungstenite::tungstenite::Error::Http(answer)) = refused else { panic!("{refused:?}") };
    assert_eq!(answer.status(), 403);
    assert_eq!(guarded.served.core.state().subscriptions, 0);
}
