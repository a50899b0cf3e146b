//! The task of this attempt: its id, its deadline, and whether a cancellation was requested.

use std::time::{Duration, SystemTime};

use crate::{
    error::{TaskError, TaskResult},
    host,
};

/// The task's id. It is the same in every attempt, so it is a good key to make outside effects idempotent.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// testing::attempt().id("t-1").run(|| {
///     assert_eq!(context::task_id(), "t-1");
///     Ok(())
/// }).unwrap();
/// ```
pub fn task_id() -> String {
    host::task_id()
}

/// The queue that the worker claimed the task from.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert_eq!(context::queue(), "default");
/// ```
pub fn queue() -> String {
    host::queue()
}

/// The number of this attempt. It begins at 1.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let number = testing::attempt().number(3).run(|| Ok(context::attempt()));
/// assert_eq!(number, Ok(3));
/// ```
pub fn attempt() -> u32 {
    host::attempt()
}

/// The number of the last attempt. If that fails, the task is dead.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// let last = context::attempt() == context::max_attempts();
/// assert!(!last);
/// ```
pub fn max_attempts() -> u32 {
    host::max_attempts()
}

/// When the task was enqueued.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert!(context::enqueued_at() <= context::deadline());
/// ```
pub fn enqueued_at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(host::enqueued_at())
}

/// When the host will stop this attempt.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert!(context::deadline() > std::time::SystemTime::UNIX_EPOCH);
/// ```
pub fn deadline() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(host::deadline())
}

/// The time left for this attempt; zero after its deadline.
///
/// ```
/// # use std::time::Duration;
/// # use taskhost_sdk::prelude::*;
/// assert!(context::time_left() <= Duration::from_secs(60));
/// ```
#[expect(clippy::disallowed_methods, reason = "the deadline is a time of the real clock, and in a guest that clock is the host's")]
pub fn time_left() -> Duration {
    deadline().duration_since(SystemTime::now()).unwrap_or_default()
}

/// The headers that the enqueuer sent with the task, `traceparent` included. Names are in lower case.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let headers = testing::attempt().header("tenant", "7").run(|| Ok(context::headers())).unwrap();
/// assert_eq!(headers, [("tenant".to_string(), "7".to_string())]);
/// ```
pub fn headers() -> Vec<(String, String)> {
    host::headers()
}

/// One header's value.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let tenant = testing::attempt().header("tenant", "7").run(|| Ok(context::header("Tenant")));
/// assert_eq!(tenant, Ok(Some("7".into())));
/// ```
pub fn header(name: &str) -> Option<String> {
    headers().into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// One value of the trace's baggage, such as the number of a batch: the header `baggage` as W3C Baggage writes it
/// (<https://www.w3.org/TR/baggage/>). Children that the body enqueues get the whole baggage.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let batch = testing::attempt().header("baggage", "tenant=7, batch.id=a%20b;secret").run(|| Ok(context::baggage("batch.id")));
/// assert_eq!(batch, Ok(Some("a b".into())));
/// ```
pub fn baggage(name: &str) -> Option<String> {
    let baggage = header("baggage")?;
    let members = baggage.split(',').filter_map(|member| member.split(';').next()?.split_once('='));
    let value = members.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name)?.1;
    Some(unescaped(value))
}

/// Percent-decoded. Bytes that are no UTF-8 become the replacement character, as the recommendation has it.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether somebody cancelled the task, or the worker lost its lease. The body should then return before the grace time is over.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// assert_eq!(testing::attempt().cancelled().run(|| Ok(context::is_cancelled())), Ok(true));
/// ```
pub fn is_cancelled() -> bool {
    host::is_cancelled()
}

/// Fails if the body should stop. Call it with `?` between the steps of a long body.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let result = testing::attempt().cancelled().run(|| {
///     for _ in 0..1_000 {
///         context::check_cancelled()?;
///     }
///     Ok(())
/// });
/// assert_eq!(result, Err(TaskError::cancelled()));
/// ```
pub fn check_cancelled() -> TaskResult<()> {
    if is_cancelled() { Err(TaskError::cancelled()) } else { Ok(()) }
}

/// Reports progress: `done` of `total` steps, and a note for people. It is shown at once, also if the attempt fails later. A newer report
/// replaces an older one, so you may call it often.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let attempt = testing::attempt();
/// attempt.run(|| {
///     context::progress(3, Some(10), "page 3");
///     Ok(())
/// }).unwrap();
/// assert_eq!(attempt.progress(), [(3, Some(10), "page 3".to_string())]);
/// ```
pub fn progress(done: u64, total: Option<u64>, note: impl AsRef<str>) {
    host::progress(done, total, note.as_ref());
}

/// A variable of the environment that the operator granted this plugin (`env = { … }` in its policy).
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let url = testing::attempt().env("CENTER_URL", "https://hr.example.com").run(|| Ok(context::env("CENTER_URL")));
/// assert_eq!(url, Ok(Some("https://hr.example.com".into())));
/// ```
pub fn env(name: &str) -> Option<String> {
    host::env(name)
}
