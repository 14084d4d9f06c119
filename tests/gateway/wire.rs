//! What a client may do to the gateway: framing, sizes, times, connections, and how it all ends.

use std::time::Duration;

use futures_util::StreamExt as _;
use jumpgate::api::Error;
use jumpgate::gateway::GatewayOptions;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::feed::{closed, next, upgrade};
use super::raw_http::{Served, soon};

#[tokio::test]
async fn values_up_to_the_limit_come_back_as_they_were() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for bytes in [1, 32 << 10, 100_000, 3 << 20, 8 << 20] {
        let value: Vec<u8> = (0..bytes).map(|at: usize| ((at * 31) >> 3) as u8).collect();
        assert!(matches!(client.ask("PUT /v1/kv/large", &value).await.status, 201 | 204));
        assert!(client.ask("GET /v1/kv/large", b"").await.body == value, "{bytes} bytes changed on the way");
    }
    let chunked = "PUT /v1/kv/chunked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(chunked.as_bytes()).await;
    client.send(b"3\r\nabc\r\n").await;
    client.send(b"A;x=y\r\n0123456789\r\n0\r\n\r\n").await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(201));
    assert_eq!(client.ask("GET /v1/kv/chunked", b"").await.body, b"abc0123456789");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_client_hears_it() {
    let served = Served::start(GatewayOptions { value_bytes_max: 1000, ..Default::default() }).await;
    // The client is still sending when the answer comes: it must not be cut off before it has read it.
    let answer = served.ask("PUT /v1/kv/a", &vec![b'x'; 10 << 20]).await;
    assert_eq!((answer.status, answer.problem()), (413, "value-too-large".into()));
    assert!(answer.json()["outcome"] == "definite" && String::from_utf8_lossy(&answer.body).contains("1000"));
    let mut client = served.connect().await;
    client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(format!("{:x}\r\n{}\r\n", 600, "x".repeat(600)).as_bytes()).await;
    client.send(format!("{:x}\r\n{}\r\n", 401, "x".repeat(401)).as_bytes()).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(413), "before the end of the body");
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.ask("PUT /v1/kv/a", &[b'x'; 1000]).await.status, 201, "the connection goes on");
    let mut client = served.connect().await;
    let head = b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(413), "without asking for the body");
    let head = b"PUT /v1/kv/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut client = served.connect().await;
    client.send(head).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(100));
    client.send(b"12345").await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(201));
    assert_eq!(served.core.state().requests.len(), 2, "a value over the limit was handed in");
}

#[tokio::test]
async fn a_body_that_stalls_or_breaks_off_is_given_up() {
    let served = Served::start(GatewayOptions { body_timeout: Duration::from_millis(50), ..Default::default() }).await;
    for start in ["", "12345"] {
        let mut client = served.connect().await;
        let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n";
        client.send(format!("{head}{start}").as_bytes()).await;
        let answer = client.answer(false).await.expect("an answer");
        assert_eq!((answer.status, answer.problem()), (408, "body-too-slow".into()));
        assert_eq!(answer.json()["outcome"], "definite");
    }
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345").await;
    client.stream.shutdown().await.expect("it is open");
    assert!(client.answer(false).await.is_none_or(|answer| answer.status == 400));
    assert!(served.core.state().requests.is_empty(), "half a value was handed in");
}

#[tokio::test]
async fn uploads_together_are_bounded() {
    let served = Served::start(GatewayOptions { bodies_bytes_max: 1000, ..Default::default() }).await;
    let answer = served.ask("PUT /v1/kv/a", &[b'x'; 1001]).await;
    assert_eq!((answer.status, answer.problem(), answer.header("retry-after")), (429, "busy".into(), "1"));
    assert_eq!(served.ask("PUT /v1/kv/a", &[b'x'; 1000]).await.status, 201, "a refused upload was still counted");
}

/// Sends `request` and gives the status of the answer, after which the connection must end.
async fn last_answer(served: &Served, request: &str) -> Option<u16> {
    let mut client = served.connect().await;
    client.send(request.as_bytes()).await;
    let answer = client.answer(false).await;
    client.ended().await;
    answer.map(|answer| answer.status)
}

