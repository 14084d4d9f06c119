//! The gateway over real sockets, with a core that is a map in memory. Here: what is asked and answered over HTTP.

#[path = "gateway/access.rs"]
mod access;
#[path = "gateway/admin.rs"]
mod admin;
#[path = "gateway/batch.rs"]
mod batch;
#[path = "gateway/compressed.rs"]
mod compressed;
#[path = "gateway/feed.rs"]
mod feed;
#[path = "gateway/files.rs"]
mod files;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "support/mock_core.rs"]
mod mock_core;
#[path = "gateway/observed.rs"]
mod observed;
#[path = "support/raw_http.rs"]
mod raw_http;
#[path = "gateway/tls.rs"]
mod tls;
#[path = "gateway/wire.rs"]
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::rt::TokioExecutor;
use jumpgate::api::{Error, Operation};
use jumpgate::base::FollowerMode;
use jumpgate::port::{Health, Leadership};

use raw_http::{Answer, Served, soon};

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
async fn what_the_core_never_began_is_no_unknown_though_its_answer_is_late() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    served.core.state().hangs = true;
    served.core.state().overdue = Some(Error::DeadlineBefore("no leader is known".to_owned()));
    let answer = client.ask("PUT /v1/kv/a?timeout=20ms", b"x").await;
    assert_eq!((answer.status, &answer.json()["outcome"]), (503, &"definite".into()));
    let body = br#"{"ops":[{"op":"put","key":"a","value":"eA=="}]}"#;
    let answer = client.ask("POST /v1/batch?timeout=20ms\r\nContent-Type: application/json", body).await;
    assert_eq!(answer.json()["results"][0]["outcome"], "definite", "{}", answer.json());
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

#[tokio::test]
async fn an_idempotency_key_goes_with_writes_and_a_replay_says_so() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for head in ["PUT /v1/kv/a", "POST /v1/kv/b", "DELETE /v1/kv/a"] {
        assert!(client.ask(&format!("{head}\r\nIdempotency-Key: k-1"), b"x").await.status < 300, "{head}");
    }
    let asked: Vec<_> = served.core.state().requests.iter().map(|request| request.once).collect();
    let once = |nth: usize| asked[nth].expect("it has a key");
    assert!((0..3).all(|nth| once(nth).key == once(0).key), "one key is one key");
    assert!(once(0).request != once(1).request && once(1).request != once(2).request, "these are three requests");
    assert_eq!(client.ask("GET /v1/kv/b\r\nIdempotency-Key: \"", b"").await.status, 200, "reads have none");
    for bad in ["", "a b", &"k".repeat(256), "a\r\nIdempotency-Key: b"] {
        for method in ["PUT", "POST", "DELETE"] {
            let answer = client.ask(&format!("{method} /v1/kv/c\r\nIdempotency-Key: {bad}"), b"x").await;
            assert_eq!((answer.status, answer.problem()), (400, "bad-request".into()), "{method} {bad:?}");
        }
    }
    served.core.state().failures = vec![Error::IdempotencyMismatch];
    let answer = client.ask("PUT /v1/kv/a\r\nIdempotency-Key: k-1", b"y").await;
    assert_eq!((answer.status, answer.problem()), (422, "idempotency-mismatch".into()));
    assert_eq!(answer.json()["outcome"], "definite");
}
