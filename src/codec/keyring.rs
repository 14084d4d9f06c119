//! The secrets that the nodes of a cluster share, and the keys that are made of them.

use std::fmt;

use thiserror::Error;

use super::CodecError;

/// Bytes of a keyed code in datagrams and frames: 128 bits, which nobody guesses.
pub const CODE_BYTES: usize = 16;
/// The shortest secret: 128 bits where it is random bytes, and still 64 where it is written in hexadecimal.
pub const SECRET_BYTES_MIN: usize = 16;
/// Secrets that may be valid at once. Two are needed to replace one; a stranger's datagram costs a check by each.
pub const SECRETS_MAX: usize = 8;

/// What the keys are derived for: part of the formats. Each plane has keys of its own, so that nothing said on one of them
/// can be repeated on the other.
const PULSE_CONTEXT: &str = "jumpgate 2026 pulse plane: codes of datagrams";
const STREAM_CONTEXT: &str = "jumpgate 2026 stream plane: handshakes and codes of frames";

/// The secrets that are valid now, as the keys that are derived from them (BLAKE3: O'Connor et al., 2020). The first one
/// signs, all verify, so that a secret can be replaced while the cluster runs: add the new one behind the old on every
/// node, then swap them, then remove the old one.
///
/// An empty keyring means that nothing is signed, and that nothing signed is understood.
///
/// The secrets themselves aren't kept, and no key is ever printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Keys>,
}

/// The keys of one secret.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Keys {
    pulse: [u8; 32],
    stream: StreamKey,
}

/// One secret's key for the stream plane; it stands for that secret where a connection remembers which one proved it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StreamKey([u8; 32]);

/// Why a text holds no usable secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// Nothing but blank lines and comments.
    #[error("it holds no secret; write one a line, made by `openssl rand -hex 32` for example")]
    Empty,
    /// A secret that could be guessed.
    #[error(
        "line {line} holds a secret of {bytes} bytes; at least {SECRET_BYTES_MIN} are needed, made by \
         `openssl rand -hex 32` for example"
    )]
    TooShort {
        /// Its line, counted from 1.
        line: usize,
        /// How long it is.
        bytes: usize,
    },
    /// Secrets that should have been removed long ago.
    #[error("it holds more than {SECRETS_MAX} secrets; two are enough to replace one")]
    TooMany,
}

impl Keyring {
    /// The secrets in `text`: one a line, the first one signs. White space around a line, blank lines and lines that begin
    /// with `#` mean nothing; a secret that comes twice counts once.
    ///
    /// # Errors
    /// Where there is none, one is too short, or there are too many.
    pub fn parse(text: &[u8]) -> Result<Self, KeyringError> {
        let mut keyring = Self::default();
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        for (nth, secret) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
            if secret.len() < SECRET_BYTES_MIN {
                return Err(KeyringError::TooShort { line: nth + 1, bytes: secret.len() });
            }
            let keys = Keys::of(secret);
            if keyring.keys.contains(&keys) {
                continue;
            }
            if keyring.keys.len() == SECRETS_MAX {
                return Err(KeyringError::TooMany);
            }
            keyring.keys.push(keys);
        }
        if keyring.is_empty() { Err(KeyringError::Empty) } else { Ok(keyring) }
    }

    /// Whether there is no secret: nothing is signed, and nothing signed is understood.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many secrets are valid.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the secret behind `key` is still valid.
    #[must_use]
    pub fn holds(&self, key: &StreamKey) -> bool {
        self.keys.iter().any(|keys| keys.stream == *key)
    }

    /// Whether the secret behind `key` is the one that signs.
    #[must_use]
    pub fn signs_with(&self, key: &StreamKey) -> bool {
        self.signing_key() == Some(*key)
    }

    pub(super) fn signing_key(&self) -> Option<StreamKey> {
        self.keys.first().map(|keys| keys.stream)
    }

    /// The valid key under which `parts` have this code.
    pub(super) fn find_signer(&self, parts: &[&[u8]], code: &[u8; 32]) -> Result<StreamKey, CodecError> {
        let signer = self.keys.iter().find(|keys| keys.stream.verifies(parts, code));
        signer.map(|keys| keys.stream).ok_or(CodecError::BadCode)
    }

    /// The code of a datagram that begins with `bytes`; none without a secret.
    pub(super) fn pulse_code(&self, bytes: &[u8]) -> Option<[u8; CODE_BYTES]> {
        self.keys.first().map(|keys| truncated(&blake3::keyed_hash(&keys.pulse, bytes)))
    }

    /// Whether `code` is the code of `bytes` under any of the secrets.
    pub(super) fn verifies_pulse(&self, bytes: &[u8], code: [u8; CODE_BYTES]) -> bool {
        self.keys.iter().any(|keys| is_code(&blake3::keyed_hash(&keys.pulse, bytes), code))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} secrets)", self.len())
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(…)")
    }
}

