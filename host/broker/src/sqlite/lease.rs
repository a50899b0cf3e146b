//! The role of workers: each verb is a step on the writer. See [`incarnation`] for leases and [`finish`] for ends.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::params;
use tokio::sync::mpsc;

use super::{driver::SqliteBroker, finish, incarnation, sweep, wait};
use crate::{
    error::Result,
    lease::{Claimed, Extended, Finish, FinishReply, Incarnation, Lease, LeaseReply, Leased, Member},
};
use taskhost_core::task::{Progress, QueueName, TaskId, TaskName};

#[async_trait]
impl Lease for SqliteBroker {
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        let queue = queue.clone();
        self.write(move |step| incarnation::register(step, &queue, lease)).await
    }

    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<LeaseReply<Claimed>> {
        let (who, startable) = (who.clone(), startable.to_vec());
        self.write(move |step| incarnation::claim(step, &who, lease, limit, &startable)).await
    }

    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>> {
        let who = who.clone();
        self.write(move |step| incarnation::extend(step, &who, lease)).await
    }

    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        let who = who.clone();
        // On the writer, so that it sees the effect of a claim that was queued before it.
        self.write(move |step| incarnation::held(step, &who)).await
    }

    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let (who, finishes) = (who.clone(), finishes.to_vec());
        self.write(move |step| finish::finish(step, &who, &finishes)).await
    }

    async fn leave(&self, who: &Incarnation) -> Result<()> {
        let who = who.clone();
        self.write(move |step| incarnation::leave(step, &who)).await
    }

    async fn expire(&self, who: &Incarnation) -> Result<()> {
        let who = who.clone();
        self.write(move |step| incarnation::expire(step, &who)).await
    }

    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        wait::wait(self, queue, limit).await
    }

    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        wait::cancellations(self, sender).await
    }

    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        let (queue, id, progress) = (queue.clone(), id.clone(), progress.clone());
        self.write(move |step| {
            let mut update = step.connection.prepare_cached("UPDATE task SET progress = ? WHERE id = ? AND queue = ? AND state = 3")?;
            update.execute(params![serde_json::to_string(&progress)?, id.as_str(), queue.as_str()])?;
            Ok(())
        })
        .await
    }

    async fn log_so_far(&self, who: &Incarnation, member: &Member, log: &str) -> Result<()> {
        let (who, member, log) = (who.clone(), member.clone(), log.to_owned());
        self.write(move |step| finish::log_so_far(step, &who, &member, &log)).await
    }

    /// One database holds all queues: `finish` adds the children itself, so there is no outbox.
    async fn relay(&self, _queue: &QueueName) -> Result<usize> {
        Ok(0)
    }

    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        self.repeat(|step| sweep::forget(step)).await?;
        let of = queue.clone();
        self.repeat(move |step| sweep::trim_dead(step, &of)).await?;
        let of = queue.clone();
        self.repeat(move |step| Ok(incarnation::expire_waiting(step, &of)? == incarnation::BATCH)).await?;
        let (of, offered) = (queue.clone(), offered.to_vec());
        self.repeat(move |step| sweep::end_unknown(step, &of, &offered)).await
    }
}
