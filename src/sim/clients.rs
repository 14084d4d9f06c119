//! Clients that ask one thing after another, and what they were told.
//!
//! Every acknowledged write has a version, and versions of a key rise strictly in the order in which its writes take
//! effect. So a history can be checked as it grows: an operation that begins after another has ended must not see, or be
//! given, an older version. (Necessary for linearizability, per key, and found at the very operation that breaks it.)

use std::collections::BTreeMap;

use crate::api::{Consistency, Error, Key, Operation, Outcome, Precondition, PutMode, Request, Response};
use crate::base::{Blob, Instant, RequestId, Rng, ShardId, Slot, Version};

/// Keys that the clients use: few, so that they meet.
const KEYS: u64 = 12;
/// How long a client waits.
const TIMEOUT_MS: u32 = 1000;

/// Broken promises that are kept: one breach often causes hundreds.
const VIOLATIONS_MAX: usize = 20;

/// A promise that was broken, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// All clients and their history.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    keys: BTreeMap<Key, KeyHistory>,
    is_stopped: bool,
    writes: u64,
    violations: Vec<Violation>,
    /// Operations that ended well, and those that ended in an error.
    pub done: u64,
    /// Operations that ended in an error.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    rng: Rng,
}

#[derive(Debug, Default)]
struct Client {
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    key: Key,
    kind: Kind,
    /// The newest version of the key that anybody knew of when this began.
    floor: Version,
    began_at: Instant,
    waits_for: Option<(Slot, ShardId, RequestId)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Put(Blob),
    Delete,
}

/// What is known of one key.
#[derive(Debug, Default)]
struct KeyHistory {
    /// The newest version that an ended operation has shown to be in effect.
    newest: Version,
    /// Which value each version has; none is a delete.
    values: BTreeMap<Version, Option<Blob>>,
    /// Values whose write ended without a word: they may appear, at any version.
    unknown: Vec<Option<Blob>>,
    /// Deletes under way, and when the last one ended.
    deletes_open: usize,
    delete_ended_at: Instant,
}

impl Clients {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            clients: Vec::new(),
            keys: BTreeMap::new(),
            is_stopped: false,
            writes: 0,
            violations: Vec::new(),
            done: 0,
            failed: 0,
            acknowledged: 0,
            rng,
        }
    }

    pub(super) fn add(&mut self) -> usize {
        self.clients.push(Client::default());
        self.clients.len() - 1
    }

    /// Nobody asks anything new from now on.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub(super) const fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub(super) fn is_idle(&self, client: usize) -> bool {
        self.clients[client].under_way.is_none()
    }

    /// Whether nobody waits for an answer.
    #[must_use]
    pub fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.under_way.is_none())
    }

    /// The promises that were broken so far.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Notes a promise that was seen to be broken elsewhere. The first few tell enough.
    pub(super) fn complain(&mut self, words: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation(words));
        }
    }

    /// Every key that was ever written to.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.keys()
    }

    pub(super) fn next_request(&mut self, now: Instant, client: usize) -> Request {
        let key: Key = format!("key-{}", self.rng.below(KEYS)).parse().expect("it is a key");
        let (kind, operation) = match self.rng.below(10) {
            0..=4 => (Kind::Read, Operation::Get { key: key.clone(), consistency: Consistency::Linearizable }),
            5..=8 => {
                self.writes += 1;
                let value = Blob::from(format!("value-{}", self.writes).into_bytes());
                let operation = Operation::Put {
                    key: key.clone(),
                    value: value.clone(),
                    content_type: None,
                    ttl_ms: None,
                    mode: PutMode::Upsert,
                    precondition: Precondition::NONE,
                };
                (Kind::Put(value), operation)
            }
            _ => (Kind::Delete, Operation::Delete { key: key.clone(), precondition: Precondition::NONE }),
        };
        let history = self.keys.entry(key.clone()).or_default();
        history.deletes_open += usize::from(kind == Kind::Delete);
        let floor = history.newest;
        self.clients[client].under_way = Some(UnderWay { key, kind, floor, began_at: now, waits_for: None });
        Request { operation, timeout_ms: TIMEOUT_MS }
    }

    pub(super) fn handle_pending(&mut self, client: usize, slot: Slot, shard: ShardId, request: RequestId) {
        if let Some(under_way) = &mut self.clients[client].under_way {
            under_way.waits_for = Some((slot, shard, request));
        }
    }

    /// Who waits for this answer.
    pub(super) fn pending(&self, slot: Slot, shard: ShardId, request: RequestId) -> Option<usize> {
        self.clients.iter().position(|client| {
            client.under_way.as_ref().is_some_and(|under_way| under_way.waits_for == Some((slot, shard, request)))
        })
    }

    /// The gateway that some clients waited for has died.
    pub(super) fn handle_death(&mut self, now: Instant, slot: Slot) {
        for client in 0..self.clients.len() {
            let waits = self.clients[client].under_way.as_ref().and_then(|under_way| under_way.waits_for);
            if waits.is_some_and(|(at, _, _)| at == slot) {
                let error = Error::OutcomeUnknown("the gateway died".to_owned());
                self.handle_result(now, client, &Err(error));
                self.clients[client].under_way = None;
            }
        }
    }

    pub(super) fn handle_result(&mut self, now: Instant, client: usize, result: &Result<Response, Error>) {
        let Some(under_way) = self.clients[client].under_way.take() else { return };
        let history = self.keys.entry(under_way.key.clone()).or_default();
        if under_way.kind == Kind::Delete {
            history.deletes_open -= 1;
            history.delete_ended_at = now;
        }
        let judged = match result {
            Ok(response) => {
                self.done += 1;
                self.acknowledged += u64::from(under_way.kind != Kind::Read);
                history.judge(&under_way, response)
            }
            Err(error) => {
                self.failed += 1;
                if error.outcome() == Outcome::Unknown {
                    match under_way.kind {
                        Kind::Put(value) => history.unknown.push(Some(value)),
                        Kind::Delete => history.unknown.push(None),
                        Kind::Read => {}
                    }
                }
                Ok(())
            }
        };
        if let Err(words) = judged {
            self.complain(words);
        }
    }
}

