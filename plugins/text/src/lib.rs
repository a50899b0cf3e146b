//! Strings: lists of them in and out.

use taskhost_sdk::prelude::*;

/// Joins texts, with `separator` between them if there is one.
#[task]
fn concat(parts: Vec<String>, separator: Option<String>) -> TaskResult<String> {
    Ok(parts.join(separator.as_deref().unwrap_or_default()))
}

/// Splits a text at each `separator`; without one, at white space.
#[task]
fn split(text: String, separator: Option<String>) -> TaskResult<Vec<String>> {
    match separator.as_deref() {
        None => Ok(text.split_whitespace().map(Into::into).collect()),
        Some("") => Err(TaskError::invalid_arguments("parameter `separator` (argument 2) is empty: leave it out to split at white space")),
        Some(separator) => Ok(text.split(separator).map(Into::into).collect()),
    }
}

export_plugin!(concat, split);

#[cfg(test)]
mod tests {
    use taskhost_sdk::testing;

    use super::*;

    #[test]
    fn what_is_split_can_be_joined_again() {
        let parts = split("a,,b".into(), Some(",".into())).unwrap();
        assert_eq!(parts, ["a", "", "b"]);
        assert_eq!(concat(parts, Some(",".into())).unwrap(), "a,,b");
        assert_eq!(split(" a  b\n".into(), None).unwrap(), ["a", "b"]);
        assert!(!split("a".into(), Some(String::new())).unwrap_err().is_retryable());
    }

    #[test]
    fn the_separator_may_be_left_out() {
        let attempt = testing::attempt();
        assert_eq!(attempt.run_json::<concat>(r#"[["ä", "b"]]"#).as_deref(), Ok(r#""äb""#));
        assert_eq!(attempt.run_json::<concat>(r#"[["a", "b"], "-"]"#).as_deref(), Ok(r#""a-b""#));
        assert_eq!(attempt.run_json::<split>(r#"["a b", null]"#).as_deref(), Ok(r#"["a","b"]"#));
        assert_eq!(attempt.run_json::<split>("[]").unwrap_err().message(), "parameter `text` (argument 1) is missing: expected a string");
    }
}
