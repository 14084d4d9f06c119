//! Many viewers of the feed while the gateway that they are at dies with the leader: rows 19 and 25 of the reliability
//! table.
//!
//! All of them begin at the leader. It is killed under writes, they come back with their cursors wherever they are let
//! in, and in the end each must have been shown the same changes as all others, every acknowledged one among them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jumpgate::api::Key;
use jumpgate::client::{Client, PutOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::processes::until;
use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{NODES, Setting, Stage};

/// Where the keys are that are viewed; the load writes others.
const PREFIX: &str = "viewed/";
const KEYS: usize = 200;
const WRITERS: usize = 4;
const WRITE_EVERY: Duration = Duration::from_millis(100);
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// A change: the key's number, and its version.
type Change = (usize, u64);

#[derive(Default)]
struct Shared {
    /// The viewers end.
    stop: AtomicBool,
    /// The writers end.
    stop_writing: AtomicBool,
    acknowledged: Mutex<HashSet<Change>>,
    gaps: AtomicUsize,
    live: AtomicUsize,
    killed_at: Mutex<Option<Instant>>,
}

/// What one viewer was shown.
#[derive(Default)]
struct Viewer {
    seen: Mutex<HashSet<Change>>,
    /// Of what it was shown, how much it had been shown before.
    repeats: AtomicUsize,
    /// From the leader's death to its first event from another gateway.
    back_after: Mutex<Option<Duration>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows 19 and 25: `count` viewers, `time` of writes before the death and again after it.
pub fn run(count: usize, time: Duration, seed: u64) -> Row {
    let mut row = Row::new(
        "viewers",
        format!("SIGKILL of the leader with {count} viewers of the feed at it, {time:?} of writes before and after"),
        "all resume from their cursors; each is shown every committed change, and all the same; no gap",
    );
    let mut stage = Stage::set(&Setting::light(seed));
    let leader = stage.cluster.leader();
    let urls = |first: usize| -> Vec<String> {
        (0..NODES).map(|nth| format!("http://127.0.0.1:{}", stage.cluster.port((first + nth) % NODES))).collect()
    };
    let runtime = Runtime::new().expect("threads");
    let shared = Arc::new(Shared::default());
    let viewers: Vec<Arc<Viewer>> = (0..count).map(|_| Arc::default()).collect();
    let mut tasks = JoinSet::new();
    for viewer in &viewers {
        tasks.spawn_on(follow(urls(leader), Arc::clone(viewer), Arc::clone(&shared)), runtime.handle());
    }
    until("all viewers are live", || (shared.live.load(Ordering::Relaxed) >= count).then_some(()));
    say(&format!("{count} viewers are live at n{}", leader + 1));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn_on(keep_writing(urls((leader + 1) % NODES), writer, Arc::clone(&shared)), runtime.handle());
    }
    thread::sleep(time);
    *lock(&shared.killed_at) = Some(Instant::now());
    stage.cluster.kill(&[leader]);
    thread::sleep(time);
    shared.stop_writing.store(true, Ordering::Relaxed);
    runtime.block_on(async { while writers.join_next().await.is_some() {} });
    let acknowledged = lock(&shared.acknowledged).clone();
    say(&format!("{} writes were acknowledged", acknowledged.len()));
    let all_equal = until_all_equal(&viewers, &acknowledged);
    shared.stop.store(true, Ordering::Relaxed);
    runtime.shutdown_timeout(Duration::from_secs(1));
    stage.cluster.spawn(leader);
    row.acknowledged += acknowledged.len() as u64;
    if let Err(missing) = all_equal {
        row.require(false, Verdict::Broken, || missing);
    }
    let gaps = shared.gaps.load(Ordering::Relaxed);
    row.require(gaps == 0, Verdict::Broken, || format!("{gaps} gaps"));
    let back: Vec<Duration> = viewers.iter().filter_map(|viewer| *lock(&viewer.back_after)).collect();
    row.require(back.len() == count, Verdict::Broken, || format!("{} of {count} viewers came back", back.len()));
    row.times.extend(Times::of("from the death to a viewer's next event", back));
    let repeats: usize = viewers.iter().map(|viewer| viewer.repeats.load(Ordering::Relaxed)).sum();
    row.notes.push(format!("{repeats} events in all were shown twice to a viewer"));
    stage.end(&mut row);
    row
}

/// Waits until every viewer was shown the same changes, the acknowledged ones among them; what is missing where that
/// doesn't come about.
fn until_all_equal(viewers: &[Arc<Viewer>], acknowledged: &HashSet<Change>) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let mut all = acknowledged.clone();
        viewers.iter().for_each(|viewer| all.extend(lock(&viewer.seen).iter()));
        let behind: Vec<usize> = viewers.iter().map(|viewer| all.len() - lock(&viewer.seen).len()).collect();
        let lacking = behind.iter().filter(|missing| **missing > 0).count();
        if lacking == 0 {
            return Ok(());
        }
        if Instant::now() > end {
            let most = behind.iter().max().copied().unwrap_or_default();
            return Err(format!("{lacking} viewers were not shown everything, one of them {most} changes less"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Views, and comes back with the last cursor whenever the feed ends.
async fn follow(urls: Vec<String>, viewer: Arc<Viewer>, shared: Arc<Shared>) {
    let Ok(client) = Client::new(urls) else { return };
    let (mut cursor, mut was_live): (Option<String>, bool) = (None, false);
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(mut feed) = client.watch(PREFIX, false, cursor.as_deref()).await else {
            tokio::time::sleep(REOPEN_PAUSE).await;
            continue;
        };
        let opened_at = Instant::now();
        while let Ok(event) = feed.next().await {
            cursor = event.cursor.or(cursor);
            if let Some(killed_at) = lock(&shared.killed_at).filter(|killed_at| opened_at > *killed_at) {
                lock(&viewer.back_after).get_or_insert(killed_at.elapsed());
            }
            match (event.kind.as_str(), number_of(event.key.as_deref()), event.version) {
                ("live", _, _) if !was_live => {
                    was_live = true;
                    shared.live.fetch_add(1, Ordering::Relaxed);
                }
                ("gap", _, _) => drop(shared.gaps.fetch_add(1, Ordering::Relaxed)),
                (_, Some(number), Some(version)) => {
                    let is_new = lock(&viewer.seen).insert((number, version));
                    viewer.repeats.fetch_add(usize::from(!is_new), Ordering::Relaxed);
                }
                _ => {}
            }
        }
        tokio::time::sleep(REOPEN_PAUSE).await;
    }
}

async fn keep_writing(urls: Vec<String>, writer: usize, shared: Arc<Shared>) {
    let Ok(client) = Client::new(urls) else { return };
    for turn in 0.. {
        if shared.stop_writing.load(Ordering::Relaxed) {
            return;
        }
        let number = (turn * WRITERS + writer) % KEYS;
        let key: Key = format!("{PREFIX}{number}").parse().expect("a key");
        if let Ok(written) = client.put(&key, "a value".into(), &PutOptions::default()).await {
            lock(&shared.acknowledged).insert((number, written.version.0));
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

fn number_of(key: Option<&str>) -> Option<usize> {
    key?.strip_prefix(PREFIX)?.parse().ok()
}
