//! A datagram as it comes from the network: as it is, and with the checksum that an attacker would have written.

#![no_main]

use jumpgate::codec::{Keyring, NameHash, datagram};
use jumpgate::node::message::PulseMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let name = NameHash::of("store");
    let keyed = Keyring::parse(b"correct horse battery staple").expect("it is long enough");
    let mut mended = bytes.to_vec();
    if let Some((said, checksum)) = mended.split_last_chunk_mut::<4>() {
        *checksum = crc32fast::hash(said).to_le_bytes();
    }
    for bytes in [bytes, &mended] {
        let plain = datagram::decode::<Vec<PulseMessage>>(bytes, name, &Keyring::default());
        let signed = datagram::decode::<Vec<PulseMessage>>(bytes, name, &keyed);
        assert!(signed.is_err(), "nobody guesses a code");
        if let Ok(datagram) = plain {
            // Two byte strings never mean the same header, and a header is written back as it was.
            let mut again = Vec::new();
            let sealed = datagram::encode(
                &datagram.envelope,
                name,
                datagram.sequence,
                &datagram.payload,
                &Keyring::default(),
                &mut again,
            );
            if sealed.is_ok() {
                assert_eq!((&again[..6], &again[8..80]), (&bytes[..6], &bytes[8..80]));
            }
        }
    }
});
