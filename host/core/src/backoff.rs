//! Delays before the next try of something that failed: doubled each time up to a cap, half of it drawn at random.
//!
//! The drawn half keeps callers that failed together from trying again together. The random number is handed in, so that the
//! delay is a pure function.

use std::time::Duration;

/// The first delay and the longest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure, before the random part is taken off.
    pub base: Duration,
    /// No delay is longer.
    pub cap: Duration,
}

impl Backoff {
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The delay after `failures` earlier failures in a row (0: after the first). `jitter` is a random number from 0 to 1: 0 gives half
    /// of the doubled delay, 1 gives all of it; a value that is no number counts as 1.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let jitter = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
        let whole = self.whole(failures);
        whole.saturating_sub((whole / 2).mul_f64(1.0 - jitter))
    }

    /// The delay without its random part.
    pub fn whole(&self, failures: u32) -> Duration {
        if self.base.is_zero() {
            return Duration::ZERO;
        }
        let doubled = 1_u32.checked_shl(failures).map_or(Duration::MAX, |factor| self.base.saturating_mul(factor));
        doubled.min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_is_between_half_and_all_of_the_doubled_one(failures: u32, jitter: f64, base_ms in 0_u64..100_000, cap_ms in 0_u64..10_000_000) {
            let backoff = Backoff::new(Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            let (whole, delay) = (backoff.whole(failures), backoff.delay(failures, jitter));
            prop_assert!(whole / 2 <= delay && delay <= whole, "{delay:?} of {whole:?}");
            prop_assert!(whole <= backoff.cap && backoff.whole(failures.saturating_add(1)) >= whole);
        }
    }
}
