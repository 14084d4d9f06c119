//! How two nodes prove to each other, at the beginning of a connection of the stream plane, that they share a secret.
//!
//! Only where secrets are set; without them a connection begins with its first frame.
//!
//! ```text
//! dialer                                                        listener
//!   │ hello:  who dials whom in which cluster, nonce, code ────────▶ │ knows a secret? closes without a word otherwise
//!   │ ◀── answer: the same slots and cluster, its own nonce, code    │
//!   │ knows a secret, and knows it now                               │
//!   │ proof:  code ────────────────────────────────────────────────▶ │ knows it now
//!   │ frames, each with a code ────────────────────────────────────▶ │
//! ```
//!
//! Hello and answer are alike:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, `jgsh` |
//! | 4 | 1 | version of the format, 1 |
//! | 5 | 1 | 1: hello, 2: answer |
//! | 6 | 1 | the slot that is dialed |
//! | 7 | 1 | the slot that dials |
//! | 8 | 8 | hash of the cluster's name |
//! | 16 | 32 | nonce |
//! | 48 | 32 | code |
//!
//! The proof is a code of 32 bytes. All codes are keyed BLAKE3 hashes, under a key that is derived from a secret for the
//! stream plane alone, over a label and all that was said before:
//!
//! | code | under | over |
//! |---|---|---|
//! | hello | the dialer's first secret | 1, the hello up to its code |
//! | answer | the same secret | 2, the hello, the answer up to its code |
//! | proof | the same secret | 3, the hello, the answer |
//! | (key of the session) | the same secret | 4, the hello, the answer |
//! | each frame | the key of the session | its number in 8 bytes, header, payload; the first 16 bytes |
//!
//! Why it holds: each side has the other's code over a nonce that it has just drawn, so a recording is worth nothing. The
//! labels keep one side's words from being turned against it, and the slots keep words to one node from being shown to
//! another: not even to the one that said them. A frame's number is counted on both sides and isn't sent, so a frame that
//! is left out, repeated, moved or taken from another connection has a wrong code. Frames go one way only, so the key of a
//! session has one user. The frames of a connection come from the slot that dialed it, or they are refused.
//!
//! What is proven is that the other end holds a secret, not which of those who hold it it is: a node that has the secret
//! can dial as any other.
//!
//! The listener tries all secrets that it holds, and goes on with the one that the dialer has shown to hold. So two nodes
//! that sign with different secrets, while one is being replaced, understand each other as long as each holds the other's.
//!
//! Left out: secrecy. Whoever listens in reads the frames.

use super::fields::{FieldReader, put};
use super::keyring::{self, CODE_BYTES, Keyring, StreamKey};
use super::{CodecError, NameHash};
use crate::base::Slot;

const MAGIC: [u8; 4] = *b"jgsh";
const VERSION: u8 = 1;
const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const PROOF: u8 = 3;
const SESSION: u8 = 4;

/// The length of a hello.
pub const HELLO_BYTES: usize = 80;
/// The length of an answer.
pub const ANSWER_BYTES: usize = HELLO_BYTES;
/// The length of a proof.
pub const PROOF_BYTES: usize = 32;
/// The length of a nonce.
pub const NONCE_BYTES: usize = 32;
/// What of a hello or an answer its code is over.
const SIGNED_BYTES: usize = HELLO_BYTES - 32;
/// Where a hello or an answer says who dials.
const DIALER_AT: usize = 7;

/// Whether a connection that begins with `bytes` begins with a handshake; none where too few came to tell.
#[must_use]
pub fn is_handshake(bytes: &[u8]) -> Option<bool> {
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if start.len() < MAGIC.len() && MAGIC.starts_with(start) { None } else { Some(start == MAGIC) }
}

/// The dialing side, while it waits for the answer.
#[derive(Debug)]
pub struct Dialer {
    key: StreamKey,
    hello: [u8; HELLO_BYTES],
}

impl Dialer {
    /// Begins a connection of the node in slot `me` to the one in slot `dialed`; none where there is no secret. `nonce`
    /// must be random and must never have been used.
    #[must_use]
    pub fn new(keyring: &Keyring, name: NameHash, me: Slot, dialed: Slot, nonce: [u8; NONCE_BYTES]) -> Option<Self> {
        let key = keyring.signing_key()?;
        let hello = signed(HELLO, name, [dialed, me], nonce, |said| key.hash([&[HELLO], said]));
        Some(Self { key, hello })
    }

    /// What to send first.
    #[must_use]
    pub const fn hello(&self) -> &[u8; HELLO_BYTES] {
        &self.hello
    }

