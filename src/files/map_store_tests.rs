//! A store for tests: a map, whose answers come when the test lets them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::UploadId;
use super::store::{Asker, Store};
use crate::api::{ContentType, Error, Item, Key, Once, Operation, Page, Response, Value};
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::{Blob, Version};

/// The map.
#[derive(Clone, Default)]
pub(super) struct MapStore(Arc<Mutex<Map>>);

#[derive(Default)]
pub(super) struct Map {
    pub(super) values: BTreeMap<Key, (Blob, Version, Option<ContentType>)>,
    version: u64,
    nonce: u128,
    /// What was asked.
    pub(super) asked: Vec<Operation>,
    /// After so many more requests all fail. Whether the first that fails is done all the same.
    pub(super) fails_after: Option<(usize, bool)>,
    /// What they fail with; as if the asker were gone where it isn't set.
    pub(super) failure: Option<Error>,
    /// Answers are those of the survivors of a quorum.
    pub(super) is_degraded: bool,
    /// Chunks that are being written or read at this moment, and the most that ever were.
    in_flight: usize,
    pub(super) in_flight_max: usize,
}

impl MapStore {
    pub(super) fn map(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn asker(&self) -> Asker<Self> {
        let mut map = self.map();
        map.nonce += 1;
        Asker::new(self.clone(), KEY_BYTES_MAX, map.nonce)
    }

    /// An id that no other upload has.
    pub(super) fn id(&self) -> UploadId {
        let mut map = self.map();
        map.nonce += 1;
        UploadId(map.nonce)
    }

    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        self.map().values.keys().map(ToString::to_string).filter(|key| key.starts_with(prefix)).collect()
    }
}

impl Store for MapStore {
    async fn ask(&self, operation: Operation, _: Option<Once>) -> Result<Response, Error> {
        let is_chunk = operation.key().is_some_and(|key| key.is_reserved() && key.as_str().contains("files/"));
        if is_chunk {
            let mut map = self.map();
            map.in_flight += 1;
            map.in_flight_max = map.in_flight_max.max(map.in_flight);
        }
        let _leaving = is_chunk.then(|| Leaving(self.clone()));
        // Others may come between the question and its execution.
        Yield(false).await;
        let answer = self.map().execute(operation);
        Yield(false).await;
        answer
    }
}

struct Leaving(MapStore);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.map().in_flight -= 1;
    }
}

impl Map {
    fn execute(&mut self, operation: Operation) -> Result<Response, Error> {
        self.asked.push(operation.clone());
        let failure = self.failure.clone().unwrap_or_else(|| Error::OutcomeUnknown("the asker is gone".to_owned()));
        match &mut self.fails_after {
            Some((0, is_done)) => {
                if std::mem::take(is_done) {
                    let _ = self.answer(operation);
                }
                return Err(failure);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        self.answer(operation)
    }

    fn answer(&mut self, operation: Operation) -> Result<Response, Error> {
        let current = |map: &Self, key: &Key| map.values.get(key).map(|(_, version, _)| *version);
        match operation {
            Operation::Get { key, .. } => Ok(match self.values.get(&key).cloned() {
                None if self.is_degraded => Response::NotFoundDegraded,
                None => Response::NotFound,
                Some((bytes, version, content_type)) => {
                    let (expires_in_ms, stale, degraded) = (None, false, false);
                    Response::Value(Value { bytes, version, content_type, expires_in_ms, stale, degraded })
                }
            }),
            Operation::Put { key, value, content_type, precondition, .. } => {
                let current = current(self, &key);
                if !precondition.holds(current) {
                    return Err(Error::PreconditionFailed { current });
                }
                self.version += 1;
                let version = Version(self.version);
                self.values.insert(key, (value, version, content_type));
                Ok(Response::Written { version, created: current.is_none(), copies: 2 })
            }
            Operation::Delete { key, precondition } => {
                let current = current(self, &key);
                if !precondition.holds(current) {
                    return Err(Error::PreconditionFailed { current });
                }
                self.version += 1;
                let deleted = self.values.remove(&key).is_some();
                let version = Version(self.version);
                Ok(if deleted { Response::Deleted { version, copies: 2 } } else { Response::NotFound })
            }
            Operation::List { prefix, after, limit, values } => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let range = self.values.range((from, Bound::Unbounded));
                let mut within = range.filter(|(key, _)| key.as_bytes().starts_with(&prefix));
                let items: Vec<Item> = within
                    .by_ref()
                    .take(limit as usize)
                    .map(|(key, (bytes, version, content_type))| Item {
                        key: key.clone(),
                        version: *version,
                        value_bytes: bytes.len() as u64,
                        content_type: content_type.clone(),
                        expires_in_ms: None,
                        value: values.then(|| bytes.clone()),
                    })
                    .collect();
                let more = within.next().is_some();
                let next_after = items.last().filter(|_| more).map(|item| item.key.clone());
                Ok(Response::Page(Page { items, next_after, degraded: self.is_degraded }))
            }
        }
    }
}

/// Lets others go first, once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Runs one operation to its end.
pub(super) fn run<T>(operation: impl Future<Output = T>) -> T {
    let mut operation = std::pin::pin!(operation);
    for _ in 0..1_000_000 {
        if let Poll::Ready(result) = step(operation.as_mut()) {
            return result;
        }
    }
    panic!("an operation asks without end");
}

/// Lets an operation go one step further.
pub(super) fn step<T>(operation: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    operation.poll(&mut Context::from_waker(Waker::noop()))
}
