//! The gateway over real sockets, with a core that is a map in memory.

#[path = "support/mock_core.rs"]
mod mock_core;
#[path = "support/raw_http.rs"]
mod raw_http;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::rt::TokioExecutor;
use jumpgate::api::{Error, EventKind, Operation};
use jumpgate::base::FollowerMode;
use jumpgate::gateway::GatewayOptions;
use jumpgate::port::{Health, Leadership};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use raw_http::{Answer, Client, Served, soon};

#[tokio::test]
async fn a_value_lives_and_dies() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let answer = client.ask("PUT /v1/kv/a\r\nContent-Type: text/x; a=b", b"one").await;
    assert_eq!((answer.status, answer.header("etag"), answer.header("jumpgate-copies")), (201, "\"1\"", "2"));
    let answer = client.ask("GET /v1/kv/a", b"").await;
    assert_eq!((answer.status, &*answer.body, answer.header("etag")), (200, &b"one"[..], "\"1\""));
    assert_eq!((answer.header("content-type"), answer.header("content-length")), ("text/x; a=b", "3"));
    for absent in ["jumpgate-expires-in", "jumpgate-stale", "jumpgate-degraded"] {
        assert_eq!(answer.header(absent), "");
    }
    let answer = client.ask("PUT /v1/kv/a", b"two!").await;
    assert_eq!((answer.status, answer.header("etag")), (204, "\"2\""));
    let answer = client.ask("HEAD /v1/kv/a", b"").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, "4"));
    assert_eq!(answer.header("content-type"), "application/octet-stream", "the default type");
    let answer = client.ask("POST /v1/kv/a", b"three").await;
    assert_eq!((answer.status, answer.problem(), answer.header("etag")), (409, "exists".into(), "\"2\""));
    assert_eq!(answer.json()["outcome"], "definite");
    assert_eq!(client.ask("POST /v1/kv/b", b"").await.status, 201, "an empty value is a value");
    assert_eq!(client.ask("GET /v1/kv/b", b"").await.header("content-length"), "0");
    let answer = client.ask("DELETE /v1/kv/a", b"").await;
    assert_eq!((answer.status, answer.header("jumpgate-copies"), answer.header("etag")), (204, "2", ""));
    let answer = client.ask("DELETE /v1/kv/a", b"").await;
    assert_eq!((answer.status, answer.problem()), (404, "not-found".into()));
    let answer = client.ask("GET /v1/kv/a", b"").await;
    assert_eq!((answer.status, answer.problem()), (404, "not-found".into()));
    assert!(answer.json().get("outcome").is_none(), "a read has no outcome");
    let answer = client.ask("HEAD /v1/kv/a", b"").await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn a_key_is_the_rest_of_the_raw_path_decoded_once() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let same = [
        ("a/b", "a%2Fb"),
        ("a//b/./../c", "a%2f/b/%2e/%2E%2e/c"),
        ("/", "%2F"),
        ("..", "%2e%2e"),
        ("a+b", "a%2Bb"),
        ("gr%C3%BC%C3%9Fe", "gr%c3%bc%c3%9fe"),
        ("%00", "%00"),
        ("%252F", "%25%32F"),
    ];
    for (at, (one, other)) in same.iter().enumerate() {
        let value = at.to_string();
        assert_eq!(client.ask(&format!("PUT /v1/kv/{one}"), value.as_bytes()).await.status, 201, "{one}");
        assert_eq!(client.ask(&format!("GET /v1/kv/{other}"), b"").await.body, value.as_bytes(), "{one} and {other}");
    }
    assert_eq!(served.core.state().table.len(), same.len(), "two keys became one");
    let longest = "k".repeat(1024);
    assert_eq!(client.ask(&format!("PUT /v1/kv/{longest}?ttl=1h"), b"x").await.status, 201);
    for (bad, says) in [
        (String::new(), "empty"),
        (format!("{longest}k"), "at most 1024"),
        ("%zz".to_owned(), "hexadecimal"),
        ("a%2".to_owned(), "hexadecimal"),
        ("%FF".to_owned(), "UTF-8"),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = client.ask(&format!("{method} /v1/kv/{bad}"), b"").await;
            assert_eq!((answer.status, answer.problem()), (400, "bad-key".into()), "{method} {bad}");
            assert!(String::from_utf8_lossy(&answer.body).contains(says), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn writes_keep_their_preconditions() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let cases = [
        ("PUT", "If-Match: *", 412),
        ("PUT", "If-None-Match: *", 201), // version 1
        ("PUT", "If-None-Match: *", 412),
        ("PUT", "If-Match: \"7\"", 412),
        ("PUT", "If-Match: W/\"1\"", 412),
        ("PUT", "If-Match: \"not-ours\"", 412),
        ("PUT", "If-Match: \"9\", \"1\"", 204),             // version 2
        ("PUT", "If-Match: \"9\"\r\nIf-Match: \"2\"", 204), // version 3
        ("PUT", "If-None-Match: \"3\"", 412),
        ("PUT", "If-None-Match: W/\"3\"", 412),
        ("PUT", "If-None-Match: \"2\"", 204), // version 4
        ("PUT", "If-Match: 4", 400),
        ("DELETE", "If-Match: \"3\"", 412),
        ("DELETE", "If-Match: \"4\"", 204),
    ];
    for (method, condition, expected) in cases {
        let answer = client.ask(&format!("{method} /v1/kv/a\r\n{condition}"), b"").await;
        assert_eq!(answer.status, expected, "{method} {condition}");
        if expected == 412 {
            assert_eq!(
                (answer.problem(), &answer.json()["outcome"]),
                ("precondition-failed".into(), &"definite".into())
            );
        }
    }
}

#[tokio::test]
async fn reads_know_what_the_client_has() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/a", b"0123456789").await;
    for (condition, expected) in [
        ("If-None-Match: \"1\"", 304),
        ("If-None-Match: W/\"1\", \"2\"", 304),
        ("If-None-Match: *", 304),
        ("If-None-Match: \"2\"", 200),
        ("If-Match: \"1\"", 200),
        ("If-Match: \"2\"", 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = client.ask(&format!("{method} /v1/kv/a\r\n{condition}"), b"").await;
            assert_eq!((answer.status, answer.header("etag")), (expected, "\"1\""), "{condition}");
        }
    }
}

