//! Who sends, and when: the connections of a run and what each has seen.
//!
//! In a **closed** loop each connection sends its next request when the last one is answered, and a time is counted from
//! there. A server that stops for a second is then asked nothing for a second, and one slow request stands for the
//! thousands that would have met it. In an **open** loop the requests have a time-table, made before the run: the nth is due at
//! n / rate, whichever connection is free sends it, and its time is counted from when it was *due*, however late it was
//! sent. (Tene, "How NOT to Measure Latency", 2013, calls the difference coordinated omission.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::histogram::Histogram;
use crate::api::batch::{BatchOpJson, BatchOpKind};
use crate::api::{Consistency, Key};
use crate::base::Rng;
use crate::client::{BatchOptions, Client, ClientError, PutOptions};

/// Requests at once while keys are prepared, and operations in each.
const PREPARE_AT_ONCE: usize = 4;
const PREPARE_OPS: u64 = 250;
/// How often a time-table is looked at while requests are due all the time, and while none is.
const BELL_PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(20));
/// Reasons that are kept; more would be the same ones again.
const REASONS_MAX: usize = 3;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Work {
    /// What all keys begin with.
    pub prefix: String,
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of each value.
    pub size: usize,
    /// Reads in a million operations.
    pub reads_per_million: u32,
    /// Operations in one request; 1 is no batch.
    pub batch: u64,
    /// The seed of what is drawn.
    pub seed: u64,
}

/// When it is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Requests in all at most.
    pub requests: u64,
    /// When no further one is begun.
    pub duration: Option<Duration>,
    /// Requests a second that are due; none in a closed loop.
    pub rate: Option<f64>,
}

/// What one kind of operation came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Times of requests that were answered.
    pub times: Histogram,
    /// Operations that succeeded.
    pub done: u64,
    /// Operations that failed.
    pub failed: u64,
}

/// What one connection, or all of them, have seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub reads: Tally,
    pub writes: Tally,
    /// Whole batches, whose operations are counted above, without times of their own.
    pub batches: Tally,
    /// Reads that found no such key.
    pub missing: u64,
    /// The first reasons of failures.
    pub reasons: Vec<String>,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, more) in
            [(&mut self.reads, &other.reads), (&mut self.writes, &other.writes), (&mut self.batches, &other.batches)]
        {
            mine.times.add(&more.times);
            mine.done += more.done;
            mine.failed += more.failed;
        }
        self.missing += other.missing;
        other.reasons.iter().for_each(|reason| self.note_reason(reason));
    }

    /// Operations that succeeded.
    pub(super) const fn done(&self) -> u64 {
        self.reads.done + self.writes.done
    }

    /// Operations that failed.
    pub(super) const fn failed(&self) -> u64 {
        self.reads.failed + self.writes.failed
    }

    /// All times: of single operations, or of batches.
    pub(super) fn times(&self) -> Histogram {
        let mut all = self.reads.times.clone();
        all.add(&self.writes.times);
        all.add(&self.batches.times);
        all
    }

    fn note_reason(&mut self, reason: &str) {
        if self.reasons.len() < REASONS_MAX && !self.reasons.iter().any(|known| known == reason) {
            self.reasons.push(reason.to_owned());
        }
    }
}

/// The time-table that all connections share: each takes the next line of it.
struct TimeTable {
    pace: Pace,
    start: Instant,
    next: AtomicU64,
}

impl TimeTable {
    /// When the run ends, where that is known before.
    fn end(&self) -> Option<Instant> {
        self.pace.duration.map(|duration| self.start + duration)
    }

    /// How many lines of an open loop are due at `now`, and when the next one is.
    fn due(&self, rate: f64, now: Instant) -> (u64, Instant) {
        let due = ((now - self.start).as_secs_f64() * rate) as u64 + 1;
        (due.min(self.pace.requests), self.start + Duration::from_secs_f64(due as f64 / rate))
    }

    /// The next request's number and, in an open loop, when it is due; none where the run is over.
    fn take(&self, now: Instant) -> Option<(u64, Option<Instant>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let over = |at: Instant| self.end().is_some_and(|end| at >= end);
        let due = self.pace.rate.map(|rate| self.start + Duration::from_secs_f64(number as f64 / rate));
        // A request that is due but can't be sent before the end is not begun: the run ends when it was said to.
        let is_over = number >= self.pace.requests || over(now) || due.is_some_and(over);
        (!is_over).then_some((number, due))
    }
}

/// What says that a line of an open loop's time-table is due. A thread does: the runtime's timers go off once a millisecond, for
/// all that was due in it, and many a request takes less.
struct Bell {
    due: Semaphore,
    rate: f64,
}

