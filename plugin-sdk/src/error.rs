//! Why a body has no result, and how an error becomes one.
//!
//! `?` on any error means: another attempt may succeed. `.permanent()` and `.or_permanent("…")` mean: no attempt will succeed. The errors of
//! this crate choose one of the two themselves.

use std::{any::Any, error::Error, fmt, time::Duration};

/// The return type of a body.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// fn half(n: u32) -> TaskResult<u32> {
///     if n % 2 == 0 { Ok(n / 2) } else { Err(TaskError::permanent(format!("odd: {n}"))) }
/// }
/// assert_eq!(half(4), Ok(2));
/// ```
pub type TaskResult<T> = Result<T, TaskError>;

/// Why an attempt has no result.
///
/// It does not implement [`Error`]. So every type that does becomes a retryable one with `?`, with its chain of causes in the message.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// fn port(text: &str) -> TaskResult<u16> {
///     Ok(text.parse::<u16>()?)
/// }
/// let error = port("x").unwrap_err();
/// assert!(error.is_retryable());
/// assert_eq!(error.message(), "invalid digit found in string");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    failure: Failure,
    message: String,
    code: Option<String>,
    detail: Option<String>,
}

/// The meaning of an error for the task.
///
/// ```
/// # use taskhost_sdk::{Failure, prelude::*};
/// assert_eq!(TaskError::retry("busy").failure(), &Failure::Retry { after: None });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Another attempt may succeed.
    Retry {
        /// The delay before the next attempt, instead of the usual backoff.
        after: Option<Duration>,
    },
    /// No attempt will succeed.
    Permanent,
    /// The body does not take these arguments.
    InvalidArguments,
    /// The body stopped because [`context::is_cancelled`](crate::context::is_cancelled) returned true.
    Cancelled,
}

impl TaskError {
    /// Another attempt may succeed. The task is tried again while it has attempts left.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(TaskError::retry("the printer is busy").is_retryable());
    /// ```
    pub fn retry(message: impl Into<String>) -> Self {
        Self::new(Failure::Retry { after: None }, message)
    }

    /// No attempt will succeed. The task is dead at once.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(!TaskError::permanent("no such printer").is_retryable());
    /// ```
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(Failure::Permanent, message)
    }

    /// The arguments have the right types, but the body can't use them. The task is dead at once.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// let error = TaskError::invalid_arguments("`from` is after `to`");
    /// assert!(!error.is_retryable());
    /// ```
    pub fn invalid_arguments(message: impl Into<String>) -> Self {
        Self::new(Failure::InvalidArguments, message)
    }

    /// The body stopped because the task was cancelled; see [`context::check_cancelled`](crate::context::check_cancelled).
    ///
    /// ```
    /// # use taskhost_sdk::{Failure, prelude::*};
    /// assert_eq!(TaskError::cancelled().failure(), &Failure::Cancelled);
    /// ```
    pub fn cancelled() -> Self {
        Self::new(Failure::Cancelled, "cancelled")
    }

    fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), code: None, detail: None }
    }

    /// The same error, but no other attempt is made.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(!TaskError::retry("gone").into_permanent().is_retryable());
    /// ```
    pub fn into_permanent(self) -> Self {
        Self { failure: Failure::Permanent, ..self }
    }

    /// Sets the delay before the next attempt, instead of the usual backoff. Makes the error retryable.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhost_sdk::{Failure, prelude::*};
    /// let error = TaskError::retry("slow down").after(Duration::from_secs(30));
    /// assert_eq!(error.failure(), &Failure::Retry { after: Some(Duration::from_secs(30)) });
    /// ```
    pub fn after(self, delay: Duration) -> Self {
        Self { failure: Failure::Retry { after: Some(delay) }, ..self }
    }

    /// A code for programs, such as `http-503`: `[a-z0-9-]`, at most 64 characters. Others become `-`.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(TaskError::retry("full").with_code("Disk full").code(), Some("disk-full"));
    /// ```
    pub fn with_code(self, code: impl AsRef<str>) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        Self { code: Some(code.as_ref().chars().take(64).map(plain).collect()), ..self }
    }

    /// Adds text of more than a line, such as the answer of a server.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// let error = TaskError::permanent("refused").with_detail("<html>…</html>");
    /// assert_eq!(error.detail(), Some("<html>…</html>"));
    /// ```
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// The meaning of the error for the task.
    ///
    /// ```
    /// # use taskhost_sdk::{Failure, prelude::*};
    /// assert_eq!(TaskError::permanent("no").failure(), &Failure::Permanent);
    /// ```
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether another attempt may succeed.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(TaskError::retry("busy").is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        matches!(self.failure, Failure::Retry { .. })
    }

    /// The message for people.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(TaskError::retry("busy").message(), "busy");
    /// ```
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code for programs, if there is one.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(TaskError::retry("busy").code(), None);
    /// ```
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Details of more than a line, if there are any.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(TaskError::retry("busy").detail(), None);
    /// ```
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // Many errors print their cause themselves, so it is not added a second time.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        let general = Self::retry(message);
        let error: &dyn Any = &error;
        if let Some(error) = error.downcast_ref::<crate::kv::Error>() {
            return error.judge(general);
        }
        if let Some(error) = error.downcast_ref::<crate::children::Error>() {
            return error.judge(general);
        }
        #[cfg(feature = "http")]
        if let Some(error) = error.downcast_ref::<crate::http::Error>() {
            return error.judge(general);
        }
        general
    }
}

