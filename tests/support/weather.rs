//! What a bad network does, decided by a seed: to datagrams, to TCP connections, and to whole clusters.

use std::time::Duration;

use jumpgate::base::Rng;

/// How much later a datagram comes that others are to overtake, at most: several heartbeats.
const OVERTAKEN_BY_MAX: Duration = Duration::from_millis(60);

/// What the way from one node to another does to what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Of 100 datagrams, so many are lost.
    pub loss_percent: u32,
    /// Of 100 datagrams that arrive, so many arrive twice.
    pub duplicate_percent: u32,
    /// Of 100 copies, so many are held back for a while, so that later ones come first.
    pub reorder_percent: u32,
    /// How long everything takes at least, bytes of streams too.
    pub delay_min: Duration,
    /// How much longer it may take.
    pub delay_spread: Duration,
}

impl Weather {
    /// What becomes of one datagram: how late each copy of it arrives. No copy: it is lost.
    pub fn datagram(&self, rng: &mut Rng) -> Vec<Duration> {
        if percent(rng, self.loss_percent) {
            return Vec::new();
        }
        let copies = 1 + usize::from(percent(rng, self.duplicate_percent));
        let mut late = || {
            let held = percent(rng, self.reorder_percent);
            self.bytes(rng) + if held { rng.duration(OVERTAKEN_BY_MAX) } else { Duration::ZERO }
        };
        (0..copies).map(|_| late()).collect()
    }

    /// How late a piece of a stream arrives. TCP hides what else happens to it.
    pub fn bytes(&self, rng: &mut Rng) -> Duration {
        self.delay_min + rng.duration(self.delay_spread)
    }
}

fn percent(rng: &mut Rng, percent: u32) -> bool {
    rng.chance(percent * 10_000)
}

/// TCP resends what isn't acknowledged after this time, as Linux does on a fast network (its least `RTO`) …
const RESEND_FIRST: Duration = Duration::from_millis(200);

/// … and after twice the time again and again (RFC 6298): so a stream that was held up for `held` goes on only when the
/// next turn comes. Gives that time, from when it was first held up.
pub fn resumes_after(held: Duration) -> Duration {
    let (mut at, mut next) = (RESEND_FIRST, 2 * RESEND_FIRST);
    while at < held {
        at += next;
        next *= 2;
    }
    at
}

/// Which of the planes between two nodes is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub pulse: bool,
    pub stream: bool,
}

impl Cut {
    pub const BOTH: Self = Self { pulse: true, stream: true };
    pub const PULSE: Self = Self { pulse: true, stream: false };
    pub const STREAM: Self = Self { pulse: false, stream: true };
}

/// Ways that are cut at once: from, to, what of it.
pub type Cuts = Vec<(usize, usize, Cut)>;

/// Both ways between two nodes.
pub fn between(one: usize, other: usize, cut: Cut) -> Cuts {
    vec![(one, other, cut), (other, one, cut)]
}

/// All ways from and to one of `nodes` nodes.
pub fn around(node: usize, nodes: usize, cut: Cut) -> Cuts {
    (0..nodes).filter(|&other| other != node).flat_map(|other| between(node, other, cut)).collect()
}

/// One of many rounds: what is cut, for how long, and how long all is well afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    pub what: String,
    pub cuts: Cuts,
    pub lasts: Duration,
    pub rest: Duration,
}

