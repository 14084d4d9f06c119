//! A file on its way to a client.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use warp::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue};
use warp::http::{HeaderMap, Method, StatusCode};
use warp::reply::{Reply as _, Response};

use super::CoreStore;
use crate::access::Grant;
use crate::files::{CHUNK_BYTES, Download, Entry, FileError, IN_FLIGHT_MAX};
use crate::gateway::body::Reservation;
use crate::gateway::conditional::{Selection, tag_conditions, tag_selection, tag_value};
use crate::gateway::kv::{DEGRADED, TRUE, insert_content_type};
use crate::gateway::problem::Problem;
use crate::gateway::routes::{Call, Reply, Shared};

/// The answer to GET and HEAD for a file that is there.
pub(super) fn answer(shared: &Arc<Shared>, call: &Call, store: CoreStore, entry: Entry) -> Reply {
    let manifest = &entry.manifest;
    let etag = Some(manifest.etag.as_str());
    let conditions = tag_conditions(&call.headers)?;
    if conditions.if_match.as_ref().is_some_and(|tags| !tags.matches(etag)) {
        return Err(FileError::PreconditionFailed { etag: Some(manifest.etag.clone()) }.into());
    }
    let is_known = conditions.if_none_match.as_ref().is_some_and(|tags| tags.matches(etag));
    // Ranges are defined for GET alone.
    let selection = if is_known || call.method != Method::GET {
        Selection::Whole
    } else {
        tag_selection(&call.headers, &manifest.etag, manifest.size)
    };
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, tag_value(&manifest.etag));
    if entry.degraded {
        headers.insert(DEGRADED, TRUE);
    }
    let (status, range) = match selection {
        _ if is_known => (StatusCode::NOT_MODIFIED, 0..0),
        Selection::Whole => (StatusCode::OK, 0..manifest.size),
        Selection::Part(part) => {
            let range = format!("bytes {}-{}/{}", part.start, part.end - 1, manifest.size);
            headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).map_err(|_| Problem::internal())?);
            (StatusCode::PARTIAL_CONTENT, part.start as u64..part.end as u64)
        }
        Selection::Outside => return Err(Problem::range_not_satisfiable(manifest.size)),
    };
    if !is_known {
        insert_content_type(&mut headers, manifest.content_type.as_deref());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    let mut response = if range.is_empty() || call.method == Method::HEAD {
        Response::default()
    } else {
        streamed(shared, call.grant(), store, &entry, range)?
    };
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The bytes of a range, fetched as they are taken.
fn streamed(
    shared: &Arc<Shared>,
    grant: &Grant,
    store: CoreStore,
    entry: &Entry,
    range: Range<u64>,
) -> Result<Response, Problem> {
    // What is being fetched, and one chunk that waits for the client.
    let most = (IN_FLIGHT_MAX + 1) * CHUNK_BYTES;
    let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(most);
    let reservation = Reservation::new(shared, bytes)?;
    let download = Download::new(store, &entry.manifest, range);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(send(Arc::clone(shared), grant.clone(), download, sender, reservation));
    let pieces = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    Ok(warp::reply::stream(pieces).into_response())
}

/// Ends when the file does, or its reader, or the reader's token.
async fn send(
    shared: Arc<Shared>,
    grant: Grant,
    mut download: Download<CoreStore>,
    sender: mpsc::Sender<io::Result<Bytes>>,
    _reservation: Reservation,
) {
    loop {
        let piece = tokio::select! {
            piece = download.next() => piece,
            () = shared.abort.cancelled() => return,
            () = sender.closed() => return,
        };
        let piece = match piece {
            None => return,
            Some(_) if !shared.options.guard.access().confirms(&grant) => {
                Err(io::Error::other("the token is not valid any more"))
            }
            Some(piece) => piece.map_err(io::Error::other),
        };
        let is_last = piece.is_err();
        if let Err(error) = &piece {
            tracing::debug!(%error, "a file could not be sent to its end");
        }
        if sender.send(piece).await.is_err() || is_last {
            return;
        }
    }
}
