//! `jumpgate bench`: load on a running cluster, and how long its answers took.
//!
//! Keys are prepared first, so that reads find something. Then a number of connections send requests, one at a time on
//! each, in a closed or an open loop (the page of `load` says which tells what). Whoever measures how many requests a cluster can
//! answer takes a closed loop; whoever measures how long an answer takes under a load that doesn't wait for answers, as the
//! world's doesn't, takes an open one.
//!
//! The client is the one that programs use ([`crate::client`]): writes have idempotency keys, and what may be tried again is
//! tried again, within the time that its request is counted with. HTTP/1.1 is not pipelined; `--batch` is what takes many
//! operations at once.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the command: preparing, running, the progress line, the viewers |
//! | `load` | the connections, their time-table, what each has seen |
//! | `histogram` | times in buckets |
//! | `report` | the table and the JSON |

mod histogram;
mod load;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::output::{Output, note, one_line};
use super::target::duration;
use super::{Failure, Target};
use crate::base::limits;
use crate::client::Client;

use load::{Pace, Run, Seen, Work};
use report::{Asked, Report, Viewers, time};

/// How often the progress line is drawn anew.
const TICK: Duration = Duration::from_millis(250);
/// How long viewers may take to be sent what the run wrote.
const VIEWERS_CATCH_UP: Duration = Duration::from_secs(5);
/// How often it is looked whether they have been.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
A closed loop (the default) sends the next request when the last one is answered: it finds how much a cluster can do, and its
times are those of a cluster that is never asked more than it can. An open loop (--rate) sends requests when they are due and
counts each one's time from then, however late it was sent: those are the times that a user waits. Compare clusters at the
same rate, well below what a closed loop reached.

Keys below the prefix are written and left behind. Reads and writes draw from them evenly. The exit code is 1 where an
operation failed. Ctrl-C ends the run early, with its report.

Examples:
  jumpgate bench                                        ten seconds, half reads, 32 connections
  jumpgate bench --read 0.95 --size 4096 --duration 1m
  jumpgate bench --rate 2000 --read 0.9                 the times at 2000 operations a second
  jumpgate bench --batch 64 --read 0                    64 writes in each request
  jumpgate bench --viewers 100 --read 0                 what the feed costs
  jumpgate bench --count 100000 --json | jq .all.p99_us")]
pub struct Bench {
    /// Share of reads, 0 to 1; the rest are writes
    #[arg(long, value_name = "SHARE", default_value = "0.5", value_parser = share)]
    pub read: f64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=8_388_608))]
    pub size: u32,
    /// How many keys there are
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// What their names begin with
    #[arg(long, value_name = "TEXT", default_value = "bench/", value_parser = prefix)]
    pub prefix: String,
    /// Don't store the keys beforehand: they are there, or reads may miss
    #[arg(long)]
    pub unprepared: bool,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: u16,
    /// Give each connection another of the gateways, in turn; otherwise all ask the first
    #[arg(long)]
    pub spread: bool,
    /// How long to go on; 10s where --count isn't given either
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// End after so many operations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Open loop: so many operations a second are due, whether or not earlier ones are answered
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Operations in one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=limits::BATCH_OPS_MAX as u64))]
    pub batch: u64,
    /// Viewers of the feed, which are sent every change meanwhile
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub viewers: u16,
    /// The seed of what is drawn: the same one asks for the same keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: Target,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("it must be from 0 (writes only) to 1 (reads only)".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
        _ => Err("it must be a number of operations a second".to_owned()),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    load::check_prefix(text).map(|()| text.to_owned())
}

