//! The role of flows in SQLite. A step reads, decides and writes in one transaction, so nobody else steps the flow meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    columns::insert,
    driver::SqliteBroker,
    enqueue::{add_child, meet},
    rows::{maybe, ms, parsed, time, whole, words},
    tasks::cancel,
    writer::{Failure, Step, sql},
};
use crate::{
    error::{BrokerError, Result},
    flows::{
        Ask, AskReply, CANCEL, Change, Fixed, FlowLine, FlowView, Flows, NewFlow, Shown, Standing, Told, decide, event, result_field,
        retry_line, retry_refusal, show,
    },
    unreadable,
};
use taskhost_core::{
    task::{FlowPlace, Millis, QueueName, TaskId},
    workflow::{FlowState, Missing, Node, Plan, Record, View},
};

/// Flows of one step of the writer.
const TOGETHER: usize = 64;
/// Events of a flow in one step.
const EVENTS: i64 = 1_000;
/// When a flow that can't be read is looked at again, in milliseconds.
const UNREADABLE_MS: i64 = 60_000;
/// Steps of one flow in one step of the writer.
const AT_ONCE: usize = 4;

#[async_trait]
impl Flows for SqliteBroker {
    async fn start_flow(&self, flow: &NewFlow) -> Result<bool> {
        let flow = flow.clone();
        self.write(move |step| {
            let plan = Fixed::check(&flow, step.settings.payload_limit)?;
            meet(step, &flow.queue)?;
            let is_new = put(step, &flow, &plan)?;
            if let Some(seq) = find(step.connection, &flow.queue, &flow.id, step.now)? {
                step_one(step, &flow.queue, seq)?;
            }
            Ok(is_new)
        })
        .await
    }

    async fn ask_flow(&self, queue: &QueueName, id: &TaskId, ask: &Ask) -> Result<AskReply> {
        let (queue, id, asked) = (queue.clone(), id.clone(), ask.clone());
        self.write(move |step| {
            let Some(seq) = find(step.connection, &queue, &id, step.now)? else { return Ok(AskReply::NotFound) };
            let reply = ask_one(step, &queue, &id, seq, &asked)?;
            if reply == AskReply::Done && asked != Ask::Pause {
                step_one(step, &queue, seq)?;
            }
            Ok(reply)
        })
        .await
    }

    async fn step_flows(&self, queue: &QueueName) -> Result<usize> {
        let mut stepped = 0;
        loop {
            let of = queue.clone();
            let count = self.write(move |step| step_due(step, &of)).await?;
            stepped += count;
            if count == 0 {
                return Ok(stepped);
            }
        }
    }

    async fn flow(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<FlowView>> {
        let (queue, id) = (queue.cloned(), id.clone());
        self.read(move |db, now| {
            let mut find =
                db.prepare_cached("SELECT seq, queue FROM flow WHERE id = ? AND (gone_at IS NULL OR gone_at > ?) ORDER BY queue")?;
            let found = find
                .query_map(params![id.as_str(), sql(now)], |row| Ok((row.get::<_, i64>(0)?, parsed::<QueueName>(row, 1))))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let found =
                found.into_iter().find_map(|(seq, of)| Some((seq, of.ok().filter(|of| queue.as_ref().is_none_or(|queue| queue == of))?)));
            found.map(|(seq, of)| view(db, seq, &of, &id)).transpose()
        })
        .await
    }

    async fn flows(&self, queue: &QueueName, limit: usize) -> Result<Vec<FlowLine>> {
        let queue = queue.clone();
        self.read(move |db, now| {
            let mut find = db.prepare_cached(
                "SELECT id, name, state, started_at, ended_at, paused, parent FROM flow WHERE queue = ? AND (gone_at IS NULL OR gone_at > ?)
                 ORDER BY ended_at IS NOT NULL, coalesce(ended_at, started_at) DESC, seq DESC LIMIT ?",
            )?;
            let read = |row: &rusqlite::Row<'_>| {
                let state: FlowState = words(row, 2)?.and_then(|state| state.parse().ok()).unwrap_or_default();
                let Ok(id) = parsed::<TaskId>(row, 0) else { return Ok(None) };
                Ok(Some(FlowLine {
                    id,
                    queue: queue.clone(),
                    name: words(row, 1)?.unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect(),
                    state: state.word,
                    why: state.why,
                    nodes: state.nodes,
                    ends: state.ends,
                    started_at: time(whole(row, 3)?),
                    ended_at: maybe(row, 4)?.map(time),
                    paused: maybe(row, 5)?.map(time),
                    parent: words(row, 6)?.and_then(|parent| parent.parse().ok()),
                }))
            };
            let lines = find.query_map(params![queue.as_str(), sql(now), i64::try_from(limit).unwrap_or(i64::MAX)], read)?;
            Ok(lines.filter_map(rusqlite::Result::transpose).collect::<rusqlite::Result<_>>()?)
        })
        .await
    }
}

