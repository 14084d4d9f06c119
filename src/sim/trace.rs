//! What happened: as a fingerprint that two runs of one seed share, and as lines for a reader.

use std::collections::VecDeque;
use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_64;

use crate::base::Instant;

/// Lines that are kept: what led to a failure is in the last of them.
const LINES_MAX: usize = 20_000;

/// What happened in one world.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    is_verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// One that keeps lines only if it is verbose.
    pub(super) const fn new(is_verbose: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, is_verbose, lines: VecDeque::new() }
    }

    /// The fingerprint of everything so far.
    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines, oldest first.
    pub(super) fn story(&self) -> String {
        self.lines.iter().fold(String::new(), |mut story, line| {
            let _ = writeln!(story, "{line}");
            story
        })
    }

    /// Something happened that a reader should see.
    pub(super) fn note(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if self.is_verbose {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{now} {}", line()));
        }
        self.mix(now.0);
    }

    /// Bytes arrived. Their fingerprint, which tells one datagram from another.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let digest = xxh3_64(bytes);
        self.mix(digest);
        digest
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