impl Bench {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let work = self.work();
        let clients = self.clients()?;
        if !self.unprepared {
            self.prepare(&clients[0], &work).await?;
        }
        let viewers = Watching::start(&clients[0], &work.prefix, usize::from(self.viewers)).await?;
        let stop = CancellationToken::new();
        let mut run = Run::start(clients, &work, self.pace(), stop.clone());
        self.follow(&mut run, &stop).await?;
        let (seen, elapsed) = (run.seen(), run.elapsed());
        let viewers = match viewers {
            Some(viewers) => Some(viewers.finish(seen.writes.done).await),
            None => None,
        };
        self.report(&seen, elapsed, stop.is_cancelled(), viewers)
    }

    fn work(&self) -> Work {
        Work {
            prefix: self.prefix.clone(),
            keys: self.keys,
            size: self.size as usize,
            reads_per_million: (self.read * 1e6).round() as u32,
            batch: self.batch,
            seed: self.seed,
        }
    }

    /// The pace in requests; what was asked is in operations.
    fn pace(&self) -> Pace {
        let default = self.count.is_none().then_some(Duration::from_secs(10));
        Pace {
            requests: self.count.map_or(u64::MAX, |count| count.div_ceil(self.batch)),
            duration: self.duration.or(default),
            rate: self.rate.map(|rate| rate / self.batch as f64),
        }
    }

    /// A client for each connection, with that one connection.
    fn clients(&self) -> Result<Vec<Client>, Failure> {
        let mut target = self.target.clone();
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(target.client()?);
            if self.spread {
                target.urls.rotate_left(1);
            }
        }
        Ok(clients)
    }

    async fn prepare(&self, client: &Client, work: &Work) -> Result<(), Failure> {
        // Where nobody is there that is said in the words that every command uses.
        client.status().await?;
        let bar = ProgressBar::new(work.keys);
        bar.set_style(style("storing keys {bar:30} {pos} of {len}"));
        let stored = load::prepare(client, work, |more| bar.inc(more)).await;
        bar.finish_and_clear();
        stored.map_err(|reason| Failure::Failed(format!("the keys could not be stored: {reason}")))
    }

    /// Shows how the run goes until it ends, or is ended.
    async fn follow(&self, run: &mut Run, stop: &CancellationToken) -> Result<(), Failure> {
        let cannot = |error| Failure::Failed(format!("cannot wait for signals: {error}"));
        let mut interrupted = signal(SignalKind::interrupt()).map_err(cannot)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(cannot)?;
        let bar = ProgressBar::new_spinner();
        bar.set_style(style("{spinner} {elapsed} {msg}"));
        let mut before = Seen::default();
        let mut since = Instant::now();
        loop {
            tokio::select! {
                () = run.ended() => break,
                _ = interrupted.recv() => stop.cancel(),
                _ = terminated.recv() => stop.cancel(),
                () = tokio::time::sleep(TICK) => {
                    let now = run.seen();
                    bar.set_message(progress(&before, &now, since.elapsed()));
                    bar.tick();
                    (before, since) = (now, Instant::now());
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn report(&self, seen: &Seen, elapsed: Duration, ended: bool, viewers: Option<Viewers>) -> Result<(), Failure> {
        let asked = Asked {
            rate: self.rate,
            connections: usize::from(self.connections),
            batch: self.batch,
            value_bytes: self.size as usize,
        };
        let report = Report::new(asked, seen, elapsed, self.not_sent(seen, elapsed, ended), viewers);
        let mut output = Output::new();
        if self.json {
            output.line(serde_json::to_string_pretty(&report).map_err(|error| Failure::Failed(error.to_string()))?)?;
        } else {
            output.bytes(report.text().as_bytes())?;
        }
        output.flush()?;
        seen.reasons.iter().for_each(|reason| note(&one_line(reason)));
        match seen.failed() {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!("{failed} of {} operations failed", failed + seen.done()))),
        }
    }

    /// Requests that an open loop owes.
    fn not_sent(&self, seen: &Seen, elapsed: Duration, ended: bool) -> Option<u64> {
        let Pace { requests, duration, rate } = self.pace();
        let rate = rate?;
        let lasted = if ended { elapsed } else { duration.unwrap_or(elapsed) };
        let due = ((lasted.as_secs_f64() * rate).ceil() as u64).min(requests);
        Some(due.saturating_sub((seen.done() + seen.failed()) / self.batch))
    }
}

/// What happened since the line was drawn last.
fn progress(before: &Seen, now: &Seen, since: Duration) -> String {
    let rate = (now.done() - before.done()) as f64 / since.as_secs_f64().max(0.001);
    let p99 = time(now.times().quantile_us(0.99));
    let failed = match now.failed() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!("{} operations, {rate:.0}/s, p99 {p99}{failed}", now.done())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}

/// Viewers of the feed that count what they are sent.
struct Watching {
    counts: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<()>,
}

impl Watching {
    /// Opens so many feeds; none at all where that is none.
    async fn start(client: &Client, prefix: &str, viewers: usize) -> Result<Option<Self>, Failure> {
        let mut watching = Self { counts: Vec::new(), tasks: JoinSet::new() };
        for _ in 0..viewers {
            let mut feed = client.watch(prefix, false, None).await?;
            // From its `live` on a feed tells everything.
            while feed.next().await?.kind != "live" {}
            let count = Arc::new(AtomicU64::new(0));
            watching.counts.push(Arc::clone(&count));
            watching.tasks.spawn(async move {
                while let Ok(event) = feed.next().await {
                    count.fetch_add(u64::from(event.key.is_some()), Ordering::Relaxed);
                }
            });
        }
        Ok((viewers > 0).then_some(watching))
    }

    /// Waits a while until each viewer has been sent `written` changes; what they were sent.
    async fn finish(mut self, written: u64) -> Viewers {
        let begin = Instant::now();
        let fewest = |counts: &[Arc<AtomicU64>]| counts.iter().map(|count| count.load(Ordering::Relaxed)).min();
        while fewest(&self.counts) < Some(written) && begin.elapsed() < VIEWERS_CATCH_UP {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut ended = 0;
        while self.tasks.try_join_next().is_some() {
            ended += 1;
        }
        Viewers {
            viewers: self.counts.len(),
            events: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
            fewest: fewest(&self.counts).unwrap_or(0),
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn bench(arguments: &[&str]) -> Bench {
        Line::parse_from([&["bench"], arguments].concat()).bench
    }

    #[test]
    fn operations_are_asked_for_and_requests_are_sent() {
        let pace = bench(&["--batch", "64", "--count", "100", "--rate", "640"]).pace();
        assert_eq!((pace.requests, pace.duration, pace.rate), (2, None, Some(10.0)));
        let pace = bench(&[]).pace();
        assert_eq!((pace.requests, pace.duration, pace.rate), (u64::MAX, Some(Duration::from_secs(10)), None));
        assert_eq!(bench(&["--read", "0.95"]).work().reads_per_million, 950_000);
    }

    #[test]
    fn an_open_loop_owes_what_was_due_and_not_sent() {
        let mut seen = Seen::default();
        (seen.reads.done, seen.writes.failed) = (6, 1);
        let owed = |arguments: &[&str], ended| bench(arguments).not_sent(&seen, Duration::from_secs(3), ended);
        assert_eq!(owed(&["--rate", "5", "--duration", "2s"], false), Some(3));
        assert_eq!(owed(&["--rate", "5", "--duration", "10s"], true), Some(8), "it was ended after 3 s");
        assert_eq!(owed(&["--rate", "5", "--count", "7"], false), Some(0));
        assert_eq!(owed(&[], false), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [["--read", "1.5"], ["--rate", "0"], ["--rate", "inf"], ["--batch", "0"], ["--batch", "1001"]]
        {
            assert!(Line::try_parse_from([&["bench"], &arguments[..]].concat()).is_err(), "{arguments:?}");
        }
        let long = "x".repeat(limits::KEY_BYTES_MAX - 5);
        assert!(Line::try_parse_from(["bench", "--prefix", &long]).is_err());
    }
}
