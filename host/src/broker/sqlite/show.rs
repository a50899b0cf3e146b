//! What is shown: a task, its log, a page of tasks, the queues. Read on connections of their own; nothing here writes.
//!
//! A listing goes through five sections (running, ready, scheduled, parked, ended), each in the order of its index; a page's
//! `next` is `section:key:key:seq` of its last task, so that tasks which move meanwhile shift nothing.

use std::collections::BTreeMap;

use rusqlite::{Connection, ToSql, params, types::Value};

use super::{
    end::at,
    rows::{Odd, VIEW, maybe, ms, number, or_odd, parsed, view, whole, why, words},
    writer::{Failure, sql},
};
use crate::{
    broker::{BrokerError, QueueView, Result, TaskFilter, TaskPage, unreadable},
    task::{Millis, QueueName, State, TaskId, TaskView},
};

/// Tasks of one page, at most.
const PAGE: usize = 1_000;

pub(super) fn find(
    db: &Connection,
    now: Millis,
    queue: Option<&QueueName>,
    id: &TaskId,
    odd: &mut Vec<Odd>,
) -> Result<Option<TaskView>, Failure> {
    let mut find = db.prepare_cached(&format!(
        "SELECT {VIEW} FROM task WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) ORDER BY queue"
    ))?;
    let rows =
        find.query_map(params![id.as_str(), queue.map(QueueName::as_str), sql(now)], |row| Ok(or_odd(row.get(24)?, view(row), odd)))?;
    let mut found = rows.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<_>>>()?;
    one_queue_has(id, found.iter().map(|view| &view.queue))?;
    Ok(found.pop())
}

/// An id is unique in its queue only.
fn one_queue_has<'a>(id: &TaskId, queues: impl ExactSizeIterator<Item = &'a QueueName>) -> Result<(), Failure> {
    if queues.len() > 1 { Err(unreadable::ambiguous(id, queues).into()) } else { Ok(()) }
}

pub(super) fn log(db: &Connection, now: Millis, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT coalesce(log.text, ''), queue FROM task LEFT JOIN log USING (seq)
         WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) ORDER BY queue",
    )?;
    let read = |row: &rusqlite::Row<'_>| Ok((words(row, 0)?.unwrap_or_default(), parsed::<QueueName>(row, 1).unwrap_or_default()));
    let rows = find.query_map(params![id.as_str(), queue.map(QueueName::as_str), sql(now)], read)?;
    let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    one_queue_has(id, found.iter().map(|(_, queue)| queue))?;
    Ok(found.pop().map(|(log, _)| log))
}

/// A part of a listing and its order; each key ascends, or both descend.
struct Section {
    states: &'static str,
    keys: [&'static str; 2],
    descends: bool,
    holds: &'static [State],
}

const SECTIONS: [Section; 5] = [
    Section { states: "state = 3", keys: ["claimed_us", "seq"], descends: false, holds: &[State::Running] },
    Section { states: "state = 1", keys: ["rank", "turn"], descends: false, holds: &[State::Ready] },
    Section { states: "state = 0", keys: ["due_at", "seq"], descends: false, holds: &[State::Scheduled] },
    Section { states: "state = 2", keys: ["rank", "turn"], descends: false, holds: &[State::Parked] },
    Section { states: "state > 3", keys: ["ended_at", "seq"], descends: true, holds: &[State::Succeeded, State::Dead, State::Cancelled] },
];

/// Where a page ended.
#[derive(Clone, Copy)]
struct Cursor {
    section: usize,
    at: [i64; 3],
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let section = parts.next()?.parse().ok().filter(|section| *section < SECTIONS.len())?;
        let mut at = [0; 3];
        for part in &mut at {
            *part = parts.next()?.parse().ok()?;
        }
        parts.next().is_none().then_some(Self { section, at })
    }

    fn print(self) -> String {
        let [a, b, c] = self.at;
        format!("{}:{a}:{b}:{c}", self.section)
    }
}

pub(super) fn list(
    db: &Connection,
    now: Millis,
    filter: &TaskFilter,
    from: Option<&str>,
    limit: usize,
    odd: &mut Vec<Odd>,
) -> Result<TaskPage, Failure> {
    let from = match from {
        Some(text) => Some(Cursor::parse(text).ok_or_else(|| {
            BrokerError::Invalid(format!("not a place in a listing: `{text}`; give what the last page said, or begin anew"))
        })?),
        None => None,
    };
    let limit = limit.clamp(1, PAGE);
    let mut page = TaskPage::default();
    for (index, section) in SECTIONS.iter().enumerate().skip(from.map_or(0, |cursor| cursor.section)) {
        if !filter.states.is_empty() && !section.holds.iter().any(|state| filter.states.contains(state)) {
            continue;
        }
        let after = from.filter(|cursor| cursor.section == index).map(|cursor| cursor.at);
        let more = read_section(db, now, filter, section, after, limit + 1 - page.tasks.len(), odd)?;
        for (task, at) in more {
            if page.tasks.len() == limit {
                // One more was found: the page ends at the one before, whose place was noted.
                return Ok(page);
            }
            page.tasks.push(task);
            page.next = Some(Cursor { section: index, at }.print());
        }
    }
    page.next = None;
    Ok(page)
}

