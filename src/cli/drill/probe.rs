//! The load of a drill: values made from their keys, a writer and a reader that never stop, and the comparison.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{Consistency, Key};
use crate::cli::Failure;
use crate::client::{Client, PutOptions};

/// How long the probes wait between two requests.
const PACE: Duration = Duration::from_millis(10);
/// When a probe's request gives up.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Requests at once while loading and comparing.
const AT_ONCE: usize = 32;

/// What one probe saw.
#[derive(Debug)]
struct Seen {
    start: Instant,
    /// When it last succeeded, in milliseconds after `start`.
    last_ms: AtomicU64,
    gap_ms: AtomicU64,
    failed: AtomicU64,
}

impl Seen {
    fn new() -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0), gap_ms: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    fn note(&self, succeeded: bool) {
        if !succeeded {
            self.failed.fetch_add(1, Relaxed);
            return;
        }
        let now = self.start.elapsed().as_millis() as u64;
        let last = self.last_ms.swap(now, Relaxed);
        self.gap_ms.fetch_max(now.saturating_sub(last), Relaxed);
    }

    fn reset(&self) {
        self.gap_ms.store(0, Relaxed);
        self.failed.store(0, Relaxed);
    }

    /// The longest time without a success, the one that goes on included.
    fn gap(&self) -> u64 {
        let open = (self.start.elapsed().as_millis() as u64).saturating_sub(self.last_ms.load(Relaxed));
        self.gap_ms.load(Relaxed).max(open)
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub compared: u64,
    pub lost: u64,
    pub unreadable: u64,
}

/// The load of one drill.
pub(super) struct Probe {
    client: Client,
    size: u32,
    /// Sets this drill's keys apart from those of earlier ones.
    run: u32,
    reads: Arc<Seen>,
    writes: Arc<Seen>,
    /// Numbers of the probe's writes that were acknowledged.
    acknowledged: Arc<tokio::sync::Mutex<Vec<u64>>>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Starts the writer and the reader.
    pub(super) fn start(client: Client, size: u32) -> Self {
        let mut probe = Self {
            client: client.clone(),
            size,
            run: rand::random(),
            reads: Arc::new(Seen::new()),
            writes: Arc::new(Seen::new()),
            acknowledged: Arc::default(),
            stop: CancellationToken::new(),
            tasks: Vec::new(),
        };
        let client = client.with_timeout(GIVE_UP);
        let (run, seen, acknowledged) = (probe.run, Arc::clone(&probe.writes), Arc::clone(&probe.acknowledged));
        let writer = client.clone();
        probe.spawn(async move {
            for number in 0.. {
                let written = put(&writer, &key(run, "live", number), size).await.is_ok();
                seen.note(written);
                if written {
                    acknowledged.lock().await.push(number);
                }
                tokio::time::sleep(PACE).await;
            }
        });
        let (run, seen) = (probe.run, Arc::clone(&probe.reads));
        probe.spawn(async move {
            for number in 0.. {
                let name = key(run, "data", number % 1000);
                let read = match Key::new(name) {
                    Ok(key) => client.get(&key, Consistency::Linearizable).await.is_ok(),
                    Err(_) => false,
                };
                seen.note(read);
                tokio::time::sleep(PACE).await;
            }
        });
        probe
    }

    fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.push(tokio::spawn(async move { stop.run_until_cancelled(work).await.unwrap_or(()) }));
    }

    /// Writes the keys that are compared later.
    pub(super) async fn load(&self, keys: u64) -> Result<(), Failure> {
        let mut puts = stream::iter((0..keys).map(|number| {
            let (client, name) = (self.client.clone(), key(self.run, "data", number));
            let size = self.size;
            async move { put(&client, &name, size).await }
        }))
        .buffer_unordered(AT_ONCE);
        while let Some(done) = puts.next().await {
            done?;
        }
        Ok(())
    }

    /// Reads every key that was loaded or acknowledged, and compares its value with what its key says it is.
    pub(super) async fn compare(&self, keys: u64) -> Compared {
        let live = self.acknowledged.lock().await.clone();
        let (run, size) = (self.run, self.size);
        let names = (0..keys).map(|number| key(run, "data", number));
        let names = names.chain(live.into_iter().map(|number| key(run, "live", number)));
        let mut reads = stream::iter(names.map(|name| {
            let client = self.client.clone();
            async move {
                let key = Key::new(&name).ok()?;
                let value = client.get(&key, Consistency::Linearizable).await.ok()?;
                Some(value.is_some_and(|value| *value.bytes == *value_of(&name, size)))
            }
        }))
        .buffer_unordered(AT_ONCE);
        let mut found = Compared::default();
        while let Some(read) = reads.next().await {
            match read {
                Some(true) => found.compared += 1,
                Some(false) => {
                    found.compared += 1;
                    found.lost += 1;
                }
                None => found.unreadable += 1,
            }
        }
        found
    }

    /// From here on gaps and failures are counted anew.
    pub(super) fn begin(&self) {
        self.reads.reset();
        self.writes.reset();
    }

    /// The longest times without a read and without a write, in milliseconds.
    pub(super) fn gaps(&self) -> (u64, u64) {
        (self.reads.gap(), self.writes.gap())
    }

    /// Reads and writes that gave up.
    pub(super) fn failures(&self) -> (u64, u64) {
        (self.reads.failed.load(Relaxed), self.writes.failed.load(Relaxed))
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

fn key(run: u32, kind: &str, number: u64) -> String {
    format!("drill/{run:08x}/{kind}/{number}")
}

/// The only value that a key of the drill has.
fn value_of(key: &str, size: u32) -> Bytes {
    let mut value = vec![0; size as usize];
    blake3::Hasher::new().update(key.as_bytes()).finalize_xof().fill(&mut value);
    value.into()
}

async fn put(client: &Client, name: &str, size: u32) -> Result<(), Failure> {
    let key = Key::new(name).map_err(|error| Failure::Failed(error.to_string()))?;
    // Nobody else writes it, and always the same: twice is harmless.
    let options = PutOptions::default();
    client.put(&key, value_of(name, size), &options).await.map(drop).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_its_key() {
        assert_eq!(value_of("a", 100), value_of("a", 100));
        assert_ne!(value_of("a", 100), value_of("b", 100));
        assert_eq!(value_of("a", 100).len(), 100);
    }

    #[test]
    fn a_gap_that_goes_on_counts() {
        let seen = Seen { start: Instant::now().checked_sub(Duration::from_secs(5)).expect("a clock"), ..Seen::new() };
        assert!(seen.gap() >= 5000);
        seen.note(true);
        assert!(seen.gap() >= 5000, "the gap that ended is forgotten");
        seen.reset();
        assert!(seen.gap() < 5000);
        seen.note(false);
        assert_eq!(seen.failed.load(Relaxed), 1);
    }
}