impl Keys {
    fn of(secret: &[u8]) -> Self {
        let stream = StreamKey(blake3::derive_key(STREAM_CONTEXT, secret));
        Self { pulse: blake3::derive_key(PULSE_CONTEXT, secret), stream }
    }
}

impl StreamKey {
    /// The keyed hash of `parts`, one after the other.
    pub(super) fn hash<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// The key that follows from this one and `parts`.
    pub(super) fn derive(&self, parts: &[&[u8]]) -> Self {
        Self(*self.hash(parts.iter().copied()).as_bytes())
    }

    /// Whether `code` is the keyed hash of `parts`; takes the same time whatever the difference is.
    pub(super) fn verifies(&self, parts: &[&[u8]], code: &[u8; 32]) -> bool {
        // Comparing hashes, unlike comparing arrays, takes constant time.
        self.hash(parts.iter().copied()) == blake3::Hash::from_bytes(*code)
    }
}

/// The part of a hash that serves as a code.
pub(super) fn truncated(hash: &blake3::Hash) -> [u8; CODE_BYTES] {
    let mut code = [0; CODE_BYTES];
    code.copy_from_slice(&hash.as_bytes()[..CODE_BYTES]);
    code
}

/// Whether `code` is the code that `hash` gives; takes the same time whatever the difference is.
pub(super) fn is_code(hash: &blake3::Hash, code: [u8; CODE_BYTES]) -> bool {
    let padded = |code: [u8; CODE_BYTES]| {
        let mut bytes = [0; 32];
        bytes[..CODE_BYTES].copy_from_slice(&code);
        blake3::Hash::from_bytes(bytes)
    };
    padded(truncated(hash)) == padded(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_lines_and_the_first_one_signs() {
        let text = b"# ours\n\n  correct horse battery staple \r\n0123456789abcdef\ncorrect horse battery staple\n";
        let keyring = Keyring::parse(text).expect("two secrets");
        assert_eq!(keyring.len(), 2, "one that comes twice counts once");
        let [first, second] =
            [&b"correct horse battery staple"[..], b"0123456789abcdef"].map(|line| Keyring::parse(line).expect("one"));
        let code = keyring.pulse_code(b"x").expect("there are secrets");
        assert!(first.verifies_pulse(b"x", code) && !second.verifies_pulse(b"x", code));
        let code = second.pulse_code(b"x").expect("there is a secret");
        assert!(keyring.verifies_pulse(b"x", code), "all verify");
        assert!(!keyring.verifies_pulse(b"y", code) && !Keyring::default().verifies_pulse(b"x", code));
        let keys = |keyring: &Keyring| keyring.signing_key().expect("there is a secret");
        assert!(keyring.signs_with(&keys(&first)) && keyring.holds(&keys(&second)));
        assert!(!keyring.signs_with(&keys(&second)) && !second.holds(&keys(&first)));
        assert!(Keyring::default().is_empty() && Keyring::default().pulse_code(b"x").is_none());
    }

    #[test]
    fn what_could_be_guessed_or_is_missing_is_refused_with_its_line() {
        assert_eq!(Keyring::parse(b"\n# nothing\n  \n"), Err(KeyringError::Empty));
        let error = Keyring::parse(b"# ours\n0123456789abcdef\nfifteen letters\n").expect_err("the third is short");
        assert_eq!(error, KeyringError::TooShort { line: 3, bytes: 15 });
        assert!(error.to_string().starts_with("line 3 holds a secret of 15 bytes; at least 16 are needed"), "{error}");
        let many = |count: u8| (0..count).map(|nth| format!("a secret, number {nth}\n")).collect::<String>();
        assert_eq!(Keyring::parse(many(8).as_bytes()).map(|keyring| keyring.len()), Ok(8));
        assert_eq!(Keyring::parse(many(9).as_bytes()), Err(KeyringError::TooMany));
    }

    #[test]
    fn nothing_of_a_secret_is_printed() {
        let keyring = Keyring::parse(b"correct horse battery staple").expect("one secret");
        let key = keyring.signing_key().expect("one secret");
        assert_eq!(format!("{keyring:?} {key:?}"), "Keyring(1 secrets) StreamKey(…)");
    }

    #[test]
    fn the_keys_of_the_two_planes_differ() {
        let keys = Keys::of(b"correct horse battery staple");
        assert_ne!(keys.pulse, keys.stream.0);
    }
}
