//! Each step of the handshake of a connection, at a node that holds a secret.

#![no_main]

use jumpgate::base::Slot;
use jumpgate::codec::handshake::{self, Dialer, Listener};
use jumpgate::codec::{Keyring, NameHash};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let keyring = Keyring::parse(b"correct horse battery staple\nand the one before it").expect("they are long enough");
    let (name, me, peer) = (NameHash::of("store"), Slot(2), Slot(1));
    let _ = handshake::is_handshake(bytes);
    let dialer = || Dialer::new(&keyring, name, peer, me, [1; 32]).expect("there is a secret");
    if let Some(words) = bytes.first_chunk() {
        assert!(Listener::handle_hello(&keyring, name, me, [2; 32], words).is_err(), "nobody guesses a code");
        assert!(dialer().handle_answer(words).is_err(), "nobody guesses a code");
    }
    if let Some(proof) = bytes.first_chunk() {
        let (listener, _) =
            Listener::handle_hello(&keyring, name, me, [2; 32], dialer().hello()).expect("it is a peer's");
        assert!(listener.handle_proof(proof).is_err(), "nobody guesses a code");
    }
});
