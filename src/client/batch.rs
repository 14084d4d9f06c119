//! Many operations in one request, and again those of them that may be tried again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::time::Instant;

use super::exchange::PROBLEM_LOST;
use super::{Call, Client, ClientError, Safety, random_key};
use crate::api::batch::{BatchJson, BatchOpJson, BatchOpKind, BatchResultJson, BatchResultsJson};
use crate::api::json::to_base64;
use crate::api::{ContentType, Key};
use crate::base::Version;

/// The first wait before failed operations are tried again, and the longest; a fail-over takes a few of them.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);

/// How a batch is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchOptions {
    /// How long the call may take, repetitions included; the client's own time-out without.
    pub timeout: Option<Duration>,
}

impl BatchOpJson {
    fn of(op: BatchOpKind, key: &Key) -> Self {
        let key = key.as_str().to_owned();
        Self { op, key, value: None, content_type: None, if_match: None, ttl_ms: None, idempotency_key: None }
    }

    /// Reads the value of `key`.
    #[must_use]
    pub fn get(key: &Key) -> Self {
        Self::of(BatchOpKind::Get, key)
    }

    /// Stores `value` under `key`, whatever is there.
    #[must_use]
    pub fn put(key: &Key, value: &[u8]) -> Self {
        Self { value: Some(to_base64(value)), ..Self::of(BatchOpKind::Put, key) }
    }

    /// Stores `value` under `key`, if nothing is there.
    #[must_use]
    pub fn create(key: &Key, value: &[u8]) -> Self {
        Self { op: BatchOpKind::Create, ..Self::put(key, value) }
    }

    /// Removes the value of `key`.
    #[must_use]
    pub fn delete(key: &Key) -> Self {
        Self::of(BatchOpKind::Delete, key)
    }

    /// The same, only if the key has this version.
    #[must_use]
    pub fn if_match(self, version: Version) -> Self {
        Self { if_match: Some(crate::api::batch::VersionJson::Number(version.0)), ..self }
    }

    /// The same, with a content type.
    #[must_use]
    pub fn content_type(self, content_type: &ContentType) -> Self {
        Self { content_type: Some(content_type.as_str().to_owned()), ..self }
    }

    /// The same, kept for so long only.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl_ms: Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)), ..self }
    }
}

impl BatchResultJson {
    /// Whether it went well.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// Whether it may go well another time. An unknown outcome is no obstacle, as each write has an idempotency key.
    fn may_be_repeated(&self) -> bool {
        let is_lost = self.kind.as_deref() == Some(PROBLEM_LOST);
        match self.status {
            429 | 503 => !is_lost,
            504 => true,
            _ => false,
        }
    }
}

impl Client {
    /// Does up to [`BATCH_OPS_MAX`](crate::base::limits::BATCH_OPS_MAX) operations in one request: those on one key in their
    /// order, others side by side. One result for each, in their order; none is an error of the call.
    ///
    /// What was refused for a moment, or may have happened, is tried again until the time is up, as single operations
    /// are, each write under an idempotency key (a random one, where the operation has none); but not where the batch has
    /// more than one operation on that key.
    ///
    /// # Errors
    /// Where the whole batch was refused, did not happen in time, or may or may not have happened.
    pub async fn batch(
        &self,
        ops: &[BatchOpJson],
        options: &BatchOptions,
    ) -> Result<Vec<BatchResultJson>, ClientError> {
        let ops: Vec<BatchOpJson> = ops.iter().cloned().map(with_idempotency_key).collect();
        let ends = Instant::now() + options.timeout.unwrap_or(self.timeout);
        let mut on_key: HashMap<&str, usize> = HashMap::with_capacity(ops.len());
        ops.iter().for_each(|op| *on_key.entry(&op.key).or_default() += 1);
        let mut results = self.ask_batch(&ops, ends).await?;
        let mut pause = PAUSE_FIRST;
        loop {
            let again: Vec<usize> = (0..ops.len())
                .filter(|&index| on_key[ops[index].key.as_str()] == 1)
                .filter(|&index| results[index].may_be_repeated())
                .collect();
            if again.is_empty() || Instant::now() + pause >= ends {
                return Ok(results);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LONGEST);
            let repeated: Vec<BatchOpJson> = again.iter().map(|&index| ops[index].clone()).collect();
            // What was known before stays what is known where this attempt comes to nothing.
            match self.ask_batch(&repeated, ends).await {
                Ok(newer) => again.into_iter().zip(newer).for_each(|(index, newer)| results[index].replace(newer)),
                Err(_) => return Ok(results),
            }
        }
    }

    async fn ask_batch(&self, ops: &[BatchOpJson], ends: Instant) -> Result<Vec<BatchResultJson>, ClientError> {
        let body = serde_json::to_vec(&BatchJson { ops: ops.to_vec() }).expect("strings and numbers are JSON");
        let is_write = ops.iter().any(|op| op.op.is_write());
        let safety = if is_write { Safety::OnceWrite } else { Safety::Read };
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let (method, target) = (Method::POST, "/v1/batch".to_owned());
        let call = Call { method, target, headers, body: Bytes::from(body), safety };
        let reply = self.call(&call, ends.saturating_duration_since(Instant::now())).await?;
        if reply.status != StatusCode::OK {
            return Err(reply.refusal());
        }
        let answer: BatchResultsJson = serde_json::from_slice(&reply.body)
            .map_err(|error| reply.unexpected(&format!("the JSON is not as agreed: {error}")))?;
        if answer.results.len() != ops.len() {
            return Err(reply.unexpected(&format!("{} results for {} operations", answer.results.len(), ops.len())));
        }
        Ok(answer.results)
    }
}

fn with_idempotency_key(op: BatchOpJson) -> BatchOpJson {
    let is_needed = op.op.is_write() && op.idempotency_key.is_none();
    BatchOpJson { idempotency_key: if is_needed { Some(random_key()) } else { op.idempotency_key }, ..op }
}

impl BatchResultJson {
    /// Takes the result of a later attempt. After one that may have happened, a refusal doesn't say that it did not.
    fn replace(&mut self, newer: Self) {
        let was_unknown = self.outcome.as_deref() == Some("unknown");
        if newer.is_done() || !was_unknown {
            *self = newer;
        }
    }
}
