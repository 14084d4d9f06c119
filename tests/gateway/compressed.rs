//! Long answers that the gateway makes itself are compressed for those who take that; what clients have stored never is.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::raw_http::{Answer, Served};

const TAKES: &str = "\r\nAccept-Encoding: br, gzip";

fn unpacked(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(&*answer.body).read_to_end(&mut plain).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    plain
}

#[tokio::test]
async fn long_pages_are_compressed_for_those_who_take_it() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    for nth in 0..100 {
        client.ask(&format!("PUT /v1/kv/many/{nth}"), format!("value {nth} ").repeat(100).as_bytes()).await;
    }
    // Two that are long enough, one that isn't computed among the others, and one that is short.
    let page = "/v1/kv?prefix=many";
    let whole = format!("{page}&values=true");
    let cases = [(page, true), ("/openapi.json", true), (whole.as_str(), true), ("/v1/kv?limit=1", false)];
    for (target, is_long) in cases {
        let plain = client.ask(&format!("GET {target}"), b"").await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, ""), "{target}");
        let packed = client.ask(&format!("GET {target}{TAKES}"), b"").await;
        assert_eq!(packed.header("content-type"), "application/json");
        if is_long {
            assert_eq!([packed.header("content-encoding"), packed.header("vary")], ["gzip", "accept-encoding"]);
            assert_eq!(plain.header("vary"), "accept-encoding", "a cache must tell them apart");
            assert_eq!(plain.body.len() > 64 << 10, target == whole, "{target}: {} bytes", plain.body.len());
            assert!(packed.body.len() * 2 < plain.body.len(), "{target}: {} bytes", packed.body.len());
            assert_eq!(unpacked(&packed), plain.body);
            let head = client.ask(&format!("HEAD {target}{TAKES}"), b"").await;
            assert_eq!(head.header("content-length"), packed.body.len().to_string(), "what GET would say");
        } else {
            assert_eq!((packed.header("content-encoding"), &packed.body), ("", &plain.body));
        }
    }
}

#[tokio::test]
async fn what_was_stored_goes_out_as_it_was_stored() {
    let served = Served::new().await;
    let mut client = served.connect().await;
    let text = format!("[{}1]", "1, ".repeat(100_000));
    for path in ["kv", "files"] {
        let put = format!("PUT /v1/{path}/long\r\nContent-Type: application/json");
        assert_eq!(client.ask(&put, text.as_bytes()).await.status, 201);
        let answer = client.ask(&format!("GET /v1/{path}/long{TAKES}"), b"").await;
        assert_eq!([answer.header("content-encoding"), answer.header("vary")], ["", ""], "{path}");
        assert!(answer.body == text.as_bytes(), "{path}");
    }
}
