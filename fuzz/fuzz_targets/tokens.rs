//! The text of a tokens file.

#![no_main]

use jumpgate::access::Access;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(access) = Access::parse(text) {
        access.check_invariants();
        // A file of tokens, an empty one included, lets in nobody who shows none.
        assert!(!access.is_open() && access.judge(None).is_err());
    }
});
