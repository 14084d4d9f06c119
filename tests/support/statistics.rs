//! What is said of many durations: the distribution of some, the gaps between acknowledgements, and how long requests
//! took while a process was there to answer them.

use std::time::{Duration, Instant};

/// Durations in rising order.
#[derive(Clone, Debug, Default)]
pub struct Distribution(Vec<Duration>);

impl Distribution {
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest duration that at least `percent` of all don't exceed (the nearest-rank method); none of none.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied()
    }
}

/// A gap shorter than this isn't kept: it is the pace of many writers; and of one.
pub const GAP_MIN: Duration = Duration::from_millis(30);
pub const GAP_MIN_OF_ONE: Duration = Duration::from_millis(5);
/// Gaps that are kept; beyond them the oldest go.
const GAPS_MAX: usize = 100_000;

/// When acknowledgements came, as far as they came late.
#[derive(Debug)]
pub struct Gaps {
    last: Instant,
    least: Duration,
    gaps: Vec<(Instant, Instant)>,
}

impl Gaps {
    /// From `start` on; gaps shorter than `least` aren't kept.
    pub fn new(start: Instant, least: Duration) -> Self {
        Self { last: start, least, gaps: Vec::new() }
    }

    /// Notes an acknowledgement. Those of several writers may come a little out of order.
    pub fn note(&mut self, at: Instant) {
        if at.saturating_duration_since(self.last) >= self.least {
            if self.gaps.len() == GAPS_MAX {
                self.gaps.drain(..GAPS_MAX / 2);
            }
            self.gaps.push((self.last, at));
        }
        self.last = self.last.max(at);
    }

    /// The last acknowledgement.
    pub const fn last(&self) -> Instant {
        self.last
    }

    /// When the longest one began of those that ended between `from` and `to`.
    pub fn longest_since(&self, from: Instant, to: Instant) -> Option<Instant> {
        let within = self.gaps.iter().filter(|(_, end)| (from..=to).contains(end));
        within.max_by_key(|(start, end)| *end - (*start).max(from)).map(|(start, _)| *start)
    }

    /// The longest time without an acknowledgement that ended, or goes on, between `from` and `to`; what lay before `from`
    /// doesn't count.
    pub fn longest(&self, from: Instant, to: Instant) -> Duration {
        let since = |start: Instant, end: Instant| end.min(to).saturating_duration_since(start.max(from));
        let ended = self.gaps.iter().filter(|(_, end)| *end >= from).map(|(start, end)| since(*start, *end));
        ended.chain([since(self.last, to)]).max().unwrap_or_default()
    }
}

/// When the process of a node was stopped on purpose (SIGSTOP), so that it could answer nobody.
#[derive(Debug, Default)]
pub struct Standstills(Vec<(usize, Instant, Option<Instant>)>);

impl Standstills {
    pub fn begin(&mut self, node: usize, at: Instant) {
        self.0.push((node, at, None));
    }

    /// Those of `node` that go on end.
    pub fn end(&mut self, node: usize, at: Instant) {
        for (_, _, end) in self.0.iter_mut().filter(|(of, _, end)| *of == node && end.is_none()) {
            *end = Some(at);
        }
    }

    /// How long a request at `node` took of the time in which its process could run.
    pub fn net(&self, node: usize, began: Instant, ended: Instant) -> Duration {
        let stood =
            self.0.iter().filter(|(of, ..)| *of == node).map(|(_, from, to)| {
                to.map_or(ended, |to| to.min(ended)).saturating_duration_since((*from).max(began))
            });
        ended.saturating_duration_since(began).saturating_sub(stood.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_not_charged_for_the_time_in_which_its_gateway_stood_still() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut stills = Standstills::default();
        stills.begin(1, at(100));
        let net = |stills: &Standstills, node, from, to| stills.net(node, at(from), at(to)).as_millis();
        assert_eq!(net(&stills, 1, 50, 400), 50, "it goes on");
        stills.end(1, at(300));
        assert_eq!(net(&stills, 1, 50, 400), 150);
        assert_eq!(net(&stills, 1, 150, 250), 0, "all of it");
        assert_eq!(net(&stills, 1, 300, 400), 100, "it was over");
        assert_eq!(net(&stills, 1, 0, 100), 100, "it came later");
        assert_eq!(net(&stills, 0, 50, 400), 350, "another node");
    }

    fn millis(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_a_duration_that_was_seen() {
        let seen = Distribution::of(millis((1..=200).rev()));
        let at = |percent| seen.percentile(percent).expect("there are some").as_millis();
        assert_eq!((at(50), at(90), at(99), at(100)), (100, 180, 198, 200));
        let few = Distribution::of(millis([7, 3, 5]));
        assert_eq!(
            [0, 1, 50, 99].map(|percent| few.percentile(percent).map(|time| time.as_millis())),
            [Some(3), Some(3), Some(5), Some(7)]
        );
        assert_eq!(Distribution::default().percentile(50), None);
    }

    #[test]
    fn a_gap_counts_from_the_fault_on_and_until_the_end_of_the_window() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut gaps = Gaps::new(start, GAP_MIN);
        [10, 20, 320, 330, 480].into_iter().for_each(|millis| gaps.note(at(millis)));
        let longest = |from, to| gaps.longest(at(from), at(to)).as_millis();
        assert_eq!(longest(0, 480), 300, "from 20 to 320");
        assert_eq!(longest(120, 480), 200, "the fault came 100 ms after the gap had begun");
        assert_eq!(longest(325, 480), 150, "what ended before doesn't count");
        assert_eq!(longest(100, 200), 100, "it had not ended yet");
        assert_eq!(longest(470, 1480), 1000, "and the last one hasn't ended at all");
    }

    #[test]
    fn the_pace_of_writers_is_no_gap_and_disorder_is_harmless() {
        let start = Instant::now();
        let mut gaps = Gaps::new(start, GAP_MIN);
        for millis in [10, 25, 20, 40, 35] {
            gaps.note(start + Duration::from_millis(millis));
        }
        assert_eq!(gaps.gaps, []);
        assert_eq!(gaps.last(), start + Duration::from_millis(40));
    }
}