#[tokio::test]
async fn ambiguous_or_broken_requests_get_400_and_the_connection_ends() {
    let served = Served::new().await;
    let host = "Host: localhost";
    let requests = [
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("PUT /v1/kv/a HTTP/1.1\r\n{host}\r\nContent-Length: +3\r\n\r\nabc"),
        format!("GET /v1/kv/a HTTP/1.1\n{host}\n\n"),
        format!("GET /v1/kv/a HTTP/1.1\r\n{host}\n\r\n"),
        format!("GET /v1/kv/a HTTP/1.1\r\n{host}\r\n\n"),
        format!("GET /v1/kv/a HTTP/1.1\r\n{host}\r\nX: y\r\n folded\r\n\r\n"),
        format!("GET /v1/kv/a b HTTP/1.1\r\n{host}\r\n\r\n"),
        format!("GET /v1/kv/a%00\0 HTTP/1.1\r\n{host}\r\n\r\n"),
        "rubbish\r\n\r\n".to_owned(),
    ];
    for request in requests {
        assert_eq!(last_answer(&served, &request).await, Some(400), "{request:?}");
    }
    assert!(served.core.state().requests.is_empty(), "an ambiguous request was handed in");
    // What came before the ambiguous request is answered.
    let mut client = served.connect().await;
    client.send(format!("GET /v1/kv/a HTTP/1.1\r\n{host}\r\n\r\nGET /v1/kv/a HTTP/1.1\n\n").as_bytes()).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(404));
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(400));
    client.ended().await;
}

#[tokio::test]
async fn a_chunked_body_that_is_framed_wrongly_is_not_stored() {
    let served = Served::new().await;
    for body in ["5\nabcde\r\n0\r\n\r\n", "5\r\nabcdef\r\n0\r\n\r\n", "zz\r\nabc\r\n0\r\n\r\n", "-1\r\n\r\n"] {
        let mut client = served.connect().await;
        let head = "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{body}").as_bytes()).await;
        assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(400), "{body:?}");
        client.ended().await;
    }
    assert!(served.core.state().requests.is_empty());
}

