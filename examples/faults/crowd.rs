//! Two thousand clients that crawl: row 10 of the security table.
//!
//! A third of them sends a header a byte at a time, a third a body, and a third asks for a large value again and again and
//! reads nothing. Whoever is cut off comes back at once. All are at one node's gateway; the writers whose times are compared
//! are at all of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::report::{Row, Times, Verdict};
use super::say;
use super::stage::{Setting, Stage};
use super::statistics::Distribution;

/// How often a crawling client sends a byte.
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// The time in which a header has to be complete.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
/// Beyond that: its timer, and the crowd's own thread on a busy machine.
const HEADER_GRACE: Duration = Duration::from_millis(1500);
const LARGE: &str = "crowd/large";
const LARGE_BYTES: usize = 1 << 20;
/// How long the crowd has to come before anything is measured.
const ARRIVAL: Duration = Duration::from_secs(3);

/// What all of the crowd share.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    inside: AtomicUsize,
    /// How long those who crawl through a header were let.
    heads: Mutex<Vec<Duration>>,
    cut_off: AtomicUsize,
}

/// The crowd, on a thread of its own.
struct Crowd {
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn start(port: u16, clients: usize) -> Self {
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let crawl = |nth| tokio::spawn(keep_crawling(port, nth, Arc::clone(&shared)));
                let clients: Vec<_> = (0..clients).map(crawl).collect();
                for client in clients {
                    client.await.expect("a client of the crowd works");
                }
            });
        });
        Self { seen, thread }
    }

    fn stop(self) -> Arc<Seen> {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the crowd works");
        self.seen
    }
}

async fn keep_crawling(port: u16, nth: usize, seen: Arc<Seen>) {
    while !seen.stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            sleep(BYTE_EVERY).await;
            continue;
        };
        seen.inside.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        crawl(&mut stream, nth % 3, &seen).await;
        seen.inside.fetch_sub(1, Ordering::Relaxed);
        if !seen.stop.load(Ordering::Relaxed) {
            seen.cut_off.fetch_add(1, Ordering::Relaxed);
            if nth.is_multiple_of(3) {
                seen.heads.lock().unwrap_or_else(PoisonError::into_inner).push(begin.elapsed());
            }
        }
    }
}

/// Until this client is cut off, or the crowd is to go.
async fn crawl(stream: &mut TcpStream, kind: usize, seen: &Seen) {
    let begin = match kind {
        0 => "GET /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nX-Crawls: ".to_owned(),
        1 => "PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".to_owned(),
        // Much more than any buffer holds, and nothing of it is read.
        _ => format!("GET /v1/kv/{LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(16),
    };
    if stream.write_all(begin.as_bytes()).await.is_err() {
        return;
    }
    let mut answer = [0; 512];
    while !seen.stop.load(Ordering::Relaxed) {
        if kind == 2 {
            sleep(BYTE_EVERY).await;
            if stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err() {
                return;
            }
        } else if !matches!(timeout(BYTE_EVERY, stream.read(&mut answer)).await, Err(_) | Ok(Ok(1..)))
            || stream.write_all(b"x").await.is_err()
        {
            return;
        }
    }
}

/// Row 10 of the security table.
pub fn run(clients: usize, time: Duration, seed: u64) -> Row {
    let done = format!(
        "{clients} clients at one gateway that send headers or bodies a byte a second, or read nothing of what they ask for; \
         {time:?} without them and {time:?} with them, twice"
    );
    let mut row = Row::new("crowd", done, "headers are given 5 s; p99 of others' writes ≤ 2 × quiet");
    let stage = Stage::set(&Setting { pause: Duration::from_millis(2), ..Setting::light(seed) });
    let stored = stage.cluster.http(0).ask(&format!("PUT /v1/kv/{LARGE}"), &vec![b'x'; LARGE_BYTES]);
    assert!(stored.is_ok_and(|answer| answer.status < 300), "a large value is stored");
    let (mut quiet, mut crowded, mut heads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let _ = stage.load.take_latencies();
        thread::sleep(time);
        quiet.push(stage.load.take_latencies());
        let crowd = Crowd::start(stage.cluster.port(0), clients);
        thread::sleep(ARRIVAL);
        let inside = crowd.seen.inside.load(Ordering::Relaxed);
        say(&format!("crowd: {inside} of {clients} clients are inside"));
        row.require(inside * 10 >= clients * 9, Verdict::Missed, || format!("only {inside} clients came in"));
        let _ = stage.load.take_latencies();
        thread::sleep(time);
        crowded.push(stage.load.take_latencies());
        let seen = crowd.stop();
        row.notes.push(format!("{} of the crowd were cut off", seen.cut_off.load(Ordering::Relaxed)));
        heads.append(&mut seen.heads.lock().unwrap_or_else(PoisonError::into_inner));
    }
    judge(&mut row, &quiet, &crowded, heads.iter().max().copied());
    for (what, runs) in [("writes without the crowd", &quiet), ("writes beside the crowd", &crowded)] {
        runs.iter().for_each(|run| row.times.extend(Times::of_distribution(what, run)));
    }
    stage.end(&mut row);
    row
}

fn judge(row: &mut Row, quiet: &[Distribution], crowded: &[Distribution], longest_head: Option<Duration>) {
    // The better of the runs: what else the machine does only adds to it.
    let p99 = |runs: &[Distribution]| {
        runs.iter().map(|run| run.percentile(99).unwrap_or(Duration::MAX)).min().unwrap_or(Duration::MAX)
    };
    let (quiet, crowded) = (p99(quiet), p99(crowded));
    row.notes.push(format!(
        "p99 {quiet:.2?} without the crowd, {crowded:.2?} beside it; a header was given {longest_head:.2?}"
    ));
    row.require(crowded <= 2 * quiet, Verdict::Missed, || "others were slowed down".to_owned());
    row.require(longest_head.is_some_and(|longest| longest <= HEADER_WITHIN + HEADER_GRACE), Verdict::Missed, || {
        format!("a header was given {longest_head:?}")
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_hardly_slowed_down_and_headers_end_in_time() {
        let verdict = |crowded_ms, head_ms: Option<u64>| {
            let of = |millis| [Distribution::of(vec![Duration::from_millis(millis)])];
            let mut row = Row::new("a", String::new(), "");
            judge(&mut row, &of(3), &of(crowded_ms), head_ms.map(Duration::from_millis));
            row.verdict
        };
        assert_eq!(verdict(6, Some(5100)), Verdict::Met);
        assert_eq!(verdict(7, Some(5100)), Verdict::Missed);
        assert_eq!(verdict(6, Some(8000)), Verdict::Missed);
        assert_eq!(verdict(6, None), Verdict::Missed, "nobody was cut off");
    }
}
