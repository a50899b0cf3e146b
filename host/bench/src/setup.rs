//! The options of the benchmark, and the parts' shared values.

use std::{path::PathBuf, time::Duration};

use taskhost_core::task::{NewTask, QueueName, TaskName};

use crate::{error::BenchError, place::Place, report::Report, subject::Subject};

/// The queue of every task that is enqueued here.
pub(crate) const QUEUE: &str = "bench";
/// The numbers of slots of drains, beside the default.
pub(crate) const SLOTS: [usize; 4] = [1, 10, 50, 200];

/// A part: figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The most that the machine could do.
    Ceilings,
    /// One by one and in bulk, and the memory of a waiting task.
    Enqueue,
    /// A full queue at several numbers of slots, the CPU of a task, the memory of a finished one.
    Drain,
    /// Producer and worker at once.
    EndToEnd,
    /// From the enqueue to the result at a waiter, and the cost of an idle worker.
    Idle,
    /// How late delayed tasks start.
    Delayed,
    /// From the start of a worker process to the end of its first task.
    Start,
    /// The HTTP API of a server process.
    Http,
    /// A chord, many chains, and one chain alone.
    Flows,
    /// How rates change with size; only when it is asked for.
    Growth,
}

impl Part {
    /// The parts that are measured when nobody names one.
    pub const USUAL: [Self; 9] =
        [Self::Ceilings, Self::Enqueue, Self::Drain, Self::EndToEnd, Self::Idle, Self::Delayed, Self::Start, Self::Http, Self::Flows];
}

/// The amount of work.
#[derive(Debug, Clone)]
pub struct Options {
    pub parts: Vec<Part>,
    /// Tasks of a drain; at least 100.
    pub tasks: usize,
    /// How often each figure is measured.
    pub repeat: u32,
    /// The plugin file of the subject: a worker process of its own gets a copy.
    pub plugin: PathBuf,
    /// A worker's slots by default.
    pub slots: usize,
    /// Threads that run guests.
    pub threads: usize,
    pub lease: Duration,
}

/// The values that every part needs.
pub(crate) struct Bench<'a> {
    pub(crate) place: &'a Place,
    pub(crate) subject: &'a dyn Subject,
    pub(crate) options: Options,
    pub(crate) body: TaskName,
    pub(crate) queue: QueueName,
    pub(crate) report: Report,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(place: &'a Place, subject: &'a dyn Subject, options: Options, report: Report) -> Result<Self, BenchError> {
        let queue = QueueName::new(QUEUE).map_err(|error| BenchError::Failed(error.to_string()))?;
        Ok(Self { place, subject, options, body: subject.body(), queue, report })
    }

    /// Task number `number` of this benchmark: `[number, 1]`.
    pub(crate) fn task(&self, number: usize) -> NewTask {
        NewTask { queue: self.queue.clone(), ..NewTask::new(self.body.clone(), format!("[{number},1]")) }
    }
}
