//! Relays what belongs to other queues: children of a task's end, ends that flows are told, and cancels of their tasks.

use std::collections::BTreeMap;

use super::{
    driver::RedisBroker,
    scripts::{FLOW_TELL, RELAY},
    values::{Row, list, word, words},
};
use crate::{
    error::{BrokerError, Result},
    tasks::Tasks,
    unreadable,
};
use taskhost_core::task::{QueueName, TaskId};

/// Entries of the outbox that are moved at once.
const TOGETHER: usize = 500;

/// Adds to the target queue first, and removes from the outbox last: an entry that is relayed twice finds its id or its stub known.
pub(super) async fn relay(broker: &RedisBroker, queue: &QueueName) -> Result<usize> {
    Ok(relay_children(broker, queue).await? + relay_far(broker, queue).await?)
}

/// What the stream `far` holds: an event of a flow, or the cancel of a task. Both may be told twice.
async fn relay_far(broker: &RedisBroker, queue: &QueueName) -> Result<usize> {
    let far = broker.keys.of(queue, "far");
    let mut moved = 0;
    loop {
        let command = redis::cmd("XRANGE").arg(&far).arg("-").arg("+").arg("COUNT").arg(TOGETHER).to_owned();
        let entries = list(broker.commands.send(&command).await?)?;
        if entries.is_empty() {
            return Ok(moved);
        }
        let mut ids = Vec::new();
        for entry in entries {
            let mut row = Row::new(entry)?;
            ids.push(word(row.next()));
            let fields = words(row.next())?;
            let field = |name: &str| fields.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1)).map(String::as_str);
            let (to, flow, task) = (field("queue").and_then(|to| QueueName::new(to).ok()), field("flow"), field("cancel"));
            match (to, flow, task.and_then(|id| TaskId::new(id).ok())) {
                (Some(to), Some(flow), _) => {
                    let call = FLOW_TELL.call(&broker.keys.queue(&to)).arg(flow).arg(field("event").unwrap_or_default());
                    broker.commit(&call.arg(field("field").unwrap_or_default()).arg(field("result").unwrap_or_default())).await?;
                }
                (Some(to), None, Some(id)) => _ = broker.cancel(&to, &id).await?,
                _ => aside(broker, queue, "far", format!("{fields:?}"), "it is not an event of a flow and not a cancel".to_owned()).await?,
            }
        }
        broker.commands.send(redis::cmd("XDEL").arg(&far).arg(&ids)).await?;
        moved += ids.len();
    }
}

async fn relay_children(broker: &RedisBroker, queue: &QueueName) -> Result<usize> {
    let out = broker.keys.of(queue, "out");
    let mut moved = 0;
    loop {
        let command = redis::cmd("XRANGE").arg(&out).arg("-").arg("+").arg("COUNT").arg(TOGETHER).to_owned();
        let entries = list(broker.commands.send(&command).await?)?;
        if entries.is_empty() {
            return Ok(moved);
        }
        let (mut ids, mut odd) = (Vec::new(), Vec::new());
        let mut queues: BTreeMap<QueueName, Vec<Vec<String>>> = BTreeMap::new();
        for entry in entries {
            let mut row = Row::new(entry)?;
            ids.push(word(row.next()));
            let fields = words(row.next())?;
            let to = fields.get(1).and_then(|to| QueueName::new(to).ok());
            match (to, fields.get(3).and_then(|record| serde_json::from_str(record).ok())) {
                (Some(to), Some(record)) => queues.entry(to).or_default().push(record),
                _ => odd.push((format!("{fields:?}"), "it is not a queue and a record".to_owned())),
            }
        }
        for (to, records) in queues {
            match relay_to(broker, &to, &records).await {
                Err(BrokerError::Invalid(_)) => {
                    for record in records {
                        if let Err(error) = relay_to(broker, &to, std::slice::from_ref(&record)).await {
                            match error {
                                BrokerError::Invalid(why) => odd.push((format!("{to} {record:?}"), why)),
                                error => return Err(error),
                            }
                        }
                    }
                }
                relayed => relayed?,
            }
        }
        for (entry, why) in odd {
            aside(broker, queue, "out", entry, why).await?;
        }
        broker.commands.send(redis::cmd("XDEL").arg(&out).arg(&ids)).await?;
        moved += ids.len();
    }
}

/// Moves what can't be read to the place of the keys that careful.lua sets aside.
async fn aside(broker: &RedisBroker, queue: &QueueName, stream: &str, entry: String, why: String) -> Result<()> {
    let (from, aside) = (broker.keys.of(queue, stream), broker.keys.of(queue, &format!("aside:{stream}")));
    let then = format!("it was moved to `{aside}`; `taskhost queue purge {queue}` deletes it");
    unreadable::say(&broker.at, &format!("an entry of `{from}`, {entry},"), why, then);
    broker.commands.send(redis::cmd("XADD").arg(&aside).arg("MAXLEN").arg("~").arg(1000).arg("*").arg("entry").arg(entry)).await?;
    broker.commands.send(redis::cmd("SADD").arg(broker.keys.of(queue, "aside")).arg(stream)).await.map(drop)
}

async fn relay_to(broker: &RedisBroker, to: &QueueName, records: &[Vec<String>]) -> Result<()> {
    broker.meet(to).await?;
    let mut call = RELAY.call(&broker.keys.queue(to)).arg(records.len());
    for part in records.iter().flatten() {
        call.push(part);
    }
    broker.commit(&call).await.map(drop)
}