#[tokio::test]
async fn parts_of_a_value_can_be_read() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/a", b"0123456789").await;
    let answer = client.ask("GET /v1/kv/a\r\nRange: bytes=2-4", b"").await;
    assert_eq!((answer.status, &*answer.body, answer.header("content-range")), (206, &b"234"[..], "bytes 2-4/10"));
    assert_eq!((answer.header("etag"), answer.header("accept-ranges")), ("\"1\"", "bytes"));
    let answer = client.ask("GET /v1/kv/a\r\nRange: bytes=-4\r\nIf-Range: \"1\"", b"").await;
    assert_eq!((answer.status, &*answer.body), (206, &b"6789"[..]));
    let answer = client.ask("GET /v1/kv/a\r\nRange: bytes=-4\r\nIf-Range: \"0\"", b"").await;
    assert_eq!((answer.status, answer.body.len()), (200, 10));
    let answer = client.ask("GET /v1/kv/a\r\nRange: bytes=10-", b"").await;
    assert_eq!((answer.status, answer.problem()), (416, "range-not-satisfiable".into()));
    assert_eq!(answer.header("content-range"), "bytes */10");
    assert_eq!(client.ask("HEAD /v1/kv/a\r\nRange: bytes=2-4", b"").await.status, 200, "ranges are for GET");
}

#[tokio::test]
async fn parameters_reach_the_core() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    assert_eq!(client.ask("PUT /v1/kv/a?ttl=1m%2030s&timeout=250ms", b"x").await.status, 201);
    assert_eq!(client.ask("PUT /v1/kv/b?timeout=2h", b"x").await.status, 201);
    assert_eq!(client.ask("GET /v1/kv/a", b"").await.header("jumpgate-expires-in"), "90000");
    assert_eq!(client.ask("GET /v1/kv/a?consistency=stale", b"").await.header("jumpgate-stale"), "true");
    let timeouts: Vec<u32> = served.core.state().requests.iter().map(|request| request.timeout_ms).collect();
    assert_eq!(timeouts, [250, 60_000, 5_000, 5_000]);
    served.core.state().degraded = true;
    assert_eq!(client.ask("GET /v1/kv/a", b"").await.header("jumpgate-degraded"), "true");
    let handed_in = served.core.state().requests.len();
    for bad in ["ttl=0s", "ttl=soon", "ttl=5", "ttl=200y", "ttl=1s&ttl=2s", "timeout=-1s", "timeout=", "timeout=%zz"] {
        let answer = client.ask(&format!("PUT /v1/kv/a?{bad}"), b"x").await;
        assert_eq!((answer.status, answer.problem()), (400, "bad-request".into()), "{bad}");
        assert_eq!(answer.json()["outcome"], "definite");
    }
    assert_eq!(client.ask("GET /v1/kv/a?consistency=yes", b"").await.status, 400);
    let unkeepable = format!("PUT /v1/kv/a\r\nContent-Type: {}", "x".repeat(256));
    assert_eq!(client.ask(&unkeepable, b"x").await.status, 400);
    assert_eq!(served.core.state().requests.len(), handed_in, "a bad request was handed in");
}

