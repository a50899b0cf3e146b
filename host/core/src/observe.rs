//! Observing: what happens in a worker, for logs, metrics and traces.
//!
//! a fact becomes true → [`Observers::tell`] → each [`Observer::on`], in order, on the thread where it happened.
//!
//! Invariant: an event borrows everything, so that telling allocates nothing. Without an observer, telling costs a branch: the event is not
//! even built. An event holds arguments and results of tasks only inside an outcome or a verdict; an observer must not show them.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{
    task::{CodeId, Millis, Outcome, QueueName, TaskId, TaskName, Verdict},
    trace::{Span, Within},
};

/// Is told of every [`Event`].
///
/// It is called on the threads that run attempts and talk to the broker. It must not block, and must not panic.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use taskhost_core::observe::{Event, Observer, Observers};
///
/// /// Adds up the CPU time of all attempts, in microseconds.
/// #[derive(Default)]
/// struct Cpu(AtomicU64);
///
/// impl Observer for Cpu {
///     fn on(&self, event: &Event<'_>) {
///         if let Event::AttemptEnded { used, .. } = event {
///             self.0.fetch_add(used.cpu.as_micros() as u64, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let cpu = Arc::new(Cpu::default());
/// let observers = Observers::none().with(cpu.clone());
/// # assert!(!observers.is_empty());
/// // Hand `observers` to `WorkerSettings`, `schedule::run` and `Plugins::observed`.
/// ```
pub trait Observer: Send + Sync + 'static {
    fn on(&self, event: &Event<'_>);

    /// Whether it wants [`Event::CallEnded`]. Asked once, when a worker starts: a broker is only timed for an observer that does.
    fn wants_calls(&self) -> bool {
        true
    }
}

