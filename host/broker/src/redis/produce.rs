//! The role of producers: enqueue tasks, and await their ends.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    driver::RedisBroker,
    ends::Heard,
    record::{is_plain, push_record},
    scripts::{AWAIT, Call, ENQUEUE, ENQUEUE_ONE, Script},
    values::{end_told, is_yes, list, shown_id, view, word},
};
use crate::{
    error::{BrokerError, Result},
    produce::{Enqueued, Produce, check_payload},
    settings::TOLD,
    unreadable,
};
use taskhost_core::task::{NewTask, QueueName, TaskId, TaskView};

/// Tasks in one script call: it occupies the server for about 5 µs a task.
const TOGETHER: usize = 20_000;
/// The pauses before a step is repeated whose answer did not come.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// How often a waiting caller looks at the task itself, because a message may be lost with its connection.
const LOOK: Duration = Duration::from_secs(5);
/// Many who wait look more seldom: together at most once in this time.
const EACH: Duration = Duration::from_millis(5);
/// The pause before the next look after one that failed.
const PAUSE: Duration = Duration::from_millis(250);

#[async_trait]
impl Produce for RedisBroker {
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        for task in tasks {
            check_payload(task, self.settings.payload_limit)?;
        }
        let mut queues: BTreeMap<&QueueName, Vec<usize>> = BTreeMap::new();
        for (index, task) in tasks.iter().enumerate() {
            queues.entry(&task.queue).or_default().push(index);
        }
        let mut reply = vec![Enqueued::Added; tasks.len()];
        for (queue, indexes) in queues {
            self.meet(queue).await?;
            for part in indexes.chunks(TOGETHER) {
                let together: Vec<_> = part.iter().map(|index| &tasks[*index]).collect();
                for (index, enqueued) in part.iter().zip(self.enqueue_together(&ENQUEUE, queue, &together).await?) {
                    reply[*index] = enqueued;
                }
            }
        }
        Ok(reply)
    }

    /// listen (`ends`) → ready → mark as awaited → message → view. Looks again after a lost connection, and every few seconds.
    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        let deadline = Instant::now() + limit;
        let queue = match queue {
            Some(queue) => queue.clone(),
            None => loop {
                match self.await_anywhere(id).await {
                    Ok(Some((_, Some(ended)))) => return Ok(Some(ended)),
                    Ok(Some((queue, None))) => break queue,
                    Ok(None) => return Ok(None),
                    Err(error) if error.is_transient() && Instant::now() + LOOK < deadline => {
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                    Err(error) => return Err(error),
                }
            },
        };
        if limit.is_zero() {
            return self.look_last(&queue, id).await;
        }
        let mut ear = self.ends.enter(self.keys.done(&queue, id));
        let mut newest: Option<Box<TaskView>> = None;
        let mut look = deadline;
        loop {
            let heard = timeout_at(deadline.min(look), ear.heard()).await;
            let looked = match heard {
                Err(_over) if Instant::now() >= deadline => match self.look_last(&queue, id).await {
                    Err(error) if error.is_transient() => return newest.map_or(Err(error), |view| Ok(Some(*view))),
                    view => return view,
                },
                Ok(Heard::Failed(error)) if !error.is_transient() || Instant::now() + LOOK >= deadline => {
                    return newest.map_or(Err(error), |view| Ok(Some(*view)));
                }
                // The loop that listens tries again.
                Ok(Heard::Failed(_)) => continue,
                Ok(Heard::Message(message)) => match end_told(&queue, &message) {
                    Some(ended) => Ok(Looked::Found(Some(Box::new(ended)))),
                    // It was too long for a message, or the task has begun anew since.
                    None => self.find_or_told(&queue, id).await.map(|view| Looked::Found(view.map(Box::new))),
                },
                Ok(Heard::Ready) | Err(_) => self.look(&queue, id).await,
            };
            look = Instant::now() + LOOK.max(EACH * u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
            match looked {
                Ok(Looked::GoesOn) => {}
                Ok(Looked::Found(view)) if view.as_ref().is_none_or(|view| view.state.is_ended()) => return Ok(view.map(|view| *view)),
                Ok(Looked::Found(view)) => newest = view,
                Err(error) if error.is_transient() && Instant::now() < deadline => look = Instant::now() + PAUSE,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The answer of a look at a task whose end is awaited.
enum Looked {
    /// It has not ended, and is marked as awaited.
    GoesOn,
    Found(Option<Box<TaskView>>),
}

impl RedisBroker {
    /// Enqueues tasks of one queue in one step. If the answer is lost, the step is repeated, and finding our own ids then is a success.
    async fn enqueue_together(&self, script: &'static Script, queue: &QueueName, tasks: &[&NewTask]) -> Result<Vec<Enqueued>> {
        let mut call = script.call(&self.keys.queue(queue));
        // A task without a result may have ended and gone before the call is repeated. So the call has a name, which the broker remembers
        // for a while.
        let is_named = tasks.iter().any(|task| task.options.result_ttl.unwrap_or(self.settings.result_ttl) < TOLD);
        if is_named {
            call.push("call");
            call.push(uuid::Uuid::now_v7().to_string());
        }
        let mut repeated = false;
        if let [task] = tasks
            && is_plain(task)
            && !is_named
        {
            let one = ENQUEUE_ONE.call(&self.keys.queue(queue)).arg(task.id.as_str()).arg(task.name.as_str()).arg(&task.args);
            if is_yes(&self.commit_again(&one, &mut repeated).await?) {
                return Ok(vec![Enqueued::Added]);
            }
        }
        // The short form is used only if all tasks are plain. Tasks run in the order given, so the call is not split.
        if tasks.iter().all(|task| is_plain(task)) {
            // In ids that rise, the server finds the order of the tasks without a number for each.
            let are_sorted = tasks.is_sorted_by(|one, next| one.id.as_str() < next.id.as_str());
            call.push(if are_sorted { "sorted" } else { "plain" });
            for task in tasks {
                for part in [task.id.as_str(), task.name.as_str(), &task.args] {
                    call.push(part);
                }
            }
        } else {
            call.push(tasks.len());
            for task in tasks {
                push_record(&mut call, task)?;
            }
        }
        let answer = list(self.commit_again(&call, &mut repeated).await?)?;
        // A call with a name answers the same again.
        repeated &= !is_named;
        // The answer is empty if all tasks were added.
        if answer.is_empty() {
            return Ok(vec![Enqueued::Added; tasks.len()]);
        }
        let mut first = HashSet::new();
        answer
            .into_iter()
            .zip(tasks)
            .map(|(holder, task)| match word(holder) {
                holder if holder.is_empty() => Ok(Enqueued::Added),
                holder if repeated && holder == task.id.as_str() && first.insert(&task.id) => Ok(Enqueued::Added),
                holder => Ok(Enqueued::Duplicate { holder: shown_id(holder.as_bytes()) }),
            })
            .collect()
    }

    /// Commits, and repeats the step if its answer does not come. Notes if it was repeated.
    async fn commit_again(&self, call: &Call, repeated: &mut bool) -> Result<Value> {
        let mut again = AGAIN.iter();
        loop {
            match self.commit(call).await {
                Err(BrokerError::Unavailable(why)) => match again.next() {
                    Some(delay) => {
                        *repeated = true;
                        tokio::time::sleep(*delay).await;
                    }
                    None => return Err(BrokerError::Unavailable(why)),
                },
                answer => return answer,
            }
        }
    }

    /// Marks the task as awaited in all queues. Gives the queue that knows the task, and its end if it has ended.
    async fn await_anywhere(&self, id: &TaskId) -> Result<Option<(QueueName, Option<TaskView>)>> {
        let asked = self.all_queues().await?.into_iter().map(|queue| async move {
            let answer = self.commands.call(&AWAIT.call(&self.keys.queue(&queue)).arg(id.as_str())).await?;
            Ok::<_, BrokerError>(match answer {
                Value::Int(0) => None,
                answer => Some((ended(&queue, answer)?, queue)),
            })
        });
        let mut known: Vec<_> = try_join_all(asked).await?.into_iter().flatten().collect();
        if known.len() > 1 {
            return Err(unreadable::ambiguous(id, known.iter().map(|(_, queue)| queue)));
        }
        Ok(known.pop().map(|(ended, queue)| (queue, ended)))
    }

    /// Looks whether the task has ended, and marks it as awaited if not.
    async fn look(&self, queue: &QueueName, id: &TaskId) -> Result<Looked> {
        match self.commands.call(&AWAIT.call(&self.keys.queue(queue)).arg(id.as_str())).await? {
            Value::Int(1) => Ok(Looked::GoesOn),
            answer => match ended(queue, answer)? {
                Some(view) => Ok(Looked::Found(Some(Box::new(view)))),
                None => self.find_or_told(queue, id).await.map(|view| Looked::Found(view.map(Box::new))),
            },
        }
    }

    /// The same for a caller that waits no longer: it gets the newest view.
    async fn look_last(&self, queue: &QueueName, id: &TaskId) -> Result<Option<TaskView>> {
        match self.look(queue, id).await? {
            Looked::GoesOn => self.find_or_told(queue, id).await,
            Looked::Found(view) => Ok(view.map(|view| *view)),
        }
    }

    /// The task's view; if the task is gone, the view at its end.
    async fn find_or_told(&self, queue: &QueueName, id: &TaskId) -> Result<Option<TaskView>> {
        match self.find_in(queue, id).await? {
            Some(view) => Ok(Some(view)),
            None => ended(queue, self.commands.call(&AWAIT.call(&self.keys.queue(queue)).arg(id.as_str())).await?),
        }
    }
}

/// The end in an answer of `await`: of a stored task, or as published for a task that is gone.
fn ended(queue: &QueueName, answer: Value) -> Result<Option<TaskView>> {
    match answer {
        Value::Array(_) => view(queue, answer),
        Value::BulkString(told) => Ok(end_told(queue, &told)),
        _ => Ok(None),
    }
}
