//! Schedules: each is a hash under its queue's tag, so that firing is one step. One index has the names and queues of all.
//!
//! Invariant: the index names a schedule before the hash is written and until after it is deleted. A name without a hash is no schedule.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::Value;

use super::{
    driver::RedisBroker,
    record::record,
    scripts::{FIRE, PAUSE_SCHEDULE, PUT_SCHEDULE},
    values::{Row, bytes, corrupt, count, is_yes, json, list, shown_id, text, word, words},
};
use crate::{
    error::{BrokerError, Result},
    produce::check_payload,
    schedule::{Fired, Overlap, Schedule, ScheduleEntry, Schedules},
    unreadable,
};
use taskhost_core::task::{Millis, NewTask, QueueName};

#[async_trait]
impl Schedules for RedisBroker {
    /// A schedule that moves to another queue keeps its due times and its pause. The old one stops firing before they are read, and is
    /// deleted after the new one is written. So repeating this after a failure loses nothing.
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        self.meet(&schedule.queue).await?;
        let before = match self.queue_of(&schedule.name).await {
            // The stored queue can't be read: the new definition replaces it.
            Err(BrokerError::Invalid(_)) => None,
            queue => queue?,
        };
        let index = redis::cmd("HSET").arg(self.keys.shared("schedules")).arg(&schedule.name).arg(schedule.queue.as_str()).to_owned();
        let moves_from = before.filter(|before| *before != schedule.queue);
        let (mut new, mut record) = (schedule.clone(), String::new());
        match &moves_from {
            None => self.commands.send(&index).await.map(drop)?,
            Some(old) => {
                if self.read_schedule(old, &schedule.name).await?.is_some() {
                    // No firing has an empty rule, so none matches.
                    let halt = redis::cmd("HSET").arg(self.keys.schedule(old, &schedule.name)).arg("rule").arg("").to_owned();
                    self.commands.send(&halt).await?;
                }
                if let Some(mut before) = self.read_schedule(old, &schedule.name).await? {
                    let more = redis::cmd("HMGET").arg(self.keys.schedule(old, &schedule.name)).arg(&["named", "record"]).to_owned();
                    let mut more = list(self.commands.send(&more).await?)?.into_iter();
                    // An operator has paused or resumed it since, so the pause is the operator's and not the definition's.
                    if word(more.next().unwrap_or(Value::Nil)) != "1" {
                        before.says_paused = None;
                    }
                    new.take_along(&before);
                    record = word(more.next().unwrap_or(Value::Nil));
                }
            }
        }
        let named = match new.says_paused {
            None => "",
            Some(false) => "0",
            Some(true) => "1",
        };
        let told = serde_json::json!({
            "name": new.name,
            "rule": new.rule,
            "timezone": new.timezone,
            "what": what(&new),
            "overlap": if new.overlap == Overlap::Skip { "skip" } else { "allow" },
            "definition": json(&new)?,
            "named": named,
            "created": new.created_at.0,
            "last": new.last.0,
            "paused": if new.paused && new.says_paused.is_none() { "1" } else { "0" },
            "record": record,
        });
        let call = PUT_SCHEDULE.call(&self.keys.queue(&new.queue)).arg(told.to_string());
        self.commands.call(&call).await?;
        if let Some(old) = moves_from {
            self.commands.send(&index).await?;
            self.drop_schedule(&old, &new.name).await?;
        }
        Ok(())
    }

    async fn schedules(&self) -> Result<Vec<Schedule>> {
        let index = words(self.commands.send(redis::cmd("HGETALL").arg(self.keys.shared("schedules"))).await?)?;
        let named: BTreeMap<_, _> = index.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        let read = named.into_iter().map(|(name, queue)| async move {
            // An unreadable schedule does not stop the others from firing.
            let left_out = |why: String| {
                let name = unreadable::shown(&name);
                unreadable::say(
                    &self.at,
                    &format!("schedule `{name}`"),
                    why,
                    format!("it does not fire; `taskhost schedule remove {name}`"),
                );
                Ok(None)
            };
            let queue = match QueueName::new(&queue) {
                Ok(queue) => queue,
                Err(error) => return left_out(error.to_string()),
            };
            match self.read_schedule(&queue, &name).await {
                Err(BrokerError::Corrupt(why)) => left_out(why),
                read => read,
            }
        });
        Ok(try_join_all(read).await?.into_iter().flatten().collect())
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        let Some(queue) = self.queue_of(name).await? else { return Ok(false) };
        let call = PAUSE_SCHEDULE.call(&self.keys.queue(&queue)).arg(name).arg(usize::from(paused));
        Ok(is_yes(&self.commands.call(&call).await?))
    }

    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        let index = self.keys.shared("schedules");
        let (mut was, mut fields) = (false, vec![name.as_bytes().to_vec()]);
        match self.queue_of(name).await {
            Ok(Some(queue)) => was = self.drop_schedule(&queue, name).await?,
            // The stored queue is not a valid name, so no queue has the schedule.
            Err(BrokerError::Invalid(_)) => {}
            // A name that can't be typed is given as it is shown.
            Ok(None) => {
                let names = list(self.commands.send(redis::cmd("HKEYS").arg(&index)).await?)?.into_iter().map(bytes);
                fields = names.filter(|stored| unreadable::shown(&String::from_utf8_lossy(stored)) == name).collect();
            }
            Err(error) => return Err(error),
        }
        if !fields.is_empty() {
            was |= is_yes(&self.commands.send(redis::cmd("HDEL").arg(&index).arg(&fields)).await?);
        }
        Ok(was)
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        check_payload(task, self.settings.payload_limit)?;
        let firing = serde_json::json!({
            "schedule": schedule.name,
            "due": due.0,
            "rule": schedule.rule,
            "timezone": schedule.timezone,
            "what": what(schedule),
            "record": record(task)?,
        });
        let call = FIRE.call(&self.keys.queue(&schedule.queue)).arg(firing.to_string());
        let mut row = Row::new(self.commands.call(&call).await?)?;
        match &*word(row.next()) {
            "fired" => Ok(Fired::Enqueued(task.id.clone())),
            "early" => Ok(Fired::TooEarly(std::time::Duration::from_millis(count(&row.next())))),
            "skipped" => Ok(Fired::Skipped(shown_id(&bytes(row.next())))),
            _ => Ok(Fired::NotNow),
        }
    }

    async fn schedule_record(&self, name: &str) -> Result<Vec<ScheduleEntry>> {
        let Some(queue) = self.queue_of(name).await? else { return Ok(Vec::new()) };
        let record = self.commands.send(redis::cmd("HGET").arg(self.keys.schedule(&queue, name)).arg("record")).await?;
        Ok(text(record).map(|record| ScheduleEntry::read_all(&record)).unwrap_or_default())
    }

    async fn now(&self) -> Result<Millis> {
        let time = list(self.commands.send(&redis::cmd("TIME")).await?)?;
        let part = |n: usize| time.get(n).map_or(0, count);
        Ok(Millis(part(0) * 1000 + part(1) / 1000))
    }
}

