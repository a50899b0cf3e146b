//! Arithmetic: the smallest useful plugin.

use taskhost_sdk::prelude::*;

/// Adds two integers.
#[task]
fn add(a: i64, b: i64) -> TaskResult<i64> {
    a.checked_add(b).or_permanent("integer overflow")
}

/// Multiplies two integers.
#[task]
fn multiply(a: i64, b: i64) -> TaskResult<i64> {
    a.checked_mul(b).or_permanent("integer overflow")
}

/// Returns the sum of integers; 0 for none.
#[task]
fn sum_ints(numbers: Vec<i64>) -> TaskResult<i64> {
    // Only the sum counts. A partial sum may be beyond 64 bits.
    let sum: i128 = numbers.into_iter().map(i128::from).sum();
    i64::try_from(sum).ok().or_permanent("integer overflow")
}

/// Returns the sum of numbers; 0 for none.
#[task]
fn sum_floats(numbers: Vec<f64>) -> TaskResult<f64> {
    // `sum()` of an empty list is -0.0.
    Ok(numbers.into_iter().fold(0.0, |sum, number| sum + number))
}

export_plugin!(add, multiply, sum_ints, sum_floats);

#[cfg(test)]
mod tests {
    use taskhost_sdk::{Task, testing};

    use super::*;

    #[test]
    fn overflow_is_permanent() {
        assert_eq!(add(1, 1), Ok(2));
        for error in [add(i64::MAX, 1), multiply(i64::MIN, -1), sum_ints(vec![i64::MAX, 1])].map(Result::unwrap_err) {
            assert_eq!(error.message(), "integer overflow");
            assert!(!error.is_retryable());
        }
    }

    #[test]
    fn sums() {
        assert_eq!(sum_ints(vec![]), Ok(0));
        assert_eq!(sum_ints(vec![i64::MAX, 1, -1]), Ok(i64::MAX), "the sum decides");
        assert_eq!(testing::attempt().run_json::<sum_floats>("[[]]").as_deref(), Ok("0.0"));
        assert_eq!(testing::attempt().run_json::<sum_floats>("[[1, 0.5]]").as_deref(), Ok("1.5"));
        let error = testing::attempt().run_json::<sum_floats>("[[1e308, 1e308]]").unwrap_err();
        assert_eq!(error.code(), Some("non-finite"));
    }

    #[test]
    fn integers_keep_all_64_bits_and_wrong_types_are_named() {
        let attempt = testing::attempt();
        assert_eq!(attempt.run_json::<add>("[9223372036854775806, 1]").as_deref(), Ok("9223372036854775807"));
        for (args, message) in [
            (r#"[1, "x"]"#, r#"parameter `b` (argument 2): expected a 64-bit integer, got "x""#),
            ("[1, 1.5]", "parameter `b` (argument 2): expected a 64-bit integer, got 1.5"),
            ("[9223372036854775808, 1]", "parameter `a` (argument 1): expected a 64-bit integer, got 9223372036854775808"),
            ("[1]", "parameter `b` (argument 2) is missing: expected a 64-bit integer"),
            ("[1, 2, 3]", "too many arguments: the body takes 2 (`a`, `b`), got 3"),
            ("{}", "the arguments are not a JSON array: {}"),
        ] {
            assert_eq!(attempt.run_json::<add>(args).unwrap_err().message(), message);
        }
        assert_eq!(add::DOC, "Adds two integers.");
    }
}
