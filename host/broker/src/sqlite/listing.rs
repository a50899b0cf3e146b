//! Listings: section by section (running, ready, scheduled, parked) and queue by queue, then the ended tasks of all queues, newest first.
//!
//! the next keys of one index → the row → those that match the filter
//!
//! Invariant: a cursor names the last task that was looked at by its keys, so tasks that come and go meanwhile shift nothing. Every
//! statement walks one range of one index and stops at its limit: the cost of a page does not grow with the number of tasks.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension, params, types::ValueRef};
use serde::{Deserialize, Serialize};

use super::{
    columns::col,
    rows::{Odd, VIEW, number, or_odd, parsed, time, view, whole},
    show,
    writer::{Failure, sql},
};
use crate::{
    error::Result,
    listing::{TaskFilter, TaskPage, Walk, place},
    tasks,
};
use taskhost_core::task::{Millis, QueueName, State, TaskId};

/// Tasks of one page, at most.
const PAGE: usize = 1_000;

/// A part of a listing, in the order of its index within one queue.
struct Section {
    state: State,
    from: &'static str,
    order: &'static str,
    /// The condition for rows after the keys ?3 to ?5; of parked tasks also after the name ?2.
    beyond: &'static str,
    /// The places of these keys in [`VIEW`].
    keys: [usize; 3],
}

const SECTIONS: [Section; 4] = [
    Section {
        state: State::Running,
        from: "task INDEXED BY task_running WHERE queue = ?1 AND state = 3",
        order: "claimed_us, seq",
        beyond: "(claimed_us, seq) > (?3, ?4)",
        keys: [col!(VIEW.claimed_us), col!(VIEW.seq), col!(VIEW.seq)],
    },
    Section {
        state: State::Ready,
        from: "task INDEXED BY task_ready WHERE queue = ?1 AND state = 1",
        order: "rank, turn, seq",
        beyond: "(rank, turn, seq) > (?3, ?4, ?5)",
        keys: [col!(VIEW.rank), col!(VIEW.turn), col!(VIEW.seq)],
    },
    Section {
        state: State::Scheduled,
        from: "task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0",
        order: "due_at, seq",
        beyond: "(due_at, seq) > (?3, ?4)",
        keys: [col!(VIEW.due_at), col!(VIEW.seq), col!(VIEW.seq)],
    },
    Section {
        state: State::Parked,
        from: "task INDEXED BY task_parked WHERE queue = ?1 AND state = 2",
        order: "name, rank, turn, seq",
        beyond: "(name, rank, turn, seq) > (?2, ?3, ?4, ?5)",
        keys: [col!(VIEW.rank), col!(VIEW.turn), col!(VIEW.seq)],
    },
];

impl Section {
    fn text(&self) -> String {
        format!("SELECT {VIEW} FROM {} AND {} ORDER BY {} LIMIT ?6", self.from, self.beyond, self.order)
    }
}

/// The next ended tasks of one state of one queue.
const ENDED: &str = "SELECT ended_at, seq FROM task INDEXED BY task_ended WHERE queue = ?1 AND state = ?2 AND state > 3
     AND (ended_at, seq) < (?3, ?4) AND ended_at >= ?6 ORDER BY ended_at DESC, seq DESC LIMIT ?5";

/// The newest ends of one state of one queue, from a time to before another.
const FEED: &str = "SELECT ended_at, id FROM task INDEXED BY task_ended WHERE queue = ?1 AND state = ?2 AND state > 3
     AND ended_at >= ?3 AND ended_at < ?4 ORDER BY ended_at DESC LIMIT ?5";

fn one() -> String {
    format!("SELECT {VIEW} FROM task WHERE seq = ?1 AND (gone_at IS NULL OR gone_at > ?2)")
}

/// Every statement of a listing.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    SECTIONS.iter().map(Section::text).chain([ENDED.to_owned(), FEED.to_owned(), one()]).collect()
}

/// Where a listing continues.
#[derive(Debug, Serialize, Deserialize)]
enum Cursor {
    Waiting {
        section: usize,
        /// `None`: the first queue.
        queue: Option<QueueName>,
        after: Mark,
    },
    /// `ended_at` and `seq`.
    Ended(i64, i64),
}

/// A place in one section of one queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    name: String,
    keys: [i64; 3],
}

const FIRST: Mark = Mark { name: String::new(), keys: [i64::MIN; 3] };