    /// Takes the answer; gives the proof to send, and what signs the frames that follow it.
    ///
    /// # Errors
    /// Where it isn't the answer of a node of this cluster, in the dialed slot, that holds the secret of the hello.
    pub fn handle_answer(self, answer: &[u8; ANSWER_BYTES]) -> Result<([u8; PROOF_BYTES], Session), CodecError> {
        let (said, code) = parse(answer, ANSWER)?;
        if said[6..16] != self.hello[6..16] {
            return Err(CodecError::Malformed("an answer to another hello"));
        }
        if !self.key.verifies(&[&[ANSWER], &self.hello, said], code) {
            return Err(CodecError::BadCode);
        }
        let proof = *self.key.hash([&[PROOF], &self.hello[..], answer]).as_bytes();
        Ok((proof, Session::new(self.key, &self.hello, answer)))
    }
}

/// The listening side, while it waits for the proof.
#[derive(Debug)]
pub struct Listener {
    key: StreamKey,
    hello: [u8; HELLO_BYTES],
    answer: [u8; ANSWER_BYTES],
}

impl Listener {
    /// Takes the hello of a connection to the node in slot `me`; gives the answer to send. `nonce` must be random and must
    /// never have been used.
    ///
    /// # Errors
    /// Where it isn't the hello of a node of this cluster, to this slot, that holds one of the secrets. Nothing is to be
    /// sent then.
    pub fn handle_hello(
        keyring: &Keyring,
        name: NameHash,
        me: Slot,
        nonce: [u8; NONCE_BYTES],
        hello: &[u8; HELLO_BYTES],
    ) -> Result<(Self, [u8; ANSWER_BYTES]), CodecError> {
        let (said, code) = parse(hello, HELLO)?;
        // Before what it says is looked at: a stranger's words mean nothing.
        let key = keyring.find_signer(&[&[HELLO], said], code)?;
        let mut fields = FieldReader::new(&said[6..]);
        let [dialed, dialer] = fields.take()?.map(Slot);
        if NameHash::read(&mut fields)? != name {
            return Err(CodecError::OtherCluster);
        }
        if dialed != me {
            return Err(CodecError::OtherSlot);
        }
        if dialer == me {
            return Err(CodecError::OtherSender);
        }
        let answer = signed(ANSWER, name, [dialed, dialer], nonce, |said| key.hash([&[ANSWER][..], hello, said]));
        Ok((Self { key, hello: *hello, answer }, answer))
    }

    /// Takes the proof; gives what verifies the frames that follow it.
    ///
    /// # Errors
    /// Where the dialer doesn't hold now the secret that its hello was signed with.
    pub fn handle_proof(self, proof: &[u8; PROOF_BYTES]) -> Result<Session, CodecError> {
        if !self.key.verifies(&[&[PROOF], &self.hello, &self.answer], proof) {
            return Err(CodecError::BadCode);
        }
        Ok(Session::new(self.key, &self.hello, &self.answer))
    }
}

/// The codes of one connection's frames. Each side has one and uses it for every frame, in order.
#[derive(Debug)]
pub struct Session {
    proven_by: StreamKey,
    key: StreamKey,
    dialer: Slot,
    frames: u64,
}

impl Session {
    fn new(secret: StreamKey, hello: &[u8; HELLO_BYTES], answer: &[u8]) -> Self {
        let key = secret.derive(&[&[SESSION], hello, answer]);
        Self { proven_by: secret, key, dialer: Slot(hello[DIALER_AT]), frames: 0 }
    }

    /// Whose frames these are: the slot that dialed.
    pub(super) const fn dialer(&self) -> Slot {
        self.dialer
    }

    /// The secret that both sides have shown to hold: when it is no longer valid, neither is the connection.
    #[must_use]
    pub const fn proven_by(&self) -> StreamKey {
        self.proven_by
    }

    /// The code of the next frame.
    pub(super) fn code<'a>(&mut self, header: &[u8], payload: impl IntoIterator<Item = &'a [u8]>) -> [u8; CODE_BYTES] {
        keyring::truncated(&self.next_hash(header, payload))
    }

    /// Whether `code` is the code of the next frame.
    pub(super) fn verifies<'a>(
        &mut self,
        header: &[u8],
        payload: impl IntoIterator<Item = &'a [u8]>,
        code: [u8; CODE_BYTES],
    ) -> bool {
        keyring::is_code(&self.next_hash(header, payload), code)
    }

    fn next_hash<'a>(&mut self, header: &[u8], payload: impl IntoIterator<Item = &'a [u8]>) -> blake3::Hash {
        self.frames += 1;
        let number = self.frames.to_le_bytes();
        self.key.hash([&number, header].into_iter().chain(payload.into_iter().map(|piece| -> &[u8] { piece })))
    }
}

