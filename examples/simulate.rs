//! Runs seeds of the simulator for as long as one likes.
//!
//! `cargo run --release --features sim --example simulate -- [FIRST_SEED] [COUNT] [NODES] [options]`
//!
//! With a count of 1 it tells the whole story of that seed. NODES is a size, or several with commas, over which the seeds
//! go round; without it all of 3, 4, 5 and 7.
//!
//! | option | |
//! |---|---|
//! | `--threads N` | so many at once; one without it |
//! | `--minutes M` | stops after so long, whatever the count |
//! | `--checkpoint FILE` | keeps its sums there and goes on from them the next time |
//! | `--keep-going` | runs on after a failed seed |

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jumpgate::sim::{Outcome, Scenario};
use serde::{Deserialize, Serialize};

/// Seeds between two checkpoints.
const BATCH: u64 = 400;

struct Arguments {
    first: u64,
    count: u64,
    nodes: Vec<usize>,
    threads: usize,
    minutes: Option<u64>,
    checkpoint: Option<PathBuf>,
    keep_going: bool,
}

/// What all seeds so far came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sums {
    next_seed: u64,
    seeds: u64,
    failed_seeds: Vec<(u64, usize)>,
    virtual_ms: u64,
    cpu_ms: u64,
    done: u64,
    refused: u64,
    acknowledged: u64,
    undecided: u64,
    counts: BTreeMap<String, u64>,
}

impl Sums {
    fn add(&mut self, seed: u64, nodes: usize, outcome: &Outcome) {
        self.seeds += 1;
        self.virtual_ms += outcome.virtual_time.as_millis() as u64;
        self.done += outcome.done;
        self.refused += outcome.failed;
        self.acknowledged += outcome.acknowledged;
        self.undecided += outcome.undecided;
        for (what, count) in &outcome.counts {
            *self.counts.entry((*what).to_owned()).or_default() += count;
        }
        if !outcome.complaints.is_empty() {
            self.failed_seeds.push((seed, nodes));
        }
    }

    fn line(&self) -> String {
        format!(
            "{} seeds, {:.1} virtual hours, {} operations ({} writes acknowledged, {} refused or unknown), {} histories \
             undecided, {:.1} ms of CPU a seed, {} failed",
            self.seeds,
            self.virtual_ms as f64 / 3_600_000.0,
            self.done,
            self.acknowledged,
            self.refused,
            self.undecided,
            self.cpu_ms as f64 / self.seeds.max(1) as f64,
            self.failed_seeds.len()
        )
    }
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(words) => {
            eprintln!("simulate [FIRST_SEED] [COUNT] [NODES] [--threads N] [--minutes M] [--checkpoint FILE]: {words}");
            return ExitCode::from(2);
        }
    };
    if arguments.count == 1 {
        return tell(arguments.first, nodes_of(&arguments.nodes, arguments.first));
    }
    // A machine's panic is an outcome like others; it is told with the seed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut sums = load(&arguments).unwrap_or_else(|| Sums { next_seed: arguments.first, ..Sums::default() });
    let began = Instant::now();
    let cpu_before = (cpu(), sums.cpu_ms);
    let end = arguments.first + arguments.count;
    let mut told = Instant::now();
    while sums.next_seed < end {
        let batch = sums.next_seed..end.min(sums.next_seed + BATCH);
        sums.next_seed = batch.end;
        run_batch(batch, &arguments, &mut sums);
        sums.cpu_ms = cpu_before.1 + (cpu() - cpu_before.0).as_millis() as u64;
        store(&arguments, &sums);
        if told.elapsed() > Duration::from_secs(20) {
            told = Instant::now();
            println!("{:>6} s  {}", began.elapsed().as_secs(), sums.line());
        }
        let is_over = arguments.minutes.is_some_and(|minutes| began.elapsed() > Duration::from_secs(minutes * 60));
        if is_over || !sums.failed_seeds.is_empty() && !arguments.keep_going {
            break;
        }
    }
    println!("{}", sums.line());
    let counts: Vec<String> = sums.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("{}", counts.join(", "));
    if sums.failed_seeds.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed and tells its story.
fn tell(seed: u64, nodes: usize) -> ExitCode {
    let outcome = Scenario::of(nodes).verbose().run(seed);
    print!("{}", outcome.story);
    println!("trace {:016x}, {:?} of virtual time", outcome.trace, outcome.virtual_time);
    for words in &outcome.complaints {
        println!("WRONG: {words}");
    }
    if outcome.complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_batch(seeds: std::ops::Range<u64>, arguments: &Arguments, sums: &mut Sums) {
    let next = AtomicU64::new(seeds.start);
    let shared = Mutex::new(sums);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let nodes = nodes_of(&arguments.nodes, seed);
                    let outcome = Scenario::of(nodes).run(seed);
                    if !outcome.complaints.is_empty() {
                        println!("seed {seed} with {nodes} nodes: {}", outcome.complaints.join("; "));
                        println!("again: cargo run --release --features sim --example simulate -- {seed} 1 {nodes}");
                    }
                    shared.lock().expect("no thread panics with it").add(seed, nodes, &outcome);
                }
            });
        }
    });
}

fn nodes_of(sizes: &[usize], seed: u64) -> usize {
    sizes[(seed % sizes.len() as u64) as usize]
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn load(arguments: &Arguments) -> Option<Sums> {
    let text = std::fs::read_to_string(arguments.checkpoint.as_ref()?).ok()?;
    serde_json::from_str(&text).inspect_err(|error| eprintln!("the checkpoint is no use: {error}")).ok()
}

fn store(arguments: &Arguments, sums: &Sums) {
    let Some(path) = &arguments.checkpoint else { return };
    let text = serde_json::to_string(sums).expect("sums encode");
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("{}: {error}", path.display());
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        first: 0,
        count: 1000,
        nodes: vec![3, 4, 5, 7],
        threads: 1,
        minutes: None,
        checkpoint: None,
        keep_going: false,
    };
    let number = |word: &str| word.parse::<u64>().map_err(|error| format!("{word}: {error}"));
    let mut place = 0;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--threads" => arguments.threads = number(&value()?)?.clamp(1, 64) as usize,
            "--minutes" => arguments.minutes = Some(number(&value()?)?),
            "--checkpoint" => arguments.checkpoint = Some(PathBuf::from(value()?)),
            "--keep-going" => arguments.keep_going = true,
            _ if place == 0 => (arguments.first, place) = (number(&word)?, 1),
            _ if place == 1 => (arguments.count, place) = (number(&word)?, 2),
            _ if place == 2 => {
                let sizes: Result<Vec<u64>, String> = word.split(',').map(number).collect();
                arguments.nodes = sizes?.into_iter().map(|size| size as usize).collect();
                if arguments.nodes.iter().any(|size| !(3..=9).contains(size)) {
                    return Err(format!("{word}: sizes are 3 to 9"));
                }
                place = 3;
            }
            _ => return Err(format!("{word} is too much")),
        }
    }
    Ok(arguments)
}
