//! A core without a cluster: a map in memory that answers as the real one does, and does what a test tells it to.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use jumpgate::api::{
    AdminReport, AdminRequest, ClusterStatus, ContentType, Error, EventKind, FeedCursor, FeedEvent, FeedPart, Item,
    Key, NodeStatus, Operation, Page, PutMode, Request, Response, Value,
};
use jumpgate::base::{Blob, PartitionId, Version};
use jumpgate::port::{Answer, BoxFuture, Core, FeedItem, FeedSender, FeedSubscription, Health, Leadership};
use tokio::sync::{oneshot, watch};

/// Events that a viewer may be behind.
pub const FEED_EVENTS_MAX: usize = 64;

/// The core.
pub struct MockCore {
    state: Mutex<State>,
    events: Mutex<Option<FeedSender>>,
    /// Whether a subscription may be confirmed.
    pub feed_open: watch::Sender<bool>,
}

/// What a test may set and look at.
#[derive(Default)]
pub struct State {
    pub table: BTreeMap<Vec<u8>, Stored>,
    pub version: u64,
    /// What the next requests fail with, one each.
    pub failures: Vec<Error>,
    /// Requests are kept and never answered.
    pub hangs: bool,
    /// What those that hang are answered when the gateway asks what is overdue.
    pub overdue: Option<Error>,
    pub hanging: Vec<oneshot::Sender<Result<Response, Error>>>,
    /// Requests are answered from another task.
    pub later: bool,
    pub requests: Vec<Request>,
    pub admins: Vec<AdminRequest>,
    pub health: Health,
    pub leadership: Leadership,
    pub degraded: bool,
    pub subscriptions: usize,
    /// What is answered to those who come back, one each; then a gap.
    pub missed: Vec<FeedPart>,
}

pub struct Stored {
    bytes: Blob,
    version: Version,
    content_type: Option<ContentType>,
    ttl_ms: Option<u64>,
}

impl MockCore {
    pub fn new() -> Arc<Self> {
        let state = State { leadership: Leadership { is_leader: true, ..Default::default() }, ..Default::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            events: Mutex::new(Some(FeedSender::new(FEED_EVENTS_MAX))),
            feed_open: watch::channel(true).0,
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }

    /// Makes an event without a request.
    pub fn publish(&self, kind: EventKind, key: &str, value: Option<&[u8]>) {
        let mut state = self.state();
        state.version += 1;
        let event = FeedEvent {
            kind,
            key: key.parse().expect("a key"),
            partition: PartitionId(3),
            version: Version(state.version),
            value: value.map(Blob::from),
            content_type: None,
        };
        self.send(event);
    }

    /// Ends the feed, as a node does that goes down.
    pub fn end_feed(&self) {
        self.events.lock().expect("not poisoned").take();
    }

    fn send(&self, event: FeedEvent) {
        if let Some(events) = &*self.events.lock().expect("not poisoned") {
            events.send(FeedItem { event, cursor: cursor().into() });
        }
    }

    fn answer(&self, state: &mut State, operation: Operation) -> Result<Response, Error> {
        match operation {
            Operation::Get { key, consistency } => Ok(match state.table.get(key.as_bytes()) {
                None => Response::NotFound,
                Some(stored) => Response::Value(Value {
                    bytes: stored.bytes.clone(),
                    version: stored.version,
                    content_type: stored.content_type.clone(),
                    expires_in_ms: stored.ttl_ms,
                    stale: consistency == jumpgate::api::Consistency::Stale,
                    degraded: state.degraded,
                }),
            }),
            Operation::Put { key, value, content_type, ttl_ms, mode, precondition } => {
                let current = state.table.get(key.as_bytes()).map(|stored| stored.version);
                match (current, mode) {
                    (Some(current), PutMode::Create) => return Err(Error::Exists { current }),
                    _ if !precondition.holds(current) => return Err(Error::PreconditionFailed { current }),
                    _ => {}
                }
                state.version += 1;
                let version = Version(state.version);
                let stored = Stored { bytes: value.clone(), version, content_type: content_type.clone(), ttl_ms };
                state.table.insert(key.as_bytes().to_vec(), stored);
                let kind = EventKind::Put;
                self.send(FeedEvent {
                    kind,
                    key,
                    partition: PartitionId(3),
                    version,
                    value: Some(value),
                    content_type,
                });
                Ok(Response::Written { version, created: current.is_none(), copies: 2 })
            }
            Operation::Delete { key, precondition } => {
                let current = state.table.get(key.as_bytes()).map(|stored| stored.version);
                if !precondition.holds(current) {
                    return Err(Error::PreconditionFailed { current });
                }
                if state.table.remove(key.as_bytes()).is_none() {
                    return Ok(Response::NotFound);
                }
                state.version += 1;
                let version = Version(state.version);
                let kind = EventKind::Delete;
                self.send(FeedEvent { kind, key, partition: PartitionId(3), version, value: None, content_type: None });
                Ok(Response::Deleted { version, copies: 2 })
            }
            Operation::List { prefix, after, limit, values } => {
                let begin = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes().to_vec()));
                let found = state.table.range((begin, Bound::Unbounded)).filter(|(key, _)| key.starts_with(&prefix));
                let mut items: Vec<Item> = found.map(|(key, stored)| item(key, stored, values)).collect();
                let is_last = items.len() <= limit as usize;
                items.truncate(limit as usize);
                let next_after = if is_last { None } else { items.last().map(|item| item.key.clone()) };
                Ok(Response::Page(Page { items, next_after, degraded: false }))
            }
        }
    }
}

