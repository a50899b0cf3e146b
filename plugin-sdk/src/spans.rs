//! Steps of the attempt in its trace: how long each took, and what it was about. A collector such as Jaeger shows them below the attempt.
//!
//! ```
//! # use taskhost_sdk::{prelude::*, testing};
//! let attempt = testing::attempt();
//! attempt.run(|| {
//!     let page = span!("page", number = 3, db.system = "postgresql");
//!     page.event("retried");
//!     Ok(())
//! }).unwrap();
//! let spans = attempt.spans();
//! assert_eq!((spans[0].name.as_str(), spans[0].events[0].as_str()), ("page", "retried"));
//! assert_eq!(spans[0].fields[1], ("db.system".into(), "postgresql".into()));
//! ```
//!
//! Without a trace a span does nothing. An attempt has at most 128 spans and 256 events; further ones are left out.

use crate::host;

/// Begins a span, which ends when it is dropped: `span!("name", key = value, …)`. Keys may have dots. Values are written as `to_string` writes
/// them.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// fn read(page: u32) -> TaskResult<u32> {
///     let _span = span!("read", page = page);
///     Ok(page * 100)
/// }
/// assert_eq!(read(3), Ok(300));
/// ```
#[macro_export]
macro_rules! span {
    ($name:expr $(, $($key:ident).+ = $value:expr)* $(,)?) => {
        $crate::spans::start($name, &[$((::std::string::String::from(::std::stringify!($($key).+)), ::std::string::ToString::to_string(&$value))),*])
    };
}

/// Begins a span below the youngest open one, or below the attempt; [`span!`](crate::span!) is shorter.
///
/// ```
/// # use taskhost_sdk::{prelude::*, spans, testing};
/// let attempt = testing::attempt();
/// attempt.run(|| {
///     let outer = spans::start("outer", &[]);
///     drop(spans::start("inner", &[("n".into(), "1".into())]));
///     drop(outer);
///     Ok(())
/// }).unwrap();
/// assert_eq!(attempt.spans()[1].parent, Some(0));
/// ```
pub fn start(name: impl AsRef<str>, fields: &[(String, String)]) -> Span {
    Span { number: host::span_start(name.as_ref(), fields), error: None }
}

/// An open span. It ends when it is dropped.
///
/// ```
/// # use taskhost_sdk::{prelude::*, spans::Span};
/// let span: Span = span!("page");
/// drop(span);
/// ```
#[derive(Debug)]
#[must_use = "a span that is not kept ends at once: `let _span = span!(…)`"]
pub struct Span {
    number: u32,
    error: Option<String>,
}

impl Span {
    /// Notes something that happened.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// span!("page").event("cache miss");
    /// ```
    pub fn event(&self, name: impl AsRef<str>) {
        self.event_with(name, &[]);
    }

    /// The same with fields.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// span!("page").event_with("retried", &[("times".into(), 2.to_string())]);
    /// ```
    pub fn event_with(&self, name: impl AsRef<str>, fields: &[(String, String)]) {
        if self.number > 0 {
            host::span_event(self.number, name.as_ref(), fields);
        }
    }

    /// Ends it: what it stands for failed, and why.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let attempt = testing::attempt();
    /// attempt.run(|| Ok(span!("page").fail("no answer"))).unwrap();
    /// assert_eq!(attempt.spans()[0].error.as_deref(), Some("no answer"));
    /// ```
    pub fn fail(mut self, why: impl Into<String>) {
        self.error = Some(why.into());
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.number > 0 {
            host::span_end(self.number, self.error.as_deref());
        }
    }
}
