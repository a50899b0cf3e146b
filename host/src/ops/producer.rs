//! Takes single tasks of many callers: each is read and checked by itself, and those that meet are enqueued together.
//!
//! request → check against what the workers offered a moment ago (asked again before anything is refused) → the line → one call of the broker
//!
//! Invariant: a task waits for no other one that comes later. It goes at once while less than [`UNDER_WAY`] calls are under way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use taskhost_broker::{Broker, BrokerError, Enqueued};
use taskhost_core::{catalogue::ArgumentsError, task::NewTask};
use tokio::sync::{mpsc, oneshot};

use super::{
    clock::BrokerClock,
    connection::Ops,
    error::OpsError,
    new_task::{Checks, Defaults, ManyChecks, Unchecked, enqueue_each},
    request,
};

/// How long what the workers offer is taken for known.
const FRESH: Duration = Duration::from_secs(2);
/// How old it may be at most when a task is refused for it.
const FRESH_FOR_REFUSAL: Duration = Duration::from_millis(100);
/// The most tasks in one call.
const TOGETHER: usize = 500;
/// The most calls that the broker has not answered yet.
const UNDER_WAY: usize = 2;

/// Enqueues single tasks of many callers. Clones share everything.
#[derive(Debug, Clone)]
pub struct Producer {
    ops: Ops,
    known: Arc<Mutex<Option<Known>>>,
    line: mpsc::UnboundedSender<Waiting>,
}

/// What is checked against.
#[derive(Debug)]
struct Known {
    checks: ManyChecks,
    clock: BrokerClock,
    read: Instant,
}

#[derive(Debug)]
struct Waiting {
    task: NewTask,
    answer: oneshot::Sender<Result<Enqueued, BrokerError>>,
}

impl Producer {
    /// The producer, and the loop that it needs. The loop ends when the last clone is dropped and everything is answered.
    pub fn new(ops: Ops) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (line, waiting) = mpsc::unbounded_channel();
        let enqueuing = enqueue_together(Arc::clone(ops.broker()), waiting);
        (Self { ops, known: Arc::default(), line }, enqueuing)
    }

    /// The task of a JSON request, its arguments checked.
    pub async fn read(&self, json: &[u8]) -> Result<NewTask, OpsError> {
        let first = self.read_within(json, FRESH);
        match first {
            Some(Ok(task)) => return Ok(task),
            // A worker may have announced it a moment ago.
            Some(Err(OpsError::Arguments(_))) | None => {}
            Some(Err(error)) => return Err(error),
        }
        if let Some(answer) = self.read_within(json, FRESH_FOR_REFUSAL) {
            return answer;
        }
        let catalogue = self.ops.catalogue().await?;
        let is_known = !catalogue.offers.is_empty();
        let checks = if is_known { Checks::Against(Arc::new(catalogue)) } else { Checks::No(Unchecked::NothingAnnounced) };
        let known = Known { checks: ManyChecks::new(&checks), clock: self.ops.clock().await?, read: Instant::now() };
        *self.known.lock() = Some(known);
        let answer = self.read_within(json, FRESH).unwrap_or_else(|| Err(lost()));
        let Err(OpsError::Arguments(ArgumentsError::UnknownTask { name, .. })) = &answer else { return answer };
        // While a worker loads plugins, the name may still come.
        match self.ops.checks(Some(name), false).await? {
            unchecked @ Checks::No(_) => {
                let clock = self.ops.clock().await?;
                Ok(request::task(json, &Defaults::default(), &clock, &mut ManyChecks::new(&unchecked))?)
            }
            Checks::Against(_) => answer,
        }
    }

    /// `None` if nothing is known that is so fresh.
    fn read_within(&self, json: &[u8], age: Duration) -> Option<Result<NewTask, OpsError>> {
        let mut known = self.known.lock();
        // The first worker may announce itself at any moment.
        let is_checked = |known: &Known| matches!(known.checks.checks(), Checks::Against(_));
        let known = known.as_mut().filter(|known| known.read.elapsed() < if is_checked(known) { age } else { FRESH_FOR_REFUSAL })?;
        Some(request::task(json, &Defaults::default(), &known.clock, &mut known.checks).map_err(OpsError::from))
    }

    /// The broker's time; `None` before the first task was read.
    pub fn clock(&self) -> Option<BrokerClock> {
        self.known.lock().as_ref().map(|known| known.clock)
    }

    /// Enqueues a task, together with others that come at the same time.
    pub async fn enqueue(&self, task: NewTask) -> Result<Enqueued, OpsError> {
        let (answer, answered) = oneshot::channel();
        self.line.send(Waiting { task, answer }).map_err(|_| lost())?;
        Ok(answered.await.map_err(|_| lost())??)
    }
}

fn lost() -> OpsError {
    OpsError::Machine("this process is stopping and enqueues nothing more".to_owned())
}

async fn enqueue_together(broker: Arc<dyn Broker>, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut together = Vec::new();
        tokio::select! {
            taken = waiting.recv_many(&mut together, TOGETHER), if under_way.len() < UNDER_WAY => {
                if taken == 0 {
                    break;
                }
                under_way.push(enqueue(&*broker, together));
            }
            Some(()) = under_way.next() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

async fn enqueue(broker: &dyn Broker, together: Vec<Waiting>) {
    let (tasks, answers): (Vec<_>, Vec<_>) = together.into_iter().map(|waiting| (waiting.task, waiting.answer)).unzip();
    let enqueued = enqueue_each(broker, &tasks).await;
    enqueued.into_iter().zip(answers).for_each(|(enqueued, answer)| drop(answer.send(enqueued)));
}
