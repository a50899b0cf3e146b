//! Enqueueing. A task with a known id or a held unique key is not added; the answer names the holder.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{
    columns::insert,
    kept,
    rows::{ms, number, parsed, rank},
    writer::{Failure, Step, sql},
};
use crate::{
    error::Result,
    produce::{Enqueued, check_payload},
};
use taskhost_core::task::{NewTask, QueueName, Start, State, TaskId, Unique};

/// Enqueues all tasks in the order given. One payload over the limit refuses all.
pub(super) fn enqueue(step: &mut Step<'_>, tasks: &[NewTask]) -> Result<Vec<Enqueued>, Failure> {
    for task in tasks {
        check_payload(task, step.settings.payload_limit)?;
    }
    let mut known: Option<&QueueName> = None;
    let mut reply = Vec::with_capacity(tasks.len());
    for task in tasks {
        if known != Some(&task.queue) {
            meet(step, &task.queue)?;
            known = Some(&task.queue);
        }
        reply.push(add(step, task)?);
    }
    Ok(reply)
}

/// Makes sure that the queue is in the list of queues.
pub(super) fn meet(step: &Step<'_>, queue: &QueueName) -> Result<(), Failure> {
    let mut insert = step.connection.prepare_cached("INSERT INTO queue (name) VALUES (?) ON CONFLICT DO NOTHING")?;
    insert.execute([queue.as_str()])?;
    Ok(())
}

/// Adds one task whose queue is listed and whose payload was checked.
pub(super) fn add(step: &mut Step<'_>, task: &NewTask) -> Result<Enqueued, Failure> {
    admit(step, task, false)
}

/// Adds a task that the broker itself starts. A task that left a stub is known too.
pub(super) fn add_child(step: &mut Step<'_>, task: &NewTask) -> Result<Enqueued, Failure> {
    if kept::has_stub(step, &task.queue, &task.id)? {
        return Ok(Enqueued::Duplicate { holder: task.id.clone() });
    }
    admit(step, task, true)
}

fn admit(step: &mut Step<'_>, task: &NewTask, is_child: bool) -> Result<Enqueued, Failure> {
    if let Some(unique) = &task.unique {
        if is_known(step, &task.queue, &task.id)? {
            return Ok(Enqueued::Duplicate { holder: task.id.clone() });
        }
        if let Some(holder) = take(step, &task.queue, &task.id, unique, due(step, task).unwrap_or(step.now_ms()))? {
            return Ok(Enqueued::Duplicate { holder });
        }
    }
    if insert(step, task, is_child)? {
        return Ok(Enqueued::Added);
    }
    // The id exists: the task is known, or it ended and is past its time.
    if is_known(step, &task.queue, &task.id)? || !insert(step, task, is_child)? {
        return Ok(Enqueued::Duplicate { holder: task.id.clone() });
    }
    Ok(Enqueued::Added)
}

/// When it may start, if not at once.
fn due(step: &Step<'_>, task: &NewTask) -> Option<i64> {
    match task.start {
        Start::Now => None,
        Start::In(delay) => Some(sql(step.now.after(delay))),
        Start::At(time) => Some(sql(time)),
    }
    .filter(|due| *due > step.now_ms())
}

fn insert(step: &mut Step<'_>, task: &NewTask, is_child: bool) -> Result<bool, Failure> {
    let due = due(step, task);
    let state = if due.is_some() { State::Scheduled } else { State::Ready };
    let options = &task.options;
    let headers = if options.headers.is_empty() { None } else { Some(serde_json::to_string(&options.headers)?) };
    let turn = step.stamp();
    let added = insert!(step.connection, "INSERT INTO task" {
        queue: task.queue.as_str(),
        id: task.id.as_str(),
        name: task.name.as_str(),
        args: task.args,
        rank: rank(options.priority),
        headers: headers,
        options: options.carried.to_json(),
        flow: options.flow.as_ref().map(ToString::to_string),
        state: number(state),
        turn: turn,
        max_attempts: options.max_attempts,
        timeout_ms: options.timeout.map(ms),
        result_ttl_ms: options.result_ttl.map(ms),
        enqueued_at: step.now_ms(),
        due_at: due,
        expires_at: task.expires.map(sql),
        unique_key: task.unique.as_ref().map(|unique| &unique.key),
        unique_ttl_ms: task.unique.as_ref().map(|unique| ms(unique.ttl)),
        child: is_child,
    } "ON CONFLICT (id, queue) DO NOTHING");
    if added == 1 && task.awaited {
        kept::note_awaited(step, &task.queue, &task.id, Duration::ZERO)?;
    }
    if added == 1 {
        step.news.totals(&task.queue).enqueued += 1;
    }
    if added == 1 && !step.news.claimable.contains(&task.queue) {
        // For a delayed task too, because waiting workers must reset their timers.
        step.news.claimable.insert(task.queue.clone());
    }
    Ok(added == 1)
}

/// Whether the id is known. A task that ended and is past its time is deleted first.
fn is_known(step: &Step<'_>, queue: &QueueName, id: &TaskId) -> Result<bool, Failure> {
    let mut forget = step.connection.prepare_cached("DELETE FROM task WHERE id = ? AND queue = ? AND gone_at <= ?")?;
    forget.execute(params![id.as_str(), queue.as_str(), step.now_ms()])?;
    let mut find = step.connection.prepare_cached("SELECT 1 FROM task WHERE id = ? AND queue = ?")?;
    Ok(find.exists([id.as_str(), queue.as_str()])?)
}

/// Takes a unique key for `id`, or gives the holder. The key's time starts when the task may start.
pub(super) fn take(step: &Step<'_>, queue: &QueueName, id: &TaskId, unique: &Unique, start: i64) -> Result<Option<TaskId>, Failure> {
    let mut find = step
        .connection
        .prepare_cached("SELECT holder FROM unique_key WHERE queue = ? AND key = ? AND until > ? AND until < 9223372036854775807")?;
    // A holder with an invalid id holds nothing.
    let holder: Option<TaskId> =
        find.query_row(params![queue.as_str(), unique.key, step.now_ms()], |row| Ok(parsed(row, "holder").ok())).optional()?.flatten();
    if let Some(holder) = holder
        && holder != *id
    {
        return Ok(Some(holder));
    }
    let mut hold = step.connection.prepare_cached("INSERT OR REPLACE INTO unique_key (queue, key, holder, until) VALUES (?, ?, ?, ?)")?;
    hold.execute(params![queue.as_str(), unique.key, id.as_str(), start.saturating_add(ms(unique.ttl))])?;
    Ok(None)
}
