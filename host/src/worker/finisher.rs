//! The finisher: records finishes in batches, and at once when the cores run dry.
//!
//! attempts → [`Inbox`] → one batch for each incarnation → `Broker::finish` → gone from the held set.
//!
//! Finishes that are not recorded take slots: a worker does not claim tasks whose ends it could not record.
//!
//! Invariant: a finish is dropped only when it is recorded or stale, or when its lease is lost. While the broker is away, or can't write
//! it, the finish is kept and sent again. That is safe, because a member names one attempt.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    batch::Batch,
    connection::{self, Connection},
    follow_up::FollowUps,
    held::Held,
    inbox::Inbox,
    load::Load,
    pace::BATCHING,
    parked::Parked,
    queue::Queues,
    slots::Slots,
    summary::Tally,
};
use taskhost_broker::{BrokerError, Finish, Finished};
use taskhost_core::{
    observe::{self, Event, Observers},
    task::{Follow, TaskName, Verdict},
};

/// A broker that takes this long to record gets no claims ahead of its answers.
const SLOW: Duration = Duration::from_secs(1);

pub(super) struct Finisher {
    pub(super) connection: Arc<Connection>,
    pub(super) queues: Arc<Queues>,
    pub(super) slots: Arc<Slots>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) load: Arc<Load>,
    pub(super) parked: Parked,
    pub(super) follow_ups: Arc<FollowUps>,
    pub(super) tally: Arc<Tally>,
    pub(super) observers: Observers,
}

impl Finisher {
    /// Records until `end`.
    pub(super) async fn run(self, end: CancellationToken) {
        let mut batches: Vec<Batch> = Vec::new();
        let mut failures = 0;
        loop {
            if !batches.iter().any(Batch::is_filled) {
                let due = batches.iter().filter_map(Batch::due).min();
                let due = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.gathered() => {}
                    () = due => {}
                    () = end.cancelled() => return,
                }
                // A claim that is sent now shares the round trip.
                self.queues.wake_dispatcher();
            }
            self.inbox.take(&mut batches);
            batches.iter_mut().for_each(Batch::take_due);
            let burden = self.inbox.unrecorded().burden(self.slots.count());
            let began = Instant::now();
            let filled = batches.iter_mut().filter(|batch| batch.is_filled());
            let is_recorded = !join_all(filled.map(|batch| self.record(batch))).await.contains(&false);
            batches.retain(|batch| !batch.is_over());
            let is_prompt = is_recorded && batches.iter().all(Batch::is_whole) && began.elapsed() < SLOW;
            self.inbox.set_left(&batches, is_prompt);
            if burden > 0 {
                // Claims may have waited for these finishes.
                self.queues.wake_dispatcher();
            }
            if is_recorded {
                failures = 0;
                continue;
            }
            failures += 1;
            let again = async {
                tokio::time::sleep(connection::retry_delay(failures)).await;
                self.connection.up().await;
            };
            tokio::select! {
                () = again => {}
                () = end.cancelled() => return,
            }
        }
    }

    /// Returns when there is something to record, and waiting for more does not pay off.
    async fn gathered(&self) {
        while self.inbox.len() == 0 {
            self.inbox.ready().await;
        }
        let latest = Instant::now() + BATCHING;
        while !self.load.is_worth_recording() {
            tokio::select! {
                () = self.inbox.ready() => {}
                () = tokio::time::sleep_until(latest) => return,
            }
        }
    }

    /// Sends the next finishes of a batch; `false`: wait before the next try.
    async fn record(&self, batch: &mut Batch) -> bool {
        let sent = batch.take();
        match self.connection.broker.finish(&batch.held.incarnation, &sent.finishes).await {
            Ok(replies) => {
                batch.recorded(&sent);
                for ((finish, name), reply) in sent.iter().zip(replies) {
                    self.recorded(&batch.held, finish, name, reply);
                }
                if batch.held.may_end_steps() {
                    self.follow_ups.ask(&batch.held.incarnation.queue);
                }
                true
            }
            Err(error) if matches!(error, BrokerError::Invalid(_) | BrokerError::Corrupt(_)) => {
                batch.refused(sent, &error);
                true
            }
            Err(error) => {
                self.connection.failed(&error);
                tracing::debug!(%error, count = sent.finishes.len(), "could not record; kept");
                batch.put_back(sent);
                false
            }
        }
    }

    /// Does what follows in this worker from a finish that the broker has.
    fn recorded(&self, held: &Held, finish: &Finish, name: &TaskName, reply: Finished) {
        if reply == Finished::Stale {
            tracing::debug!(id = %finish.member.id, task = %name, "its end was recorded before, or its lease is lost");
            return;
        }
        self.observers.tell(|| {
            Event::Finished(observe::Finished {
                worker: &finish.worker,
                queue: &held.incarnation.queue,
                id: &finish.member.id,
                task: name,
                code: finish.code.as_deref(),
                verdict: &finish.verdict,
                is_cancelled_instead: reply == Finished::CancelledInstead,
            })
        });
        let queue = &held.incarnation.queue;
        if finish.follows.iter().any(|Follow::Enqueue(child)| child.queue != *queue) {
            self.follow_ups.ask(queue);
        }
        match &finish.verdict {
            Verdict::Succeed { .. } => {
                self.tally.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::Retry { .. } | Verdict::Dead { .. } | Verdict::Cancel { .. } => {
                self.tally.failed.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::HandBack { .. } => {}
            Verdict::Park => self.parked.add(&held.incarnation.queue, name),
        }
    }
}
