//! The text of a secret file.

#![no_main]

use jumpgate::codec::{Keyring, SECRETS_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    if let Ok(keyring) = Keyring::parse(text) {
        assert!((1..=SECRETS_MAX).contains(&keyring.len()));
    }
});