impl RedisBroker {
    async fn read_schedule(&self, queue: &QueueName, name: &str) -> Result<Option<Schedule>> {
        let key = self.keys.schedule(queue, name);
        let fields = ["definition", "last", "last_task", "paused", "created"];
        stored(name, queue, self.commands.send(redis::cmd("HMGET").arg(key).arg(&fields[..])).await?)
    }

    async fn drop_schedule(&self, queue: &QueueName, name: &str) -> Result<bool> {
        let was = self.commands.send(redis::cmd("DEL").arg(self.keys.schedule(queue, name))).await?;
        self.commands.send(redis::cmd("SREM").arg(self.keys.of(queue, "schedules")).arg(name)).await?;
        Ok(is_yes(&was))
    }

    async fn queue_of(&self, name: &str) -> Result<Option<QueueName>> {
        let queue = text(self.commands.send(redis::cmd("HGET").arg(self.keys.shared("schedules")).arg(name)).await?);
        let broken = |error| BrokerError::Invalid(format!("schedule `{name}` can't be read: {error}; `taskhost schedule remove {name}`"));
        queue.map(|queue| QueueName::new(&queue).map_err(broken)).transpose()
    }
}

/// The task of a firing. If it differs from the stored one, the definition has changed since it was read.
fn what(schedule: &Schedule) -> String {
    format!("{} {}", schedule.task, schedule.args)
}

fn stored(name: &str, queue: &QueueName, fields: Value) -> Result<Option<Schedule>> {
    let mut fields = list(fields)?.into_iter();
    let Some(definition) = fields.next().and_then(text) else { return Ok(None) };
    let mut schedule: Schedule = serde_json::from_str(&definition).map_err(|error| corrupt(&format!("schedule {name}"), error))?;
    let mut next = || fields.next().and_then(text);
    schedule.queue = queue.clone();
    // Without `last`, every due time since 1970 would be caught up with.
    let last = next().and_then(|last| last.parse().ok()).ok_or_else(|| corrupt(&format!("schedule {name}"), "its `last` is not a time"))?;
    schedule.last = Millis(last);
    schedule.last_task = next().and_then(|id| id.parse().ok());
    schedule.paused = next().as_deref() == Some("1");
    schedule.created_at = Millis(next().and_then(|created| created.parse().ok()).unwrap_or_default());
    Ok(Some(schedule))
}
