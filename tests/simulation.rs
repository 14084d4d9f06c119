//! Whole clusters on a virtual clock: faults drawn from a seed, then peace, then everything must be well.

use jumpgate::sim::{Scenario, WorldOptions};

fn run(seeds: std::ops::Range<u64>, scenario: &Scenario) {
    for seed in seeds {
        let outcome = scenario.run(seed);
        if !outcome.complaints.is_empty() {
            let told = Scenario { world: WorldOptions { verbose: true, ..scenario.world.clone() }, ..scenario.clone() };
            let again = told.run(seed);
            panic!("seed {seed}, {} nodes: {:#?}\n{}", scenario.world.nodes, outcome.complaints, again.story);
        }
        assert!(outcome.acknowledged > 0, "seed {seed}: nobody wrote anything");
    }
}

fn of_nodes(nodes: usize) -> Scenario {
    Scenario { world: WorldOptions { nodes, ..WorldOptions::default() }, ..Scenario::default() }
}

#[test]
fn three_nodes_survive_faults() {
    run(0..40, &of_nodes(3));
}

#[test]
fn five_nodes_survive_faults() {
    run(1000..1020, &of_nodes(5));
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let scenario = of_nodes(3);
    assert_eq!(scenario.run(7).trace, scenario.run(7).trace);
    assert_ne!(scenario.run(7).trace, scenario.run(8).trace);
}