impl Bell {
    /// Rings for each line of `table`, and at the end once more for each of the connections that wait for another one.
    fn ring(&self, table: &TimeTable, connections: usize, stop: &CancellationToken) {
        let (least, most) = BELL_PAUSES;
        let mut rung = 0;
        while !stop.is_cancelled() {
            let now = Instant::now();
            let (due, next) = table.due(self.rate, now);
            self.due.add_permits((due - rung) as usize);
            rung = due;
            if rung == table.pace.requests || table.end().is_some_and(|end| now >= end) {
                return self.due.add_permits(connections);
            }
            std::thread::sleep((next - now).clamp(least, most));
        }
    }

    /// Waits until another line is due, or nothing further will be.
    async fn heard(&self) {
        self.due.acquire().await.expect("it is never closed").forget();
    }
}

/// A run under way.
pub(super) struct Run {
    start: Instant,
    connections: Vec<Arc<Mutex<Seen>>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Run {
    /// Starts a connection with each of `clients`.
    pub(super) fn start(clients: Vec<Client>, work: &Work, pace: Pace, stop: CancellationToken) -> Self {
        let start = Instant::now();
        let table = Arc::new(TimeTable { pace, start, next: AtomicU64::new(0) });
        let bell = pace.rate.map(|rate| Arc::new(Bell { due: Semaphore::new(0), rate }));
        if let Some(bell) = &bell {
            let (bell, table, stop, connections) = (Arc::clone(bell), Arc::clone(&table), stop.clone(), clients.len());
            std::thread::spawn(move || bell.ring(&table, connections, &stop));
        }
        let mut run = Self { start, connections: Vec::new(), tasks: JoinSet::new(), stop };
        let mut rng = Rng::new(work.seed);
        for client in clients {
            let seen = Arc::new(Mutex::new(Seen::default()));
            run.connections.push(Arc::clone(&seen));
            let value = Bytes::from(value(work.size));
            let connection = Connection { client, work: work.clone(), rng: rng.fork(), value, seen };
            let (table, bell, stop) = (Arc::clone(&table), bell.clone(), run.stop.clone());
            run.tasks.spawn(async move { connection.drive(&table, bell.as_deref(), &stop).await });
        }
        run
    }

    /// What all connections have seen up to now.
    pub(super) fn seen(&self) -> Seen {
        let mut all = Seen::default();
        self.connections.iter().for_each(|seen| all.add(&lock(seen)));
        all
    }

    /// How long it has gone on.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a connection of the bench doesn't panic");
        }
    }
}

/// One connection: a client that sends one request at a time.
struct Connection {
    client: Client,
    work: Work,
    rng: Rng,
    value: Bytes,
    seen: Arc<Mutex<Seen>>,
}

impl Connection {
    async fn drive(mut self, table: &TimeTable, bell: Option<&Bell>, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            if let Some(bell) = bell
                && stop.run_until_cancelled(bell.heard()).await.is_none()
            {
                return;
            }
            let Some((_, due)) = table.take(Instant::now()) else { return };
            let since = due.unwrap_or_else(Instant::now);
            if self.work.batch > 1 {
                self.batch(since).await;
            } else if self.rng.chance(self.work.reads_per_million) {
                self.read(since).await;
            } else {
                self.write(since).await;
            }
        }
    }

    async fn read(&mut self, since: Instant) {
        let key = self.key();
        let result = self.client.get(&key, Consistency::Linearizable).await;
        let mut seen = lock(&self.seen);
        seen.missing += u64::from(matches!(result, Ok(None)));
        let error = result.err();
        note_failure(&mut seen, error.as_ref());
        note(&mut seen.reads, since.elapsed(), error.is_none());
    }

    async fn write(&mut self, since: Instant) {
        let key = self.key();
        let error = self.client.put(&key, self.value.clone(), &PutOptions::default()).await.err();
        let mut seen = lock(&self.seen);
        note_failure(&mut seen, error.as_ref());
        note(&mut seen.writes, since.elapsed(), error.is_none());
    }

    async fn batch(&mut self, since: Instant) {
        let ops: Vec<BatchOpJson> = (0..self.work.batch)
            .map(|_| {
                let is_read = self.rng.chance(self.work.reads_per_million);
                let key = self.key();
                if is_read { BatchOpJson::get(&key) } else { BatchOpJson::put(&key, &self.value) }
            })
            .collect();
        let result = self.client.batch(&ops, &BatchOptions::default()).await;
        let mut seen = lock(&self.seen);
        note_failure(&mut seen, result.as_ref().err());
        note(&mut seen.batches, since.elapsed(), result.is_ok());
        let results = result.unwrap_or_default();
        for (nth, op) in ops.iter().enumerate() {
            let status = results.get(nth).map_or(0, |result| result.status);
            let is_read = op.op == BatchOpKind::Get;
            let is_missing = is_read && status == 404;
            let is_done = is_missing || matches!(status, 200..=299);
            seen.missing += u64::from(is_missing);
            if let Some(detail) = results.get(nth).filter(|_| !is_done).and_then(|result| result.detail.as_deref()) {
                seen.note_reason(detail);
            }
            let tally = if is_read { &mut seen.reads } else { &mut seen.writes };
            *if is_done { &mut tally.done } else { &mut tally.failed } += 1;
        }
    }

    fn key(&mut self) -> Key {
        key(&self.work.prefix, self.rng.below(self.work.keys))
    }
}