/// The number of a flow that is kept.
fn find(db: &Connection, queue: &QueueName, id: &TaskId, now: Millis) -> Result<Option<i64>, Failure> {
    let mut find = db.prepare_cached("SELECT seq FROM flow WHERE queue = ? AND id = ? AND (gone_at IS NULL OR gone_at > ?)")?;
    Ok(find.query_row(params![queue.as_str(), id.as_str(), sql(now)], |row| row.get(0)).optional()?)
}

/// Writes a new flow. Whether it is new.
fn put(step: &mut Step<'_>, flow: &NewFlow, plan: &Plan) -> Result<bool, Failure> {
    let mut forget = step.connection.prepare_cached("DELETE FROM flow WHERE queue = ? AND id = ? AND gone_at <= ?")?;
    forget.execute(params![flow.queue.as_str(), flow.id.as_str(), step.now_ms()])?;
    drop(forget);
    let added = insert!(step.connection, "INSERT INTO flow" {
        queue: flow.queue.as_str(),
        id: flow.id.as_str(),
        name: plan.name,
        plan: flow.plan,
        input: flow.input,
        state: View::fresh(plan, "", step.now).state.to_string(),
        headers: serde_json::to_string(&flow.headers)?,
        parent: flow.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        started_at: step.now_ms(),
        wake_at: 0,
    } "ON CONFLICT (queue, id) DO NOTHING");
    if added == 1 {
        step.news.claimable.insert(flow.queue.clone());
    }
    Ok(added == 1)
}