/// Turns `None`, or an error, into a [`TaskError`] with a message.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// fn age(text: Option<&str>) -> TaskResult<u8> {
///     text.or_permanent("no age given")?.parse().or_permanent("age is not a number")
/// }
/// assert_eq!(age(None).unwrap_err().message(), "no age given");
/// assert_eq!(age(Some("x")).unwrap_err().message(), "age is not a number: invalid digit found in string");
/// ```
pub trait OrPermanent<T> {
    /// On `None` or an error no attempt will succeed.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(!None::<u8>.or_permanent("nothing there").unwrap_err().is_retryable());
    /// ```
    fn or_permanent(self, message: impl Into<String>) -> TaskResult<T>;

    /// On `None` or an error another attempt may succeed.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(None::<u8>.or_retry("nothing there yet").unwrap_err().is_retryable());
    /// ```
    fn or_retry(self, message: impl Into<String>) -> TaskResult<T>;
}

impl<T> OrPermanent<T> for Option<T> {
    fn or_permanent(self, message: impl Into<String>) -> TaskResult<T> {
        self.ok_or_else(|| TaskError::permanent(message))
    }

    fn or_retry(self, message: impl Into<String>) -> TaskResult<T> {
        self.ok_or_else(|| TaskError::retry(message))
    }
}

impl<T, E: Into<TaskError>> OrPermanent<T> for Result<T, E> {
    fn or_permanent(self, message: impl Into<String>) -> TaskResult<T> {
        self.map_err(|error| prefixed(error.into(), &message.into(), Failure::Permanent))
    }

    fn or_retry(self, message: impl Into<String>) -> TaskResult<T> {
        self.map_err(|error| prefixed(error.into(), &message.into(), Failure::Retry { after: None }))
    }
}

fn prefixed(error: TaskError, message: &str, failure: Failure) -> TaskError {
    TaskError { failure, message: format!("{message}: {}", error.message), ..error }
}

/// Decides what an error means for the task.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// fn port(text: &str) -> TaskResult<u16> {
///     text.parse::<u16>().permanent().code("bad-port")
/// }
/// let error = port("x").unwrap_err();
/// assert!(!error.is_retryable());
/// assert_eq!(error.code(), Some("bad-port"));
/// ```
pub trait ResultExt<T> {
    /// No attempt will succeed.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert!(!"x".parse::<u8>().permanent().unwrap_err().is_retryable());
    /// ```
    fn permanent(self) -> TaskResult<T>;

    /// Another attempt may succeed after this time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhost_sdk::prelude::*;
    /// assert!("x".parse::<u8>().retry_after(Duration::from_secs(9)).unwrap_err().is_retryable());
    /// ```
    fn retry_after(self, delay: Duration) -> TaskResult<T>;

    /// Adds a code for programs; see [`TaskError::with_code`].
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!("x".parse::<u8>().code("bad-age").unwrap_err().code(), Some("bad-age"));
    /// ```
    fn code(self, code: impl AsRef<str>) -> TaskResult<T>;
}

impl<T, E: Into<TaskError>> ResultExt<T> for Result<T, E> {
    fn permanent(self) -> TaskResult<T> {
        self.map_err(|error| error.into().into_permanent())
    }

    fn retry_after(self, delay: Duration) -> TaskResult<T> {
        self.map_err(|error| error.into().after(delay))
    }

    fn code(self, code: impl AsRef<str>) -> TaskResult<T> {
        self.map_err(|error| error.into().with_code(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("could not read the age")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_message_names_every_cause_once() {
        let error: TaskError = Outer("x".parse::<u8>().unwrap_err()).into();
        assert_eq!(error.message(), "could not read the age: invalid digit found in string");
        assert!(error.is_retryable());
    }

    #[test]
    fn our_own_errors_know_whether_trying_again_helps() {
        assert!(TaskError::from(crate::kv::Error::Unavailable("gone".into())).is_retryable());
        assert!(!TaskError::from(crate::kv::Error::Invalid("too long".into())).is_retryable());
        assert!(!TaskError::from(crate::children::Error::TooMany("1,001".into())).is_retryable());
    }

    #[test]
    fn a_code_keeps_to_its_alphabet() {
        let long = TaskError::retry("x").with_code("Ä b".repeat(40));
        let code = long.code().unwrap();
        assert_eq!(code.len(), 64);
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    }
}
