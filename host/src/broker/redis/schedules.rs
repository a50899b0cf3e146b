//! Schedules: each a hash in its queue's tag, so that firing is one step; their names and queues in one index.
//!
//! Invariant: the index names a schedule before it comes to be and until after it is gone; a name without a hash is no schedule.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use redis::Value;

use super::{
    RedisBroker,
    scripts::{FIRE, PAUSE_SCHEDULE, PUT_SCHEDULE},
    values::{Row, corrupt, count, is_yes, json, list, push_record, text, word, words},
};
use crate::{
    broker::{Fired, Overlap, Result, Schedule, check_payload},
    task::{Millis, NewTask, QueueName, TaskId},
};

impl RedisBroker {
    /// One that moves to another queue takes its due times and its pause along. The old one stops firing before they are read, and stays
    /// until the new one is there: repeating this after a failure loses nothing.
    pub(super) async fn keep_schedule(&self, schedule: &Schedule) -> Result<()> {
        self.meet(&schedule.queue).await?;
        let before = self.queue_of(&schedule.name).await?;
        let index = redis::cmd("HSET").arg(self.keys.shared("schedules")).arg(&schedule.name).arg(schedule.queue.as_str()).to_owned();
        let moves_from = before.filter(|before| *before != schedule.queue);
        let mut new = schedule.clone();
        match &moves_from {
            None => self.commands.send(&index).await.map(drop)?,
            Some(old) => {
                if self.read_schedule(old, &schedule.name).await?.is_some() {
                    // No firing is of this rule.
                    let halt = redis::cmd("HSET").arg(self.keys.schedule(old, &schedule.name)).arg("rule").arg("").to_owned();
                    self.commands.send(&halt).await?;
                }
                if let Some(old) = self.read_schedule(old, &schedule.name).await? {
                    new.take_along(&old);
                }
            }
        }
        let named = match new.says_paused {
            None => "",
            Some(false) => "0",
            Some(true) => "1",
        };
        let call = PUT_SCHEDULE
            .call(&self.keys.queue(&new.queue))
            .arg(&*new.name)
            .arg(&*new.rule)
            .arg(&*new.timezone)
            .arg(what(&new))
            .arg(if new.overlap == Overlap::Skip { "skip" } else { "allow" })
            .arg(json(&new)?)
            .arg(named)
            .arg(new.created_at.0)
            .arg(new.last.0)
            .arg(usize::from(new.paused));
        self.commands.call(&call).await?;
        if let Some(old) = moves_from {
            self.commands.send(&index).await?;
            self.drop_schedule(&old, &new.name).await?;
        }
        Ok(())
    }

    pub(super) async fn all_schedules(&self) -> Result<Vec<Schedule>> {
        let index = words(self.commands.send(redis::cmd("HGETALL").arg(self.keys.shared("schedules"))).await?)?;
        let named: BTreeMap<_, _> = index.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let read = named.into_iter().map(|(name, queue)| async move {
            let queue = QueueName::new(&queue).map_err(|error| corrupt(&format!("schedule {name}"), error))?;
            self.read_schedule(&queue, &name).await
        });
        Ok(try_join_all(read).await?.into_iter().flatten().collect())
    }

    async fn read_schedule(&self, queue: &QueueName, name: &str) -> Result<Option<Schedule>> {
        let key = self.keys.schedule(queue, name);
        let fields = ["definition", "last", "last_task", "paused", "created"];
        stored(name, queue, self.commands.send(redis::cmd("HMGET").arg(key).arg(&fields[..])).await?)
    }

    pub(super) async fn set_paused(&self, name: &str, paused: bool) -> Result<bool> {
        let Some(queue) = self.queue_of(name).await? else { return Ok(false) };
        let call = PAUSE_SCHEDULE.call(&self.keys.queue(&queue)).arg(name).arg(usize::from(paused));
        Ok(is_yes(&self.commands.call(&call).await?))
    }

    pub(super) async fn forget_schedule(&self, name: &str) -> Result<bool> {
        let Some(queue) = self.queue_of(name).await? else { return Ok(false) };
        let was = self.drop_schedule(&queue, name).await?;
        self.commands.send(redis::cmd("HDEL").arg(self.keys.shared("schedules")).arg(name)).await?;
        Ok(was)
    }

    async fn drop_schedule(&self, queue: &QueueName, name: &str) -> Result<bool> {
        let was = self.commands.send(redis::cmd("DEL").arg(self.keys.schedule(queue, name))).await?;
        self.commands.send(redis::cmd("SREM").arg(self.keys.of(queue, "schedules")).arg(name)).await?;
        Ok(is_yes(&was))
    }

    async fn queue_of(&self, name: &str) -> Result<Option<QueueName>> {
        let queue = text(self.commands.send(redis::cmd("HGET").arg(self.keys.shared("schedules")).arg(name)).await?);
        queue.map(|queue| QueueName::new(&queue).map_err(|error| corrupt(&format!("schedule {name}"), error))).transpose()
    }

    pub(super) async fn fire_once(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        check_payload(task, self.settings.payload_limit)?;
        let mut call = FIRE
            .call(&self.keys.queue(&schedule.queue))
            .arg(&*schedule.name)
            .arg(due.0)
            .arg(&*schedule.rule)
            .arg(&*schedule.timezone)
            .arg(what(schedule));
        push_record(&mut call, task)?;
        let mut row = Row::new(self.commands.call(&call).await?)?;
        match &*word(row.next()) {
            "fired" => Ok(Fired::Enqueued(task.id.clone())),
            "early" => Ok(Fired::TooEarly(std::time::Duration::from_millis(count(&row.next())))),
            "skipped" => {
                let last = TaskId::new(word(row.next())).map_err(|error| corrupt(&format!("schedule {}", schedule.name), error))?;
                Ok(Fired::Skipped(last))
            }
            _ => Ok(Fired::NotNow),
        }
    }
}

/// What a firing enqueues: a definition that says something else is not the one that was read.
fn what(schedule: &Schedule) -> String {
    format!("{} {}", schedule.task, schedule.args)
}

fn stored(name: &str, queue: &QueueName, fields: Value) -> Result<Option<Schedule>> {
    let mut fields = list(fields)?.into_iter();
    let Some(definition) = fields.next().and_then(text) else { return Ok(None) };
    let mut schedule: Schedule = serde_json::from_str(&definition).map_err(|error| corrupt(&format!("schedule {name}"), error))?;
    let mut next = || fields.next().and_then(text);
    schedule.queue = queue.clone();
    schedule.last = Millis(next().and_then(|last| last.parse().ok()).unwrap_or_default());
    schedule.last_task = next().and_then(|id| id.parse().ok());
    schedule.paused = next().as_deref() == Some("1");
    schedule.created_at = Millis(next().and_then(|created| created.parse().ok()).unwrap_or_default());
    Ok(Some(schedule))
}