#[tokio::test]
async fn what_the_core_refuses_is_a_problem_of_its_own() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let cases = [
        (Error::Busy("full".into()), 429, "busy", "1"),
        (Error::NoQuorum("alone".into()), 503, "no-quorum", "1"),
        (Error::TooFewCopies { copies: 1, copies_min: 2 }, 503, "too-few-copies", "1"),
        (Error::DeadlineBefore("late".into()), 503, "deadline", "1"),
        (Error::ValueTooLarge { bytes: 2, bytes_max: 1 }, 413, "value-too-large", ""),
        (Error::MemoryFull { bytes_max: 9 }, 507, "memory-full", ""),
    ];
    for (error, status, name, retry_after) in cases {
        served.core.state().failures.push(error);
        let answer = client.ask("PUT /v1/kv/a", b"x").await;
        assert_eq!((answer.status, &*answer.problem()), (status, name));
        assert_eq!((answer.header("retry-after"), &answer.json()["outcome"]), (retry_after, &"definite".into()));
    }
    served.core.state().failures.push(Error::OutcomeUnknown("the primary went away".into()));
    let answer = client.ask("DELETE /v1/kv/a", b"").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (504, &"unknown".into()));
}

#[tokio::test]
async fn an_answer_that_comes_later_is_waited_for_and_one_that_never_comes_is_not() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    served.core.state().later = true;
    assert_eq!(client.ask("PUT /v1/kv/a", b"x").await.status, 201);
    assert_eq!(client.ask("GET /v1/kv/a", b"").await.body, b"x");
    served.core.state().hangs = true;
    let answer = client.ask("PUT /v1/kv/a?timeout=20ms", b"x").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (504, &"unknown".into()));
    let answer = client.ask("GET /v1/kv/a?timeout=20ms", b"").await;
    assert_eq!((answer.status, answer.problem()), (504, "no-answer-in-time".into()));
    assert!(answer.json().get("outcome").is_none());
    served.core.state().hanging.clear();
    assert_eq!(client.ask("GET /v1/kv?timeout=20ms", b"").await.status, 504);
}