fn ask_one(step: &mut Step<'_>, queue: &QueueName, id: &TaskId, seq: i64, ask: &Ask) -> Result<AskReply, Failure> {
    let mut read = step.connection.prepare_cached("SELECT state, ended_at, paused FROM flow WHERE seq = ?")?;
    let (state, ended, paused) = read.query_row([seq], |row| Ok((words(row, 0)?.unwrap_or_default(), maybe(row, 1)?, maybe(row, 2)?)))?;
    drop(read);
    if ended.is_some() && !matches!(ask, Ask::Retry(_)) {
        return Ok(AskReply::Refused(state.parse::<FlowState>().unwrap_or_default().word));
    }
    let set = |set: &str| step.connection.prepare_cached(&format!("UPDATE flow SET {set} WHERE seq = ?1"))?.execute(params![seq]);
    match ask {
        // What is asked of a paused flow lets it go on.
        Ask::Cancel => {
            set("paused = NULL")?;
            note(step, queue, seq, CANCEL)?;
        }
        Ask::Retry(of) => {
            if let Some(refused) = retry_refusal(&view(step.connection, seq, queue, id)?, of.as_deref()) {
                return Ok(refused);
            }
            set("paused = NULL")?;
            note(step, queue, seq, &retry_line(of.as_deref()))?;
        }
        Ask::Pause | Ask::Resume if paused.is_some() == (*ask == Ask::Pause) => return Ok(AskReply::Already),
        Ask::Pause => {
            let mut pause = step.connection.prepare_cached("UPDATE flow SET paused = ?, wake_at = NULL WHERE seq = ?")?;
            pause.execute([step.now_ms(), seq])?;
        }
        Ask::Resume => {
            set("paused = NULL, wake_at = 0")?;
        }
        Ask::Signal { name, value } => {
            let mut put =
                step.connection.prepare_cached("INSERT INTO flow_signal (flow, name, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?;
            if put.execute(params![seq, name, value])? == 0 {
                return Ok(AskReply::Already);
            }
            set("wake_at = iif(paused IS NULL, 0, NULL)")?;
        }
    }
    step.news.claimable.insert(queue.clone());
    Ok(AskReply::Done)
}

/// Notes an event for the next step. A paused flow keeps its events until it goes on. One that had ended is kept until its next step.
fn note(step: &mut Step<'_>, queue: &QueueName, seq: i64, line: &str) -> Result<(), Failure> {
    step.connection.prepare_cached("INSERT INTO flow_event (flow, line) VALUES (?, ?)")?.execute(params![seq, line])?;
    let mut wake =
        step.connection.prepare_cached("UPDATE flow SET gone_at = NULL, wake_at = iif(paused IS NULL, 0, NULL) WHERE seq = ?")?;
    wake.execute([seq])?;
    step.news.claimable.insert(queue.clone());
    Ok(())
}

/// Tells a flow what happened to a task, or a flow, that runs for it. A flow that is gone is told nothing.
pub(super) fn tell(step: &mut Step<'_>, place: &FlowPlace, told: &Told) -> Result<(), Failure> {
    let Some(seq) = find(step.connection, &place.queue, &place.flow, step.now)? else { return Ok(()) };
    if let Some((field, result)) = &told.result {
        let mut put = step.connection.prepare_cached("INSERT OR REPLACE INTO flow_result (flow, field, result) VALUES (?, ?, ?)")?;
        put.execute(params![seq, field, result])?;
    }
    note(step, &place.queue, seq, &told.line)
}

/// When the next flow of a queue wants a step.
pub(super) fn next_wake(db: &Connection, queue: &QueueName) -> Result<Option<i64>, Failure> {
    let mut find = db.prepare_cached("SELECT min(wake_at) FROM flow INDEXED BY flow_wake WHERE queue = ? AND wake_at IS NOT NULL")?;
    Ok(find.query_row([queue.as_str()], |row| maybe(row, 0))?)
}

/// Deletes flows that are past their time.
pub(super) fn forget(step: &Step<'_>) -> Result<(), Failure> {
    let mut forget = step
        .connection
        .prepare_cached("DELETE FROM flow WHERE seq IN (SELECT seq FROM flow INDEXED BY flow_gone WHERE gone_at <= ? LIMIT 100)")?;
    forget.execute([step.now_ms()])?;
    Ok(())
}

/// Steps flows that are due. How many.
fn step_due(step: &mut Step<'_>, queue: &QueueName) -> Result<usize, Failure> {
    let mut find = step
        .connection
        .prepare_cached("SELECT seq FROM flow INDEXED BY flow_wake WHERE queue = ? AND wake_at <= ? ORDER BY wake_at LIMIT ?")?;
    let due = find
        .query_map(params![queue.as_str(), step.now_ms(), i64::try_from(TOGETHER).unwrap_or(1)], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    drop(find);
    for seq in &due {
        step_one(step, queue, *seq)?;
    }
    Ok(due.len())
}

/// Takes the next steps of one flow, a few if it wants more at once. One that can't be read stands still, and holds no other up.
fn step_one(step: &mut Step<'_>, queue: &QueueName, seq: i64) -> Result<(), Failure> {
    let few = |step: &mut Step<'_>| {
        for _ in 0..AT_ONCE {
            if !advance(step, queue, seq)? {
                break;
            }
        }
        Ok(())
    };
    match few(step) {
        Err(Failure::Broker(BrokerError::Corrupt(why))) => {
            let again = step.now_ms().saturating_add(UNREADABLE_MS);
            step.connection.prepare_cached("UPDATE flow SET wake_at = ? WHERE seq = ?")?.execute([again, seq])?;
            let then = "it stands still until its row is mended or deleted";
            unreadable::say(super::end::at(step.connection), &format!("the flow {seq} of queue `{queue}`"), why, then);
            Ok(())
        }
        done => done,
    }
}

/// One step. Whether the flow wants another one at once.
fn advance(step: &mut Step<'_>, queue: &QueueName, seq: i64) -> Result<bool, Failure> {
    let mut head =
        step.connection.prepare_cached("SELECT id, plan, input, headers, parent, state, paused, ended_at FROM flow WHERE seq = ?")?;
    let read = |row: &rusqlite::Row<'_>| {
        let text = |column| words(row, column).map(Option::unwrap_or_default);
        Ok((parsed::<TaskId>(row, 0), [text(1)?, text(2)?, text(3)?, text(4)?, text(5)?], maybe(row, 6)?, maybe(row, 7)?))
    };
    let (id, [plan, input, headers, parent, state], paused, ended) = head.query_row([seq], read)?;
    drop(head);
    if paused.is_some() {
        step.connection.prepare_cached("UPDATE flow SET wake_at = NULL WHERE seq = ?")?.execute([seq])?;
        return Ok(false);
    }
    let corrupt = |why: String| Failure::Broker(BrokerError::Corrupt(why));
    let id = id.map_err(|error| corrupt(error.to_string()))?;
    let fixed = Arc::new(Fixed::read(&plan, &input, &headers, &parent).map_err(corrupt)?);
    let (lines, last) = events(step.connection, seq)?;
    let view = View {
        state: state.parse().map_err(corrupt)?,
        input,
        records: step_records(step.connection, seq, &fixed.plan)?,
        signals: signals(step.connection, seq)?,
        ..View::default()
    };
    let events = lines.iter().filter_map(|line| event(line, &fixed.plan)).collect();
    let mut standing = Standing { queue: queue.clone(), id, fixed, view, events };
    let change = loop {
        match decide(&standing, step.now, step.settings.payload_limit) {
            Ok(change) => break change,
            Err(missing) => read_more(step.connection, seq, &mut standing, &missing)?,
        }
    };
    write(step, queue, seq, &change, last, ended.is_some())?;
    Ok(change.wake == Some(step.now))
}

