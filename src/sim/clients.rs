//! Clients that ask one thing after another, and what they were told.
//!
//! Half of them stay with one gateway whatever happens to it: a node that is cut off is found out only by those who go on
//! asking it. What they are told is judged twice: at once, by versions (`history`), and in the end by a search for an order
//! of all operations on a key (`linear`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::{Asked, History, Question};
use super::linear::Verdict;
use crate::api::{
    Consistency, Error, Key, Match, Once, Operation, Outcome, Page, Precondition, PutMode, Request, Response,
};
use crate::base::{Blob, Instant, PartitionId, RequestId, Rng, ShardId, Slot, Version};
use crate::placement;

/// Keys that the clients use: few, so that they meet.
const KEYS: u64 = 10;
/// Of these, so many hold values that expire.
const BRIEF_KEYS: u64 = 2;
/// What comes before every key: a listing asks for all of them.
const PREFIX: &str = "key-";
/// How long a client waits.
const TIMEOUT_MS: u32 = 1000;
/// An answer may come so much after its deadline, and no more.
const GRACE: Duration = Duration::from_millis(50);
/// A client sends a write so often before it gives up finding out what became of it.
const ATTEMPTS_MAX: u32 = 5;
/// Values that expire do so within this time.
const TTL_MS_MAX: u64 = 300;

/// Copies without which nothing may be acknowledged.
pub(super) const MIN_COPIES: u8 = 2;

/// All clients and their history.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    keys: BTreeMap<Key, History>,
    /// Keys of partitions whose last copy was taken by a fault: nothing is promised about them any more.
    void: Vec<PartitionId>,
    partitions: u16,
    is_stopped: bool,
    writes: u64,
    /// Beginnings and ends of operations so far.
    moments: u32,
    complaints: Vec<String>,
    /// Operations that ended well.
    pub done: u64,
    /// Operations that ended in an error.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Of these, such as had been done by an earlier attempt.
    pub replayed: u64,
    /// When somebody was last answered.
    now: Instant,
    rng: Rng,
}

#[derive(Debug, Default)]
struct Client {
    under_way: Option<UnderWay>,
    /// A write with an idempotency key of which it isn't known whether it happened: it is sent again next.
    again: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    kind: Kind,
    request: Request,
    /// This attempt.
    began_at: Instant,
    attempts: u32,
    waits_for: Option<(Slot, ShardId, RequestId)>,
}

#[derive(Debug)]
enum Kind {
    One(Key, Question),
    /// A page of so many keys at most, and what was known of each key.
    List(u32, BTreeMap<Key, Question>),
}

