//! The heartbeat: one loop for each queue registers its incarnation and extends its lease, every third of the lease.
//!
//! register → extend … → lost: drop the held tasks, register anew. While the connection is down, only this loop tries the broker: the
//! first command after a reconnect is a heartbeat.
//!
//! It has no thread of its own, because nothing on the control runtime computes or blocks. Guests run elsewhere, batches are bounded, and
//! `spawn_blocking` touches files. A thread of its own would keep the lease of a worker that hangs.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, Connection},
    follow_up::FollowUps,
    held::Held,
    inbox::Inbox,
    leases::Leases,
    lock_file::LockFiles,
    queue::{Queue, Queues},
};
use taskhost_broker as broker;
use taskhost_broker::{BrokerError, Extended, LeaseReply, Leased};
use taskhost_core::task::Verdict;

#[derive(Debug, Clone)]
pub(super) struct Heartbeat {
    pub(super) lease: Duration,
    pub(super) connection: Arc<Connection>,
    pub(super) queues: Arc<Queues>,
    pub(super) leases: Arc<Leases>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) follow_ups: Arc<FollowUps>,
    pub(super) files: Arc<LockFiles>,
    /// Has the worker announced at once.
    pub(super) announce: Arc<Notify>,
    pub(super) draining: CancellationToken,
    pub(super) end: CancellationToken,
}

impl Heartbeat {
    /// Beats for one queue until the end.
    pub(super) async fn run(self, index: usize) {
        let queue = self.queues.get(index);
        let mut failures = 0;
        let mut differed = 0;
        loop {
            let began = Instant::now();
            let beaten = self.beat(queue, &mut differed).await;
            if !queue.is_tried() {
                queue.set_tried();
                self.queues.wake_dispatcher();
            }
            let next = match beaten {
                Ok(()) => {
                    failures = 0;
                    began + self.lease / 3
                }
                Err(error) => {
                    if matches!(error, BrokerError::Gone(_)) {
                        self.connection.refuse(error);
                        return self.end.cancelled().await;
                    }
                    if failures == 0 && !error.is_fate_unknown() {
                        tracing::warn!(queue = %queue.name, %error, "the broker refused the heartbeat; retrying");
                    }
                    self.connection.failed(&error);
                    failures += 1;
                    // When the broker is back, the first worker grants the others some grace. This one must come within it.
                    Instant::now() + connection::retry_delay(failures).min(broker::grace(self.lease) / 4)
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = queue.beat.notified() => {}
                () = self.connection.down(), if failures == 0 => tokio::time::sleep(connection::retry_delay(0)).await,
                () = self.end.cancelled() => return,
            }
        }
    }

    async fn beat(&self, queue: &Queue, differed: &mut u32) -> Result<(), BrokerError> {
        // Read before the call: a connection that goes down meanwhile needs another heartbeat.
        let downs = self.connection.downs();
        let Some(held) = queue.held() else {
            if !self.draining.is_cancelled() {
                self.register(queue).await?;
                self.came_through(queue, downs);
            }
            return Ok(());
        };
        match self.connection.broker.extend(&held.incarnation, self.lease).await? {
            LeaseReply::Lost => {
                self.leases.lose(queue, &held);
                self.connection.restored();
                Ok(())
            }
            LeaseReply::Held(extended) => {
                self.came_through(queue, downs);
                self.extended(queue, &held, extended, differed).await
            }
        }
    }

    fn came_through(&self, queue: &Queue, downs: u64) {
        queue.set_beaten(downs);
        self.connection.restored();
        self.queues.wake_dispatcher();
    }

    async fn extended(&self, queue: &Queue, held: &Arc<Held>, extended: Extended, differed: &mut u32) -> Result<(), BrokerError> {
        self.leases.adopt(held, extended.adopted);
        for id in &extended.cancelled {
            if held.cancel(id) {
                tracing::info!(id = %id, queue = %queue.name, "cancelled: its body is asked to return");
            }
        }
        if extended.outbox || extended.flows {
            self.follow_ups.ask(&queue.name);
        }
        // A claim or a finish under way makes the counts differ for a moment, so one difference says nothing.
        *differed = if extended.held == held.len() { 0 } else { *differed + 1 };
        if queue.take_doubt() || *differed >= 2 {
            let reconciled = self.reconcile(queue, held).await;
            if reconciled.is_err() {
                queue.doubt();
            }
            reconciled?;
            *differed = 0;
        }
        Ok(())
    }

    async fn register(&self, queue: &Queue) -> Result<(), BrokerError> {
        let incarnation = match self.connection.broker.register(&queue.name, self.lease).await {
            Ok(incarnation) => incarnation,
            Err(error @ BrokerError::Misconfigured(_)) if !self.connection.was_registered() => {
                let text = error.to_string();
                self.connection.refuse(error);
                return Err(BrokerError::Misconfigured(text));
            }
            Err(error) => return Err(error),
        };
        if self.connection.was_registered() {
            // The broker may be a new, empty one. It needs this worker's announcement before anybody asks for it.
            self.announce.notify_one();
        }
        self.connection.set_registered();
        let file = self.files.make(&incarnation).await;
        tracing::debug!(queue = %queue.name, incarnation = %incarnation.id, "registered");
        queue.begin(Arc::new(Held::new(incarnation, file)));
        Ok(())
    }

    /// Reads what the broker says this worker holds. Hands back tasks that are unknown here (the reply of their claim was lost), and drops
    /// those that the broker does not have.
    async fn reconcile(&self, queue: &Queue, held: &Arc<Held>) -> Result<(), BrokerError> {
        let _no_claim = queue.claiming.lock().await;
        let known = self.connection.broker.held(&held.incarnation).await?;
        let there: HashSet<_> = known.iter().map(|leased| leased.member.clone()).collect();
        let (unknown, dropped) = held.reconcile(&there);
        let unknown: HashSet<_> = unknown.into_iter().cloned().collect();
        if !unknown.is_empty() || dropped > 0 {
            tracing::warn!(
                queue = %queue.name,
                handed_back = unknown.len(),
                dropped,
                "this worker and the broker disagreed about the held tasks: reconciled"
            );
        }
        for Leased { member, task } in known {
            if unknown.contains(&member) && held.add(&member, &task.name).is_some() && held.begin_finish(&member) {
                self.inbox.push_unrun(held, task.name, member, Verdict::HandBack { delay: Duration::ZERO });
            }
        }
        Ok(())
    }
}
