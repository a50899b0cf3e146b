//! Operations: one change of every task that a filter chooses, also of a million, in the background.
//!
//! an operation is a task of a queue of its own → a server claims it → page by page: choose, change, write down how far it is → the result
//!
//! Invariant: a server that dies leaves an operation that another goes on with, from the page that was written down last. An operation changes no task
//! twice: it leaves out what ended after it was ordered.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use taskhost_broker::{BrokerError, Finish, Incarnation, LeaseReply, Leased, TaskFilter};
use taskhost_core::task::{ErrorKind, Millis, NewTask, Progress, QueueName, TaskError, TaskId, TaskName, TaskView, Verdict};
use tokio_util::sync::CancellationToken;

use super::{
    change::{Change, Changed},
    connection::Ops,
    error::OpsError,
};

/// The queue of operations. Only servers claim from it.
pub const OPERATIONS: &str = "taskhost.operations";
const TASK: &str = "taskhost.operation";
/// How long a server that is silent keeps an operation.
const LEASE: Duration = Duration::from_secs(10);
/// The pause when there is nothing to do, or the broker is away.
const PAUSE: Duration = Duration::from_secs(1);
/// How many tasks are chosen at once, and changed at once.
const PAGE: usize = 500;
const AT_ONCE: usize = 32;

/// What is done to which tasks, for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub verb: Change,
    /// The conditions by name, as the query of a listing has them.
    pub filter: BTreeMap<String, String>,
    /// The name of the caller's token.
    pub by: String,
}

/// Which tasks an operation is about.
pub struct Chooser {
    pub filter: TaskFilter,
    /// Whether its caller may see a task.
    pub sees: Box<dyn Fn(&TaskView) -> bool + Send + Sync>,
}

impl fmt::Debug for Chooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chooser").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    looked: u64,
    changed: u64,
    /// Tasks that were in another state by then.
    unchanged: u64,
    /// The page to go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// Why an operation ends without its result.
enum Ended {
    /// The lease was lost, or this server stops: somebody goes on with it.
    Left,
    Cancelled,
    Failed(String),
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        if error.is_transient() { Self::Left } else { Self::Failed(error.to_string()) }
    }
}

impl Ops {
    /// Orders an operation. A server runs it.
    pub async fn order(&self, operation: &Operation) -> Result<TaskId, OpsError> {
        let args = serde_json::to_string(&(operation,)).map_err(|error| OpsError::Machine(error.to_string()))?;
        let task = NewTask { queue: queue()?, ..NewTask::new(name()?, args) };
        self.enqueue(&task).await?;
        Ok(task.id)
    }

    /// How many of the first `most` tasks an operation would change, and whether these are all.
    pub async fn rehearse(&self, operation: &Operation, chooser: &Chooser, most: usize) -> Result<(u64, bool), OpsError> {
        let (mut from, mut looked, mut fitting) = (None, 0, 0);
        loop {
            let page = self.broker.list(&chooser.filter, from.as_deref(), PAGE).await?;
            looked += page.looked;
            let fits = |view: &&TaskView| operation.verb.fits(view.state) && (chooser.sees)(view) && !is_own(view);
            fitting += page.tasks.iter().filter(fits).count() as u64;
            from = page.next;
            if from.is_none() || looked >= most {
                return Ok((fitting, from.is_none()));
            }
        }
    }