#[tokio::test]
async fn keys_are_listed_in_order_page_by_page() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for key in ["b/2", "a", "b/1", "b/%C3%A9", "c%20d"] {
        client.ask(&format!("PUT /v1/kv/{key}\r\nContent-Type: text/plain"), key.as_bytes()).await;
    }
    let keys = |answer: &Answer| -> Vec<String> {
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let json = answer.json();
        let items = json["items"].as_array().expect("a list").iter();
        items.map(|item| item["key"].as_str().expect("text").to_owned()).collect()
    };
    let answer = client.ask("GET /v1/kv", b"").await;
    assert_eq!(keys(&answer), ["a", "b/1", "b/2", "b/é", "c d"]);
    assert!(answer.json()["cursor"].is_null() && answer.json()["items"][0].get("value").is_none());
    let first = &answer.json()["items"][0];
    assert_eq!(
        (&first["version"], &first["size"], &first["content_type"]),
        (&2.into(), &1.into(), &"text/plain".into())
    );
    let mut seen = Vec::new();
    let mut target = "/v1/kv?prefix=b%2F&limit=1&values=true".to_owned();
    loop {
        let answer = client.ask(&format!("GET {target}"), b"").await;
        seen.extend(keys(&answer));
        assert!(answer.json()["items"][0]["value"].is_string());
        match answer.json()["cursor"].as_str() {
            Some(cursor) => target = format!("/v1/kv?prefix=b/&limit=1&values=1&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["b/1", "b/2", "b/é"]);
    assert_eq!(keys(&client.ask("GET /v1/kv?prefix=c+d", b"").await), ["c d"], "a plus is a space in a query");
    let limits: Vec<u32> = served
        .core
        .state()
        .requests
        .iter()
        .filter_map(|request| match request.operation {
            Operation::List { limit, .. } => Some(limit),
            _ => None,
        })
        .collect();
    assert_eq!(limits, [1000, 1, 1, 1, 1000]);
    for bad in ["limit=0", "limit=10001", "limit=x", "cursor=!", "cursor=", "values=maybe", "prefix=%"] {
        assert_eq!(client.ask(&format!("GET /v1/kv?{bad}"), b"").await.status, 400, "{bad}");
    }
    assert_eq!(client.ask("GET /v1/kv?limit=10000", b"").await.status, 200);
}

#[tokio::test]
async fn methods_and_paths_that_are_not_there_say_so() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let all = "GET, HEAD, PUT, POST, DELETE, OPTIONS";
    let read = "GET, HEAD, OPTIONS";
    for (path, allow) in [
        ("/v1/kv/a", all),
        ("/v1/kv", read),
        ("/v1/feed", "GET, OPTIONS"),
        ("/v1/cluster", read),
        ("/healthz", read),
        ("/", read),
    ] {
        let answer = client.ask(&format!("PATCH {path}"), b"x").await;
        assert_eq!((answer.status, answer.problem()), (405, "method-not-allowed".into()), "{path}");
        assert_eq!(answer.header("allow"), allow, "{path}");
        let answer = client.ask(&format!("OPTIONS {path}"), b"").await;
        assert_eq!((answer.status, answer.header("allow")), (204, allow), "{path}");
    }
    for path in ["/nothing", "/v1", "/v1/", "/v1/kvx", "/v1/feed/x", "//v1/kv/a", "/V1/kv/a", "/healthz/"] {
        let answer = client.ask(&format!("GET {path}"), b"").await;
        assert_eq!((answer.status, answer.problem()), (404, "no-such-path".into()), "{path}");
    }
    let answer = client.ask("HEAD /nothing", b"").await;
    assert!(answer.status == 404 && answer.header("content-length") != "0");
    assert_eq!(client.ask("GET /", b"").await.status, 200);
}

#[tokio::test]
async fn health_and_cluster_are_answered_here() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let redirecting =
        Leadership { followers: FollowerMode::Redirect, is_leader: false, leader_url: Some("http://l".into()) };
    served.core.state().leadership = redirecting;
    for (health, expected) in [
        (Health { alive: true, ready: false, leader: false }, [200, 503, 503]),
        (Health { alive: false, ready: true, leader: false }, [503, 200, 503]),
        (Health { alive: false, ready: false, leader: true }, [503, 503, 200]),
    ] {
        served.core.state().health = health;
        for (path, expected) in ["/healthz", "/readyz", "/leaderz"].iter().zip(expected) {
            let answer = client.ask(&format!("GET {path}"), b"").await;
            assert_eq!(answer.status, expected, "{path} {health:?}");
            if expected == 503 {
                assert_eq!((answer.problem(), answer.header("retry-after")), ("not-ready".into(), "1"));
            }
            assert_eq!(client.ask(&format!("HEAD {path}"), b"").await.status, expected);
        }
    }
    let answer = client.ask("GET /v1/cluster", b"").await;
    assert_eq!((answer.status, &answer.json()["name"], &answer.json()["node"]), (200, &"mock".into(), &"n1".into()));
}

#[tokio::test]
async fn a_follower_that_redirects_repeats_the_target_byte_for_byte() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let leadership = |leader_url: Option<&str>, is_leader| Leadership {
        followers: FollowerMode::Redirect,
        is_leader,
        leader_url: leader_url.map(Arc::from),
    };
    served.core.state().leadership = leadership(Some("http://leader:7401"), false);
    for target in ["/v1/kv/a%2fb//..?timeout=1s&&x=%2B+y", "/v1/kv/a?", "/v1/kv/a", "/v1/kv?prefix=%61&limit=3"] {
        let answer = client.ask(&format!("GET {target}"), b"").await;
        assert_eq!((answer.status, answer.problem()), (307, "elsewhere".into()));
        assert_eq!(answer.header("location"), format!("http://leader:7401{target}"));
    }
    assert_eq!(client.ask("PUT /v1/kv/a", b"x").await.status, 307);
    assert_eq!(
        client.ask("GET /v1/feed?prefix=a", b"").await.header("location"),
        "http://leader:7401/v1/feed?prefix=a"
    );
    assert_eq!(client.ask("PUT /v1/kv/", b"x").await.status, 400, "a bad request is bad everywhere");
    assert!(served.core.state().requests.is_empty(), "a redirected request was handed in too");
    served.core.state().leadership = leadership(None, false);
    for head in ["PUT /v1/kv/a", "DELETE /v1/kv/a", "GET /v1/feed"] {
        let answer = client.ask(head, b"").await;
        assert_eq!((answer.status, answer.problem(), answer.header("retry-after")), (503, "no-quorum".into(), "1"));
    }
    assert_eq!(client.ask("GET /v1/kv/a", b"").await.status, 404, "a read without a leader is the core's to answer");
    served.core.state().leadership = leadership(Some("http://leader:7401"), true);
    assert_eq!(client.ask("PUT /v1/kv/a", b"x").await.status, 201);
    for mode in [FollowerMode::Relay, FollowerMode::Route] {
        served.core.state().leadership = Leadership { followers: mode, ..leadership(Some("http://leader"), false) };
        assert_eq!(client.ask("PUT /v1/kv/a", b"x").await.status, 204);
    }
}

