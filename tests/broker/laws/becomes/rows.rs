//! The rows of the table of ends: how an attempt is over, and the circumstances that may change the end.
//!
//! Invariant: each combination of the dimensions is one row. The pure `judge` turns the outcome of a row into its verdict.

use std::time::Duration;

use taskhost_broker::{Finish, Member};
use taskhost_core::{
    retry::{RetrySettings, judge},
    task::{ErrorKind, NewTask, Outcome, Priority, Start, Task, TaskError, TaskOptions, Verdict},
};

use crate::support::{finish, named, queue, task_id};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// The payload limit of the table's brokers.
pub(super) const LIMIT: usize = 1_000;
/// The queue of the children that leave their parent's queue.
pub(super) const ELSEWHERE: &str = "children";

/// One row: one task that had one attempt, or two.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) number: usize,
    pub(super) over: Over,
    /// Somebody cancelled the task while it ran.
    pub(super) is_cancelled: bool,
    /// Earlier attempts: 0 or 1.
    pub(super) tries: u32,
    pub(super) max_attempts: Option<u32>,
    pub(super) is_unique: bool,
    pub(super) expires: Expires,
    /// Whether the result is kept after the end.
    pub(super) is_kept: bool,
}

/// How the attempt is over.
#[derive(Debug, Clone)]
pub(super) enum Over {
    Reported(Said),
    /// Its worker is gone. Another worker adopts the task and reports this.
    Lost(Said),
    /// Its worker leaves without a report.
    Left,
}

/// A worker's report of an attempt, before it is judged.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Outcome(Outcome),
    /// It can't start the task.
    Park,
}

/// When the time to start is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Expires {
    Never,
    InAnHour,
    /// While the attempt runs.
    Meanwhile,
}

/// All rows with this `expires`.
pub(super) fn rows(expires: Expires) -> Vec<Row> {
    let mut rows = Vec::new();
    for over in overs() {
        for is_cancelled in [false, true] {
            for (tries, max_attempts) in [(0, None), (0, Some(1)), (1, None), (1, Some(2))] {
                for (is_unique, is_kept) in [(false, false), (false, true), (true, false), (true, true)] {
                    let (number, over) = (rows.len(), over.clone());
                    rows.push(Row { number, over, is_cancelled, tries, max_attempts, is_unique, expires, is_kept });
                }
            }
        }
    }
    rows
}

fn overs() -> Vec<Over> {
    let done = |result: &str, children| Outcome::Done { result: result.into(), children };
    let failed = |kind, after| Outcome::Failed { error: TaskError::new(kind, "no"), after };
    let fault = |delay| Outcome::HostFault { reason: "no memory".into(), delay };
    let large = format!("\"{}\"", "x".repeat(LIMIT));
    let large_args = NewTask { queue: queue(ELSEWHERE), ..named("child", &format!("[{large}]")) };
    let large_headers = NewTask {
        options: TaskOptions { headers: vec![("h".into(), "x".repeat(LIMIT))], ..TaskOptions::default() },
        ..named("child", "[1]")
    };
    // They start later, so that nobody claims them in place of a row.
    let near = NewTask { start: Start::In(HOUR), ..named("child", "[1]") };
    let far = NewTask { queue: queue(ELSEWHERE), ..near.clone() };
    let reported = [
        done("1", Vec::new()),
        done("1", vec![near.clone(), far]),
        done(&large, Vec::new()),
        done("1", vec![large_args]),
        done("1", vec![near, large_headers]),
        failed(ErrorKind::Retry, Some(Duration::ZERO)),
        failed(ErrorKind::Retry, Some(HOUR)),
        failed(ErrorKind::Panic, Some(Duration::ZERO)),
        failed(ErrorKind::Permanent, None),
        failed(ErrorKind::Cancelled, None),
        failed(ErrorKind::Expired, None),
        fault(Duration::ZERO),
        fault(HOUR),
    ];
    let lost = [failed(ErrorKind::WorkerLost, Some(Duration::ZERO)), failed(ErrorKind::WorkerLost, Some(HOUR)), fault(Duration::ZERO)];
    let mut overs: Vec<_> = reported.into_iter().map(|outcome| Over::Reported(Said::Outcome(outcome))).collect();
    overs.push(Over::Reported(Said::Park));
    overs.extend(lost.into_iter().map(|outcome| Over::Lost(Said::Outcome(outcome))));
    overs.extend([Over::Lost(Said::Park), Over::Left]);
    overs
}

impl Row {
    /// The task, in this queue. `meanwhile` is the time that passes while the attempt runs. The priority says who is to claim the task:
    /// see [`Row::holder`].
    pub(super) fn task(&self, line: &str, now: taskhost_core::task::Millis, meanwhile: Duration) -> NewTask {
        NewTask {
            id: task_id(&format!("row-{}", self.number)),
            queue: queue(line),
            expires: match self.expires {
                Expires::Never => None,
                Expires::InAnHour => Some(now.after(HOUR)),
                Expires::Meanwhile => Some(now.after(meanwhile)),
            },
            unique: self.key(),
            options: TaskOptions {
                priority: Priority::new(9 - 3 * u8::try_from(self.holder()).expect("small")).expect("a priority"),
                max_attempts: self.max_attempts,
                result_ttl: Some(Duration::ZERO).filter(|_| !self.is_kept),
                ..TaskOptions::default()
            },
            ..named("add", "[1,1]")
        }
    }

    pub(super) fn key(&self) -> Option<taskhost_core::task::Unique> {
        self.is_unique.then(|| taskhost_core::task::Unique { key: format!("key-{}", self.number), ttl: 2 * HOUR })
    }

    /// Which of three workers holds the task: the one that reports, the one that is lost, or the one that leaves.
    pub(super) fn holder(&self) -> usize {
        match self.over {
            Over::Reported(_) => 0,
            Over::Lost(_) => 1,
            Over::Left => 2,
        }
    }

    /// The worker's report of this attempt at `task`. `None`: it leaves and reports nothing.
    pub(super) fn report(&self, task: &Task, member: &Member) -> Option<Finish> {
        let (Over::Reported(said) | Over::Lost(said)) = &self.over else { return None };
        let (verdict, follows) = match said {
            Said::Park => (Verdict::Park, Vec::new()),
            Said::Outcome(outcome) => judge(task, None, &RetrySettings::default(), self.named_children(outcome, &task.queue), 0.5),
        };
        Some(Finish { follows, ..finish(member, verdict) })
    }

    /// The children of this row, for a parent in this queue.
    pub(super) fn children(&self, line: &str) -> Vec<NewTask> {
        match &self.over {
            Over::Reported(Said::Outcome(outcome)) => match self.named_children(outcome, &queue(line)) {
                Outcome::Done { children, .. } => children,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// The outcome with an id for each child. A child of no other queue gets the queue of its parent.
    fn named_children(&self, outcome: &Outcome, line: &taskhost_core::task::QueueName) -> Outcome {
        let mut outcome = outcome.clone();
        if let Outcome::Done { children, .. } = &mut outcome {
            for (n, child) in children.iter_mut().enumerate() {
                child.id = task_id(&format!("child-{:?}-{}-{n}", self.expires, self.number));
                if child.queue.as_str() != ELSEWHERE {
                    child.queue = line.clone();
                }
            }
        }
        outcome
    }
}
