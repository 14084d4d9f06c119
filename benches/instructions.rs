//! Operations to be counted in instructions, which don't depend on what else the machine does.
//!
//! `benches/instructions.sh` runs this program under valgrind, each operation twice with different counts: the difference is
//! what the operation takes, without what comes before it. Without arguments it names the operations.

#[path = "support/pieces.rs"]
#[allow(dead_code, reason = "each bench uses some of the pieces")]
mod pieces;
#[path = "support/trio.rs"]
#[allow(dead_code, reason = "frames are counted by another bench")]
mod trio;

use std::hint::black_box;
use std::process::ExitCode;

use jumpgate::api::Key;
use jumpgate::base::{Options, SlotSet};
use jumpgate::placement::{PlacementMap, partition_of};

use pieces::{Frames, Shelf, key};
use trio::{Carrier, Trio};

const PARTITIONS: u16 = 4096;
/// Records of one partition, when 100,000 keys are spread over all.
const RECORDS: usize = 25;
const VALUE_BYTES: usize = 128;

/// A name, and what does the operation so many times.
type Operation = (&'static str, fn(usize));

const OPERATIONS: [Operation; 8] = [
    ("placement_of_a_key", placement),
    ("frame_of_a_write_encode", |count| {
        let mut frames = Frames::new(1, VALUE_BYTES);
        (0..count).for_each(|_| frames.encode());
    }),
    ("frame_of_a_write_decode", |count| {
        let frames = Frames::new(1, VALUE_BYTES);
        (0..count).for_each(|_| frames.decode());
    }),
    ("table_put", |count| {
        let mut shelf = Shelf::new(RECORDS, VALUE_BYTES);
        (0..count).for_each(|_| shelf.put());
    }),
    ("table_get", |count| {
        let mut shelf = Shelf::new(RECORDS, VALUE_BYTES);
        (0..count).for_each(|_| shelf.get());
    }),
    ("write_to_three_copies", |count| writes(Carrier::Values, 1, count)),
    ("write_to_three_copies_framed", |count| writes(Carrier::Frames, 1, count)),
    ("write_of_32_to_three_copies_framed", |count| writes(Carrier::Frames, 32, count / 32)),
];

fn placement(count: usize) {
    let members = SlotSet::first(5);
    let map = PlacementMap::derive(PARTITIONS, members, Options::replicas_auto(5));
    let keys: Vec<Key> = (0..64).map(key).collect();
    for key in keys.iter().cycle().take(count) {
        let partition = partition_of(black_box(key.as_str().as_bytes()), PARTITIONS);
        black_box(map.owners(partition).primary());
    }
}

/// `count` times `at_once` writes.
fn writes(carrier: Carrier, at_once: usize, count: usize) {
    let keys: Vec<Key> = (0..at_once.max(RECORDS)).map(key).collect();
    let mut trio = Trio::new(carrier);
    for nth in 0..count {
        let first = nth % (keys.len() - at_once + 1);
        trio.put_all(&keys[first..first + at_once]);
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [] => {
            OPERATIONS.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        [name, count] => match (OPERATIONS.iter().find(|(known, _)| known == name), count.parse()) {
            (Some((_, run)), Ok(count)) => {
                run(count);
                ExitCode::SUCCESS
            }
            _ => ExitCode::from(2),
        },
        _ => ExitCode::from(2),
    }
}