impl Clients {
    /// Judges a read of `key` that began and ended while nothing else was under way.
    pub(super) fn judge_last(&mut self, key: &Key, result: &Result<Response, Error>) -> Option<String> {
        let history = self.keys.get_mut(key)?;
        let read = UnderWay {
            key: key.clone(),
            kind: Kind::Read,
            floor: history.newest,
            began_at: Instant::FAR,
            waits_for: None,
        };
        history.judge(&read, result.as_ref().ok()?).err()
    }
}

impl KeyHistory {
    fn judge(&mut self, under_way: &UnderWay, response: &Response) -> Result<(), String> {
        let UnderWay { key, floor, .. } = under_way;
        match (&under_way.kind, response) {
            (Kind::Read, Response::Value(value)) => {
                if value.version < *floor {
                    return Err(format!("{key}: read version {} after {floor} was known", value.version));
                }
                match self.values.get(&value.version) {
                    Some(Some(known)) if *known != value.bytes => {
                        return Err(format!("{key}: version {} is {known:?} and {:?}", value.version, value.bytes));
                    }
                    Some(None) => return Err(format!("{key}: version {} is a delete", value.version)),
                    _ => {}
                }
                self.note(value.version, Some(value.bytes.clone()));
                Ok(())
            }
            (Kind::Read | Kind::Delete, Response::NotFound) => {
                // There must be a delete that may have come after what was known when this began.
                let stands = self.values.get(floor).is_some_and(Option::is_some);
                let may_be_deleted = self.values.range(floor..).any(|(_, value)| value.is_none())
                    || self.unknown.iter().any(Option::is_none)
                    || self.deletes_open > 0
                    || self.delete_ended_at >= under_way.began_at;
                if stands && !may_be_deleted {
                    return Err(format!("{key}: nothing found, though version {floor} was acknowledged"));
                }
                Ok(())
            }
            (Kind::Put(value), Response::Written { version, .. }) => {
                if version <= floor {
                    return Err(format!("{key}: written as {version}, though {floor} was known"));
                }
                self.note(*version, Some(value.clone()));
                Ok(())
            }
            (Kind::Delete, Response::Deleted { version, .. }) => {
                if version <= floor {
                    return Err(format!("{key}: deleted as {version}, though {floor} was known"));
                }
                self.note(*version, None);
                Ok(())
            }
            (kind, response) => Err(format!("{key}: {kind:?} was answered by {response:?}")),
        }
    }

    fn note(&mut self, version: Version, value: Option<Blob>) {
        self.values.insert(version, value);
        self.newest = self.newest.max(version);
    }
}
