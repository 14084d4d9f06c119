//! Breaks each rule in its turn and tells after how many seeds the simulator has noticed, and by which check.
//!
//! `cargo run --release --features sim --example mutants -- [SEEDS] [MUTANT] [--threads N] [--docs FILE]`
//!
//! The table goes to the terminal; with `--docs docs/reliability.md` also between the two markers in that file.

use std::fs;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::sim::Scenario;

const SIZES: [usize; 4] = [3, 4, 5, 7];
const BEGINS: &str = "<!-- mutants: written by examples/mutants.rs -->";
const ENDS: &str = "<!-- end of mutants -->";

/// What a complaint says, and which check says so. The first that fits counts.
const CHECKS: [(&str, &str); 44] = [
    ("doesn't get its vote back", "probe: who was set aside is let in again"),
    ("Viewers:", "probe: viewers that come back are shown everything"),
    ("Recover:", "probe: survivors go on by force"),
    ("both lead in term", "one leader a term"),
    ("voted for", "one vote a term"),
    ("without the votes of a quorum", "elections take a quorum"),
    ("which no quorum of", "commits take a quorum"),
    ("by counting its copies", "commits end in the own term"),
    ("which no leader has committed", "only leaders commit"),
    ("and lacks", "leaders have what is committed"),
    ("was committed there", "one entry an index"),
    ("another entry at", "log matching"),
    ("changed its log", "leaders only append"),
    ("changes the members", "one change at a time, after an own entry"),
    ("went back from", "nothing goes back"),
    ("another state at", "one state an index"),
    ("second cluster", "one cluster"),
    ("belongs to a cluster, and nobody", "one cluster"),
    ("answers reads of", "one reader a partition"),
    ("is committed through", "everything committed is in every in-sync member"),
    ("was applied", "one history a partition"),
    ("which is in sync, is in epoch", "no service before the epoch's start"),
    ("a datagram that was", "what must change nothing changed something"),
    ("damaged frame", "what is damaged is refused"),
    ("no order of its", "linearizability"),
    ("was acknowledged with", "copies of an acknowledged write"),
    ("unseated", "probe: a lost follower disturbs nobody"),
    ("nobody else leads within", "probe: a leader that can't lead is replaced"),
    ("still takes itself for the leader", "probe: a leader that can't lead steps down"),
    ("still holds copies", "probe: a drained node holds nothing"),
    ("nothing was wrong with", "probe: a leader that can't lead takes nobody along"),
    ("copies differ", "equal copies in the end"),
    ("did not form", "progress: the cluster forms"),
    ("not whole again", "progress: the cluster heals"),
    ("in peace", "progress: every partition is used"),
    ("can't be read through", "progress: every key is read"),
    ("answers a request that nobody", "one answer a request"),
    ("only now, who waits", "answers come in time"),
    ("known", "versions that clients saw"),
    ("took effect", "versions that clients saw"),
    ("key-", "versions that clients saw"),
    ("finds its copy of", "nobody finds a copy bad to which nothing was done"),
    ("was not repaired within", "probe: a copy that goes bad is good again"),
    ("panic", "an assertion in the code"),
];

struct Death {
    seed: u64,
    nodes: usize,
    words: String,
}

fn main() -> ExitCode {
    let (mut most, mut only, mut threads, mut docs) = (10_000, None, 1, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match (word.as_str(), word.parse::<u64>()) {
            ("--threads", _) => threads = words.next().and_then(|word| word.parse().ok()).unwrap_or(1),
            ("--docs", _) => docs = words.next(),
            (_, Ok(number)) => most = number,
            (_, Err(_)) => only = Some(word),
        }
    }
    std::panic::set_hook(Box::new(|_| {}));
    let chosen: Vec<_> = Mutant::ALL
        .into_iter()
        .filter(|(mutant, _, _)| only.as_ref().is_none_or(|only| *only == format!("{mutant:?}")))
        .collect();
    let deaths = Mutex::new(chosen.iter().map(|_| None).collect::<Vec<Option<Death>>>());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((mutant, _, _)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let death = hunt(*mutant, most);
                    match &death {
                        Some(death) => {
                            println!("{mutant:?}: seed {}, {} nodes: {}", death.seed, death.nodes, death.words)
                        }
                        None => println!("{mutant:?}: SURVIVES {most} seeds"),
                    }
                    let place = chosen.iter().position(|(other, _, _)| other == mutant).expect("it is one of them");
                    deaths.lock().expect("nobody panics with it")[place] = death;
                }
            });
        }
    });
    let deaths = deaths.into_inner().expect("nobody panicked with it");
    let mut table = String::from("| rule | broken | noticed by | seeds |\n|---|---|---|---|\n");
    for ((_, rule, what), death) in chosen.iter().zip(&deaths) {
        let (check, seeds) = match death {
            Some(death) => (check(&death.words), (death.seed + 1).to_string()),
            None => ("**nothing**", format!("more than {most}")),
        };
        table += &format!("| {rule} | {what} | {check} | {seeds} |\n");
    }
    print!("\n{table}");
    if let Some(path) = docs
        && let Err(words) = write_docs(&path, &table)
    {
        eprintln!("{path}: {words}");
        return ExitCode::FAILURE;
    }
    if deaths.iter().all(Option::is_some) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed in which something is noticed.
fn hunt(mutant: Mutant, most: u64) -> Option<Death> {
    (0..most).find_map(|seed| {
        let nodes = SIZES[seed as usize % SIZES.len()];
        let outcome = with_broken(mutant, || Scenario::of(nodes).run(seed));
        let words = outcome.complaints.first()?.chars().take(200).collect();
        Some(Death { seed, nodes, words })
    })
}

fn check(words: &str) -> &'static str {
    CHECKS.iter().find(|(part, _)| words.contains(part)).map_or("another check", |(_, check)| check)
}

fn write_docs(path: &str, table: &str) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let (before, rest) = text.split_once(BEGINS).ok_or("the first marker is missing")?;
    let (_, after) = rest.split_once(ENDS).ok_or("the second marker is missing")?;
    fs::write(path, format!("{before}{BEGINS}\n{table}{ENDS}{after}")).map_err(|error| error.to_string())
}