fn read_section(
    db: &Connection,
    now: Millis,
    filter: &TaskFilter,
    section: &Section,
    after: Option<[i64; 3]>,
    limit: usize,
    odd: &mut Vec<Odd>,
) -> Result<Vec<(TaskView, [i64; 3])>, Failure> {
    let [a, b] = section.keys;
    let (direction, beyond) = if section.descends { ("DESC", "<") } else { ("ASC", ">") };
    let mut wanted = vec![section.states.to_owned(), "(gone_at IS NULL OR gone_at > ?)".into()];
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(sql(now))];
    if let Some([x, y, z]) = after {
        wanted.push(format!("({a}, {b}, seq) {beyond} (?, ?, ?)"));
        values.extend([x, y, z].map(|key| Box::new(key) as Box<dyn ToSql>));
    }
    if let Some(queue) = &filter.queue {
        wanted.push("queue = ?".into());
        values.push(Box::new(queue.to_string()));
    }
    if !filter.states.is_empty() {
        let states: Vec<_> = filter.states.iter().map(|state| number(*state).to_string()).collect();
        wanted.push(format!("state IN ({})", states.join(", ")));
    }
    if let Some(task) = &filter.task {
        wanted.push("name = ?".into());
        values.push(Box::new(task.to_string()));
    }
    if let Some(part) = &filter.error {
        wanted.push(
            "error IS NOT NULL AND (instr(error ->> '$.kind', ?) OR instr(error ->> '$.message', ?) OR instr(error ->> '$.code', ?))"
                .into(),
        );
        values.extend((0..3).map(|_| Box::new(part.clone()) as Box<dyn ToSql>));
    }
    if let Some(older) = filter.older {
        wanted.push("coalesce(ended_at, due_at, enqueued_at) <= ?".into());
        values.push(Box::new(sql(now).saturating_sub(ms(older))));
    }
    let text = format!(
        "SELECT {VIEW}, {a}, {b} FROM task WHERE {} ORDER BY {a} {direction}, {b} {direction}, seq {direction} LIMIT {limit}",
        wanted.join(" AND ")
    );
    let mut find = db.prepare_cached(&text)?;
    let values: Vec<&dyn ToSql> = values.iter().map(AsRef::as_ref).collect();
    // A listing can't go on from a key that is no number.
    let read = |row: &rusqlite::Row<'_>| Ok((view(row)?, [row.get(26)?, row.get(27)?, row.get(24)?]));
    let rows = find.query_map(&*values, |row| Ok(or_odd(row.get(24)?, read(row), odd)))?;
    Ok(rows.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?)
}

/// The queues, and names that are none.
pub(super) fn queues(db: &Connection, now: Millis) -> Result<(Vec<QueueView>, Vec<Value>), Failure> {
    let mut all = db.prepare_cached("SELECT name, paused FROM queue ORDER BY name")?;
    let read = |row: &rusqlite::Row<'_>| Ok((parsed::<QueueName>(row, 0), row.get::<_, Value>(0), whole(row, 1)? != 0));
    let (mut queues, mut odd) = (Vec::new(), Vec::new());
    for row in all.query_map((), read)? {
        match row? {
            (Ok(queue), _, paused) => queues.push(one_queue(db, now, queue, paused)?),
            (Err(error), name, _) => {
                unreadable::say(at(db), "a name in the list of queues", why(&error), "it is taken from there");
                odd.extend(name);
            }
        }
    }
    Ok((queues, odd))
}

fn one_queue(db: &Connection, now: Millis, queue: QueueName, paused: bool) -> Result<QueueView, Failure> {
    // Written out, because a partial index is only used where its condition stands literally.
    let mut count = db.prepare_cached(
        "SELECT (SELECT count(*) FROM task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0),
                (SELECT count(*) FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1),
                (SELECT count(*) FROM task INDEXED BY task_parked WHERE queue = ?1 AND state = 2),
                (SELECT count(*) FROM task INDEXED BY task_running WHERE queue = ?1 AND state = 3),
                (SELECT count(*) FROM task INDEXED BY task_ended WHERE queue = ?1 AND state = 4 AND state > 3),
                (SELECT count(*) FROM task INDEXED BY task_ended WHERE queue = ?1 AND state = 5 AND state > 3),
                (SELECT count(*) FROM task INDEXED BY task_ended WHERE queue = ?1 AND state = 6 AND state > 3),
                (SELECT min(enqueued_at) FROM
                   (SELECT enqueued_at FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1 ORDER BY rank, turn LIMIT 1))",
    )?;
    let mut gone =
        db.prepare_cached("SELECT state, count(*) FROM task INDEXED BY task_gone WHERE gone_at <= ? AND queue = ? GROUP BY state")?;
    let (counts, oldest) = count.query_row([queue.as_str()], |row| {
        let counts = (0..7).map(|column| row.get::<_, i64>(column).map(i64::unsigned_abs)).collect::<rusqlite::Result<Vec<_>>>()?;
        Ok((counts, maybe(row, 7)?))
    })?;
    let mut counts: BTreeMap<State, u64> = State::ALL.into_iter().zip(counts).collect();
    let over = gone.query_map(params![sql(now), queue.as_str()], |row| Ok((whole(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    for row in over {
        let (state, over) = row?;
        if let Some(kept) = counts.iter_mut().find_map(|(known, kept)| (number(*known) == state).then_some(kept)) {
            *kept = kept.saturating_sub(over);
        }
    }
    let oldest_ready_ms = oldest.map(|at| sql(now).saturating_sub(at).max(0).unsigned_abs());
    Ok(QueueView { queue, counts, oldest_ready_ms, paused })
}
