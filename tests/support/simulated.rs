//! Simulated clusters for tests of chosen situations.

use std::time::Duration;

use jumpgate::api::Key;
use jumpgate::sim::{World, WorldOptions, is_whole};

/// Virtual time within which everything that is to come about does.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A cluster in peace.
pub fn formed(nodes: usize, seed: u64) -> World {
    let mut world = World::new(WorldOptions { nodes, ..WorldOptions::default() }, seed);
    assert!(world.run_until(PATIENCE, is_whole), "the cluster did not form: {:?}", world.complaints());
    world
}

/// One of a test's keys.
pub fn key(nth: usize) -> Key {
    format!("key {nth:02}").parse().expect("a key")
}