/// The oldest events, and the number of the last of them.
fn events(db: &Connection, seq: i64) -> Result<(Vec<String>, i64), Failure> {
    let mut find = db.prepare_cached("SELECT n, line FROM flow_event WHERE flow = ? ORDER BY n LIMIT ?")?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, words(row, 1)?.unwrap_or_default()));
    let found = find.query_map([seq, EVENTS], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let last = found.last().map_or(0, |(n, _)| *n);
    Ok((found.into_iter().map(|(_, line)| line).collect(), last))
}

/// The records of all steps, and of what undoes them as far as it was written. One that can't be read counts as not begun.
fn step_records(db: &Connection, seq: i64, plan: &Plan) -> Result<BTreeMap<Node, Record>, Failure> {
    let mut records = BTreeMap::new();
    let mut find = db.prepare_cached("SELECT record FROM flow_node WHERE flow = ? AND node = ?")?;
    for step in 0..plan.steps.len() {
        let node = Node::step(step);
        for node in [node, node.undo()] {
            let read = |row: &rusqlite::Row<'_>| words(row, 0);
            let found = find.query_row(params![seq, node.name(plan)], read).optional()?.flatten();
            if found.is_some() || !node.is_undo {
                records.insert(node, found.and_then(|record| record.parse().ok()).unwrap_or_default());
            }
        }
    }
    Ok(records)
}

fn signals(db: &Connection, seq: i64) -> Result<BTreeMap<String, String>, Failure> {
    let mut find = db.prepare_cached("SELECT name, value FROM flow_signal WHERE flow = ?")?;
    let read = |row: &rusqlite::Row<'_>| Ok((words(row, 0)?.unwrap_or_default(), words(row, 1)?.unwrap_or_default()));
    Ok(find.query_map([seq], read)?.collect::<rusqlite::Result<_>>()?)
}

fn read_more(db: &Connection, seq: i64, standing: &mut Standing, missing: &Missing) -> Result<(), Failure> {
    let plan = Arc::clone(&standing.fixed.plan);
    let mut record = db.prepare_cached("SELECT record FROM flow_node WHERE flow = ? AND node = ?")?;
    for node in &missing.records {
        let found = record.query_row(params![seq, node.name(&plan)], |row| words(row, 0)).optional()?.flatten();
        standing.view.records.insert(*node, found.and_then(|record| record.parse().ok()).unwrap_or_default());
    }
    let mut result = db.prepare_cached("SELECT result FROM flow_result WHERE flow = ? AND field = ?")?;
    for node in &missing.results {
        let epoch = standing.view.records.get(node).map_or(0, |record| record.epoch);
        let found = result.query_row(params![seq, result_field(&node.name(&plan), epoch)], |row| words(row, 0)).optional()?.flatten();
        standing.view.results.insert(*node, found.unwrap_or_else(|| "null".to_owned()));
    }
    Ok(())
}