#[tokio::test]
async fn heads_that_are_too_large_get_431() {
    let served = Served::new().await;
    let mut huge = "GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nX: ".to_owned();
    huge += &"x".repeat(70_000);
    let mut client = served.connect().await;
    client.send(huge.as_bytes()).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(431));
    let mut many = "GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n".to_owned();
    (0..200).for_each(|at| many += &format!("X-{at}: y\r\n"));
    assert_eq!(last_answer(&served, &format!("{many}\r\n")).await, Some(431));
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let served =
        Served::start(GatewayOptions { hosts: vec!["http://store.example:7501".into()], ..Default::default() }).await;
    let mut client = served.connect().await;
    for (host, expected) in
        [("Host: store.example", 404), ("Host: [::1]:5", 404), ("Host: evil.example", 421), ("X: y", 400)]
    {
        client.send(format!("GET /v1/kv/a HTTP/1.1\r\n{host}\r\n\r\n").as_bytes()).await;
        let answer = client.answer(false).await.expect("an answer");
        assert_eq!(answer.status, expected, "{host}");
        answer.problem();
    }
    let answer = client.ask("POST /v1/kv/a\r\nOrigin: http://evil.example", b"x").await;
    assert_eq!((answer.status, answer.problem()), (403, "foreign-origin".into()));
    assert_eq!(client.ask("POST /v1/kv/a\r\nOrigin: http://localhost:7401", b"x").await.status, 201);
    client.send(b"GET /v1/kv/a HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(200), "HTTP/1.0 has no Host");
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_a_head_are_cut_off() {
    let options = GatewayOptions {
        header_timeout: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(50),
        ..Default::default()
    };
    let served = Served::start(options).await;
    for start in ["", "GET /v1/kv/a HTTP/1.1\r\nHo", "PRI * HT", "GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut client = served.connect().await;
        client.send(start.as_bytes()).await;
        client.ended().await;
    }
    let mut client = served.connect().await;
    assert_eq!(client.ask("GET /v1/kv/a", b"").await.status, 404);
    client.ended().await;
    let mut client = served.connect().await;
    assert_eq!(client.ask("GET /v1/kv/a", b"").await.status, 404);
    client.send(b"GET /v1/kv/a HTTP").await;
    client.ended().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let options = GatewayOptions { write_timeout: Duration::from_millis(50), ..Default::default() };
    let served = Served::start(GatewayOptions { connections_max: 1, ..options }).await;
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/large", &vec![b'x'; 8 << 20]).await;
    for _ in 0..4 {
        client.send(b"GET /v1/kv/large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    }
    // The only permit comes back although the client still holds its end open.
    soon(async { while served.get("/healthz").await.problem() != "not-ready" {} }).await;
}

#[tokio::test]
async fn requests_may_follow_each_other_without_waiting() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let put = "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\na\n\nb\n";
    let get = "GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(format!("{put}{get}{put}{get}").as_bytes()).await;
    client.stream.shutdown().await.expect("it is open");
    for expected in [201, 200, 204, 200] {
        assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(expected));
    }
    client.ended().await;
}

#[tokio::test]
async fn targets_that_are_no_paths_are_answered() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    assert_eq!(client.ask("OPTIONS *", b"").await.status, 404);
    assert_eq!(client.ask("GET http://localhost/v1/kv/a", b"").await.problem(), "not-found");
    assert_eq!(client.ask("GET http://evil.example/v1/kv/a", b"").await.status, 421);
    assert_eq!(client.ask("GET http://localhost", b"").await.status, 200);
    for head in ["CONNECT localhost:80", "GET localhost:80", "PUT localhost", "CONNECT /v1/kv/a"] {
        let answer = served.ask(head, b"").await;
        assert!(matches!(answer.status, 400 | 405), "{head} got {}", answer.status);
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let served = Served::start(GatewayOptions { connections_max: 2, ..Default::default() }).await;
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    assert_eq!(one.ask("GET /v1/kv/a", b"").await.status, 404);
    let mut viewer = upgrade(&mut two, "/v1/feed").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    let answer = served.get("/v1/kv/a").await;
    assert_eq!((answer.status, answer.problem(), answer.header("retry-after")), (503, "busy".into(), "1"));
    assert_eq!(served.get("/v1/kv/a").await.status, 503, "a WebSocket gave its permit back while it was open");
    viewer.close(None).await.expect("it is open");
    assert!(matches!(soon(viewer.next()).await, Some(Ok(Message::Close(_)))), "the close was not answered");
    assert!(soon(viewer.next()).await.is_none());
    soon(async { while served.get("/v1/kv/a").await.status != 404 {} }).await;
    assert_eq!(one.ask("GET /v1/kv/a", b"").await.status, 404);
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way() {
    let served = Served::new().await;
    let (mut busy, mut idle, mut two) = (served.connect().await, served.connect().await, served.connect().await);
    assert_eq!(idle.ask("GET /v1/kv/a", b"").await.status, 404);
    let mut viewer = upgrade(&mut two, "/v1/feed").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    served.core.state().hangs = true;
    busy.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx").await;
    while served.core.state().hanging.is_empty() {
        tokio::task::yield_now().await;
    }
    served.shutdown.cancel();
    assert_eq!(closed(&mut viewer).await.0, 1001);
    idle.ended().await;
    let answer = served.core.state().hanging.remove(0);
    answer.send(Err(Error::NoQuorum("going down".into()))).expect("somebody waits");
    assert_eq!(busy.answer(false).await.map(|answer| answer.status), Some(503), "a request under way was dropped");
    busy.ended().await;
    drop((viewer, idle));
    soon(served.task).await.expect("no panic");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let served = Served::start(GatewayOptions { drain_timeout: Duration::from_millis(50), ..Default::default() }).await;
    let (mut busy, mut two) = (served.connect().await, served.connect().await);
    let _viewer = upgrade(&mut two, "/v1/feed").await;
    served.core.state().hangs = true;
    busy.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx").await;
    while served.core.state().hanging.is_empty() {
        tokio::task::yield_now().await;
    }
    served.shutdown.cancel();
    soon(served.task).await.expect("no panic");
    busy.ended().await;
}