/// Lists a page. Unreadable rows are left out and added to `odd`. The first page also looks for rows that no page would meet.
pub(super) fn list(
    db: &Connection,
    now: Millis,
    filter: &TaskFilter,
    from: Option<&str>,
    limit: usize,
    odd: &mut Vec<Odd>,
) -> Result<TaskPage, Failure> {
    if from.is_none() {
        stray(db, odd)?;
    }
    let mut cursor = match from {
        Some(from) => place(from)?,
        None => Cursor::Waiting { section: 0, queue: None, after: FIRST },
    };
    let queues = match &filter.queue {
        Some(queue) => vec![queue.clone()],
        None => show::names(db)?,
    };
    let mut walk = Walk::new(filter, now, limit.clamp(1, PAGE));
    while !walk.is_over() {
        cursor = match cursor {
            Cursor::Waiting { section, queue, after } => walk_waiting(db, &mut walk, &queues, section, queue.as_ref(), after, odd)?,
            Cursor::Ended(at, seq) => {
                let is_end = walk_ended(db, &mut walk, &queues, now, (at, seq), odd)?;
                return Ok(walk.page(is_end)?);
            }
        };
    }
    Ok(walk.page(false)?)
}

/// The newest ends of a queue since a time. The caller holds the writer, so no other step ends a task meanwhile.
pub(super) fn feed(db: &Connection, now: Millis, queue: &QueueName, since: Millis, limit: usize) -> Result<tasks::Feed, Failure> {
    let mut find = db.prepare_cached(FEED)?;
    let most = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let mut ends = Vec::new();
    for state in State::ALL.into_iter().filter(|state| state.is_ended()) {
        let read = |row: &rusqlite::Row<'_>| Ok((whole(row, "ended_at")?, parsed::<TaskId>(row, "id").ok()));
        let rows = find.query_map(params![queue.as_str(), number(state), sql(since), sql(now), most], read)?;
        for row in rows {
            let (at, id) = row?;
            ends.extend(id.map(|id| tasks::End { id, state, at: time(at) }));
        }
    }
    ends.sort_by_key(|end| std::cmp::Reverse(end.at));
    let is_cut = ends.len() > limit;
    ends.truncate(limit);
    ends.reverse();
    Ok(tasks::Feed { ends, until: now, is_cut })
}

/// One step of the first four sections. Gives the cursor behind it.
fn walk_waiting(
    db: &Connection,
    walk: &mut Walk<'_, Cursor>,
    queues: &[QueueName],
    index: usize,
    queue: Option<&QueueName>,
    after: Mark,
    odd: &mut Vec<Odd>,
) -> Result<Cursor, Failure> {
    let Some(section) = SECTIONS.get(index) else { return Ok(Cursor::Ended(i64::MAX, i64::MAX)) };
    let of = |section, queue| Cursor::Waiting { section, queue, after: FIRST };
    let at = queues.iter().find(|candidate| queue.is_none_or(|queue| *candidate >= queue));
    let Some(at) = at.filter(|_| walk.filter.wants(section.state)) else { return Ok(of(index + 1, None)) };
    let mut after = if queue == Some(at) { after } else { FIRST };
    let mut find = db.prepare_cached(&section.text())?;
    let [a, b, c] = after.keys;
    let limit = i64::try_from(walk.wanted()).unwrap_or(i64::MAX);
    let mut rows = find.query(params![at.as_str(), after.name, a, b, c, limit])?;
    let mut is_empty = true;
    while let Some(row) = rows.next()? {
        let [a, b, c] = section.keys;
        let read = || Ok((Mark { name: row.get(col!(VIEW.name))?, keys: [row.get(a)?, row.get(b)?, row.get(c)?] }, view(row)?));
        let Some((mark, task)) = or_odd(row.get(col!(VIEW.seq))?, read(), odd) else { continue };
        is_empty = false;
        after = mark;
        walk.look(Some(task), Cursor::Waiting { section: index, queue: Some(at.clone()), after: after.clone() });
        if walk.is_over() {
            break;
        }
    }
    if is_empty {
        let next = queues.iter().find(|candidate| *candidate > at).cloned();
        return Ok(if next.is_some() { of(index, next) } else { of(index + 1, None) });
    }
    Ok(Cursor::Waiting { section: index, queue: Some(at.clone()), after })
}

/// The ended tasks of one state of one queue, read as far as needed.
struct Feed<'a> {
    queue: &'a QueueName,
    state: State,
    /// `ended_at` and `seq`, newest first.
    next: VecDeque<(i64, i64)>,
    last: (i64, i64),
    is_over: bool,
}

impl Feed<'_> {
    fn fill(&mut self, db: &Connection, limit: usize, oldest: i64, odd: &mut Vec<Odd>) -> Result<(), Failure> {
        let mut find = db.prepare_cached(ENDED)?;
        let (at, seq) = self.last;
        let limit_rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = |row: &rusqlite::Row<'_>| {
            let seq = row.get("seq")?;
            Ok(or_odd(seq, row.get("ended_at").map(|at| (at, seq)), odd))
        };
        let found = find.query_map(params![self.queue.as_str(), number(self.state), at, seq, limit_rows, oldest], read)?;
        let mut rows = 0;
        for keys in found {
            rows += 1;
            if let Some(keys) = keys? {
                self.last = keys;
                self.next.push_back(keys);
            }
        }
        self.is_over = rows < limit || self.next.is_empty();
        Ok(())
    }
}

