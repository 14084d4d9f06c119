//! A file on its way from a client.

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use warp::http::StatusCode;
use warp::http::header::ETAG;

use super::{CoreStore, done, millis_now, now};
use crate::files::{
    Asker, CHUNK_BYTES, Conditions, FILE_BYTES_MAX, FileError, FilePath, IN_FLIGHT_MAX, Placement, Upload, UploadId,
};
use crate::gateway::body::{Body, Pace, Reservation};
use crate::gateway::conditional::{tag_conditions, tag_value};
use crate::gateway::kv::content_type_of;
use crate::gateway::problem::Problem;
use crate::gateway::routes::{Call, Reply, Shared};

/// Answers a PUT.
pub(super) async fn put<S, B>(
    shared: &Arc<Shared>,
    call: &Call,
    body: &mut Body<S>,
    asker: Asker<CoreStore>,
    path: FilePath,
) -> Reply
where
    S: Stream<Item = Result<B, warp::Error>> + Send + Unpin + 'static,
    B: Buf,
{
    if call.query().text("ttl")?.is_some() {
        return Err(Problem::bad_request("files don't expire: ttl is for values, under /v1/kv/"));
    }
    let conditions = tag_conditions(&call.headers)?;
    let content_type = content_type_of(&call.headers)?;
    let announced = body.announced();
    if announced.is_some_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(FileError::TooLarge(format!("a file has {FILE_BYTES_MAX} bytes at most")).into());
    }
    call.redirect(shared)?;
    // What is on its way to the store, and the chunk that is being filled.
    let most = (IN_FLIGHT_MAX + 1) * CHUNK_BYTES;
    let bytes = announced.and_then(|bytes| usize::try_from(bytes).ok()).map_or(most, |bytes| bytes.min(most));
    let _reservation = Reservation::new(shared, bytes)?;
    let value_bytes_max = shared.options.value_bytes_max;
    let mut uploading = Uploading::begin(asker, path, Placement::Replace, conditions, value_bytes_max).await?;
    let mut pace = Pace::new(shared.options.body_timeout);
    while let Some(bytes) = body.next(&mut pace).await? {
        uploading.upload().write(&bytes, now()).await?;
    }
    call.confirm(shared)?;
    let written = uploading.upload().finish(content_type.as_ref(), millis_now(), now()).await?;
    uploading.0 = None;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    let mut response = done(status, written.copies);
    response.headers_mut().insert(ETAG, tag_value(&written.manifest.etag));
    Ok(response)
}

/// An upload that is taken back when its request fails, or its client is gone.
pub(in crate::gateway) struct Uploading(pub(in crate::gateway) Option<Upload<CoreStore>>);

impl Uploading {
    pub(in crate::gateway) async fn begin(
        asker: Asker<CoreStore>,
        path: FilePath,
        placement: Placement,
        conditions: Conditions,
        value_bytes_max: usize,
    ) -> Result<Self, FileError> {
        let id = UploadId(rand::random());
        let upload = Upload::begin(asker, id, path, placement, conditions, value_bytes_max, now()).await?;
        Ok(Self(Some(upload)))
    }

    pub(in crate::gateway) fn upload(&mut self) -> &mut Upload<CoreStore> {
        self.0.as_mut().expect("it is taken only when it is done")
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(upload) = self.0.take() {
            tokio::spawn(upload.abandon());
        }
    }
}
