//! Breaks each rule in its turn and tells after how many seeds the simulator has noticed.
//!
//! `cargo run --release --features sim --example mutants -- [SEEDS] [MUTANT]`

use jumpgate::base::mutant::{Mutant, with_broken};
use jumpgate::sim::{Scenario, WorldOptions};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let most: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(300);
    let only = arguments.next();
    std::panic::set_hook(Box::new(|_| {}));
    for mutant in Mutant::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{mutant:?}")) {
            continue;
        }
        let caught = (0..most).find_map(|seed| {
            let nodes = [3, 4, 5][seed as usize % 3];
            let world = WorldOptions { nodes, ..WorldOptions::default() };
            let scenario = Scenario { world, ..Scenario::default() };
            let ran = with_broken(mutant, || std::panic::catch_unwind(|| scenario.run(seed)));
            match ran {
                Ok(outcome) => outcome.complaints.first().map(|first| (seed, nodes, first.clone())),
                Err(panic) => {
                    let words = panic.downcast_ref::<String>().cloned();
                    Some((seed, nodes, format!("panic: {}", words.unwrap_or_default())))
                }
            }
        });
        match caught {
            Some((seed, nodes, words)) => {
                println!(
                    "{mutant:?}: caught by seed {seed} ({nodes} nodes): {}",
                    words.chars().take(160).collect::<String>()
                )
            }
            None => println!("{mutant:?}: NOT CAUGHT in {most} seeds"),
        }
    }
}
