//! Files and folders over HTTP: what is asked and answered, and what is left in the store.

use jumpgate::access::Access;
use jumpgate::api::{Error, RESERVED};
use jumpgate::files::CHUNK_BYTES;
use jumpgate::gateway::{GatewayOptions, Guard};

use super::feed::{next, upgrade};
use super::raw_http::{Served, soon};

/// Bytes that are nowhere the same for long.
fn bytes(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).take(count).collect()
}

/// How many keys the gateway keeps for itself.
fn reserved(served: &Served, kind: &str) -> usize {
    let prefix = format!("{RESERVED}{kind}/");
    served.core.state().table.keys().filter(|key| key.starts_with(prefix.as_bytes())).count()
}

#[tokio::test]
async fn a_file_lives_and_dies() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let answer = client.ask("PUT /v1/files/docs/a.txt\r\nContent-Type: text/x; a=b", b"hello").await;
    assert_eq!((answer.status, answer.header("jumpgate-copies")), (201, "2"), "{answer:?}");
    let etag = format!("\"{}\"", blake3::hash(b"hello").to_hex());
    assert_eq!(answer.header("etag"), etag);
    let answer = client.ask("GET /v1/files/docs/a.txt", b"").await;
    assert_eq!((answer.status, &*answer.body, answer.header("etag")), (200, &b"hello"[..], &*etag));
    assert_eq!((answer.header("content-type"), answer.header("content-length")), ("text/x; a=b", "5"));
    assert_eq!((answer.header("accept-ranges"), answer.header("x-content-type-options")), ("bytes", "nosniff"));
    // A page among the files would have the dashboard's origin.
    assert_eq!(answer.header("content-security-policy"), "default-src 'none'; sandbox");
    let answer = client.ask("HEAD /v1/files/docs%2Fa.txt", b"").await;
    assert_eq!((answer.status, answer.header("content-length"), answer.header("etag")), (200, "5", &*etag));
    let answer = client.ask("PUT /v1/files/docs/a.txt", b"").await;
    assert_eq!(answer.status, 204, "an empty file is a file");
    let answer = client.ask("GET /v1/files/docs/a.txt", b"").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, "0"));
    assert_eq!(answer.header("content-type"), "application/octet-stream", "the default type");
    assert_eq!(client.ask("POST /v1/files/docs/a.txt", b"").await.status, 405);
    assert_eq!(client.ask("DELETE /v1/files/docs/a.txt", b"").await.status, 204);
    for method in ["GET", "DELETE"] {
        let answer = client.ask(&format!("{method} /v1/files/docs/a.txt"), b"").await;
        assert_eq!((answer.status, answer.problem()), (404, "no-such-file".into()));
        assert_eq!(answer.json().get("outcome").is_some(), method == "DELETE");
    }
}

#[tokio::test]
async fn a_long_body_is_cut_into_chunks_and_any_part_of_it_can_be_read() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let whole = bytes(5 * CHUNK_BYTES + 7);
    // Without a length, so that nobody can know beforehand how much will come.
    client.send(b"PUT /v1/files/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in whole.chunks(100_000) {
        client.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
        client.send(&[piece, b"\r\n"].concat()).await;
    }
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(201));
    assert_eq!((reserved(&served, "files"), reserved(&served, "uploads")), (6, 1));
    let answer = client.ask("GET /v1/files/a", b"").await;
    assert!(answer.status == 200 && answer.body == whole, "{} bytes came", answer.body.len());
    let (last, middle) = (whole.len() - 1, CHUNK_BYTES - 1);
    for (range, expected) in [
        ("0-0".to_owned(), 0..1),
        (format!("{middle}-{}", middle + 1), middle..middle + 2),
        (format!("{middle}-"), middle..whole.len()),
        (format!("{last}-"), last..whole.len()),
        (format!("-{}", CHUNK_BYTES + 8), last - CHUNK_BYTES - 7..whole.len()),
    ] {
        let answer = client.ask(&format!("GET /v1/files/a\r\nRange: bytes={range}"), b"").await;
        assert_eq!(answer.status, 206, "{range}");
        let content_range = format!("bytes {}-{}/{}", expected.start, expected.end - 1, whole.len());
        assert_eq!(answer.header("content-range"), content_range);
        assert!(answer.body == whole[expected], "{range}");
    }
    let answer = client.ask(&format!("GET /v1/files/a\r\nRange: bytes={}-", whole.len()), b"").await;
    assert_eq!((answer.status, answer.problem()), (416, "range-not-satisfiable".into()));
    let answer = client.ask("GET /v1/files/a\r\nRange: bytes=0-0\r\nIf-Range: \"other\"", b"").await;
    assert_eq!((answer.status, answer.body.len()), (200, whole.len()));
}