/// Ended tasks, from `last` on. Gives whether these were all.
fn walk_ended(
    db: &Connection,
    walk: &mut Walk<'_, Cursor>,
    queues: &[QueueName],
    now: Millis,
    last: (i64, i64),
    odd: &mut Vec<Odd>,
) -> Result<bool, Failure> {
    let states: Vec<State> = State::ALL.into_iter().filter(|state| state.is_ended() && walk.filter.wants(*state)).collect();
    let of = |queue| states.iter().map(move |state| Feed { queue, state: *state, next: VecDeque::new(), last, is_over: false });
    let mut feeds: Vec<Feed<'_>> = queues.iter().flat_map(of).collect();
    let oldest = walk.filter.from.map_or(i64::MIN, sql);
    let together = (2 * walk.wanted() / feeds.len().max(1)).clamp(4, walk.wanted().max(4));
    let mut find = db.prepare_cached(&one())?;
    while !walk.is_over() {
        for feed in &mut feeds {
            if feed.next.is_empty() && !feed.is_over {
                feed.fill(db, together, oldest, odd)?;
            }
        }
        let Some(feed) = feeds.iter_mut().filter(|feed| !feed.next.is_empty()).max_by_key(|feed| feed.next.front().copied()) else {
            return Ok(true);
        };
        if let Some((at, seq)) = feed.next.pop_front() {
            // `None`: it is past its time and not swept yet.
            let task = find.query_row(params![seq, sql(now)], |row| Ok(or_odd(seq, view(row), odd))).optional()?.flatten();
            walk.look(task, Cursor::Ended(at, seq));
        }
    }
    Ok(false)
}

/// How many stray rows of one kind one page notes.
const STRAYS: usize = 100;

/// Finds rows with an invalid queue, state or time. No walk along an index meets them. It takes one seek each, however many tasks there
/// are.
fn stray(db: &Connection, odd: &mut Vec<Odd>) -> Result<(), Failure> {
    let indices = [
        ("task_running", "state = 3"),
        ("task_ready", "state = 1"),
        ("task_scheduled", "state = 0"),
        ("task_parked", "state = 2"),
        ("task_ended", "state > 3"),
    ];
    for (index, states) in indices {
        let from = format!("FROM task INDEXED BY {index} WHERE {states}");
        let mut first = db.prepare_cached(&format!("SELECT queue {from} ORDER BY queue LIMIT 1"))?;
        let mut next = db.prepare_cached(&format!("SELECT queue {from} AND queue > {QUEUE} ORDER BY queue LIMIT 1"))?;
        let mut found = first.query_row((), Named::read).optional()?;
        while let Some(queue) = found {
            for (what, why) in queue.strays(index) {
                let mut find = db.prepare_cached(&format!("SELECT seq {from} AND queue = {QUEUE} AND {what} LIMIT {STRAYS}"))?;
                for seq in find.query_map(params![queue.bytes, queue.is_text], |row| row.get("seq"))? {
                    odd.push(Odd { seq: seq?, why: why.clone() });
                }
            }
            found = next.query_row(params![queue.bytes, queue.is_text], Named::read).optional()?;
        }
    }
    Ok(())
}

/// A [`Named`] as the column has it.
const QUEUE: &str = "iif(?2, CAST(?1 AS TEXT), ?1)";

/// The stored name of a queue; text may be invalid UTF-8.
struct Named {
    bytes: Vec<u8>,
    is_text: bool,
}

impl Named {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(match row.get_ref("queue")? {
            ValueRef::Text(text) => Self { bytes: text.to_owned(), is_text: true },
            ValueRef::Blob(bytes) => Self { bytes: bytes.to_owned(), is_text: false },
            // A TEXT column has no numbers.
            _ => Self { bytes: Vec::new(), is_text: true },
        })
    }

    /// Conditions that make a row of this index a stray, each with the reason.
    fn strays(&self, index: &str) -> Vec<(&'static str, String)> {
        let name = String::from_utf8(self.bytes.clone()).ok().filter(|_| self.is_text);
        let wrong = match name.map(QueueName::new) {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some("its queue is not text".to_owned()),
        };
        if let Some(why) = wrong {
            return vec![("1", why)];
        }
        let ended = "it has ended at no time";
        let wrong: &[(&'static str, &str)] = match index {
            "task_running" => &[("typeof(claimed_us) <> 'integer'", "it runs and was never claimed")],
            "task_scheduled" => &[("due_at IS NULL", "it is delayed and never due")],
            "task_ended" => &[
                ("state > 6", "its state is unknown"),
                ("state = 4 AND ended_at IS NULL", ended),
                ("state = 5 AND ended_at IS NULL", ended),
                ("state = 6 AND ended_at IS NULL", ended),
            ],
            _ => &[],
        };
        wrong.iter().map(|(what, why)| (*what, (*why).to_owned())).collect()
    }
}
