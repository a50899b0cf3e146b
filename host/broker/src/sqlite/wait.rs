//! The three waits: for work, for an end, for cancels. Each looks at the database whenever a bell rings.

use std::{collections::HashSet, pin::pin, time::Duration};

use rusqlite::{Connection, params};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    driver::SqliteBroker,
    kept,
    rows::{maybe, time},
    show, sweep,
    wake::Waiting,
    writer::{Failure, sql},
};
use crate::error::Result;
use taskhost_core::task::{Millis, QueueName, TaskId, TaskView};

/// What a claim would find in a queue.
struct Look {
    claimable: bool,
    /// When the next delayed task is due or the next lease may have expired.
    due: Option<Millis>,
    /// Changes when a task is parked, because a worker may be able to start it.
    parked: Option<i64>,
}

fn look(db: &Connection, now: Millis, queue: &QueueName) -> Result<Look, Failure> {
    let mut find = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1)
                AND NOT coalesce((SELECT paused FROM queue WHERE name = ?1), 0) AS ready,
                (SELECT min(due_at) FROM task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0) AS due,
                (SELECT min(deadline) FROM incarnation WHERE queue = ?1) AS deadline,
                (SELECT max(parked_at) FROM (SELECT parked_at FROM task INDEXED BY task_parked WHERE queue = ?1 AND state = 2 LIMIT 1000)) AS parked",
    )?;
    let (ready, due, deadline, parked): (bool, _, _, _) = find.query_row(params![queue.as_str()], |row| {
        Ok((row.get("ready")?, maybe(row, "due")?, maybe(row, "deadline")?, maybe(row, "parked")?))
    })?;
    let due = due.into_iter().chain(deadline).min();
    Ok(Look { claimable: ready || due.is_some_and(|due| due <= sql(now)), due: due.map(time), parked })
}

fn begin_waiting(broker: &SqliteBroker) -> Waiting {
    let (waiting, first) = broker.bells.wait();
    if first {
        // The writer sleeps without a limit until the first caller waits.
        broker.writer.watch();
    }
    waiting
}

pub(super) async fn wait(broker: &SqliteBroker, queue: &QueueName, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    let _waiting = begin_waiting(broker);
    let bell = broker.bells.queue(queue);
    let mut foreign = broker.bells.foreign();
    let mut parked = None;
    loop {
        let rung = bell.notified();
        let name = queue.clone();
        let seen = broker.read(move |db, now| look(db, now, &name)).await?;
        if seen.claimable || *parked.get_or_insert(seen.parked) != seen.parked {
            return Ok(());
        }
        let due = seen.due.map(|due| Instant::now() + due.since(broker.clock.now()));
        tokio::select! {
            () = rung => return Ok(()),
            () = sleep_until(due.unwrap_or(until).min(until)) => return Ok(()),
            _ = foreign.changed() => {}
        }
    }
}

/// read → ended? → else noted as awaited for long enough? → else a note, and read again → wait for a bell. After a commit of another process one
/// caller looks for all which of their tasks have ended, and rings.
pub(super) async fn await_end(broker: &SqliteBroker, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
    let until = Instant::now() + limit;
    let _waiting = begin_waiting(broker);
    let end = broker.bells.end(id);
    let mut foreign = broker.bells.foreign();
    let mut queue = queue.cloned();
    // When the note must be renewed.
    let mut renew = if limit.is_zero() { until + kept::RENEWED } else { Instant::now() };
    loop {
        let rung = end.bell.rings.notified();
        let (of, sought) = (queue.clone(), id.clone());
        let found = broker.read_tasks(move |db, now, odd| {
            let view = match show::find(db, now, of.as_ref(), &sought, odd)? {
                Some(view) => Some(view),
                None => kept::told(db, now, of.as_ref(), &sought)?,
            };
            let noted = match &view {
                Some(view) if !view.state.is_ended() => kept::noted_for(db, now, &view.queue, &sought)?,
                _ => Duration::ZERO,
            };
            Ok((view, noted))
        });
        let (view, noted) = found.await?;
        if view.as_ref().is_none_or(|view| view.state.is_ended()) || Instant::now() >= until {
            return Ok(view);
        }
        queue = view.map(|view| view.queue);
        if let Some(queue) = &queue {
            end.is_of(queue);
        }
        if renew <= Instant::now() {
            // An enqueue that was told of the wait has noted it, so a short wait writes nothing.
            renew = Instant::now() + noted.saturating_sub(kept::RENEWED);
            if noted < kept::RENEWED {
                note_awaited(broker, queue.as_ref(), id, until.saturating_duration_since(Instant::now())).await;
                renew = Instant::now() + kept::RENEWED;
                continue;
            }
        }
        let mut rung = pin!(rung);
        loop {
            tokio::select! {
                () = rung.as_mut() => break,
                () = sleep_until(until.min(renew)) => break,
                _ = foreign.changed() => {
                    let commit = *foreign.borrow_and_update();
                    look_for_all(broker, commit).await?;
                }
            }
        }
    }
}

/// Rings for those awaited tasks that have ended or are gone, unless somebody has looked since this commit of another process.
async fn look_for_all(broker: &SqliteBroker, commit: u64) -> Result<()> {
    let mut looked = broker.bells.looked.lock().await;
    if *looked >= commit {
        return Ok(());
    }
    let (newest, awaited) = (*broker.bells.foreign().borrow(), broker.bells.awaited());
    let ended = broker.read(move |db, _| {
        let mut going_on = db.prepare_cached("SELECT 1 FROM task WHERE id = ?1 AND queue = ?2 AND state < 4")?;
        let mut ended = Vec::new();
        for (id, queues) in awaited {
            // A caller that has not found its task yet looks by itself.
            let mut is_over = queues.is_empty();
            for queue in queues {
                is_over |= !going_on.exists(params![id.as_str(), queue.as_str()])?;
            }
            if is_over {
                ended.push(id);
            }
        }
        Ok(ended)
    });
    broker.bells.ring_ends(&ended.await?);
    *looked = newest;
    Ok(())
}

/// Notes that the task is awaited, so that its end is kept long enough to be told.
async fn note_awaited(broker: &SqliteBroker, queue: Option<&QueueName>, id: &TaskId, limit: Duration) {
    let (of, sought) = (queue.cloned(), id.clone());
    let noted = broker.write(move |step| match kept::going_on(step, of.as_ref(), &sought)? {
        Some(queue) => kept::note_awaited(step, &queue, &sought, limit),
        None => Ok(()),
    });
    // A full disk does not stop a caller from waiting. An end that is kept for its time is found anyway.
    if let Err(error) = noted.await {
        tracing::debug!(%id, %error, "failed to note that the task is awaited");
    }
}

pub(super) async fn cancellations(broker: &SqliteBroker, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
    let _waiting = begin_waiting(broker);
    let (mut foreign, mut cancels) = (broker.bells.foreign(), broker.bells.cancels());
    // Each attempt is sent once. An attempt whose cancel is no longer open is forgotten.
    let mut told = HashSet::new();
    loop {
        let asked: HashSet<_> = broker.read(|db, _| sweep::asked(db)).await?.into_iter().collect();
        for (queue, id, _) in asked.difference(&told) {
            if sender.send((queue.clone(), id.clone())).await.is_err() {
                return Ok(());
            }
        }
        told = asked;
        tokio::select! {
            () = sender.closed() => return Ok(()),
            _ = foreign.changed() => {}
            _ = cancels.changed() => {}
        }
    }
}
