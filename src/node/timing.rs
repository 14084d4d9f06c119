//! How slow and how lossy the world is, as one node measures it, and how wide the times must be for that.
//!
//! ```text
//! own wake-ups: later than due by …  ─┐
//! own workers: at a standstill for …  ├─▶ Need: how long may pass between two signs of life ──▶ a step of FACTORS
//! each pair: round trip, loss        ─┘                                                          │
//!        Raft::be_patient: this node waits so long at once, by itself ◀─────────────────────────┤
//!        beside every pulse: the leader takes the widest step of all and commits it ◀────────────┘
//! ```
//!
//! | what | as | why so |
//! |---|---|---|
//! | lateness, round trips, standstills | the second largest of the last 16 seconds' peaks ([`Peaks`]) | one hiccup is none of the world's habits; two are |
//! | loss | the share of the last 4 seconds' numbers that never came, once 3 gaps were seen ([`Losses`]) | a dead or cut-off node loses everything and must not count: only gaps that are followed by something do |
//! | longer than a second | not at all | a process that was stopped wasn't slow, and no timing would bear it |
//!
//! Widening happens at once, narrowing after 30 s in which less would have done with room to spare.

use std::collections::VecDeque;
use std::time::Duration;

use bincode::{Decode, Encode};

use crate::base::{Instant, Slot, Timing};

/// What the times are multiplied by, all but the heartbeat: more heartbeats within a promise bear more loss. The last one
/// makes a second of the usual 100 ms, beyond which nobody would speak of a fast failover.
const FACTORS: [f64; 7] = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0];
/// How long a narrower step must have been enough.
const CALM: Duration = Duration::from_secs(30);
/// It must have been enough for so much more than what was measured, in percent.
const CALM_PERCENT: u32 = 125;
/// How many seconds' peaks are kept.
const PEAK_SECONDS: u64 = 16;
/// Over how many seconds loss is counted: at 50 heartbeats a second a third of them is known to a few percent.
const LOSS_SECONDS: u64 = 4;
/// Fewer numbers than these say nothing about loss.
const LOSS_SAMPLES_MIN: u32 = 40;
/// Fewer gaps than these are accidents.
const LOSS_GAPS_MIN: u32 = 3;
/// More numbers than these, lost in a row, are an outage: with a third of all lost it happens once in ten minutes.
const OUTAGE: u64 = 8;
/// Whoever was later than this was stopped, not slow.
pub(super) const STOPPED_AFTER: Duration = Duration::from_secs(1);
/// How probable it may be, as a natural logarithm, that all heartbeats and acks within `down` get lost. A cluster of
/// three sends 360,000 heartbeats an hour; at one in a million, less than one of them begins such a silence.
const SILENCE_LN: f64 = -13.8;

/// The largest samples of the last seconds, one a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Peaks {
    seconds: VecDeque<(u64, Duration)>,
}

impl Peaks {
    /// Takes a sample.
    pub(super) fn note(&mut self, now: Instant, sample: Duration) {
        if sample >= STOPPED_AFTER {
            return;
        }
        let second = second_of(now);
        match self.seconds.back_mut() {
            Some((last, peak)) if *last >= second => *peak = (*peak).max(sample),
            _ => self.seconds.push_back((second, sample)),
        }
        while self.seconds.len() > PEAK_SECONDS as usize {
            self.seconds.pop_front();
        }
    }

    /// What must be expected: the second largest peak. Zero where there are fewer than two.
    pub(super) fn expected(&self, now: Instant) -> Duration {
        let since = second_of(now).saturating_sub(PEAK_SECONDS);
        let recent = self.seconds.iter().filter(|(second, _)| *second > since || since == 0).map(|(_, peak)| *peak);
        let (_, second) = recent.fold((Duration::ZERO, Duration::ZERO), |(first, second), peak| match peak {
            peak if peak > first => (peak, first),
            peak => (first, second.max(peak)),
        });
        second
    }
}

/// How many of a sender's numbers came, by second.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    newest: u64,
    /// Bit i: `newest` - i came.
    came: u64,
    seconds: VecDeque<Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    second: u64,
    expected: u32,
    came: u32,
    gaps: u32,
}

