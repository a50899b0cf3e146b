//! Enqueues newline-delimited JSON, streamed to the broker in batches.
//!
//! read → check → send when a batch is full or the reader would block → report the answers. The next lines are read while the broker takes
//! the last batches.
//!
//! Invariant: answers are reported in the order of the lines. A refused line is named and delays no other line. Memory holds a few batches,
//! however long the file is.

use std::{
    io::{BufRead, BufReader, Read},
    task::Poll,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use taskhost_broker::{Broker, BrokerError, Enqueued};
use taskhost_core::task::NewTask;

use super::{
    connection::Ops,
    error::{OpsError, RequestError},
    new_task::{Checks, Defaults, ManyChecks, enqueue_each},
    request,
};

const BATCH_TASKS: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// The most batches that the broker has not answered yet.
const UNDER_WAY: usize = 2;
/// How often to yield so that the runtime sends a batch.
const TURNS: usize = 3;
/// The longest line, beyond any sensible payload limit. It protects against a file without line ends.
const LINE_BYTES: u64 = 256 << 20;
/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// The mark that some editors put before UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Is told what becomes of the lines.
pub trait BulkReport {
    /// The broker has taken these tasks. Both slices have the same order.
    fn enqueued(&mut self, tasks: &[NewTask], answers: &[Enqueued]);
    fn refused(&mut self, line: &Source, why: &RequestError);
    /// Whether [`Source::text`] is wanted.
    fn wants_text(&self) -> bool;
}

/// The line of a task.
#[derive(Debug)]
pub struct Source {
    /// Counts from 1.
    pub number: u64,
    /// Without white space around it; `None` if it is not wanted.
    pub text: Option<Box<[u8]>>,
}

impl Ops {
    /// Enqueues every line of `source`, a blocking reader. `name` names it in errors. Answers how many tasks were added.
    pub async fn enqueue_lines(
        &self,
        source: Box<dyn Read>,
        name: &str,
        defaults: &Defaults,
        checks: &Checks,
        report: &mut dyn BulkReport,
    ) -> Result<u64, OpsError> {
        let clock = self.clock().await?;
        let under_way = FuturesOrdered::new();
        let mut bulk = Bulk { broker: &*self.broker, batch: Vec::new(), bytes: 0, under_way, enqueued: 0, report };
        let reader = BufReader::with_capacity(READ_BYTES, source);
        bulk.read(reader, name, |line, checks| request::task(line, defaults, &clock, checks), ManyChecks::new(checks)).await?;
        Ok(bulk.enqueued)
    }
}

/// One batch: its lines and tasks.
type Sent = (Vec<Source>, Vec<NewTask>, Vec<Result<Enqueued, BrokerError>>);

struct Bulk<'a> {
    broker: &'a dyn Broker,
    batch: Vec<(Source, NewTask)>,
    bytes: usize,
    under_way: FuturesOrdered<BoxFuture<'a, Sent>>,
    enqueued: u64,
    report: &'a mut dyn BulkReport,
}

impl Bulk<'_> {
    async fn read(
        &mut self,
        mut reader: BufReader<Box<dyn Read>>,
        name: &str,
        task: impl Fn(&[u8], &mut ManyChecks) -> Result<NewTask, RequestError>,
        mut checks: ManyChecks,
    ) -> Result<(), OpsError> {
        let mut line = Vec::new();
        let mut number = 0_u64;
        loop {
            // The next read from a pipe may block for long, so the lines at hand are sent first.
            if reader.buffer().is_empty() {
                self.send().await?;
                self.wait_until_left(0).await?;
            } else if self.batch.len() >= BATCH_TASKS || self.bytes >= BATCH_BYTES {
                self.send().await?;
            }
            line.clear();
            let read = (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line);
            if read.map_err(|error| self.unreadable(number, format!("failed to read `{name}`: {error}")))? == 0 {
                break;
            }
            number += 1;
            if number == 1 && line.starts_with(MARK) {
                line.drain(..MARK.len());
            }
            if number == 1 && (line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff")) {
                return Err(self.unreadable(0, format!("`{name}` is written in UTF-16; write it in UTF-8")));
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let source = Source { number, text: self.report.wants_text().then(|| line.trim_ascii().into()) };
            match task(&line, &mut checks) {
                Ok(task) => self.add(source, task),
                Err(why) => self.report.refused(&source, &why),
            }
        }
        self.send().await?;
        self.wait_until_left(0).await
    }

    fn add(&mut self, line: Source, task: NewTask) {
        self.bytes += task.args.len();
        self.batch.push((line, task));
    }

    /// Sends the batch and goes on, so that the broker takes it while the next lines are read.
    async fn send(&mut self) -> Result<(), OpsError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.wait_until_left(UNDER_WAY - 1).await?;
        let (lines, tasks): (Vec<Source>, Vec<NewTask>) = std::mem::take(&mut self.batch).into_iter().unzip();
        self.bytes = 0;
        let broker = self.broker;
        self.under_way.push_back(Box::pin(async move {
            let answers = enqueue_each(broker, &tasks).await;
            (lines, tasks, answers)
        }));
        for _ in 0..TURNS {
            let polled = std::future::poll_fn(|context| Poll::Ready(self.under_way.poll_next_unpin(context))).await;
            if let Poll::Ready(Some(sent)) = polled {
                self.sent(sent)?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits until at most `left` batches are under way.
    async fn wait_until_left(&mut self, left: usize) -> Result<(), OpsError> {
        while self.under_way.len() > left {
            if let Some(sent) = self.under_way.next().await {
                self.sent(sent)?;
            }
        }
        Ok(())
    }

    fn sent(&mut self, (lines, tasks, answers): Sent) -> Result<(), OpsError> {
        if answers.iter().all(Result::is_ok) {
            let answers: Vec<Enqueued> = answers.into_iter().flatten().collect();
            self.answered(&tasks, &answers);
            return Ok(());
        }
        for ((line, task), answer) in lines.iter().zip(&tasks).zip(answers) {
            match answer {
                Ok(answer) => self.answered(std::slice::from_ref(task), &[answer]),
                Err(BrokerError::Invalid(why)) => self.report.refused(line, &why.into()),
                Err(error) => return Err(self.broken(line.number.saturating_sub(1), error)),
            }
        }
        Ok(())
    }

    fn answered(&mut self, tasks: &[NewTask], answers: &[Enqueued]) {
        self.enqueued += answers.iter().filter(|answer| matches!(answer, Enqueued::Added)).count() as u64;
        self.report.enqueued(tasks, answers);
    }

    fn broken(&self, done: u64, error: BrokerError) -> OpsError {
        OpsError::BulkBroken { error, done, enqueued: self.enqueued }
    }

    fn unreadable(&self, read: u64, why: String) -> OpsError {
        OpsError::BulkUnreadable { why, read, enqueued: self.enqueued }
    }
}
