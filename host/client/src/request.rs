//! A task as a producer asks for it.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use taskhost_core::task::{Millis, NewTask, Priority, Start, TaskName, Unique};

use crate::error::ClientError;

/// A task to be enqueued: a name, arguments, and what deviates from the defaults. Its id is fixed when it is made.
///
/// ```
/// use std::time::Duration;
/// use taskhost_client::Request;
///
/// let request = Request::new("resize", ("cat.png", 128)).queue("images").priority(7).delay(Duration::from_secs(30)).unique(Duration::from_secs(3600));
/// # let _ = request;
/// ```
///
/// A wrong value (an invalid name, a priority over 9) is refused when the request is enqueued.
#[derive(Debug, Clone)]
pub struct Request {
    /// The first thing that was wrong, as a sentence.
    built: Result<NewTask, String>,
}

impl Request {
    /// A task named `name`. `args` serialises to a JSON array with one item for each parameter: a tuple, a list, or `()` for none.
    pub fn new(name: &str, args: impl Serialize) -> Self {
        Self { built: new_task(name, &args) }
    }

    /// The task's own id, unique within its queue. By default a fresh UUIDv7.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.set(id.parse(), |task, id| task.id = id)
    }

    /// The queue; by default `default`.
    #[must_use]
    pub fn queue(self, queue: &str) -> Self {
        self.set(queue.parse(), |task, queue| task.queue = queue)
    }

    /// 0 to 9; 9 is claimed first, 5 is the default.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        let given = Priority::new(priority).ok_or_else(|| format!("a priority is a number from 0 to 9: `{priority}`"));
        self.set(given, |task, priority| task.options.priority = priority)
    }

    /// Starts this long after the broker has taken it, by the broker's clock.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        self.change(|task| task.start = Start::In(delay))
    }

    /// Starts at this time, by the broker's clock. A time before 1970 counts as now.
    #[must_use]
    pub fn at(self, time: SystemTime) -> Self {
        self.change(|task| task.start = Start::At(millis(time)))
    }

    /// The task is cancelled instead of run when it has not started by this time.
    #[must_use]
    pub fn expires(self, time: SystemTime) -> Self {
        self.change(|task| task.expires = Some(millis(time)))
    }

    /// How long an attempt may run; by default the body's hint, then the worker's setting.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|task| task.options.timeout = Some(timeout))
    }

    /// Retries after a first attempt that failed; by default the body's hint, then the worker's setting.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        self.change(|task| task.options.max_attempts = Some(retries.saturating_add(1)))
    }

    /// How long the result is kept after the end; zero: not at all. By default the broker's `result_ttl`.
    #[must_use]
    pub fn keep_result(self, time: Duration) -> Self {
        self.change(|task| task.options.result_ttl = Some(time))
    }

    /// At most one unfinished task of this name and these arguments, for at most `time` from when it may start. A second request gets
    /// the handle of the first.
    #[must_use]
    pub fn unique(self, time: Duration) -> Self {
        self.change(|task| task.unique = Some(Unique { key: format!("{} {}", task.name, task.args), ttl: time }))
    }

    /// The same with a key of the caller's.
    #[must_use]
    pub fn unique_key(self, key: &str, time: Duration) -> Self {
        self.change(|task| task.unique = Some(Unique { key: key.to_owned(), ttl: time }))
    }

    /// A header that the body can read, such as `traceparent`; its name is stored in lower case.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.change(|task| task.options.headers.push((name.to_ascii_lowercase(), value.to_owned())))
    }

    /// A word by which to find the task: 1 to 32 characters of `A-Z a-z 0-9 . _ : -`. A task has at most 8 tags.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        if let Ok(task) = &mut self.built
            && let Err(why) = tag.parse().and_then(|tag| task.options.carried.tags.add(tag))
        {
            self.built = Err(why);
        }
        self
    }

    fn change(mut self, change: impl FnOnce(&mut NewTask)) -> Self {
        if let Ok(task) = &mut self.built {
            change(task);
        }
        self
    }

    /// Sets a value that was given as text or number; the first one that was refused is kept for [`Self::build`].
    fn set<T, E: ToString>(mut self, given: Result<T, E>, set: impl FnOnce(&mut NewTask, T)) -> Self {
        match (&mut self.built, given) {
            (Ok(task), Ok(value)) => set(task, value),
            (Ok(_), Err(why)) => self.built = Err(why.to_string()),
            (Err(_), _) => {}
        }
        self
    }

    /// The task that goes to the broker.
    pub(crate) fn build(&self) -> Result<NewTask, ClientError> {
        self.built.clone().map_err(ClientError::Invalid)
    }
}

fn new_task(name: &str, args: &impl Serialize) -> Result<NewTask, String> {
    let name = TaskName::new(name).map_err(|error| error.to_string())?;
    let args = serde_json::to_string(args).map_err(|error| format!("the arguments of `{name}` are no JSON: {error}"))?;
    let args = if args == "null" { "[]".to_owned() } else { args };
    if !args.starts_with('[') {
        return Err(format!(
            "the arguments of `{name}` are a tuple or a list, one item for each parameter; write `(value,)` for a single one"
        ));
    }
    // A handle may wait for it: the end is told for a minute, however short the result is kept.
    Ok(NewTask { awaited: true, ..NewTask::new(name, args) })
}

fn millis(time: SystemTime) -> Millis {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_one_item_for_each_parameter() {
        assert_eq!(Request::new("add", (1, "x")).build().unwrap().args, r#"[1,"x"]"#);
        assert_eq!(Request::new("now", ()).build().unwrap().args, "[]");
        assert_eq!(Request::new("sum", (vec![1, 2],)).build().unwrap().args, "[[1,2]]");
        let refused = Request::new("add", 1).build().unwrap_err().to_string();
        assert!(refused.contains("`(value,)`"), "{refused}");
    }

    #[test]
    fn the_first_wrong_value_is_named() {
        let refused = Request::new("add", (1, 1)).queue("a b").priority(12).build().unwrap_err().to_string();
        assert!(refused.contains("`a b`"), "{refused}");
        assert!(matches!(Request::new("9", ()).build(), Err(ClientError::Invalid(_))));
    }
}
