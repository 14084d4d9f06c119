//! A line of `jumpgate import`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| jumpgate::cli::fuzzing::import_line(line));