#[tokio::test]
async fn a_path_is_checked_and_never_repaired() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let long = "k".repeat(1024 - "files/".len() - 1 - RESERVED.len());
    for good in ["a", "a%2fb/c", "...", "a..b", "gr%C3%BC%C3%9Fe", "a+b", "%252e%252e", &long] {
        assert_eq!(client.ask(&format!("PUT /v1/files/{good}"), b"x").await.status, 201, "{good}");
        assert_eq!(client.ask(&format!("DELETE /v1/files/{good}"), b"").await.status, 204, "{good}");
    }
    let handed_in = served.core.state().requests.len();
    let too_long = format!("{long}k");
    for bad in [
        "..",
        ".",
        "a/../b",
        "a/./b",
        "../../etc/passwd",
        "%2e%2e/a",
        "a/%2E%2E",
        "a%2F..%2Fb",
        "//",
        "/a",
        "a//b",
        "a%2F%2Fb",
        "%2Fa",
        "%2F",
        "a%0Ab",
        "%00",
        "a%7F",
        "a%C2%85",
        "%FF",
        "%zz",
        "a%2",
        "%F4%8F%BF%BFfiles",
        &too_long,
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = client.ask(&format!("{method} /v1/files/{bad}"), b"").await;
            assert_eq!((answer.status, answer.problem()), (400, "bad-path".into()), "{method} {bad}");
        }
    }
    assert_eq!(served.core.state().requests.len(), handed_in, "a bad path was looked up");
    assert_eq!(client.ask("GET /v1/filesystem", b"").await.problem(), "no-such-path");
    assert_eq!(client.ask("PUT /v1/files/a?ttl=1s", b"x").await.status, 400, "files don't expire");
}