impl Losses {
    /// Number `number` came. True where it is later than all before.
    pub(super) fn note(&mut self, now: Instant, number: u64) -> bool {
        let is_first = self.newest == 0;
        let is_newest = number > self.newest;
        if is_newest {
            let skipped = number - self.newest - 1;
            self.came = self.came.checked_shl(u32::try_from(skipped + 1).unwrap_or(u32::MAX)).unwrap_or(0) | 1;
            self.newest = number;
            if is_first || skipped > OUTAGE {
                return true;
            }
            let count = self.count(now);
            count.expected += 1 + skipped as u32;
            count.came += 1;
            count.gaps += u32::from(skipped > 0);
        } else {
            let behind = self.newest - number;
            let is_news = behind < 64 && self.came >> behind & 1 == 0;
            if is_news {
                self.came |= 1 << behind;
                self.count(now).came += 1;
            }
        }
        is_newest
    }

    fn count(&mut self, now: Instant) -> &mut Count {
        let second = second_of(now);
        if self.seconds.back().is_none_or(|last| last.second < second) {
            self.seconds.push_back(Count { second, ..Count::default() });
        }
        while self.seconds.len() > PEAK_SECONDS as usize {
            self.seconds.pop_front();
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }

    fn sum(&self, now: Instant, seconds: u64) -> Count {
        let since = second_of(now).saturating_sub(seconds);
        let recent = self.seconds.iter().filter(|count| count.second > since || since == 0);
        recent.fold(Count::default(), |sum, count| Count {
            second: 0,
            expected: sum.expected + count.expected,
            came: sum.came + count.came,
            gaps: sum.gaps + count.gaps,
        })
    }

    /// The share that got lost lately, for people; none where nothing was expected.
    pub(super) fn share(&self, now: Instant) -> Option<f64> {
        let sum = self.sum(now, PEAK_SECONDS);
        (sum.expected > 0).then(|| sum.share())
    }

    /// The share that must be expected to get lost: zero where too little is known.
    pub(super) fn expected(&self, now: Instant) -> f64 {
        let sum = self.sum(now, LOSS_SECONDS);
        if sum.expected >= LOSS_SAMPLES_MIN && sum.gaps >= LOSS_GAPS_MIN { sum.share() } else { 0.0 }
    }
}

impl Count {
    fn share(&self) -> f64 {
        // What came late may have been expected in an earlier second.
        1.0 - f64::from(self.came.min(self.expected)) / f64::from(self.expected.max(1))
    }
}

const fn second_of(now: Instant) -> u64 {
    now.0 / 1_000_000_000
}

/// Why times must be wide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Cause {
    /// They need not.
    #[default]
    None,
    /// The node wakes up later than it should, by so many milliseconds.
    Late(u16),
    /// Its workers stand still for so many milliseconds at a time.
    Workers(u16),
    /// The round trip to that node takes so many milliseconds.
    RoundTrip(Slot, u16),
    /// So many percent of what goes to that node and back get lost.
    Loss(Slot, u8),
}

/// How wide a node needs the times to be: a step of the ladder of factors, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Need {
    /// 0: as they are configured.
    pub step: u8,
    /// Why.
    pub cause: Cause,
}

impl Need {
    /// The times of this step, where `base` are those of step 0.
    #[must_use]
    pub fn timing(self, base: &Timing) -> Timing {
        let factor = FACTORS[usize::from(self.step).min(FACTORS.len() - 1)];
        Timing {
            heartbeat: base.heartbeat,
            election: base.election.mul_f64(factor),
            election_jitter: base.election_jitter.mul_f64(factor),
            lease: base.lease.mul_f64(factor),
            down: base.down.mul_f64(factor),
        }
    }
}

/// What was measured of one pair of nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) peer: Slot,
    pub(super) round_trip: Duration,
    /// The share of heartbeats that get lost, or whose acks do.
    pub(super) loss: f64,
}

