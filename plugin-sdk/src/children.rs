//! Tasks that a body enqueues. The step that records the attempt's success creates them; without success, they never exist.
//!
//! A body can't await their results. An attempt may enqueue at most 1,000 children, of 1 MiB together.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{error::TaskError, host};

/// Enqueues a task, and returns the id that it will have. `args` is a tuple or list with one item for each parameter.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let attempt = testing::attempt();
/// attempt.run(|| {
///     children::enqueue("add", (1, 2))?;
///     Ok(())
/// }).unwrap();
/// assert_eq!(attempt.children()[0].args, "[1,2]");
/// ```
pub fn enqueue(task: impl Into<String>, args: impl Serialize) -> Result<String, Error> {
    self::task(task).args(args).enqueue()
}

/// Begins a task with more options than name and arguments.
///
/// ```
/// # use std::time::Duration;
/// # use taskhost_sdk::{prelude::*, testing};
/// let attempt = testing::attempt();
/// attempt.run(|| {
///     children::task("mail").args(["a@example.com"]).queue("mail").delay(Duration::from_secs(60)).priority(9).enqueue()?;
///     Ok(())
/// }).unwrap();
/// assert_eq!(attempt.children()[0].delay, Duration::from_secs(60));
/// ```
pub fn task(task: impl Into<String>) -> NewTask {
    NewTask {
        task: task.into(),
        args: "[]".into(),
        queue: None,
        delay: Duration::ZERO,
        priority: None,
        id: None,
        headers: Vec::new(),
        wrong: None,
    }
}

/// A task to enqueue. [`task`] makes it.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert_eq!(children::task("add").args((1, 2)).args, "[1,2]");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing happens before `enqueue`"]
pub struct NewTask {
    /// The name of its body.
    pub task: String,
    /// A JSON array.
    pub args: String,
    /// `None`: the queue of this task.
    pub queue: Option<String>,
    /// Starts the child no earlier than this long after the attempt's success.
    pub delay: Duration,
    /// 0 to 9; workers claim 9 first. `None`: 5.
    pub priority: Option<u8>,
    /// An id of the caller's choice.
    pub id: Option<String>,
    /// Headers for its attempts.
    pub headers: Vec<(String, String)>,
    /// A value that can't be enqueued. `enqueue` reports it, so that building needs no `?` at each step.
    wrong: Option<String>,
}

impl NewTask {
    /// Its arguments: a tuple or list with one item for each parameter.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(children::task("concat").args(["a", "b"]).args, r#"["a","b"]"#);
    /// ```
    pub fn args(mut self, args: impl Serialize) -> Self {
        match serde_json::to_string(&args) {
            Ok(text) if text == "null" => self.args = "[]".into(),
            Ok(text) if text.starts_with('[') => self.args = text,
            Ok(text) => self.wrong = Some(format!("the arguments of `{}` are no tuple or list: {text}", self.task)),
            Err(error) => self.wrong = Some(format!("the arguments of `{}` can't be written as JSON: {error}", self.task)),
        }
        self
    }

    /// Sets another queue than that of this task.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(children::task("mail").queue("mail").queue.as_deref(), Some("mail"));
    /// ```
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Starts the child no earlier than this long after the attempt's success.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(children::task("mail").delay(Duration::from_secs(1)).delay.as_millis(), 1_000);
    /// ```
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// 0 to 9; workers claim 9 first.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(children::task("mail").priority(9).priority, Some(9));
    /// ```
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets an id of your choice. If the queue knows it already, nothing is enqueued and no error is reported. So a repeated attempt enqueues
    /// once.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(children::task("mail").id("welcome:7").id.as_deref(), Some("welcome:7"));
    /// ```
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Adds a header, which its attempts read with [`context::header`](crate::context::header).
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(children::task("mail").header("tenant", "7").headers.len(), 1);
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into().to_ascii_lowercase(), value.into()));
        self
    }

    /// Enqueues it, and returns the id that it will have.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let id = testing::attempt().run(|| Ok(children::task("mail").id("welcome:7").enqueue()?));
    /// assert_eq!(id.as_deref(), Ok("welcome:7"));
    /// ```
    pub fn enqueue(mut self) -> Result<String, Error> {
        match self.wrong.take() {
            Some(wrong) => Err(Error::Invalid(wrong)),
            None => host::enqueue(self),
        }
    }
}

/// Why a task is refused. With `?` it is a permanent error, because another attempt would be refused too.
///
/// ```
/// # use taskhost_sdk::{children::Error, prelude::*};
/// assert!(!TaskError::from(Error::Denied("by policy".into())).is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The policy does not grant it.
    Denied(String),
    /// The name, id, priority or arguments are not valid.
    Invalid(String),
    /// The attempt has enqueued as much as it may.
    TooMany(String),
}

impl Error {
    pub(crate) fn judge(&self, general: TaskError) -> TaskError {
        let code = match self {
            Self::Denied(_) => "children-denied",
            Self::Invalid(_) => "children-invalid",
            Self::TooMany(_) => "children-too-many",
        };
        general.into_permanent().with_code(code)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "not allowed to enqueue: {text}"),
            Self::Invalid(text) => write!(f, "can't be enqueued: {text}"),
            Self::TooMany(text) => write!(f, "too many tasks enqueued: {text}"),
        }
    }
}

impl std::error::Error for Error {}
