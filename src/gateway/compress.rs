//! Compression of large answers that the gateway makes itself: pages of keys, the cluster's state, the partition map, metrics.
//!
//! What clients have stored goes out as it was stored: it has an entity tag, and ranges of it may be asked for.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use warp::http::HeaderMap;
use warp::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use warp::reply::Response;

/// A shorter answer fits into few packets as it is.
const COMPRESSED_FROM_BYTES: usize = 4 << 10;
/// What is longer is compressed on a thread of its own, since others wait while this one computes.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// The body of an answer that may be compressed, kept beside it.
#[derive(Clone)]
struct Plain(Bytes);

/// An answer that the gateway has made, with this content type.
pub(super) fn answer(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let plain = (body.len() >= COMPRESSED_FROM_BYTES).then(|| Plain(body.clone()));
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(plain) = plain {
        response.extensions_mut().insert(plain);
    }
    response
}

/// The answer as it is sent to a client that asked with `headers`: compressed where the client takes that and the answer is
/// one of the gateway's own and long enough.
pub(super) async fn for_client(headers: &HeaderMap, mut response: Response) -> Response {
    let Some(Plain(plain)) = response.extensions_mut().remove::<Plain>() else { return response };
    response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip(headers) {
        return response;
    }
    let compressed = if plain.len() <= AT_ONCE_BYTES_MAX {
        gzip(&plain)
    } else {
        tokio::task::spawn_blocking(move || gzip(&plain)).await.unwrap_or_default()
    };
    if let Some(compressed) = compressed {
        *response.body_mut() = compressed.into();
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn gzip(plain: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok()
}

/// Whether `Accept-Encoding` (RFC 9110, 12.5.3) lets an answer be compressed: where it names gzip, or else everything, with a
/// weight above 0. Without it nothing is compressed.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let mut all = false;
    for coding in lines.flat_map(|line| line.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_taken = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") {
            return is_taken;
        }
        all |= name == "*" && is_taken;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_say_whether_they_take_gzip() {
        for (said, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5, br", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip ; Q=0.001", true),
            ("gzip;q=x", false),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("*, gzip;q=0", false),
            ("br, deflate", false),
            ("identity", false),
            ("x-gzip", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(said))]);
            assert_eq!(takes_gzip(&headers), expected, "{said:?}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
        let lines = ["br", "gzip"].map(|line| (ACCEPT_ENCODING, HeaderValue::from_static(line)));
        let mut headers = HeaderMap::new();
        lines.into_iter().for_each(|(name, line)| _ = headers.append(name, line));
        assert!(takes_gzip(&headers), "on lines of their own");
    }
}