impl Clients {
    pub(super) fn new(partitions: u16, rng: Rng) -> Self {
        Self {
            clients: Vec::new(),
            keys: BTreeMap::new(),
            void: Vec::new(),
            partitions,
            is_stopped: false,
            writes: 0,
            moments: 0,
            complaints: Vec::new(),
            done: 0,
            failed: 0,
            acknowledged: 0,
            replayed: 0,
            now: Instant::ZERO,
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
        let unsure: Vec<UnderWay> = self.clients.iter_mut().filter_map(|client| client.again.take()).collect();
        for under_way in unsure {
            self.judge_answer(self.now, under_way.kind, &Err(unknown()));
        }
    }

    /// A fault took the last copy of this partition.
    pub(super) fn forgive(&mut self, partition: PartitionId) {
        if !self.void.contains(&partition) {
            self.void.push(partition);
        }
    }

    pub(super) fn is_void(&self, partition: PartitionId) -> bool {
        self.void.contains(&partition)
    }

    fn is_void_key(&self, key: &Key) -> bool {
        !self.void.is_empty() && self.is_void(placement::partition_of(key.as_bytes(), self.partitions))
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

    /// Takes what was found to be wrong since this was last asked.
    pub(super) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    fn complain(&mut self, key: &Key, words: &str) {
        if !self.is_void_key(key) {
            self.complaints.push(format!("{key}: {words}"));
        }
    }

    /// Every key that was ever written to and of which something is promised.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.keys.keys().filter(|key| !self.is_void_key(key)).cloned().collect()
    }

    /// The gateway that `client` asks next, of those that run.
    pub(super) fn gateway(&mut self, client: usize, slots: usize, running: &[Slot]) -> Option<Slot> {
        let anyone = self.rng.below(running.len().max(1) as u64) as usize;
        let pinned = Slot((client % slots) as u8);
        if client.is_multiple_of(2) {
            running.get(anyone).copied()
        } else {
            running.iter().copied().find(|slot| *slot == pinned)
        }
    }

    fn moment(&mut self) -> u32 {
        self.moments += 1;
        self.moments
    }

    pub(super) fn next_request(&mut self, now: Instant, client: usize) -> Request {
        if let Some(again) = self.clients[client].again.take() {
            let request = again.request.clone();
            self.clients[client].under_way = Some(UnderWay { began_at: now, waits_for: None, ..again });
            return request;
        }
        let (kind, operation) = if self.rng.below(24) == 0 { self.next_list(now) } else { self.next_on_one_key(now) };
        // Every second write has an idempotency key, and is sent again where nobody knows what became of it.
        let has_key = operation.is_write() && self.writes.is_multiple_of(2);
        let once = has_key.then(|| Once::new(&format!("write-{}", self.writes), &operation)).flatten();
        let request = Request { operation, once, timeout_ms: TIMEOUT_MS };
        let under_way = UnderWay { kind, request: request.clone(), began_at: now, attempts: 0, waits_for: None };
        self.clients[client].under_way = Some(under_way);
        request
    }

    fn next_list(&mut self, now: Instant) -> (Kind, Operation) {
        let limit = 1 + self.rng.below(KEYS) as u32;
        let moment = self.moment();
        let questions =
            self.keys.iter_mut().map(|(key, history)| (key.clone(), history.begin(Asked::Read, now, moment)));
        let kind = Kind::List(limit, questions.collect());
        (kind, Operation::List { prefix: Blob::from(PREFIX.as_bytes()), after: None, limit, values: true })
    }

    fn next_on_one_key(&mut self, now: Instant) -> (Kind, Operation) {
        let number = self.rng.below(KEYS);
        let is_brief = number < BRIEF_KEYS;
        let key: Key = format!("{PREFIX}{number:02}").parse().expect("it is a key");
        self.writes += 1;
        let value = Blob::from(format!("value-{}", self.writes).into_bytes());
        let moment = self.moment();
        let drawn = self.rng.below(20);
        let history = self.keys.entry(key.clone()).or_insert_with(|| History::new(is_brief));
        let replaceable = history.newest_is_value().then(|| history.newest());
        let asked = match (drawn, replaceable) {
            (0..=6, _) => Asked::Read,
            (7..=8, _) => Asked::ReadStale,
            (9..=13, _) => Asked::Put(value),
            (14..=15, Some(version)) => Asked::Replace(value, version),
            (16, Some(version)) => Asked::Remove(version),
            (17, _) => Asked::Delete,
            _ => Asked::Create(value),
        };
        let ttl_ms = is_brief.then(|| 1 + self.rng.below(TTL_MS_MAX));
        let question = history.begin(asked.clone(), now, moment);
        (Kind::One(key.clone(), question), operation(key, asked, ttl_ms))
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

    /// The gateway that some clients waited for has died: they know nothing, and will ask on. Who they are.
    pub(super) fn handle_death(&mut self, now: Instant, slot: Slot) -> Vec<usize> {
        let waits = |client: &Client| client.under_way.as_ref()?.waits_for.map(|(at, _, _)| at);
        let freed: Vec<usize> =
            (0..self.clients.len()).filter(|client| waits(&self.clients[*client]) == Some(slot)).collect();
        for client in &freed {
            self.handle_result(now, *client, &Err(Error::OutcomeUnknown("the gateway died".to_owned())));
        }
        freed
    }

    /// Since when `client` waits longer than anybody may, if it does.
    pub(super) fn overdue_since(&self, now: Instant, client: usize) -> Option<Instant> {
        let began_at = self.clients[client].under_way.as_ref()?.began_at;
        (now > began_at + Duration::from_millis(u64::from(TIMEOUT_MS)) + GRACE).then_some(began_at)
    }

    pub(super) fn handle_result(&mut self, now: Instant, client: usize, result: &Result<Response, Error>) {
        self.now = now;
        let Some(mut under_way) = self.clients[client].under_way.take() else { return };
        under_way.attempts += 1;
        let is_unknown = result.as_ref().is_err_and(|error| error.outcome() == Outcome::Unknown);
        let is_refusal = matches!(result, Err(_) | Ok(Response::NotFound));
        if under_way.request.once.is_some() && (is_unknown || under_way.attempts > 1 && is_refusal) {
            // No refusal of a later attempt says that an earlier one did not happen, or won't: only what was done is
            // remembered. A delete that finds nothing is a refusal, too.
            if self.is_stopped || under_way.attempts >= ATTEMPTS_MAX {
                self.failed += 1;
                self.judge_answer(now, under_way.kind, &Err(unknown()));
            } else {
                self.clients[client].again = Some(under_way);
            }
            return;
        }
        self.replayed += u64::from(matches!(result, Ok(Response::Replayed { .. })));
        match result {
            Ok(response) => {
                self.done += 1;
                self.acknowledged += u64::from(is_write_done(response));
            }
            Err(_) => self.failed += 1,
        }
        if let Ok(Response::Written { copies, .. } | Response::Deleted { copies, .. }) = result
            && *copies < MIN_COPIES
        {
            self.complaints.push(format!("a write was acknowledged with {copies} copies"));
        }
        self.judge_answer(now, under_way.kind, result);
    }

    fn judge_answer(&mut self, now: Instant, kind: Kind, result: &Result<Response, Error>) {
        let moment = self.moment();
        match kind {
            Kind::One(key, question) => {
                let history = self.keys.get_mut(&key).expect("it was asked about");
                if let Err(words) = history.end((now, moment), &question, result) {
                    self.complain(&key, &words);
                }
            }
            Kind::List(limit, questions) => match result {
                Ok(Response::Page(page)) if page.degraded => {}
                Ok(Response::Page(page)) => self.judge_page(limit, &questions, page),
                Ok(response) => self.complaints.push(format!("a listing was answered by {response:?}")),
                Err(_) => {}
            },
        }
    }

    /// A page must have every key up to where it ends that a read would have found.
    fn judge_page(&mut self, limit: u32, questions: &BTreeMap<Key, Question>, page: &Page) {
        if page.items.len() > limit as usize || !page.items.is_sorted_by(|left, right| left.key < right.key) {
            self.complaints.push(format!("a page of at most {limit} has {:?}", page.items));
        }
        for item in &page.items {
            let history = self.keys.get_mut(&item.key);
            let Some((history, value)) = history.zip(item.value.as_ref()) else {
                self.complaints.push(format!("a page has {item:?}, which nobody wrote, or lacks its value"));
                continue;
            };
            let question = match questions.get(&item.key) {
                Some(question) => question.clone(),
                // It was first written after the listing began.
                None => Question::about_nothing(),
            };
            if let Err(words) = history.judge_seen(&question, item.version, value) {
                self.complain(&item.key, &format!("on a page: {words}"));
            }
        }
        let is_covered = |key: &Key| page.next_after.as_ref().is_none_or(|last| key <= last);
        for (key, question) in questions.iter().filter(|(key, _)| is_covered(key)) {
            if page.items.iter().any(|item| item.key == *key) {
                continue;
            }
            if let Some(Err(words)) = self.keys.get(key).map(|history| history.judge_absent(question)) {
                self.complain(key, &format!("on a page: {words}"));
            }
        }
    }

    /// Judges a read of `key` that began and ended while nothing else was under way.
    pub(super) fn judge_last(&mut self, now: Instant, key: &Key, result: &Result<Response, Error>) {
        let (began, ended) = (self.moment(), self.moment());
        let Some(history) = self.keys.get_mut(key) else { return };
        let question = history.begin(Asked::Read, now, began);
        if let Err(words) = history.end((now, ended), &question, result) {
            self.complain(key, &format!("in the end: {words}"));
        }
    }

    /// Looks for an order of all operations on each key. How many keys it could not decide about.
    pub(super) fn judge_orders(&mut self) -> u64 {
        let mut undecided = 0;
        for key in self.keys() {
            let (verdict, calls) = self.keys[&key].judge_order();
            match verdict {
                Verdict::Linearizable => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Broken(furthest) => {
                    let words = format!("no order of its {calls} operations explains them; {furthest} at most");
                    self.complain(&key, &words);
                }
            }
        }
        undecided
    }
}

fn is_write_done(response: &Response) -> bool {
    matches!(response, Response::Written { .. } | Response::Deleted { .. } | Response::Replayed { .. })
}

fn unknown() -> Error {
    Error::OutcomeUnknown("no attempt said what became of it".to_owned())
}

fn operation(key: Key, asked: Asked, ttl_ms: Option<u64>) -> Operation {
    let put =
        |key, value, mode, precondition| Operation::Put { key, value, content_type: None, ttl_ms, mode, precondition };
    let only = |version: Version| Precondition { if_match: Some(Match::Versions(vec![version])), if_none_match: None };
    match asked {
        Asked::Read => Operation::Get { key, consistency: Consistency::Linearizable },
        Asked::ReadStale => Operation::Get { key, consistency: Consistency::Stale },
        Asked::Put(value) => put(key, value, PutMode::Upsert, Precondition::NONE),
        Asked::Create(value) => put(key, value, PutMode::Create, Precondition::NONE),
        Asked::Replace(value, version) => put(key, value, PutMode::Upsert, only(version)),
        Asked::Delete => Operation::Delete { key, precondition: Precondition::NONE },
        Asked::Remove(version) => Operation::Delete { key, precondition: only(version) },
    }
}