    /// Runs operations until `stop`. `chooser` reads the filter of one, with the rights that its caller has by now.
    pub async fn run_operations(&self, chooser: impl Fn(&Operation, Millis) -> Result<Chooser, String>, stop: CancellationToken) {
        let Ok(queue) = queue() else { return };
        while !stop.is_cancelled() {
            let Ok(who) = self.broker.register(&queue, LEASE).await else {
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => continue,
                    () = stop.cancelled() => return,
                }
            };
            self.serve_queue(&who, &chooser, &stop).await;
            if let Err(error) = self.broker.leave(&who).await {
                tracing::debug!(%error, "an incarnation for operations was not left: its lease ends by itself");
            }
        }
    }

    /// Runs the operations of the queue, one after the other, until `stop` or until the lease is lost.
    async fn serve_queue(
        &self,
        who: &Incarnation,
        chooser: &impl Fn(&Operation, Millis) -> Result<Chooser, String>,
        stop: &CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let claimed = match self.broker.claim(who, LEASE, 1, &[]).await {
                Ok(LeaseReply::Held(claimed)) => claimed,
                Ok(LeaseReply::Lost) => return,
                Err(error) => {
                    tracing::debug!(%error, "operations are claimed later");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let mut work: VecDeque<Leased> = claimed.tasks.into_iter().chain(claimed.adopted).collect();
            if work.is_empty() {
                tokio::select! {
                    _ = self.broker.wait(&who.queue, LEASE / 3) => {}
                    () = stop.cancelled() => return,
                }
            }
            while let Some(leased) = work.pop_front() {
                if matches!(self.operate(who, &leased, &mut work, chooser, stop).await, Err(Ended::Left)) {
                    return;
                }
            }
        }
    }

    /// Runs one operation to its end, and records that. `work` gets operations that a heartbeat brings meanwhile.
    async fn operate(
        &self,
        who: &Incarnation,
        leased: &Leased,
        work: &mut VecDeque<Leased>,
        chooser: &impl Fn(&Operation, Millis) -> Result<Chooser, String>,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let ended = self.change_all(who, leased, work, chooser, stop).await;
        let verdict = match ended {
            Ok(done) => Verdict::Succeed { result: serde_json::to_string(&done).unwrap_or_else(|_| "null".to_owned()) },
            Err(Ended::Left) => return Err(Ended::Left),
            Err(Ended::Cancelled) => {
                Verdict::Cancel { error: TaskError::new(ErrorKind::Cancelled, "cancelled; what was changed stays so") }
            }
            Err(Ended::Failed(why)) => Verdict::Dead { error: TaskError::new(ErrorKind::Permanent, why) },
        };
        self.broker.finish(who, &[Finish::new(leased.member.clone(), verdict, "server")]).await?;
        Ok(())
    }

    async fn change_all(
        &self,
        who: &Incarnation,
        leased: &Leased,
        work: &mut VecDeque<Leased>,
        chooser: &impl Fn(&Operation, Millis) -> Result<Chooser, String>,
        stop: &CancellationToken,
    ) -> Result<Done, Ended> {
        let task = &leased.task;
        let (operation,): (Operation,) =
            serde_json::from_str(&task.args).map_err(|error| Ended::Failed(format!("not an operation: {error}")))?;
        // What is meant is what was so when it was ordered.
        let Chooser { filter, sees } = chooser(&operation, task.enqueued_at).map_err(Ended::Failed)?;
        let found = self.broker.find(Some(&task.queue), &task.id).await?;
        let so_far = found.and_then(|view| serde_json::from_str::<Done>(&view.progress?.note).ok());
        let mut done = so_far.unwrap_or_default();
        let mut beat = Instant::now();
        loop {
            let page = self.broker.list(&filter, done.cursor.as_deref(), PAGE).await?;
            done.looked += page.looked as u64;
            let change = operation.verb;
            let is_meant = |view: &TaskView| {
                change.fits(view.state) && view.ended_at.is_none_or(|at| at <= task.enqueued_at) && sees(view) && !is_own(view)
            };
            let meant: Vec<_> = page.tasks.into_iter().filter(is_meant).map(|view| (view.queue, view.id)).collect();
            let mut changing =
                stream::iter(meant).map(|(queue, id)| async move { self.change(change, &queue, &id).await }).buffer_unordered(AT_ONCE);
            while let Some(changed) = changing.next().await {
                match changed {
                    Ok(Changed::Cancelled | Changed::AskedToStop | Changed::Ready | Changed::Deleted) => done.changed += 1,
                    Err(OpsError::Unchanged(_)) => done.unchanged += 1,
                    Err(OpsError::Broker(error)) => return Err(error.into()),
                    Err(error) => return Err(Ended::Failed(error.to_string())),
                }
            }
            drop(changing);
            done.cursor = page.next;
            let note = serde_json::to_string(&done).unwrap_or_default();
            self.broker.progress(&task.queue, &task.id, &Progress { done: done.changed, total: None, note }).await?;
            if done.cursor.is_none() {
                return Ok(done);
            }
            if stop.is_cancelled() {
                return Err(Ended::Left);
            }
            if beat.elapsed() > LEASE / 3 {
                beat = Instant::now();
                match self.broker.extend(who, LEASE).await? {
                    LeaseReply::Held(extended) => {
                        // The operations of a server that is gone: nobody else gets them now.
                        work.extend(extended.adopted);
                        if extended.cancelled.contains(&task.id) {
                            return Err(Ended::Cancelled);
                        }
                    }
                    LeaseReply::Lost => return Err(Ended::Left),
                }
            }
        }
    }
}

/// Operations leave operations alone.
fn is_own(view: &TaskView) -> bool {
    view.queue.as_str() == OPERATIONS
}

fn queue() -> Result<QueueName, OpsError> {
    QueueName::new(OPERATIONS).map_err(|error| OpsError::Machine(error.to_string()))
}

fn name() -> Result<TaskName, OpsError> {
    TaskName::new(TASK).map_err(|error| OpsError::Machine(error.to_string()))
}