/// A hello or an answer, with the code that `sign` gives to what is said in it.
fn signed(
    step: u8,
    name: NameHash,
    [dialed, dialer]: [Slot; 2],
    nonce: [u8; NONCE_BYTES],
    sign: impl FnOnce(&[u8]) -> blake3::Hash,
) -> [u8; HELLO_BYTES] {
    let mut fields = Vec::with_capacity(HELLO_BYTES);
    put(&mut fields, MAGIC);
    put(&mut fields, [VERSION, step, dialed.0, dialer.0]);
    name.write(&mut fields);
    put(&mut fields, nonce);
    let code = sign(&fields);
    put(&mut fields, *code.as_bytes());
    let mut bytes = [0; HELLO_BYTES];
    bytes.copy_from_slice(&fields);
    bytes
}

/// What a hello or an answer says, and its code.
fn parse(bytes: &[u8; HELLO_BYTES], step: u8) -> Result<(&[u8; SIGNED_BYTES], &[u8; 32]), CodecError> {
    let mut fields = FieldReader::new(bytes);
    if fields.take()? != MAGIC {
        return Err(CodecError::BadMagic);
    }
    let [version, its_step] = fields.take()?;
    if (version, its_step) != (VERSION, step) {
        return Err(CodecError::OtherVersion { version, flags: its_step });
    }
    let too_short = CodecError::TooShort { bytes: bytes.len(), bytes_min: HELLO_BYTES };
    Ok((bytes.first_chunk().ok_or(too_short)?, bytes.last_chunk().ok_or(too_short)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(secrets: &str) -> Keyring {
        Keyring::parse(secrets.as_bytes()).expect("it holds secrets")
    }

    fn name() -> NameHash {
        NameHash::of("store")
    }

    const OLD: &str = "the old secret, long enough";
    const NEW: &str = "the new secret, long enough";

    /// A handshake between nodes that hold these secrets; both sides' sessions.
    fn shake(dialer: &str, listener: &str) -> Result<(Session, Session), CodecError> {
        let (dialers, listeners) = (keyring(dialer), keyring(listener));
        let dialer = Dialer::new(&dialers, name(), Slot(1), Slot(2), [1; 32]).expect("there is a secret");
        let (waiting, answer) = Listener::handle_hello(&listeners, name(), Slot(2), [2; 32], dialer.hello())?;
        let (proof, writer) = dialer.handle_answer(&answer)?;
        let reader = waiting.handle_proof(&proof)?;
        assert_eq!(writer.proven_by(), reader.proven_by());
        assert!(dialers.signs_with(&writer.proven_by()) && listeners.holds(&writer.proven_by()));
        Ok((writer, reader))
    }

    #[test]
    fn the_format_never_changes() {
        let secrets = keyring(OLD);
        let dialer = Dialer::new(&secrets, name(), Slot(1), Slot(2), [1; 32]).expect("there is a secret");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&dialer.hello()[..16]), "6a67736801010201".to_owned() + "1e070e74df6337a1");
        assert_eq!(dialer.hello()[16..48], [1; 32]);
        let (_, answer) =
            Listener::handle_hello(&secrets, name(), Slot(2), [2; 32], dialer.hello()).expect("it is sound");
        let hello = *dialer.hello();
        let (proof, mut session) = dialer.handle_answer(&answer).expect("it is sound");
        let codes =
            [&hello[48..56], &answer[48..56], &proof[..8], &session.code(b"header", [&b"payload"[..]])[..8]].map(hex);
        assert_eq!(codes, ["6782b1f0a93dff49", "8ada49f9b2af346d", "361bf42befadb38d", "af1b5ec5c7a17d29"]);
    }

    #[test]
    fn nodes_that_share_a_secret_agree_and_number_their_frames() {
        let (added, swapped) = (format!("{OLD}\n{NEW}"), format!("{NEW}\n{OLD}"));
        // What meets while a secret is replaced: a step on one node, and the same or the next one on the other.
        let steps = [OLD, added.as_str(), swapped.as_str(), NEW];
        let meetings = (0..4).flat_map(|at| (at.max(1) - 1..(at + 2).min(4)).map(move |other| (at, other)));
        for (dialer, listener) in meetings.map(|(one, other)| (steps[one], steps[other])) {
            let (mut writer, mut reader) = shake(dialer, listener).expect("they share a secret");
            let codes = [(); 3].map(|()| writer.code(b"header", [&b"payload"[..]]));
            assert!(codes[0] != codes[1] && codes[1] != codes[2]);
            assert!(reader.verifies(b"header", [&b"payload"[..]], codes[0]));
            assert!(!reader.verifies(b"header", [&b"payload"[..]], codes[2]), "one was left out");
        }
        assert_eq!(shake(&swapped, OLD).map(|_| ()), Err(CodecError::BadCode), "the new one isn't known yet");
    }

    #[test]
    fn without_the_secret_no_step_succeeds() {
        assert_eq!(shake(OLD, NEW).map(|_| ()), Err(CodecError::BadCode));
        // A listener that makes its answer up: the dialer sends no proof.
        let (good, bad) = (keyring(OLD), keyring(NEW));
        let dialer = Dialer::new(&good, name(), Slot(1), Slot(2), [1; 32]).expect("there is a secret");
        let fake = signed(ANSWER, name(), [Slot(2), Slot(1)], [2; 32], |said| {
            bad.signing_key().expect("one").hash([&[ANSWER], &dialer.hello()[..], said])
        });
        assert_eq!(dialer.handle_answer(&fake).map(|_| ()), Err(CodecError::BadCode));
    }

    #[test]
    fn a_recording_proves_nothing() {
        let secrets = keyring(OLD);
        let dial = |nonce| Dialer::new(&secrets, name(), Slot(1), Slot(2), nonce).expect("there is a secret");
        let hear = |hello: &[u8; 80], nonce| Listener::handle_hello(&secrets, name(), Slot(2), nonce, hello);
        let recorded = dial([1; 32]);
        let hello = *recorded.hello();
        let (_, answer) = hear(&hello, [2; 32]).expect("it is sound");
        let (proof, ..) = recorded.handle_answer(&answer).expect("it is sound");
        // The same hello again gets an answer, with another nonce; the recorded proof isn't one for it.
        let (waiting, _) = hear(&hello, [3; 32]).expect("it is sound");
        assert_eq!(waiting.handle_proof(&proof).map(|_| ()), Err(CodecError::BadCode));
        // The recorded answer isn't one to another hello.
        assert_eq!(dial([4; 32]).handle_answer(&answer).map(|_| ()), Err(CodecError::BadCode));
        // A hello is no answer, not even to itself, and an answer is no hello.
        let reflected = dial([1; 32]).handle_answer(&hello).map(|_| ());
        assert_eq!(reflected, Err(CodecError::OtherVersion { version: 1, flags: HELLO }));
        assert_eq!(hear(&answer, [5; 32]).map(|_| ()), Err(CodecError::OtherVersion { version: 1, flags: ANSWER }));
    }

    #[test]
    fn words_to_another_node_or_cluster_are_refused() {
        let secrets = keyring(OLD);
        let hello = *Dialer::new(&secrets, name(), Slot(1), Slot(2), [1; 32]).expect("there is a secret").hello();
        let hear = |name, slot| Listener::handle_hello(&secrets, name, slot, [2; 32], &hello).map(|_| ());
        assert_eq!(hear(name(), Slot(2)), Ok(()));
        assert_eq!(hear(name(), Slot(1)), Err(CodecError::OtherSlot), "not even by whoever said it");
        let to_itself = *Dialer::new(&secrets, name(), Slot(2), Slot(2), [1; 32]).expect("there is a secret").hello();
        let heard = Listener::handle_hello(&secrets, name(), Slot(2), [2; 32], &to_itself).map(|_| ());
        assert_eq!(heard, Err(CodecError::OtherSender));
        assert_eq!(hear(NameHash::of("other"), Slot(2)), Err(CodecError::OtherCluster));
        assert_eq!(Dialer::new(&Keyring::default(), name(), Slot(1), Slot(2), [1; 32]).map(|_| ()), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let secrets = keyring(OLD);
        let dial = || Dialer::new(&secrets, name(), Slot(1), Slot(2), [1; 32]).expect("there is a secret");
        let hear = |hello: &[u8; 80]| Listener::handle_hello(&secrets, name(), Slot(2), [2; 32], hello);
        let (_, answer) = hear(dial().hello()).expect("it is sound");
        let (proof, ..) = dial().handle_answer(&answer).expect("it is sound");
        for bit in 0..HELLO_BYTES * 8 {
            let flip = |mut bytes: [u8; 80]| {
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            assert!(hear(&flip(*dial().hello())).is_err(), "bit {bit} of the hello");
            assert!(dial().handle_answer(&flip(answer)).is_err(), "bit {bit} of the answer");
        }
        for bit in 0..PROOF_BYTES * 8 {
            let mut flipped = proof;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (waiting, _) = hear(dial().hello()).expect("it is sound");
            assert!(waiting.handle_proof(&flipped).is_err(), "bit {bit} of the proof");
        }
    }

    #[test]
    fn a_handshake_is_told_from_a_frame_by_its_first_bytes() {
        assert_eq!(
            [&b""[..], b"jgs", b"jgsh", b"jgsf", b"GE"].map(is_handshake),
            [None, None, Some(true), Some(false), Some(false)]
        );
    }
}
