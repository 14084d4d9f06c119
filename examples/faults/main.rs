//! What clients see while a real cluster of three processes is treated badly: the rows of docs/reliability.md that need
//! real processes, sockets and signals.
//!
//! `cargo run --release --example faults -- all` does every scenario in a row and prints a table in Markdown; `--help`
//! lists them. Each founds a cluster at default settings on this machine, lets clients write and read, does its worst,
//! and then asks for three things: was every acknowledged write there at the end, did no read go back behind what was
//! known before it began, and was the bar met. Progress goes to stderr, the table (or `--json`) to stdout.
//!
//! | file | what it holds |
//! |---|---|
//! | `failover` | the leader or a primary is killed or paused |
//! | `network` | loss, delay, cuts, clogs |
//! | `isolate` | a primary is cut off with the clients at its gateway |
//! | `too_many` | more nodes die at once than there are backups |
//! | `full` | writers fill the memory, and go on |
//! | `slow` | a backup gets hardly any processor time |
//! | `life` | busy processors, rolling kills, restarts, odd clocks |
//! | `members` | nodes join and leave, and die in the middle of it |
//! | `orderly` | nodes are told to stop, one after the other |
//! | `viewers` | a gateway dies with a thousand viewers of the feed |
//! | `chaos` | everything by chance, on hosts of their own |
//! | `soak` | load with faults for a long time, in which nothing may grow |
//! | `expiry` | many keys run out at once |
//! | `crowd` | two thousand clients that crawl |
//! | `churn` | clients that come and go |
//! | `vitals` | memory and descriptors of the nodes' processes |
//! | `namespaces` | those hosts |
//! | `figures` | memory a key, processor time at rest, time to fill a node again |
//! | `stage` | a cluster, its clients and the bookkeeping |
//! | `report` | the rows |
//!
//! `processes`, `http`, `relay`, `weather`, `load`, `history` and `statistics` are shared with tests/processes.rs, where
//! their own tests run. On a machine that does other things too, the times are those of that machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use report::{Row, Verdict};

mod chaos;
mod churn;
mod crowd;
mod expiry;
mod failover;
mod figures;
mod full;
#[path = "../../tests/support/history.rs"]
mod history;
#[path = "../../tests/support/http.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod http;
mod isolate;
mod life;
#[path = "../../tests/support/load.rs"]
mod load;
mod members;
mod namespaces;
mod network;
mod orderly;
#[path = "../../tests/support/processes.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod processes;
#[path = "../../tests/support/relay.rs"]
mod relay;
mod report;
mod slow;
mod soak;
mod stage;
#[path = "../../tests/support/statistics.rs"]
mod statistics;
mod too_many;
mod viewers;
mod vitals;
#[path = "../../tests/support/weather.rs"]
mod weather;

/// Treats a real cluster badly, and says what its clients saw.
///
/// Exit codes: 0 every bar was met; 1 a promise was broken (a write lost, a stale read, two leaders in a term, a cluster
/// that didn't come back); 2 wrong usage; 3 nothing was lost or wrong, but a bar was missed.
#[derive(Parser)]
#[command(name = "faults")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// The jumpgate to try; else the one beside this program's folder. Build it in the same profile.
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// Print JSON instead of Markdown.
    #[arg(long, global = true)]
    json: bool,
    /// Decides what is lost, late or cut.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// A libfaketime.so.1 for `clock`, where it isn't found by itself.
    #[arg(long, global = true)]
    faketime: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGKILL of the leader.
    Kill,
    /// SIGKILL of a primary that doesn't lead.
    Primary,
    /// SIGSTOP of the leader, with readers attached, and SIGCONT after a while.
    Pause,
}

