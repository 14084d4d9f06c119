//! Clients that mean harm, or are broken: endless and crawling bodies, idle crowds, headers without end, targets that are
//! none, frames that are none. Each costs this gateway a bounded time and a bounded number of bytes.

use std::time::Duration;

use jumpgate::gateway::GatewayOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::raw_http::{Client, Served, soon};

/// Reads until the connection ends; what came.
async fn drain(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = soon(client.stream.read(&mut buffer)).await {
        all.extend_from_slice(&buffer[..read]);
    }
    all
}

#[tokio::test]
async fn an_endless_body_is_refused_and_then_cut_off() {
    let served = Served::start(GatewayOptions { value_bytes_max: 1 << 20, ..Default::default() }).await;
    let mut client = served.connect().await;
    client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    // It goes on sending whatever it is told: what is thrown away of it has an end too.
    let (mut sent, mut refused) = (0_usize, false);
    soon(async {
        while client.stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
            assert!(sent < 256 << 20, "{sent} bytes were taken of a value of at most a mebibyte");
            let mut answer = [0; 16];
            refused |= client.stream.try_read(&mut answer).is_ok_and(|_| answer.starts_with(b"HTTP/1.1 413"));
        }
    })
    .await;
    assert!(refused, "it was never told");
    assert!(served.core.state().requests.is_empty());
    assert_eq!(served.get("/v1/kv/a").await.status, 404, "the gateway goes on");
}

#[tokio::test]
async fn a_body_that_crawls_is_given_up_however_steadily_it_comes() {
    let served = Served::start(GatewayOptions { body_timeout: Duration::from_secs(1), ..Default::default() }).await;
    let mut client = served.connect().await;
    client.send(b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n").await;
    // A byte now and then keeps every pause short; the pace is what ends it.
    let answer = soon(async {
        loop {
            tokio::select! {
                answer = client.answer(false) => break answer,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            if client.stream.write_all(b"x").await.is_err() {
                break None;
            }
        }
    });
    assert_eq!(answer.await.map(|answer| answer.status), Some(408));
    assert!(served.core.state().requests.is_empty());
}

#[tokio::test]
async fn a_head_that_crawls_is_cut_off_however_steadily_it_comes() {
    let served = Served::start(GatewayOptions { header_timeout: Duration::from_secs(1), ..Default::default() }).await;
    let mut client = served.connect().await;
    client.send(b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n").await;
    let mut buffer = [0; 64];
    soon(async {
        loop {
            tokio::select! {
                read = client.stream.read(&mut buffer) => break assert!(!matches!(read, Ok(1..)), "it was answered"),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            if client.stream.write_all(b"X-Y: z\r\n").await.is_err() {
                break;
            }
        }
    })
    .await;
    assert!(served.core.state().requests.is_empty());
}

/// Two thousand, or as many as this process may have open: both ends of each connection are in it.
fn crowd_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    files.map_or(300, |files: usize| files.saturating_sub(400) / 2).min(2000)
}

#[tokio::test]
async fn two_thousand_that_say_nothing_disturb_nobody() {
    // Half of them have begun a request, half haven't said a word.
    let served = Served::new().await;
    let mut crowd = Vec::new();
    for nth in 0..crowd_max() {
        let mut client = served.connect().await;
        if nth % 2 == 0 {
            client.send(b"GET /v1/kv/a HTTP/1.1\r\nHost: local").await;
        }
        crowd.push(client);
    }
    let mut client = served.connect().await;
    for nth in 0..100 {
        assert!(matches!(client.ask("PUT /v1/kv/a", b"x").await.status, 201 | 204), "write {nth}");
        assert_eq!(client.ask("GET /v1/kv/a", b"").await.status, 200, "read {nth}");
    }
    drop(crowd);
    assert_eq!(served.get("/v1/kv/a").await.status, 200);
}

#[tokio::test]
async fn a_crowd_beyond_the_limit_is_told_and_leaves_nothing_behind() {
    let options = GatewayOptions { connections_max: 50, header_timeout: Duration::from_secs(1), ..Default::default() };
    let served = Served::start(options).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(served.connect().await);
    }
    for mut client in crowd {
        let said = drain(&mut client).await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 503"), "{:?}", String::from_utf8_lossy(&said));
    }
    // All permits came back.
    let mut again = Vec::new();
    for _ in 0..40 {
        let mut client = served.connect().await;
        assert_eq!(client.ask("GET /v1/kv/a", b"").await.status, 404);
        again.push(client);
    }
}

#[tokio::test]
async fn headers_without_end_are_refused_early() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.send(b"GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n").await;
    let mut sent = 0_usize;
    // The connection may be reset while this is still sending: that is an end too.
    while client.stream.write_all(b"X-Y: 0123456789012345678901234567890123456789\r\n").await.is_ok() {
        sent += 46;
        assert!(sent < 16 << 20, "{sent} bytes of headers were taken");
    }
    let mut line = served.connect().await;
    let mut endless = b"GET /".to_vec();
    endless.resize(1 << 20, b'x');
    let _ = line.stream.write_all(&endless).await;
    let said = drain(&mut line).await;
    let refused = [&b"HTTP/1.1 414"[..], b"HTTP/1.1 431", b"HTTP/1.1 400"].iter().any(|start| said.starts_with(start));
    assert!(said.is_empty() || refused, "{:?}", String::from_utf8_lossy(&said));
    assert!(served.core.state().requests.is_empty());
}

#[tokio::test]
async fn targets_that_are_odd_name_what_they_say_or_nothing() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    // Steps up, empty segments and encoded slashes are parts of keys: they lead nowhere else.
    for (target, key) in [
        ("/v1/kv/../../../etc/passwd", "../../../etc/passwd"),
        ("/v1/kv/a//b", "a//b"),
        ("/v1/kv//", "/"),
        ("/v1/kv/%2e%2e%2fadmin%2ftransfer", "../admin/transfer"),
        ("/v1/kv/..%2f..%2fmetrics", "../../metrics"),
        ("/v1/kv/a%00b", "a\0b"),
        ("/v1/kv/%252e", "%2e"),
        ("/v1/kv/a;b=c", "a;b=c"),
        ("/v1/kv/a%23b", "a#b"),
    ] {
        assert_eq!(client.ask(&format!("PUT {target}"), b"x").await.status, 201, "{target}");
        assert!(served.core.state().table.remove(key.as_bytes()).is_some(), "{target} isn't {key:?}");
    }
    for target in [
        "/v1/kv/%",
        "/v1/kv/%4",
        "/v1/kv/%zz",
        "/v1/kv/%+1",
        "/v1/kv/%c0%af",
        "/v1/kv/%ed%a0%80",
        "/v1/kv/%ff",
        "/v1/kv?prefix=%",
        "/v1/kv?limit=%zz",
    ] {
        let answer = client.ask(&format!("GET {target}"), b"").await;
        assert_eq!(answer.status, 400, "{target}");
        answer.problem();
    }
    for target in
        ["//v1/kv/a", "/v1//kv/a", "/./v1/kv/a", "/v1/%6bv/a", "/v1/kv/../cluster/..", "/v1/admin/../kv/a", "/%2e%2e/"]
    {
        let answer = client.ask(&format!("GET {target}"), b"").await;
        assert_eq!(answer.status, 404, "{target}");
    }
    assert!(served.core.state().admins.is_empty());
}

