//! Nodes that get hardly any processor time.
//!
//! Such a node is neither silent nor does it hang: it answers now and then, in bursts. Times that are wide enough for it would
//! keep it in the in-sync sets, every write would wait for its next burst, and every death would be noticed later. So where
//! most of the others are well it is left out instead, and nobody's times follow from what it measures or from what is
//! measured of it. Where most are late, the machines are busy, and wider times are what helps.
//!
//! Each node measures by how much it wakes up late, on average, as a part of the time after which it wanted to be woken. A
//! node that may run for 5 of every 100 ms comes to more than 90 %, one that stands still for 70 ms every two seconds to 2 %.

use std::time::Duration;

use super::pace::LOOK_EVERY;
use crate::base::mutant::{Mutant, is_broken};
use crate::base::{Slot, SlotSet};

/// So late, in percent, is a node that starves. It takes five looks in a row, at least, to come to that.
const STARVES_AT: u8 = 50;
/// Whoever is less late than this is well, and starves no more.
const WELL_BELOW: u8 = 25;
/// The weight of all looks before, of so many parts; the newest look has one part.
const MEMORY: u32 = 8;

/// By how much a node wakes up late, on average.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tardiness {
    mean: Duration,
}

impl Tardiness {
    /// A look came so late. One very late look tells no more than one that came at the time of the next.
    pub(super) fn note(&mut self, late: Duration) {
        self.mean = (self.mean * (MEMORY - 1) + late.min(LOOK_EVERY)) / MEMORY;
    }

    /// The average, in percent of the time between two looks.
    pub(super) const fn percent(self) -> u8 {
        (self.mean.as_micros() * 100 / LOOK_EVERY.as_micros()) as u8
    }
}

/// Who starves, of `voters` whose lateness is known (`late`, in percent), where `before` starved until now: nobody, unless
/// most of the voters are well.
pub(super) fn starving(before: SlotSet, voters: usize, late: &[(Slot, u8)]) -> SlotSet {
    let well = late.iter().filter(|(_, percent)| *percent < WELL_BELOW).count();
    if well * 2 <= voters || is_broken(Mutant::StarvingStays) {
        return SlotSet::EMPTY;
    }
    let starves =
        |(slot, percent): &(Slot, u8)| *percent > STARVES_AT || before.contains(*slot) && *percent >= WELL_BELOW;
    late.iter().copied().filter(starves).map(|(slot, _)| slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(looks: &[u64]) -> u8 {
        let mut tardiness = Tardiness::default();
        looks.iter().for_each(|late_ms| tardiness.note(Duration::from_millis(*late_ms)));
        tardiness.percent()
    }

    #[test]
    fn who_is_late_each_time_starves_and_who_is_late_now_and_then_does_not() {
        assert!(percent(&[48; 5]) < STARVES_AT);
        assert!(percent(&[48; 8]) > STARVES_AT);
        assert!(percent(&[48; 100]) > 90);
        assert!(percent(&[900]) < WELL_BELOW, "one stop");
        let hiccups: Vec<u64> = (0..400).map(|look| if look % 40 == 0 { 70 } else { 1 }).collect();
        assert!(percent(&hiccups) < WELL_BELOW);
        let recovered: Vec<u64> = [48; 100].into_iter().chain([1; 12]).collect();
        assert!(percent(&recovered) < WELL_BELOW);
    }

    #[test]
    fn nobody_starves_where_most_are_late() {
        let [one, two, three] = [0, 1, 2].map(Slot);
        let set = |slots: &[Slot]| slots.iter().copied().collect::<SlotSet>();
        let none = SlotSet::EMPTY;
        assert_eq!(starving(none, 3, &[(one, 1), (two, 2), (three, 95)]), set(&[three]));
        assert_eq!(starving(none, 3, &[(one, 1), (two, 30), (three, 95)]), none, "two of three may be busy");
        assert_eq!(starving(none, 3, &[(one, 1), (three, 95)]), none, "the third is dead: this one is needed");
        assert_eq!(starving(none, 3, &[(one, 1), (two, 2), (three, 40)]), none);
        assert_eq!(starving(set(&[three]), 3, &[(one, 1), (two, 2), (three, 40)]), set(&[three]), "not over yet");
        assert_eq!(starving(set(&[three]), 3, &[(one, 1), (two, 2), (three, 20)]), none);
    }
}