#[tokio::test]
async fn values_up_to_the_limit_come_back_as_they_were() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for bytes in [1, 32 << 10, 100_000, 3 << 20, 8 << 20] {
        let value: Vec<u8> = (0..bytes).map(|at: usize| (at * 31 >> 3) as u8).collect();
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
    while served.get("/healthz").await.problem() != "not-ready" {}
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
    while served.get("/v1/kv/a").await.status != 404 {}
    assert_eq!(one.ask("GET /v1/kv/a", b"").await.status, 404);
}

#[tokio::test]
async fn http_2_is_served_too() {
    let served = Served::new().await;
    let client = PooledClient::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let ask = |method: &str, body: &'static [u8]| {
        let uri = format!("http://{}/v1/kv/a%2Fb", served.address);
        let request = Request::builder().method(method).uri(uri).body(Full::from(body)).expect("a request");
        let client = client.clone();
        async move {
            let answer = soon(client.request(request)).await.expect("an answer");
            let (head, body) = answer.into_parts();
            (head.status.as_u16(), head.headers, body.collect().await.expect("a body").to_bytes())
        }
    };
    assert_eq!(ask("PUT", b"value").await.0, 201);
    let (status, headers, body) = ask("GET", b"").await;
    assert_eq!((status, &*body, &headers["etag"]), (200, &b"value"[..], &"\"1\"".parse().expect("a value")));
    let (status, headers, body) = ask("HEAD", b"").await;
    assert_eq!((status, body.len(), &headers["content-length"]), (200, 0, &"5".parse().expect("a value")));
    assert_eq!(ask("DELETE", b"").await.0, 204);
}

type Viewer<'a> = WebSocketStream<&'a mut tokio::net::TcpStream>;

async fn upgrade<'a>(client: &'a mut Client, target: &str) -> Viewer<'a> {
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

async fn next(viewer: &mut Viewer<'_>) -> serde_json::Value {
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
        assert_eq!(next(viewer).await, serde_json::json!({ "type": "live" }));
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
    let mut handshake = Box::pin(upgrade(&mut client, "/v1/feed?since=3.17"));
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
    for missing in 0..HANDSHAKE.len() {
        let lines: Vec<&str> =
            HANDSHAKE.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, line)| *line).collect();
        let answer = client.ask(&format!("GET /v1/feed\r\n{}", lines.join("\r\n")), b"").await;
        assert_eq!(
            (answer.status, answer.problem()),
            (426, "upgrade-required".into()),
            "without {}",
            HANDSHAKE[missing]
        );
        assert_eq!((answer.header("upgrade"), answer.header("sec-websocket-version")), ("websocket", "13"));
    }
    let handshake = HANDSHAKE.join("\r\n");
    for origin in ["http://evil.example", "null", "http://127.0.0.1"] {
        let answer = client.ask(&format!("GET /v1/feed\r\nOrigin: {origin}\r\n{handshake}"), b"").await;
        assert_eq!((answer.status, answer.problem()), (403, "foreign-origin".into()), "{origin}");
    }
    assert_eq!(client.ask(&format!("GET /v1/feed?values=x\r\n{handshake}"), b"").await.status, 400);
    let answer = client.ask(&format!("GET /v1/feed\r\nOrigin: http://localhost:9\r\n{handshake}"), b"").await;
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

/// The code and the reason of the close that ends a feed, after any events.
async fn closed(viewer: &mut Viewer<'_>) -> (u16, String) {
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