/// How long may pass between two signs of life of somebody who is well, and why so long.
///
/// Between two acks lies a heartbeat's interval for each one that got lost, what the round trip varies by, and by how much
/// either side is late; a lease has to outlive a whole round trip. These are peaks of some seconds, and rarer ones are
/// greater, so each is taken generously; but lateness is in the round trips too, so of the two the larger one counts.
pub(super) fn silence(
    heartbeat: Duration,
    late: Duration,
    workers: Duration,
    links: impl Iterator<Item = Link>,
) -> (Duration, Cause) {
    let late_by = late * 2;
    // Workers may stand still three times as long as a node may be silent, and half as long again is to be expected.
    let mut widest = (workers / 2, Cause::Workers(millis(workers)));
    let own = (heartbeat + late_by, Cause::Late(millis(late)));
    if own.0 >= widest.0 {
        widest = own;
    }
    for link in links {
        let trip = link.round_trip * 3 / 2;
        let silent = heartbeat.mul_f64(rounds(link.loss));
        let total = silent + late_by.max(trip);
        if total > widest.0 {
            let cause = if silent - heartbeat >= trip.max(late_by) {
                Cause::Loss(link.peer, (link.loss * 100.0).round() as u8)
            } else if trip >= late_by {
                Cause::RoundTrip(link.peer, millis(link.round_trip))
            } else {
                Cause::Late(millis(late))
            };
            widest = (total, cause);
        }
    }
    widest
}

/// How many rounds of heartbeat and ack it takes until one of them comes through for certain.
fn rounds(loss: f64) -> f64 {
    // Past that nothing helps; the widest step is taken long before.
    let loss = loss.clamp(0.0, 0.95);
    if loss == 0.0 { 1.0 } else { (SILENCE_LN / loss.ln()).ceil().max(1.0) }
}

fn millis(time: Duration) -> u16 {
    u16::try_from(time.as_millis()).unwrap_or(u16::MAX)
}

/// Turns measurements into a step: up at once, down after a calm.
#[derive(Clone, Debug, Default)]
pub(super) struct Advisor {
    need: Need,
    /// Since when narrower times would have been enough, and the widest need since then.
    calm: Option<(Instant, Need)>,
}

impl Advisor {
    /// Takes what was measured now.
    pub(super) fn note(&mut self, now: Instant, base: &Timing, silence: Duration, cause: Cause) {
        let step = step_for(base, silence);
        if step > self.need.step {
            self.need = Need { step, cause };
            self.calm = None;
            return;
        }
        let roomy = step_for(base, silence * CALM_PERCENT / 100);
        if roomy >= self.need.step {
            self.calm = None;
            return;
        }
        let roomy = Need { step: roomy, cause: if roomy == 0 { Cause::None } else { cause } };
        let (since, widest) = self.calm.get_or_insert((now, roomy));
        if roomy.step >= widest.step {
            *widest = roomy;
        }
        if now.since(*since) >= CALM {
            self.need = *widest;
            self.calm = None;
        }
    }

    pub(super) const fn need(&self) -> Need {
        self.need
    }
}