const HANDSHAKE: &str = "GET /v1/feed HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn frames_that_are_none_or_too_large_end_the_feed() {
    let served = Served::start(GatewayOptions { connections_max: 1, ..Default::default() }).await;
    let masked = |head: &[u8], body: &[u8]| [head, &[0; 4], body].concat();
    let frames: [(&str, Vec<u8>); 10] = [
        ("a text of 2^63 bytes", masked(&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], b"x")),
        ("a text of 1 GiB", masked(&[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0], b"x")),
        ("a text of 5,000 bytes", masked(&[0x81, 0xfe, 0x13, 0x88], &[b'x'; 5000])),
        ("a frame without a mask", vec![0x81, 0x01, b'x']),
        ("reserved bits", masked(&[0xf1, 0x81], b"x")),
        ("an unknown kind", masked(&[0x83, 0x81], b"x")),
        ("a ping of 126 bytes", masked(&[0x89, 0xfe, 0, 126], &[b'x'; 126])),
        ("a ping in pieces", masked(&[0x09, 0x81], b"x")),
        ("a continuation of nothing", masked(&[0x80, 0x81], b"x")),
        ("a text that is not UTF-8", masked(&[0x81, 0x82], &[0xc3, 0x28])),
    ];
    for (what, frame) in frames {
        // The only permit: it must have come back from the one before.
        let mut client = soon(async {
            loop {
                let mut client = served.connect().await;
                client.send(HANDSHAKE.as_bytes()).await;
                match client.answer(false).await {
                    Some(answer) if answer.status == 101 => break client,
                    _ => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        let _ = client.stream.write_all(&frame).await;
        drain(&mut client).await;
        assert!(served.core.state().requests.is_empty(), "{what}");
    }
}

#[tokio::test]
async fn fragments_without_end_end_the_feed() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    client.send(HANDSHAKE.as_bytes()).await;
    assert_eq!(client.answer(false).await.map(|answer| answer.status), Some(101));
    let mut fragment = vec![0x01, 0x80 | 100, 0, 0, 0, 0];
    fragment.extend([b'x'; 100]);
    let mut sent = 0_usize;
    soon(async {
        while client.stream.write_all(&fragment).await.is_ok() {
            fragment[0] = 0x00;
            sent += fragment.len();
            assert!(sent < 64 << 20, "{sent} bytes of one message were taken");
        }
    })
    .await;
}