#[tokio::test]
async fn folders_are_listed_in_pages() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for name in ["b", "a/1", "a/2/3", "c/1"] {
        assert_eq!(client.ask(&format!("PUT /v1/files/{name}"), name.as_bytes()).await.status, 201);
    }
    assert_eq!(client.ask("PUT /v1/files/empty/", b"").await.status, 201);
    assert_eq!(client.ask("PUT /v1/files/empty/", b"x").await.status, 400, "a folder has no content");
    for root in ["/v1/files", "/v1/files/"] {
        let page = client.ask(&format!("GET {root}"), b"").await.json();
        assert_eq!(page["path"], "");
        assert_eq!(page["cursor"], serde_json::Value::Null);
        let items = page["items"].as_array().expect("items").clone();
        let shown: Vec<_> = items.iter().map(|item| (item["name"].as_str(), item["type"].as_str())).collect();
        let folder = Some("folder");
        let expected = [(Some("a"), folder), (Some("b"), Some("file")), (Some("c"), folder), (Some("empty"), folder)];
        assert_eq!(shown, expected);
        assert_eq!((&items[1]["size"], items[1]["etag"].is_string()), (&1.into(), true));
    }
    let (mut names, mut query) = (Vec::new(), String::new());
    loop {
        let page = client.ask(&format!("GET /v1/files/?limit=1{query}"), b"").await.json();
        names.extend(page["items"].as_array().expect("items").iter().map(|item| item["name"].clone()));
        match page["cursor"].as_str() {
            Some(cursor) => query = format!("&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "empty"]);
    assert_eq!(client.ask("GET /v1/files/a/", b"").await.json()["items"].as_array().map(Vec::len), Some(2));
    let cases = [
        ("GET /v1/files/nowhere/", 404, "no-such-file"),
        ("GET /v1/files/a", 404, "no-such-file"),
        ("GET /v1/files/?limit=0", 400, "bad-request"),
        ("GET /v1/files/?cursor=%21", 400, "bad-request"),
        ("PUT /v1/files/a", 409, "conflict"),
        ("PUT /v1/files/b/x", 409, "conflict"),
        ("PUT /v1/files/a/", 409, "conflict"),
        ("DELETE /v1/files/a/", 409, "not-empty"),
        ("DELETE /v1/files/nowhere/", 404, "no-such-file"),
        ("DELETE /v1/files/", 405, "method-not-allowed"),
    ];
    for (request, status, problem) in cases {
        let answer = client.ask(request, b"").await;
        assert_eq!((answer.status, answer.problem()), (status, problem.into()), "{request}");
    }
    assert_eq!(client.ask("DELETE /v1/files/empty/", b"").await.status, 204);
}

#[tokio::test]
async fn conditions_compare_hashes() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let tag = |content: &[u8]| format!("\"{}\"", blake3::hash(content).to_hex());
    let (one, two) = (tag(b"one"), tag(b"two"));
    for (request, content, status) in [
        ("PUT /v1/files/a\r\nIf-Match: *".to_owned(), "one", 412),
        ("PUT /v1/files/a\r\nIf-None-Match: *".to_owned(), "one", 201),
        ("PUT /v1/files/a\r\nIf-None-Match: *".to_owned(), "two", 412),
        (format!("PUT /v1/files/a\r\nIf-Match: {two}"), "two", 412),
        (format!("PUT /v1/files/a\r\nIf-Match: W/{one}"), "two", 412),
        ("PUT /v1/files/a\r\nIf-Match: nonsense".to_owned(), "two", 400),
        (format!("GET /v1/files/a\r\nIf-None-Match: W/{one}"), "", 304),
        (format!("HEAD /v1/files/a\r\nIf-None-Match: {one}"), "", 304),
        (format!("GET /v1/files/a\r\nIf-None-Match: {two}"), "", 200),
        (format!("GET /v1/files/a\r\nIf-Match: {two}"), "", 412),
        (format!("PUT /v1/files/a\r\nIf-Match: {two}, {one}"), "two", 204),
        (format!("DELETE /v1/files/a\r\nIf-Match: {one}"), "", 412),
        (format!("DELETE /v1/files/a\r\nIf-Match: {two}"), "", 204),
    ] {
        let answer = client.ask(&request, content.as_bytes()).await;
        assert_eq!(answer.status, status, "{request}");
    }
}

#[tokio::test]
async fn what_a_client_breaks_off_leaves_nothing_behind() {
    let served = Served::new().await;
    served.ask("PUT /v1/files/a", b"stays").await;
    let before = served.core.state().table.len();
    let mut client = served.connect().await;
    client.send(b"PUT /v1/files/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n").await;
    client.send(&bytes(3 * CHUNK_BYTES)).await;
    soon(async {
        while reserved(&served, "files") < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(client);
    soon(async {
        while served.core.state().table.len() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(served.get("/v1/files/a").await.body, b"stays");
}

#[tokio::test]
async fn chunks_are_hidden_from_listings_and_the_feed_unless_they_are_asked_for() {
    let served = Served::new().await;
    let (mut one, mut two) = (served.connect().await, served.connect().await);
    let mut viewer = upgrade(&mut one, "/v1/feed?values=true").await;
    let mut curious = upgrade(&mut two, "/v1/feed?prefix=%F4%8F%BF%BF").await;
    assert_eq!(next(&mut viewer).await["type"], "live");
    assert_eq!(next(&mut curious).await["type"], "live");
    assert_eq!(served.ask("PUT /v1/files/docs/a", b"hello").await.status, 201);
    assert_eq!(served.ask("PUT /v1/kv/z", b"x").await.status, 201);
    let event = next(&mut viewer).await;
    assert_eq!((&event["type"], &event["key"]), (&"put".into(), &"files/docs/a".into()));
    assert_eq!(next(&mut viewer).await["key"], "z", "nothing else was told");
    let event = next(&mut curious).await;
    assert!(event["key"].as_str().is_some_and(|key| key.starts_with(RESERVED)), "{event}");
    let keys = |json: serde_json::Value| -> Vec<String> {
        let items = json["items"].as_array().expect("items").clone();
        assert_eq!(json["cursor"], serde_json::Value::Null);
        items.iter().map(|item| item["key"].as_str().expect("a key").to_owned()).collect()
    };
    assert_eq!(keys(served.get("/v1/kv").await.json()), ["files/docs/a", "z"]);
    // A full page doesn't know that only hidden keys follow; the next one is empty, and the last.
    let page = served.get("/v1/kv?limit=2").await.json();
    let cursor = page["cursor"].as_str().expect("a cursor");
    assert_eq!(keys(served.get(&format!("/v1/kv?limit=2&cursor={cursor}")).await.json()), [""; 0]);
    assert_eq!(keys(served.get("/v1/kv?prefix=%F4%8F%BF%BF").await.json()).len(), 2, "a chunk and a record");
}

#[tokio::test]
async fn what_the_store_refuses_and_what_does_not_fit_is_said_clearly() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    served.core.state().failures = vec![Error::MemoryFull { bytes_max: 1 }];
    let answer = client.ask("PUT /v1/files/a", b"x").await;
    assert_eq!((answer.status, answer.problem()), (507, "memory-full".into()));
    assert_eq!(answer.json()["outcome"], "definite");
    // What may go better in a moment is asked again: a file is many requests, and a failover may come between any two.
    served.core.state().failures = vec![Error::NoQuorum("x".into()), Error::Busy("x".into())];
    assert_eq!(client.ask("PUT /v1/files/a", b"x").await.status, 201);
    served.core.state().failures = vec![Error::NoQuorum("x".into()); 1000];
    let answer = client.ask("GET /v1/files/a?timeout=60ms", b"").await;
    assert_eq!((answer.status, answer.problem()), (503, "no-quorum".into()));
    served.core.state().failures.clear();
    let answer =
        client.ask(&format!("PUT /v1/files/a\r\nContent-Length: {}", jumpgate::files::FILE_BYTES_MAX + 1), b"").await;
    assert_eq!((answer.status, answer.problem()), (413, "file-too-large".into()));
    let mut client = served.connect().await;
    client.ask("PUT /v1/kv/files/odd", b"not a manifest").await;
    for method in ["GET", "PUT", "DELETE"] {
        let answer = client.ask(&format!("{method} /v1/files/odd"), b"").await;
        assert_eq!((answer.status, answer.problem()), (409, "not-a-file".into()), "{method}");
    }
}

#[tokio::test]
async fn uploads_share_one_bound_of_memory() {
    let options = GatewayOptions { bodies_bytes_max: 6 * CHUNK_BYTES, ..Default::default() };
    let served = Served::start(options).await;
    let mut first = served.connect().await;
    first.send(b"PUT /v1/files/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n").await;
    soon(async {
        while reserved(&served, "uploads") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = served.ask("PUT /v1/files/b", &bytes(2 * CHUNK_BYTES)).await;
    assert_eq!((answer.status, answer.problem()), (429, "busy".into()));
    assert_eq!(served.ask("PUT /v1/files/c", b"small").await.status, 201);
}

#[tokio::test]
async fn a_token_reaches_the_files_whose_paths_begin_as_its_keys_do() {
    let line = |name: &str, role: &str, prefix: &str| {
        format!("{name} {role} blake3:{} {prefix}\n", blake3::hash(name.as_bytes()).to_hex())
    };
    let tokens = line("reader", "read", "") + &line("app", "write", "app/");
    let access = Access::parse(tokens.as_bytes()).expect("a tokens file");
    let guard = std::sync::Arc::new(Guard::new(access));
    let served = Served::start(GatewayOptions { guard, ..Default::default() }).await;
    let ask = async |token: &str, request: &str| {
        served.ask(&format!("{request}\r\nAuthorization: Bearer {token}"), b"").await.status
    };
    assert_eq!(served.get("/v1/files/").await.status, 401);
    for (token, request, status) in [
        ("app", "PUT /v1/files/app/a", 201),
        ("app", "PUT /v1/files/b", 403),
        ("app", "GET /v1/files/", 403),
        ("app", "GET /v1/files/app/", 200),
        ("app", "DELETE /v1/files/app/a", 204),
        ("reader", "PUT /v1/files/b", 403),
        ("reader", "PUT /v1/files/b/", 403),
        ("reader", "DELETE /v1/files/b", 403),
        ("reader", "GET /v1/files/", 200),
        ("reader", "GET /v1/files/app/a", 404),
    ] {
        assert_eq!(ask(token, request).await, status, "{token}: {request}");
    }
}
