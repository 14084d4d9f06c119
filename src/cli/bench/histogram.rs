//! Times in buckets, so that any share of millions of them can be told afterwards.
//!
//! The buckets are those of HdrHistogram (Tene, 2012): each power of two is cut into [`STEPS`] equal steps, so that a time
//! is known to within one part in [`STEPS`] whatever its size, and two histograms are added by adding their counts. Times
//! are whole microseconds.

use std::time::Duration;

/// Steps in each power of two: every time is told to within 1 %.
const STEPS: u64 = 128;
/// `STEPS` as a power of two.
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// The longest time that is told apart, in microseconds: longer ones count as this, more than an hour.
const LONGEST_US: u64 = (1 << 32) - 1;
const BUCKETS: usize = ((32 - STEP_BITS as usize) + 1) * STEPS as usize;
const _: () = assert!(bucket_of(LONGEST_US) < BUCKETS);

/// Counts of times. Invariant: `total` is the sum of `counts`.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_us: u128,
    longest_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum_us: 0, longest_us: 0 }
    }
}

/// The first `2 * STEPS` microseconds have a bucket each; above, a bucket is the leading bits of the time.
const fn bucket_of(us: u64) -> usize {
    if us < 2 * STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - STEP_BITS;
    (shift as u64 * STEPS + (us >> shift)) as usize
}

/// The longest time of a bucket.
const fn longest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket - shift * STEPS + 1) << shift) - 1
}

impl Histogram {
    /// Counts one time.
    pub(super) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(LONGEST_US).min(LONGEST_US);
        self.counts[bucket_of(us)] += 1;
        self.total += 1;
        self.sum_us += u128::from(us);
        self.longest_us = self.longest_us.max(us);
    }

    /// Adds the times of another one.
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.sum_us += other.sum_us;
        self.longest_us = self.longest_us.max(other.longest_us);
    }

    /// How many times there are.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Their mean, in microseconds.
    pub(super) fn mean_us(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum_us as f64 / self.total as f64 }
    }

    /// The longest of them, in microseconds.
    pub(super) const fn longest_us(&self) -> u64 {
        self.longest_us
    }

    /// The time, in microseconds, that this share of them (0 to 1) doesn't exceed; 0 where there are none.
    pub(super) fn quantile_us(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return longest_of(bucket).min(self.longest_us);
            }
        }
        0
    }

    /// How many times lie in each doubling, from the first that has any to the last: (below which power of two, count).
    pub(super) fn doublings(&self) -> Vec<(u64, u64)> {
        let mut doublings = vec![0_u64; 33];
        for (bucket, count) in self.counts.iter().enumerate() {
            let below = longest_of(bucket).checked_ilog2().map_or(0, |power| power as usize + 1);
            doublings[below] += count;
        }
        let filled = |(_, count): &(usize, &u64)| **count > 0;
        let first = doublings.iter().enumerate().find(filled).map_or(0, |(at, _)| at);
        let last = doublings.iter().enumerate().rfind(filled).map_or(0, |(at, _)| at);
        (first..=last).filter(|_| self.total > 0).map(|power| (1 << power, doublings[power])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    #[test]
    fn a_bucket_holds_its_own_times_and_no_others() {
        for us in (0..5000).chain([65_535, 65_536, 1 << 20, (1 << 31) + 12_345, LONGEST_US]) {
            let bucket = bucket_of(us);
            let shortest = if bucket == 0 { 0 } else { longest_of(bucket - 1) + 1 };
            assert!(shortest <= us && us <= longest_of(bucket), "{us} in {shortest}..={}", longest_of(bucket));
            assert!(longest_of(bucket) - shortest <= us / STEPS, "the bucket of {us} is too wide");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let (mut rng, mut halves) = (Rng::new(7), [Histogram::default(), Histogram::default()]);
        let mut times: Vec<u64> = (0..10_000).map(|_| rng.below(1 << (4 + rng.clone().below(20)))).collect();
        for (nth, &us) in times.iter().enumerate() {
            halves[nth % 2].record(Duration::from_micros(us));
        }
        let [mut whole, other] = halves;
        whole.add(&other);
        times.sort_unstable();
        for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = times[(times.len() as f64 * share).ceil() as usize - 1];
            let told = whole.quantile_us(share);
            assert!(exact <= told && told <= exact + exact / STEPS, "{share}: {told} for {exact}");
        }
        let exact_mean = times.iter().sum::<u64>() as f64 / times.len() as f64;
        assert!((whole.mean_us() - exact_mean).abs() < 0.001);
        assert_eq!((whole.total(), whole.longest_us()), (10_000, times[9999]));
        assert_eq!(whole.doublings().iter().map(|(_, count)| count).sum::<u64>(), 10_000);
    }

    #[test]
    fn doublings_begin_and_end_where_there_are_times() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.doublings(), histogram.quantile_us(0.99)), (Vec::new(), 0));
        [300, 1000, 1023, 1024].iter().for_each(|&us| histogram.record(Duration::from_micros(us)));
        assert_eq!(histogram.doublings(), [(512, 1), (1024, 2), (2048, 1)]);
    }
}