/// Draws the next round for `nodes` nodes. Any of them may be cut off, and all at once.
pub fn round(rng: &mut Rng, nodes: usize) -> Round {
    let cut = [Cut::BOTH, Cut::BOTH, Cut::PULSE, Cut::STREAM][rng.below(4) as usize];
    let plane = match cut {
        Cut::PULSE => "pulse only",
        Cut::STREAM => "stream only",
        _ => "both planes",
    };
    let one = rng.below(nodes as u64) as usize;
    let other = (one + 1 + rng.below(nodes as u64 - 1) as usize) % nodes;
    let (what, cuts) = match rng.below(4) {
        0 => (format!("n{} to n{}", one + 1, other + 1), vec![(one, other, cut)]),
        1 => (format!("n{} and n{}", one + 1, other + 1), between(one, other, cut)),
        2 => (format!("n{} alone", one + 1), around(one, nodes, cut)),
        _ => {
            let ways = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
            let drawn = ways.filter(|(from, to)| from != to && rng.chance(500_000));
            ("each way by chance".to_owned(), drawn.map(|(from, to)| (from, to, cut)).collect())
        }
    };
    Round {
        what: format!("{what}, {plane}"),
        cuts,
        lasts: Duration::from_millis(100) + rng.duration(Duration::from_millis(1400)),
        rest: Duration::from_millis(1000) + rng.duration(Duration::from_millis(500)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAMS: usize = 100_000;

    #[test]
    fn the_shares_are_those_that_were_asked_for() {
        let weather = Weather { loss_percent: 30, duplicate_percent: 50, reorder_percent: 20, ..Weather::default() };
        let mut rng = Rng::new(1);
        let fates: Vec<_> = (0..DATAGRAMS).map(|_| weather.datagram(&mut rng)).collect();
        let share = |count: usize, of: usize| count * 100 / of;
        let arrived = fates.iter().filter(|copies| !copies.is_empty()).count();
        let twice = fates.iter().filter(|copies| copies.len() == 2).count();
        let copies: Vec<_> = fates.iter().flatten().collect();
        let held = copies.iter().filter(|late| !late.is_zero()).count();
        assert!((69..=71).contains(&share(arrived, DATAGRAMS)), "{arrived}");
        assert!((49..=51).contains(&share(twice, arrived)), "{twice}");
        assert!((19..=21).contains(&share(held, copies.len())), "{held}");
        assert!(copies.iter().all(|late| **late < OVERTAKEN_BY_MAX));
        assert_eq!(Weather::default().datagram(&mut rng), [Duration::ZERO], "good weather changes nothing");
    }

    #[test]
    fn delays_are_within_their_bounds_and_reach_both() {
        let (min, spread) = (Duration::from_millis(25), Duration::from_millis(100));
        let weather = Weather { delay_min: min, delay_spread: spread, ..Weather::default() };
        let mut rng = Rng::new(2);
        let drawn: Vec<_> = (0..DATAGRAMS).map(|_| weather.bytes(&mut rng)).collect();
        assert!(drawn.iter().all(|late| (min..min + spread).contains(late)));
        assert!(drawn.iter().any(|late| *late < min + spread / 100));
        assert!(drawn.iter().any(|late| *late > min + spread * 99 / 100));
    }

    #[test]
    fn a_seed_decides_everything() {
        let weather = Weather { loss_percent: 30, duplicate_percent: 50, reorder_percent: 20, ..Weather::default() };
        let run = |seed| {
            let mut rng = Rng::new(seed);
            let fates: Vec<_> = (0..50).map(|_| weather.datagram(&mut rng)).collect();
            let rounds: Vec<_> = (0..50).map(|_| round(&mut rng, 3)).collect();
            (fates, rounds)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_held_up_stream_goes_on_when_it_is_sent_again() {
        let after = |held| resumes_after(Duration::from_millis(held)).as_millis();
        assert_eq!([0, 200, 201, 600, 1000, 3001].map(after), [200, 200, 600, 600, 1400, 6200]);
    }

    #[test]
    fn rounds_cut_ways_that_exist_and_every_kind_comes_up() {
        let mut rng = Rng::new(3);
        let rounds: Vec<_> = (0..200).map(|_| round(&mut rng, 3)).collect();
        for round in &rounds {
            assert!(round.cuts.iter().all(|(from, to, _)| from != to && *from < 3 && *to < 3), "{round:?}");
            assert!(round.lasts < Duration::from_millis(1500) && round.rest >= Duration::from_secs(1), "{round:?}");
        }
        for (kind, ways) in [("n1 to n2,", 1), ("n1 and n2,", 2), ("n1 alone,", 4)] {
            let found = rounds.iter().find(|round| round.what.starts_with(kind)).expect("it is among 200");
            assert_eq!(found.cuts.len(), ways, "{found:?}");
        }
        for cut in [Cut::BOTH, Cut::PULSE, Cut::STREAM] {
            assert!(rounds.iter().any(|round| round.cuts.iter().all(|way| way.2 == cut) && !round.cuts.is_empty()));
        }
    }
}