/// Something that has just become true.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A worker begins to claim. Each queue comes with its weight.
    WorkerJoined { worker: &'a str, queues: &'a [(QueueName, u32)], concurrency: usize },
    /// A worker ended: its attempts by how they ended, and the tasks that it could not hand back.
    WorkerDrained { worker: &'a str, succeeded: u64, failed: u64, handed_back: u64, left_behind: u64 },
    /// A claim brought tasks.
    Claimed { worker: &'a str, queue: &'a QueueName, tasks: usize },
    /// A claim or a heartbeat brought tasks of a worker that is gone. Their attempts count as lost.
    Adopted { worker: &'a str, queue: &'a QueueName, tasks: usize },
    /// An attempt begins. Exactly one [`Event::AttemptEnded`] follows.
    AttemptStarted(Attempt<'a>),
    /// An attempt has ended. Without an `outcome` the worker dropped it: its drain time was over, or the host's own code panicked.
    /// `within`: what the body did below the attempt's span; nothing, if the attempt is not traced.
    AttemptEnded { attempt: Attempt<'a>, outcome: Option<&'a Outcome>, used: Used, within: &'a Within },
    /// The broker has recorded the end of an attempt, or that its task is handed back or parked. It comes after the [`Event::AttemptEnded`] of
    /// that attempt. Any worker may claim the task again before this one is told of the record: events of the next attempt may come first.
    Finished(Finished<'a>),
    /// A call of the broker has ended.
    CallEnded { verb: &'static str, queue: Option<&'a QueueName>, took: Duration, error: Option<&'a (dyn Error + 'static)> },
    /// A version of a plugin serves from now on, in place of the `old` one.
    PluginServes { file: &'a str, code: &'a CodeId, old: Option<&'a CodeId>, bodies: usize },
    /// No version of a plugin serves any more; `code` did before.
    PluginStopped { file: &'a str, code: &'a CodeId },
    /// The file of a plugin is gone; `code` served before.
    PluginUnloaded { file: &'a str, code: Option<&'a CodeId> },
    /// A plugin file was refused, or could not be loaded. `serving` is the last good version, which goes on.
    PluginRefused { file: &'a str, error: &'a str, serving: Option<&'a CodeId> },
    /// A plugin has gone back to an earlier version, because its guard or a command said so. `serving` is that version.
    PluginRolledBack { file: &'a str, why: &'a str, serving: Option<&'a CodeId> },
    /// A webhook was posted to its receiver, which answered with this status, or not at all.
    WebhookPosted { hook: &'a str, status: Option<u16> },
    /// A schedule has enqueued its task for a due time.
    ScheduleFired { schedule: &'a str, due: Millis, task: &'a TaskName, id: &'a TaskId },
    /// A schedule enqueued nothing for a due time, because the task of its last firing has not ended.
    ScheduleSkipped { schedule: &'a str, due: Millis, id: &'a TaskId },
}

/// One attempt.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub worker: &'a str,
    pub queue: &'a QueueName,
    pub id: &'a TaskId,
    pub task: &'a TaskName,
    /// Counts from 1.
    pub number: u32,
    pub code: &'a CodeId,
    /// From the enqueue to the claim, delays included. Only of a first attempt: a broker does not say since when a task was ready.
    pub waited: Option<Duration>,
    /// Its span, if it is traced.
    pub span: Option<&'a Span>,
}

/// How much an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// From the start of the body to its end.
    pub wall: Duration,
    pub cpu: Duration,
    /// Bytes of linear memory at its largest.
    pub memory: u64,
    pub requests: Requests,
}

/// How many HTTP requests a body sent, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests(pub [u32; 6]);

impl Requests {
    /// The classes, in the order of the counts: of the status of the answer; denied by the policy; without an answer.
    pub const CLASSES: [&str; 6] = ["2xx", "3xx", "4xx", "5xx", "denied", "failed"];
    pub const DENIED: usize = 4;
    pub const FAILED: usize = 5;

    /// The place of the class of a status. Statuses below 200 are no answers.
    pub const fn class(status: u16) -> usize {
        match status {
            200..300 => 0,
            300..400 => 1,
            400..500 => 2,
            500.. => 3,
            _ => Self::FAILED,
        }
    }
}

/// One finish that the broker has recorded.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    pub worker: &'a str,
    pub queue: &'a QueueName,
    pub id: &'a TaskId,
    pub task: &'a TaskName,
    /// The code that ran, if any did.
    pub code: Option<&'a CodeId>,
    /// The verdict that was recorded, unless the task ended otherwise.
    pub verdict: &'a Verdict,
    /// The task was cancelled meanwhile and the verdict was no end: it ended `cancelled`.
    pub is_cancelled_instead: bool,
}

/// Any number of observers, told in order. Clones share them.
#[derive(Clone, Default)]
pub struct Observers(Arc<[Arc<dyn Observer>]>);

impl Observers {
    /// Nobody is told of anything.
    pub fn none() -> Self {
        Self::default()
    }

    /// These and one more, which is told last.
    pub fn with(self, observer: Arc<dyn Observer>) -> Self {
        Self(self.0.iter().cloned().chain([observer]).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those observers that want to know of each call of the broker.
    pub fn of_calls(&self) -> Self {
        Self(self.0.iter().filter(|observer| observer.wants_calls()).cloned().collect())
    }

    /// Tells each observer. The event is built only if there is one.
    #[inline]
    pub fn tell<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if !self.0.is_empty() {
            self.tell_all(&event());
        }
    }

    fn tell_all(&self, event: &Event<'_>) {
        for observer in self.0.iter() {
            observer.on(event);
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Noted(&'static str, Arc<Mutex<Vec<String>>>);

    impl Observer for Noted {
        fn on(&self, event: &Event<'_>) {
            if let Event::CallEnded { verb, .. } = event {
                self.1.lock().unwrap().push(format!("{} {verb}", self.0));
            }
        }

        fn wants_calls(&self) -> bool {
            self.0 == "second"
        }
    }

    fn call(verb: &'static str) -> Event<'static> {
        Event::CallEnded { verb, queue: None, took: Duration::ZERO, error: None }
    }

    #[test]
    fn without_an_observer_an_event_is_not_even_built() {
        Observers::none().tell(|| unreachable!("nobody asks for it"));
    }

    #[test]
    fn observers_are_told_in_order_and_of_calls_only_if_they_want_to() {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let both = Observers::none().with(Arc::new(Noted("first", noted.clone()))).with(Arc::new(Noted("second", noted.clone())));
        both.tell(|| call("claim"));
        both.of_calls().tell(|| call("finish"));
        assert_eq!(*noted.lock().unwrap(), ["first claim", "second claim", "second finish"]);
    }
}