fn item(key: &[u8], stored: &Stored, values: bool) -> Item {
    Item {
        key: Key::new(key).expect("it was a key when it was stored"),
        version: stored.version,
        value_bytes: stored.bytes.len() as u64,
        content_type: stored.content_type.clone(),
        expires_in_ms: stored.ttl_ms,
        value: values.then(|| stored.bytes.clone()),
    }
}

impl Core for MockCore {
    fn submit(&self, request: Request) -> Answer {
        let mut state = self.state();
        state.requests.push(request.clone());
        if state.hangs {
            let (sender, receiver) = oneshot::channel();
            state.hanging.push(sender);
            return Answer::Later(receiver);
        }
        if !state.failures.is_empty() {
            return Answer::Now(Err(state.failures.remove(0)));
        }
        let result = self.answer(&mut state, request.operation);
        if !state.later {
            return Answer::Now(result);
        }
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move { sender.send(result) });
        Answer::Later(receiver)
    }

    fn answer_overdue(&self) {
        let mut state = self.state();
        if let Some(error) = state.overdue.clone() {
            state.hanging.drain(..).for_each(|hanging| drop(hanging.send(Err(error.clone()))));
        }
    }

    fn status(&self) -> BoxFuture<'_, ClusterStatus> {
        let named = |name: &str| NodeStatus { name: name.to_owned(), ..Default::default() };
        let nodes = ["n1", "n2", "n3"].map(named).to_vec();
        let status = ClusterStatus { name: "mock".to_owned(), node: "n1".to_owned(), nodes, ..Default::default() };
        Box::pin(async { status })
    }

    fn admin(&self, request: AdminRequest) -> BoxFuture<'_, Result<AdminReport, Error>> {
        Box::pin(async move {
            let steps = vec![format!("{:?}", request.action)];
            let (hangs, failure) = {
                let mut state = self.state();
                state.admins.push(request);
                (state.hangs, (!state.failures.is_empty()).then(|| state.failures.remove(0)))
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            failure.map_or(Ok(AdminReport { steps, recovered: None }), Err)
        })
    }

    fn health(&self) -> Health {
        self.state().health
    }

    fn leadership(&self) -> Leadership {
        self.state().leadership.clone()
    }

    fn subscribe(&self) -> BoxFuture<'_, Result<FeedSubscription, Error>> {
        let mut open = self.feed_open.subscribe();
        Box::pin(async move {
            self.state().subscriptions += 1;
            open.wait_for(|open| *open).await.map_err(|_| Error::Busy("the test is over".to_owned()))?;
            let events = self.events.lock().expect("not poisoned");
            let events = events.as_ref().ok_or_else(|| Error::Busy("the feed has ended".to_owned()))?;
            Ok(events.subscribe(cursor().into(), ()))
        })
    }

    fn feed_since(&self, _: &FeedCursor, _: Vec<u64>) -> BoxFuture<'_, Result<FeedPart, Error>> {
        let mut state = self.state();
        let part = if state.missed.is_empty() {
            FeedPart { gap: true, ..FeedPart::default() }
        } else {
            state.missed.remove(0)
        };
        Box::pin(async { Ok(part) })
    }
}

/// The only cursor that it knows.
pub fn cursor() -> String {
    FeedCursor::default().to_text()
}