#[derive(Subcommand)]
enum Scenario {
    /// The leader or a primary is killed or paused, again and again.
    Failover {
        /// How often. A p99 needs 200.
        #[arg(long, default_value_t = 20)]
        trials: usize,
        /// What happens to it.
        #[arg(long, value_enum, default_value = "kill")]
        fault: Fault,
        /// How long a pause lasts, in seconds.
        #[arg(long, default_value_t = 2)]
        pause: u64,
    },
    /// Full load beside busy loops: no leader change.
    Busy {
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        #[arg(long, default_value_t = 6)]
        loops: usize,
    },
    /// Datagrams are lost, doubled and disordered: no failover.
    Loss {
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Of 100 datagrams, how many are lost.
        #[arg(long, default_value_t = 30)]
        loss: u32,
        /// Of 100 that arrive, how many arrive twice.
        #[arg(long, default_value_t = 50)]
        duplicates: u32,
    },
    /// One-way cuts, bridges, lone nodes; either plane alone, and both.
    Cuts {
        /// How long each of 21 cuts lasts, in seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Only those whose description has this in it, such as "the leader alone, pulse".
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Ways are clogged by chance and healed.
    Clogs {
        #[arg(long, default_value_t = 100)]
        rounds: usize,
    },
    /// 75 ± 50 ms on all ways.
    Delay {
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Seconds that the timing has to adapt before anything counts.
        #[arg(long, default_value_t = 30)]
        settle: u64,
        /// Set a fixed [timing] that fits such a network.
        #[arg(long)]
        profile: bool,
    },
    /// Each node is killed and started again in its turn.
    Rolling {
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// Seconds between two kills.
        #[arg(long, default_value_t = 3)]
        every: u64,
    },
    /// A node is back in less than a second, with the same id.
    Restart {
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Each node is told to stop (SIGTERM) and started again in its turn.
    RestartOrderly {
        /// Of three nodes, or of five.
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// How often it is each node's turn.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Partitions that are written to all the time, each looked at alone.
        #[arg(long, default_value_t = 48)]
        partitions: u16,
    },
    /// Nodes are added and removed, 3 to 6 and back, with data, under load; once in peace, and once with kills.
    Members {
        /// Of values.
        #[arg(long, default_value_t = 256)]
        mebibytes: usize,
    },
    /// A gateway dies with the leader and its viewers of the feed, who resume elsewhere.
    Viewers {
        #[arg(long, default_value_t = 1000)]
        viewers: usize,
        /// Of writes, before the death and again after it.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Memory a key, and processor time at rest.
    Footprint {
        /// The first so many fill the rings of the feed, too; as many again don't.
        #[arg(long, default_value_t = 250_000)]
        keys: usize,
        /// For how long a quiet cluster is watched.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// A node is killed and filled again.
    Refill {
        #[arg(long, default_value_t = 1024)]
        mebibytes: usize,
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// It comes back only when the others have copied what it held.
        #[arg(long)]
        elsewhere: bool,
    },
    /// Partitions go back to a node that has restarted.
    GiveBack {
        #[arg(long, default_value_t = 6)]
        rounds: usize,
    },
    /// A primary is cut off together with clients that stay at its gateway.
    Isolate {
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
    /// Of five nodes two die at once, and three.
    TooMany {
        #[arg(long, default_value_t = 6)]
        rounds: usize,
    },
    /// The memory is filled to its limit by writers that go on.
    Full {
        /// Of `[limits] memory`, for each node.
        #[arg(long, default_value_t = 64)]
        mebibytes: u64,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// A backup gets 5 % of a processor.
    SlowBackup {
        /// In peace, and again beside it.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Clients that send a byte a second, or read nothing: others hardly notice.
    Crowd {
        #[arg(long, default_value_t = 2000)]
        clients: usize,
        /// Without them, and again with them, twice.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Kills, pauses, restarts and cuts by chance, with a network namespace for each node (as root).
    Chaos {
        #[arg(long, default_value_t = 30)]
        minutes: u64,
    },
    /// Load with faults: neither memory nor descriptors may rise.
    Soak {
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
    /// Many keys run out at the same moment.
    Expiry {
        #[arg(long, default_value_t = 100_000)]
        keys: usize,
    },
    /// The wall clock is an hour off, the monotonic clock a day.
    Clock {
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Every scenario in a row.
    All {
        /// A few minutes only: to see that everything works, not to measure.
        #[arg(long)]
        quick: bool,
        /// Kills of the leader, and of a primary; half as many pauses.
        #[arg(long, default_value_t = 200)]
        trials: usize,
        /// Of `busy` and `loss`, each.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let Cli { scenario, common } = Cli::parse();
    if let Some(binary) = &common.binary {
        processes::use_binary(binary);
    }
    let rows: Vec<Row> = scenario.parts().iter().map(|part| part.run_to_an_end(&common)).collect();
    if common.json {
        println!("{}", serde_json::to_string_pretty(&rows).expect("rows are plain data"));
    } else {
        print!("{}", report::markdown(&rows));
    }
    match rows.iter().map(|row| row.verdict).max() {
        Some(Verdict::Broken) => ExitCode::FAILURE,
        Some(Verdict::Missed) => ExitCode::from(3),
        _ => ExitCode::SUCCESS,
    }
}

/// Progress, for whoever waits.
fn say(what: &str) {
    eprintln!("{what}");
}

impl Scenario {
    /// Itself, or what `all` consists of. The default times add up to less than an hour.
    fn parts(self) -> Vec<Self> {
        let Self::All { quick, trials, seconds } = self else { return vec![self] };
        let (trials, seconds) = if quick { (4, 15) } else { (trials, seconds) };
        let size = |full: u64, small: u64| if quick { small } else { full };
        let failover = |fault, trials| Self::Failover { trials, fault, pause: 2 };
        vec![
            failover(Fault::Kill, trials),
            failover(Fault::Primary, trials),
            failover(Fault::Pause, trials.div_ceil(2)),
            Self::Busy { seconds, loops: 6 },
            Self::Loss { seconds, loss: 30, duplicates: 50 },
            Self::Cuts { seconds: size(5, 2), only: String::new() },
            Self::Clogs { rounds: size(100, 6) as usize },
            Self::Delay { seconds: size(45, 8), settle: size(30, 10), profile: false },
            Self::Delay { seconds: size(30, 8), settle: 2, profile: true },
            Self::Rolling { rounds: size(10, 1) as usize, every: 3 },
            Self::Restart { rounds: size(20, 4) as usize },
            Self::RestartOrderly { nodes: 3, rounds: size(5, 1) as usize, partitions: size(48, 24) as u16 },
            Self::Members { mebibytes: size(256, 32) as usize },
            Self::Viewers { viewers: size(1000, 50) as usize, seconds: size(10, 3) },
            Self::Clock { seconds: size(20, 5) },
            Self::Isolate { rounds: size(20, 4) as usize },
            Self::TooMany { rounds: size(6, 2) as usize },
            Self::Full { mebibytes: 64, rounds: size(5, 1) as usize },
            Self::SlowBackup { seconds: size(30, 5) },
            Self::Expiry { keys: size(100_000, 5_000) as usize },
            Self::Crowd { clients: size(2000, 200) as usize, seconds: size(20, 8) },
        ]
    }

    /// Runs it. What breaks down (a cluster that doesn't come back within its patience, above all) is a row too.
    fn run_to_an_end(&self, common: &Common) -> Row {
        catch_unwind(AssertUnwindSafe(|| self.run(common))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let why = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let mut row = Row::new(self.name(), "did not come to an end".to_owned(), "");
            row.require(false, Verdict::Broken, || why.unwrap_or_else(|| "no reason is known".to_owned()));
            row
        })
    }

    fn run(&self, common: &Common) -> Row {
        let (time, seed) = (Duration::from_secs, common.seed);
        match *self {
            Self::Failover { trials, fault, pause } => failover::run(trials, fault, time(pause), seed),
            Self::Busy { seconds, loops } => life::busy(time(seconds), loops, seed),
            Self::Loss { seconds, loss, duplicates } => network::loss(time(seconds), loss, duplicates, seed),
            Self::Cuts { seconds, ref only } => network::cuts(time(seconds), only, seed),
            Self::Clogs { rounds } => network::clogs(rounds, seed),
            Self::Delay { seconds, settle, profile } => network::delay(time(seconds), time(settle), profile, seed),
            Self::Rolling { rounds, every } => life::rolling(rounds, time(every), seed),
            Self::Restart { rounds } => life::restart(rounds, seed),
            Self::RestartOrderly { nodes, rounds, partitions } => orderly::run(nodes, rounds, partitions, seed),
            Self::Members { mebibytes } => members::run(mebibytes, seed),
            Self::Viewers { viewers, seconds } => viewers::run(viewers, time(seconds), seed),
            Self::Footprint { keys, seconds } => figures::footprint(keys, time(seconds)),
            Self::Refill { mebibytes, rounds, elsewhere } => figures::refill(mebibytes, rounds, elsewhere),
            Self::GiveBack { rounds } => figures::give_back(rounds, seed),
            Self::Isolate { rounds } => isolate::run(rounds, seed),
            Self::TooMany { rounds } => too_many::run(rounds),
            Self::Full { mebibytes, rounds } => full::run(mebibytes, rounds),
            Self::SlowBackup { seconds } => slow::backup(time(seconds), seed),
            Self::Chaos { minutes } => chaos::run(time(60 * minutes), seed),
            Self::Soak { minutes } => soak::run(time(60 * minutes), seed),
            Self::Expiry { keys } => expiry::run(keys, seed),
            Self::Crowd { clients, seconds } => crowd::run(clients, time(seconds), seed),
            Self::Clock { seconds } => life::clock(common.faketime.as_deref(), time(seconds), seed),
            Self::All { .. } => unreachable!("all is made of others"),
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Failover { fault: Fault::Kill, .. } => "kill the leader",
            Self::Failover { fault: Fault::Primary, .. } => "kill a primary",
            Self::Failover { fault: Fault::Pause, .. } => "pause the leader",
            Self::Busy { .. } => "busy machine",
            Self::Loss { .. } => "bad datagrams",
            Self::Cuts { .. } => "cuts",
            Self::Clogs { .. } => "clog and heal",
            Self::Delay { .. } => "delay",
            Self::Rolling { .. } => "rolling kills",
            Self::Restart { .. } => "restart",
            Self::RestartOrderly { .. } => "orderly restart",
            Self::Members { .. } => "members",
            Self::Viewers { .. } => "viewers",
            Self::Footprint { .. } => "footprint",
            Self::Refill { .. } => "refill",
            Self::GiveBack { .. } => "give back",
            Self::Isolate { .. } => "isolate",
            Self::TooMany { .. } => "too many",
            Self::Full { .. } => "full",
            Self::SlowBackup { .. } => "slow backup",
            Self::Chaos { .. } => "chaos",
            Self::Soak { .. } => "soak",
            Self::Expiry { .. } => "expiry",
            Self::Crowd { .. } => "crowd",
            Self::Clock { .. } => "clocks",
            Self::All { .. } => "all",
        }
    }
}