/// The first step whose `down` bears `silence`.
fn step_for(base: &Timing, silence: Duration) -> u8 {
    let bears = |factor: &f64| base.down.mul_f64(*factor) >= silence;
    FACTORS.iter().position(bears).unwrap_or(FACTORS.len() - 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    const HEARTBEAT: Duration = Duration::from_millis(20);

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn at(count: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(1000) + ms(count)
    }

    fn link(round_trip_ms: u64, loss: f64) -> Link {
        Link { peer: Slot(1), round_trip: ms(round_trip_ms), loss }
    }

    fn step(late_ms: u64, workers_ms: u64, link: Link) -> (u8, Cause) {
        let (silence, cause) = silence(HEARTBEAT, ms(late_ms), ms(workers_ms), std::iter::once(link));
        (step_for(&Timing::default(), silence), cause)
    }

    #[test]
    fn one_peak_is_an_accident_and_two_in_different_seconds_are_to_be_expected() {
        let mut peaks = Peaks::default();
        (0..100).for_each(|tenth| peaks.note(at(tenth * 100), ms(2)));
        peaks.note(at(5000), ms(90));
        peaks.note(at(9950), ms(200));
        peaks.note(at(9990), ms(150));
        assert_eq!(peaks.expected(at(9999)), ms(2), "what comes too late for its second counts for the present one");
        peaks.note(at(11_000), ms(60));
        assert_eq!(peaks.expected(at(11_000)), ms(60));
        peaks.note(at(12_000), ms(2000));
        assert_eq!(peaks.expected(at(12_000)), ms(60), "it was stopped");
        assert_eq!(peaks.expected(at(26_000)), Duration::ZERO, "only one of them is left");
    }

    #[test]
    fn loss_is_what_is_missing_between_what_came() {
        let mut losses = Losses::default();
        let mut dice = Rng::new(7);
        for number in 1..=1000_u64 {
            let now = at(number * 20);
            if !dice.chance(300_000) {
                losses.note(now, number);
                losses.note(now, number);
            }
        }
        let share = losses.expected(at(20_000));
        assert!((0.22..0.38).contains(&share), "{share}");
        assert!((losses.share(at(20_000)).expect("much was expected") - 0.3).abs() < 0.06);
    }

    #[test]
    fn neither_silence_nor_an_outage_nor_a_gap_or_two_is_loss() {
        let mut losses = Losses::default();
        (1..200).for_each(|number| _ = losses.note(at(number * 20), number));
        assert_eq!(losses.expected(at(5000)), 0.0, "it fell silent");
        losses.note(at(8000), 400);
        (401..500).for_each(|number| _ = losses.note(at(number * 20), number));
        assert_eq!(losses.expected(at(10_000)), 0.0, "it came back");
        losses.note(at(10_000), 504);
        losses.note(at(10_020), 507);
        assert_eq!(losses.expected(at(10_020)), 0.0, "two gaps");
        losses.note(at(10_040), 509);
        assert!(losses.expected(at(10_040)) > 0.0, "three");
    }

    #[test]
    fn what_comes_out_of_order_is_not_lost() {
        let mut losses = Losses::default();
        for four in 0..100_u64 {
            for number in [3, 1, 4, 2] {
                losses.note(at(four * 80), four * 4 + number);
            }
        }
        assert!(losses.expected(at(8000)) < 0.02, "{losses:?}");
    }

    #[test]
    fn the_step_follows_from_lateness_round_trip_loss_and_workers() {
        let calm = link(1, 0.0);
        for (late_ms, workers_ms, link, expected) in [
            (1, 0, calm, 0),
            (30, 0, calm, 0),
            (21, 0, link(29, 0.0), 0),
            (63, 0, calm, 2),
            (300, 0, calm, 5),
            (1, 0, link(40, 0.0), 0),
            (1, 0, link(250, 0.0), 4),
            (1, 0, link(1, 0.01), 0),
            (1, 0, link(1, 0.51), 4),
            (1, 0, link(1, 0.9), 6),
            (1, 150, calm, 0),
            (1, 250, calm, 1),
        ] {
            let (step, cause) = step(late_ms, workers_ms, link);
            assert_eq!(step, expected, "late {late_ms}, workers {workers_ms}, {link:?}: {cause:?}");
        }
        assert_eq!(step(63, 0, calm).1, Cause::Late(63));
        assert_eq!(step(1, 0, link(250, 0.1)).1, Cause::RoundTrip(Slot(1), 250));
        assert_eq!(step(1, 0, link(1, 0.51)).1, Cause::Loss(Slot(1), 51));
        assert_eq!(step(1, 250, calm).1, Cause::Workers(250));
    }

    #[test]
    fn times_keep_their_proportions_and_the_heartbeat_stays() {
        let base = Timing::default();
        assert_eq!(Need::default().timing(&base), base);
        let wide = Need { step: 4, cause: Cause::None }.timing(&base);
        assert_eq!(
            (wide.heartbeat, wide.election, wide.election_jitter, wide.lease, wide.down),
            (ms(20), ms(500), ms(200), ms(400), ms(450))
        );
        assert_eq!(Need { step: 200, cause: Cause::None }.timing(&base).election, ms(1200), "a step that isn't there");
    }

    #[test]
    fn widening_is_at_once_and_narrowing_after_a_calm() {
        let base = Timing::default();
        let mut advisor = Advisor::default();
        let mut note = |second: u64, silence_ms: u64| {
            advisor.note(at(second * 1000), &base, ms(silence_ms), Cause::Late(1));
            advisor.need().step
        };
        assert_eq!(note(0, 30), 0);
        assert_eq!(note(1, 400), 4);
        assert_eq!(note(2, 30), 4);
        assert_eq!(note(20, 120), 4, "narrower would do, so the calm goes on");
        assert_eq!(note(31, 30), 4);
        assert_eq!(note(32, 30), 2, "as wide as it had to be meanwhile, with room to spare");
        assert_eq!(note(61, 30), 2);
        assert_eq!(note(62, 150), 2, "too close to what there is: the calm is over");
        assert_eq!(note(63, 30), 2);
        assert_eq!(note(92, 30), 2);
        assert_eq!(note(93, 30), 0);
    }
}
