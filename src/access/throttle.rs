//! Addresses that guess.
//!
//! Tokens are too long to be guessed; whoever tries all the same costs a node work and fills its log. An address that has
//! shown [`FAILURES_MAX`] tokens that nobody has is not listened to for [`CALM`]: its tokens aren't even looked at, so that
//! nothing is learned from the answers.
//!
//! ```text
//! failure 1 … 9 ─▶ judged     10 ─▶ refused until CALM after the last failure ─▶ forgotten
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::base::Instant;

/// Tokens that nobody has, after which an address is refused: more than somebody needs who mixes up their own.
pub const FAILURES_MAX: u8 = 10;
/// For how long after its last failure an address is remembered, and refused where it had too many.
const CALM: Duration = Duration::from_secs(60);
/// Addresses that are remembered. Beyond that those are forgotten first that failed longest ago: who has more addresses
/// than that isn't stopped by counting them.
const PEERS_MAX: usize = 10_000;

/// Where somebody comes from: an IPv4 address, or the half of an IPv6 address that names a network, as a number. Whoever
/// has one address of such a network has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer(pub u128);

/// How often each address has failed.
///
/// Invariant: both maps hold the same addresses, with the same times, and no more than [`PEERS_MAX`].
#[derive(Debug, Default)]
pub struct Throttle {
    peers: BTreeMap<Peer, Failures>,
    by_age: BTreeSet<(Instant, Peer)>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u8,
    last: Instant,
}

impl Throttle {
    /// For how long `peer` isn't listened to; none where it is.
    #[must_use]
    pub fn refuses(&self, peer: Peer, now: Instant) -> Option<Duration> {
        let failures = self.peers.get(&peer).filter(|failures| failures.count >= FAILURES_MAX)?;
        let left = CALM.saturating_sub(now.since(failures.last));
        (!left.is_zero()).then_some(left)
    }

    /// `peer` has shown a token that nobody has. Tells whether that was one too many, for the first time.
    pub fn on_failure(&mut self, peer: Peer, now: Instant) -> bool {
        while let Some((last, oldest)) = self.by_age.first().copied() {
            if now.since(last) < CALM && (self.peers.len() < PEERS_MAX || self.peers.contains_key(&peer)) {
                break;
            }
            self.by_age.pop_first();
            self.peers.remove(&oldest);
        }
        let failures = self.peers.entry(peer).or_insert(Failures { count: 0, last: now });
        self.by_age.remove(&(failures.last, peer));
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
        self.by_age.insert((now, peer));
        let is_now_refused = failures.count == FAILURES_MAX;
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        is_now_refused
    }

    /// Whether nobody has failed of late: then there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What is said of the type.
    ///
    /// # Panics
    /// Where it doesn't hold.
    pub fn check_invariants(&self) {
        let (peers, ages) = (self.peers.len(), self.by_age.len());
        assert!(peers == ages && peers <= PEERS_MAX, "{peers} addresses, {ages} times");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_failure_is_the_last_that_is_judged() {
        let mut throttle = Throttle::default();
        let (guesser, neighbour) = (Peer(1), Peer(2));
        let second = |second: u64| Instant::ZERO + Duration::from_secs(second);
        for nth in 1..=10 {
            assert_eq!(throttle.refuses(guesser, second(nth)), None, "failure {nth}");
            assert_eq!(throttle.on_failure(guesser, second(nth)), nth == 10);
        }
        assert_eq!(throttle.refuses(guesser, second(10)), Some(CALM));
        assert_eq!(throttle.refuses(guesser, second(69)), Some(Duration::from_secs(1)));
        assert_eq!(throttle.refuses(guesser, second(70)), None);
        assert_eq!(throttle.refuses(neighbour, second(10)), None);
        assert!(!throttle.on_failure(guesser, second(70)), "it begins anew");
        assert_eq!(throttle.refuses(guesser, second(70)), None);
    }

    #[test]
    fn it_remembers_so_many_addresses_and_no_more() {
        let mut throttle = Throttle::default();
        let at = |nth: u128| Instant(nth as u64);
        for nth in 0..3 * PEERS_MAX as u128 {
            throttle.on_failure(Peer(nth), at(nth));
            if nth % 997 == 0 {
                throttle.check_invariants();
            }
        }
        assert_eq!(throttle.peers.len(), PEERS_MAX);
        assert!(
            throttle.peers.contains_key(&Peer(3 * PEERS_MAX as u128 - 1)) && !throttle.peers.contains_key(&Peer(0))
        );
        throttle.on_failure(Peer(7), Instant::ZERO + 2 * CALM);
        assert_eq!(throttle.peers.len(), 1, "what is long past is forgotten");
    }
}
