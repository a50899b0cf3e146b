//! A histogram of durations that many threads add to.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The upper bounds in seconds: each is four times the one before, from 0.1 ms to 1.8 h. Tasks last from microseconds to hours, and the usual
/// bounds of Prometheus (5 ms and more) would hold all short ones in the first bucket.
const BOUNDS: usize = 14;
const FIRST_US: u64 = 100;

/// Counts of durations.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// The last one has no bound.
    counts: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Buckets {
    pub(super) fn add(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[place(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// Sum in seconds, count, and the count up to each bound that the bound before does not have.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = (0..BOUNDS).map(|n| seconds(FIRST_US << (2 * n))).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().map(|count| count.load(Relaxed))).collect();
        (seconds(self.sum_us.load(Relaxed)), buckets.iter().map(|(_, count)| count).sum(), buckets)
    }
}

/// The first bucket whose bound is not below.
fn place(us: u64) -> usize {
    let times = us.div_ceil(FIRST_US).max(1);
    let powers = u64::BITS - (times - 1).leading_zeros();
    usize::try_from(powers.div_ceil(2)).unwrap_or(BOUNDS).min(BOUNDS)
}

pub(super) fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        for us in [0, 1, 99, 100, 101, 399, 400, 401, 1_600, 1_601, 6_400, 1_000_000, 6_710_886_400, 6_710_886_401, u64::MAX] {
            let bound = |n: usize| FIRST_US << (2 * n);
            let expected = (0..BOUNDS).find(|n| us <= bound(*n)).unwrap_or(BOUNDS);
            assert_eq!(place(us), expected, "{us} µs");
        }
    }

    #[test]
    fn nothing_is_lost_between_the_buckets() {
        let buckets = Buckets::default();
        for us in [0, 50, 250, 5_000, 90_000_000_000] {
            buckets.add(Duration::from_micros(us));
        }
        let (sum, count, parts) = buckets.read();
        assert_eq!((count, parts.iter().map(|(_, count)| count).sum::<u64>()), (5, 5));
        assert!((sum - 90_000.005_3).abs() < 0.001, "{sum}");
    }
}
