//! Clients that come and go beside the load, on a bounded set of keys: batches, times to live, deletes, idempotency keys that
//! are used twice, listings, viewers of the feed, and connections that say nothing. What they are told isn't judged: the
//! load beside them is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jumpgate::api::batch::BatchOpJson;
use jumpgate::api::{Consistency, Key};
use jumpgate::base::Rng;
use jumpgate::client::{BatchOptions, Client, PutOptions};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const WRITERS: u64 = 2;
const VIEWERS: u64 = 6;
/// Keys that there ever are.
const KEYS: u64 = 4000;
const VALUE_BYTES_MAX: u64 = 2048;
const OPS_A_BATCH: usize = 24;
/// Turns that a client makes before another one takes its place, with connections of its own.
const TURNS: usize = 40;
const PAUSE: Duration = Duration::from_millis(150);
const STRANGERS: usize = 8;

/// Counts of what was done.
#[derive(Debug, Default)]
pub struct Counts {
    pub operations: AtomicU64,
    pub refused: AtomicU64,
    pub clients: AtomicU64,
    pub events: AtomicU64,
    pub viewers: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

struct Shared {
    urls: Vec<String>,
    ports: Vec<u16>,
    counts: Counts,
    stop: AtomicBool,
}

/// The clients. They end when they are told to.
pub struct Churn {
    runtime: Runtime,
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Churn {
    pub fn start(ports: &[u16], seed: u64) -> Self {
        let runtime = Runtime::new().expect("threads");
        let urls = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let shared =
            Arc::new(Shared { urls, ports: ports.to_vec(), counts: Counts::default(), stop: AtomicBool::new(false) });
        let mut tasks = JoinSet::new();
        for nth in 0..WRITERS {
            tasks.spawn_on(write(Arc::clone(&shared), Rng::new(seed ^ (1000 + nth))), runtime.handle());
        }
        for nth in 0..VIEWERS {
            tasks.spawn_on(view(Arc::clone(&shared), Rng::new(seed ^ (2000 + nth))), runtime.handle());
        }
        tasks.spawn_on(say_nothing(Arc::clone(&shared)), runtime.handle());
        Self { runtime, tasks, shared }
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Ends all clients, and closes what they had open.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.runtime.block_on(async { while self.tasks.join_next().await.is_some() {} });
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A new client, with connections of its own, that begins at a gateway by chance.
    fn client(&self, rng: &mut Rng) -> Client {
        let mut urls = self.urls.clone();
        urls.rotate_left(rng.below(self.urls.len() as u64) as usize);
        Client::new(urls).expect("URLs of loopback").with_timeout(Duration::from_secs(2))
    }
}

fn key(rng: &mut Rng) -> Key {
    format!("churn/{}", rng.below(KEYS)).parse().expect("a key")
}

fn value(rng: &mut Rng) -> Vec<u8> {
    vec![b'v'; rng.below(VALUE_BYTES_MAX) as usize]
}

fn operation(rng: &mut Rng) -> BatchOpJson {
    let key = key(rng);
    match rng.below(20) {
        0..8 => BatchOpJson::put(&key, &value(rng)),
        8..13 => BatchOpJson::put(&key, &value(rng)).ttl(Duration::from_millis(200 + rng.below(5000))),
        13..17 => BatchOpJson::delete(&key),
        _ => BatchOpJson::get(&key),
    }
}

async fn write(shared: Arc<Shared>, mut rng: Rng) {
    while !shared.is_stopped() {
        let client = shared.client(&mut rng);
        Counts::add(&shared.counts.clients, 1);
        for _ in 0..TURNS {
            if shared.is_stopped() {
                return;
            }
            let ops: Vec<BatchOpJson> = (0..OPS_A_BATCH).map(|_| operation(&mut rng)).collect();
            match client.batch(&ops, &BatchOptions::default()).await {
                Ok(results) => {
                    // A key that isn't there was answered, too.
                    let done = results.iter().filter(|result| result.is_done() || result.status == 404).count();
                    Counts::add(&shared.counts.operations, done);
                    Counts::add(&shared.counts.refused, results.len() - done);
                }
                Err(_) => Counts::add(&shared.counts.refused, ops.len()),
            }
            one_by_one(&shared, &client, &mut rng).await;
            sleep(PAUSE).await;
        }
    }
}

/// A write that is sent twice under one idempotency key, a read, and a page of a listing.
async fn one_by_one(shared: &Shared, client: &Client, rng: &mut Rng) {
    let (key, value) = (key(rng), value(rng));
    let options = PutOptions { idempotency_key: Some(format!("{:016x}", rng.bits())), ..PutOptions::default() };
    let first = client.put(&key, value.clone().into(), &options).await;
    let again = client.put(&key, value.into(), &options).await;
    let read = client.get(&key, Consistency::Linearizable).await;
    let page = client.list("churn/1", None, 100, rng.chance(500_000)).await;
    let done = [first.is_ok(), again.is_ok(), read.is_ok(), page.is_ok()].into_iter().filter(|done| *done).count();
    Counts::add(&shared.counts.operations, done);
    Counts::add(&shared.counts.refused, 4 - done);
}

/// Views for a while, leaves, and comes back: with its last cursor, or anew.
async fn view(shared: Arc<Shared>, mut rng: Rng) {
    let mut cursor: Option<String> = None;
    while !shared.is_stopped() {
        let client = shared.client(&mut rng);
        let since = cursor.take().filter(|_| rng.below(3) > 0);
        let Ok(mut feed) = client.watch("churn/", rng.chance(500_000), since.as_deref()).await else {
            sleep(PAUSE).await;
            continue;
        };
        Counts::add(&shared.counts.viewers, 1);
        let stays = Duration::from_millis(500 + rng.below(15_000));
        let _ = timeout(stays, async {
            while !shared.is_stopped() {
                // Looks up now and then, so that it ends with the others.
                let Ok(next) = timeout(PAUSE, feed.next()).await else { continue };
                let Ok(event) = next else { return };
                Counts::add(&shared.counts.events, 1);
                cursor = event.cursor.or(cursor.take());
            }
        })
        .await;
    }
}

/// Opens connections, says nothing, and hangs up.
async fn say_nothing(shared: Arc<Shared>) {
    while !shared.is_stopped() {
        let mut open = Vec::new();
        for nth in 0..STRANGERS {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", shared.ports[nth % shared.ports.len()])).await {
                open.push(stream);
            }
        }
        sleep(10 * PAUSE).await;
    }
}
