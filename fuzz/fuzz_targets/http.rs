//! The guard in front of the HTTP parser: whatever comes, in whatever pieces, it says the same of it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, stream)) = bytes.split_first() else { return };
    let whole = jumpgate::gateway::fuzzing::is_unambiguous(stream, stream.len().max(1));
    assert_eq!(whole, jumpgate::gateway::fuzzing::is_unambiguous(stream, usize::from(piece).max(1)));
});