fn write(step: &mut Step<'_>, queue: &QueueName, seq: i64, change: &Change, last: i64, was_ended: bool) -> Result<(), Failure> {
    for task in &change.tasks {
        meet(step, &task.queue)?;
        // A known id is not added again.
        let _known = add_child(step, task)?;
    }
    for (of, id) in &change.cancels {
        let _reply = cancel(step, of, id)?;
    }
    for flow in &change.flows {
        let plan = Fixed::check(flow, usize::MAX)?;
        let _known = put(step, flow, &plan)?;
    }
    for id in &change.stops {
        let Some(of) = find(step.connection, queue, id, step.now)? else { continue };
        let mut read = step.connection.prepare_cached("UPDATE flow SET paused = NULL WHERE seq = ? AND ended_at IS NULL")?;
        let is_live = read.execute([of])? == 1;
        drop(read);
        if is_live {
            note(step, queue, of, CANCEL)?;
        }
    }
    if let Some((place, told)) = &change.tells {
        tell(step, place, told)?;
    }
    let mut put = step.connection.prepare_cached("INSERT OR REPLACE INTO flow_node (flow, node, record) VALUES (?, ?, ?)")?;
    for (node, record) in change.steps.iter().chain(&change.items) {
        put.execute(params![seq, node, record])?;
    }
    step.connection.prepare_cached("DELETE FROM flow_event WHERE flow = ? AND n <= ?")?.execute([seq, last])?;
    let waits = step.connection.prepare_cached("SELECT 1 FROM flow_event WHERE flow = ?")?.exists([seq])?;
    let wake = if waits { Some(0) } else { change.wake.map(sql).filter(|_| !change.is_ended) };
    let gone = change.is_ended.then(|| step.now_ms().saturating_add(ms(step.settings.result_ttl).max(60_000)));
    let mut update = step.connection.prepare_cached(
        "UPDATE flow SET state = ?2, wake_at = ?3, gone_at = ?4, ended_at = iif(?5, coalesce(ended_at, ?6), NULL), result = iif(?5, coalesce(?7, result), NULL)
         WHERE seq = ?1",
    )?;
    update.execute(params![seq, change.state, wake, gone, change.is_ended, step.now_ms(), change.result])?;
    if wake == Some(0) || change.wake == Some(step.now) || (was_ended && !change.is_ended) {
        step.news.claimable.insert(queue.clone());
    }
    Ok(())
}

fn view(db: &Connection, seq: i64, queue: &QueueName, id: &TaskId) -> Result<FlowView, Failure> {
    let mut head =
        db.prepare_cached("SELECT plan, input, headers, parent, state, result, started_at, ended_at, paused FROM flow WHERE seq = ?")?;
    let read = |row: &rusqlite::Row<'_>| {
        let text = |column| words(row, column).map(Option::unwrap_or_default);
        Ok(([text(0)?, text(1)?, text(2)?, text(3)?, text(4)?], words(row, 5)?, time(whole(row, 6)?), maybe(row, 7)?, maybe(row, 8)?))
    };
    let ([plan, input, headers, parent, state], result, started_at, ended, paused) = head.query_row([seq], read)?;
    let fixed = Fixed::read(&plan, &input, &headers, &parent)
        .map_err(|why| BrokerError::Corrupt(format!("flow `{id}` can't be read: {why}; delete its row, or mend it")))?;
    let view = View {
        state: state.parse().unwrap_or_default(),
        input,
        records: step_records(db, seq, &fixed.plan)?,
        signals: signals(db, seq)?,
        ..View::default()
    };
    let shown = Shown { queue, id, started_at, ended_at: ended.map(time), paused: paused.map(time), result };
    Ok(show(&shown, &fixed, &view))
}