fn note(tally: &mut Tally, time: Duration, is_done: bool) {
    if is_done {
        tally.times.record(time);
        tally.done += 1;
    } else {
        tally.failed += 1;
    }
}

fn note_failure(seen: &mut Seen, error: Option<&ClientError>) {
    if let Some(error) = error {
        seen.note_reason(&error.to_string());
    }
}

/// What was counted before a panic is still true.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value of so many bytes: text, so that it can be looked at.
fn value(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + (at % 26) as u8).collect()
}

/// The nth key. The prefix was tried with the longest one before the run.
fn key(prefix: &str, number: u64) -> Key {
    Key::new(format!("{prefix}{number:08}")).expect("the prefix was tried")
}

/// Whether keys can begin with this.
pub(super) fn check_prefix(prefix: &str) -> Result<(), String> {
    Key::new(format!("{prefix}{}", u64::MAX)).map(|_| ()).map_err(|error| error.to_string())
}

/// Stores a value under every key, a few batches at once; calls `on_stored` with how many more there are each time.
pub(super) async fn prepare(client: &Client, work: &Work, mut on_stored: impl FnMut(u64)) -> Result<(), String> {
    let value = value(work.size);
    let mut under_way = JoinSet::new();
    let mut next = 0;
    loop {
        while next < work.keys && under_way.len() < PREPARE_AT_ONCE {
            // A batch of large values has to stay within what a gateway takes.
            let fits = (8 << 20) / (2 * work.size as u64 + 1024);
            let last = (next + PREPARE_OPS.min(fits.max(1))).min(work.keys);
            let ops: Vec<BatchOpJson> =
                (next..last).map(|number| BatchOpJson::put(&key(&work.prefix, number), &value)).collect();
            let client = client.clone();
            let count = last - next;
            under_way.spawn(async move {
                let results = client.batch(&ops, &BatchOptions::default()).await.map_err(|error| error.to_string())?;
                match results.into_iter().find(|result| !result.is_done()) {
                    None => Ok(count),
                    Some(refused) => Err(refused.detail.unwrap_or_else(|| format!("status {}", refused.status))),
                }
            });
            next = last;
        }
        match under_way.join_next().await {
            None => return Ok(()),
            Some(stored) => on_stored(stored.expect("preparing keys doesn't panic")?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(requests: u64, duration: Option<Duration>, rate: Option<f64>) -> TimeTable {
        let start = Instant::now();
        TimeTable { pace: Pace { requests, duration, rate }, start, next: AtomicU64::new(0) }
    }

    #[test]
    fn requests_are_due_at_the_rate_however_late_they_are_taken() {
        let table = table(u64::MAX, Some(Duration::from_secs(1)), Some(100.0));
        let after = |ms| table.start + Duration::from_millis(ms);
        for number in 0..3 {
            assert_eq!(table.take(table.start), Some((number, Some(after(10 * number)))));
        }
        assert_eq!(table.take(after(500)), Some((3, Some(after(30)))), "it is late, and not left out");
        assert_eq!(table.take(after(1000)), None, "the time is over");
    }

    #[tokio::test]
    async fn a_bell_rings_for_each_line_that_is_due_and_lets_everybody_go_at_the_end() {
        let after = |table: &TimeTable, ms| table.start + Duration::from_millis(ms);
        let endless = table(u64::MAX, None, Some(100.0));
        assert_eq!(endless.due(100.0, endless.start), (1, after(&endless, 10)));
        assert_eq!(endless.due(100.0, after(&endless, 35)), (4, after(&endless, 40)));
        let counted = table(3, None, Some(100.0));
        assert_eq!(counted.due(100.0, after(&counted, 1000)).0, 3);
        let bell = Bell { due: Semaphore::new(0), rate: 1e9 };
        bell.ring(&counted, 2, &CancellationToken::new());
        for _ in 0..5 {
            bell.heard().await;
        }
        assert_eq!(bell.due.available_permits(), 0);
    }

    #[test]
    fn a_run_ends_after_its_requests_or_its_time() {
        let counted = table(2, None, None);
        let take = || counted.take(counted.start);
        assert_eq!([take(), take(), take()], [Some((0, None)), Some((1, None)), None]);
        let timed = table(u64::MAX, Some(Duration::from_secs(1)), Some(2.0));
        let take = || timed.take(timed.start).is_some();
        assert_eq!([take(), take(), take()], [true, true, false], "the third is due when the run is over");
    }

    #[test]
    fn reasons_are_kept_once_and_not_without_a_bound() {
        let mut seen = Seen::default();
        for reason in ["a", "a", "b", "c", "d"] {
            let other = Seen { reasons: vec![reason.to_owned()], ..Seen::default() };
            seen.add(&other);
        }
        assert_eq!(seen.reasons, ["a", "b", "c"]);
    }
}
