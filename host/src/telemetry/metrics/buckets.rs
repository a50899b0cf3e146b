//! A histogram of durations that many threads add to.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use taskhost_broker::Spread;

/// The longest duration of the first place. Each place holds durations up to √2 times those of the place before, up to 1.8 h, as
/// [`Spread`] has them.
const FIRST_US: u64 = 100;
const PLACES: usize = 53;
/// Prometheus is shown every fourth bound, each four times the one before. Tasks last from microseconds to hours, and its usual bounds (5 ms
/// and more) would hold all short ones in the first bucket.
const SHOWN: usize = 4;

/// Counts of durations.
#[derive(Debug)]
pub(super) struct Buckets {
    /// The last one has no bound.
    counts: [AtomicU64; PLACES + 1],
    sum_us: AtomicU64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; PLACES + 1], sum_us: AtomicU64::new(0) }
    }
}

/// The counts of buckets at one moment. Those of several bodies add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    counts: [u64; PLACES + 1],
    sum_us: u64,
}

impl Default for Held {
    fn default() -> Self {
        Self { counts: [0; PLACES + 1], sum_us: 0 }
    }
}

impl Buckets {
    pub(super) fn add(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[place(us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    pub(super) fn held(&self) -> Held {
        Held { counts: std::array::from_fn(|place| self.counts[place].load(Relaxed)), sum_us: self.sum_us.load(Relaxed) }
    }
}

impl Held {
    pub(super) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, more)| *sum += more);
        self.sum_us += other.sum_us;
    }

    /// The counts since `before`.
    pub(super) fn since(&self, before: &Self) -> Spread {
        let added = self.counts.iter().zip(before.counts).map(|(now, before)| now.saturating_sub(before));
        Spread((0..).zip(added).filter(|(_, count)| *count > 0).collect())
    }

    /// Sum in seconds, count, and for each shown bound the count that the bound before does not have.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let mut buckets = Vec::new();
        let mut from = 0;
        for upto in (0..PLACES).step_by(SHOWN) {
            buckets.push((seconds(FIRST_US << (upto / 2)), self.counts[from..=upto].iter().sum()));
            from = upto + 1;
        }
        buckets.push((f64::INFINITY, self.counts[from..].iter().sum()));
        (seconds(self.sum_us), buckets.iter().map(|(_, count)| count).sum(), buckets)
    }
}

/// The first place whose bound is not below.
fn place(us: u64) -> usize {
    let times = us.div_ceil(FIRST_US).max(1);
    let power = u64::BITS - (times - 1).leading_zeros();
    let Some(below) = power.checked_sub(1).filter(|power| *power < 28) else { return if power == 0 { 0 } else { PLACES } };
    // The bound between this power of two and the one below is √2 times the lower one.
    let is_below_half = u128::from(us) * u128::from(us) <= u128::from(FIRST_US * FIRST_US) << (2 * below + 1);
    let place = 2 * power - u32::from(is_below_half);
    usize::try_from(place).unwrap_or(PLACES).min(PLACES)
}

pub(super) fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_place_that_holds_it() {
        let expected = [(0, 0), (1, 0), (100, 0), (101, 1), (141, 1), (142, 2), (200, 2), (201, 3), (282, 3), (283, 4), (400, 4), (401, 5)];
        for (us, n) in expected.into_iter().chain([(6_710_886_400, 52), (6_710_886_401, PLACES), (u64::MAX, PLACES)]) {
            assert_eq!(place(us), n, "{us} µs");
        }
    }

    #[test]
    fn the_places_are_those_of_a_spread() {
        for n in 0..PLACES {
            let bound = Spread::bound(u8::try_from(n).unwrap());
            let us = u64::try_from(bound.as_nanos()).unwrap() / 1000;
            assert_eq!((place(us), place(us + 1)), (n, n + 1));
        }
    }

    #[test]
    fn nothing_is_lost_between_the_buckets() {
        let buckets = Buckets::default();
        for us in [0, 50, 250, 5_000, 90_000_000_000] {
            buckets.add(Duration::from_micros(us));
        }
        let (sum, count, parts) = buckets.held().read();
        assert_eq!((count, parts.iter().map(|(_, count)| count).sum::<u64>()), (5, 5));
        assert!((sum - 90_000.005_3).abs() < 0.001, "{sum}");
        assert_eq!(parts[..2], [(0.0001, 2), (0.0004, 1)]);
        let before = buckets.held();
        buckets.add(Duration::from_micros(300));
        assert_eq!(buckets.held().since(&before), Spread([(4, 1)].into()));
    }
}
