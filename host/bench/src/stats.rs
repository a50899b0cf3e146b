//! Sums over what was measured.

use std::time::Duration;

/// The rate for each second.
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of tasks is far below 2^52")]
    let count = count as f64;
    count / took.as_secs_f64().max(1e-9)
}

/// Microseconds each.
pub(crate) fn each(count: usize, took: Duration) -> f64 {
    1e6 / rate(count, took)
}

/// The share of `sum` that each of `count` has.
#[expect(clippy::cast_precision_loss, reason = "bytes of a server's memory are far below 2^52")]
pub(crate) fn per(sum: u64, count: usize) -> f64 {
    sum as f64 / count as f64
}

/// The value below which `share` of them are. They need not be sorted.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index, rounded down")]
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Three digits. More would be noise.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_show_their_order_of_size() {
        assert_eq!(["70123", "12.3", "0.52"].map(str::to_owned), [shown(70_123.4), shown(12.34), shown(0.523)]);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut values, 0.5), quantile(&mut values, 0.99), quantile(&mut values, 1.0)), (51.0, 100.0, 100.0));
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn rates_and_times_each_are_each_others_inverse() {
        assert!((rate(50_000, Duration::from_millis(500)) - 100_000.0).abs() < 1e-6);
        assert!((each(50_000, Duration::from_millis(500)) - 10.0).abs() < 1e-9);
    }
}
