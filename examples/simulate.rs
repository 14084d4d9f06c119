//! Runs seeds of the simulator for as long as one likes.
//!
//! `cargo run --release --features sim --example simulate -- [FIRST_SEED] [COUNT] [NODES]`; with a count of 1 it tells the
//! whole story of that seed.

use std::process::ExitCode;

use jumpgate::sim::{Scenario, WorldOptions};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut number = |otherwise: u64| match arguments.next() {
        Some(Ok(number)) => number,
        Some(Err(error)) => {
            eprintln!("simulate [FIRST_SEED] [COUNT] [NODES]: {error}");
            std::process::exit(2);
        }
        None => otherwise,
    };
    let (first, count, nodes) = (number(0), number(1000), number(3) as usize);
    let world = WorldOptions { nodes, verbose: count == 1, ..WorldOptions::default() };
    let scenario = Scenario { world, ..Scenario::default() };
    let (mut failed_seeds, mut done, mut failed, mut acknowledged) = (0, 0, 0, 0);
    for seed in first..first + count {
        let outcome = scenario.run(seed);
        done += outcome.done;
        failed += outcome.failed;
        acknowledged += outcome.acknowledged;
        if count == 1 {
            print!("{}", outcome.story);
            println!("trace {:016x}", outcome.trace);
        }
        if !outcome.complaints.is_empty() {
            failed_seeds += 1;
            println!("seed {seed} with {nodes} nodes: {:#?}", outcome.complaints);
            println!("again: cargo run --release --features sim --example simulate -- {seed} 1 {nodes}");
        }
    }
    println!(
        "{count} seeds with {nodes} nodes: {failed_seeds} failed; {done} operations done, {acknowledged} writes \
         acknowledged, {failed} operations refused or unknown"
    );
    if failed_seeds == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
