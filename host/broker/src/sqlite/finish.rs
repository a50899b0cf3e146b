//! Finishing: what a verdict asks for and all that follows from it, in one step.
//!
//! member → still held by this incarnation? → verdict, or cancelled instead → the row, the log, the children, the news

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};

use super::{
    end::{Kept, count, keep, release, remove},
    enqueue::{add_child, meet},
    incarnation::alive,
    rows::{BRIEF, Brief, brief, number, words},
    writer::{Failure, Step, sql},
};
use crate::{
    error::Result,
    lease::{Finish, FinishReply, Finished, Incarnation},
};
use taskhost_core::{
    retry::{Next, cancelled_instead, transition},
    task::{ErrorEntry, ErrorKind, Follow, State, TaskError},
};

/// Errors that are kept of a task.
const ERRORS: usize = 5;
/// Bytes of log that are kept of a task.
const LOG_BYTES: usize = 64 << 10;

pub(super) fn finish(step: &mut Step<'_>, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply, Failure> {
    let Some(n) = alive(step, who)? else { return Ok(vec![Finished::Stale; finishes.len()]) };
    let mut ends = Ends::new();
    let reply = finishes.iter().map(|finish| one(step, who, n, finish, &mut ends)).collect();
    for ((state, gone_at), n) in ends {
        count(step, &who.queue, state, gone_at, n)?;
    }
    reply
}

/// How many of a batch ended so, and are over their time then.
type Ends = BTreeMap<(State, Option<i64>), i64>;

fn one(step: &mut Step<'_>, who: &Incarnation, n: i64, finish: &Finish, ends: &mut Ends) -> Result<Finished, Failure> {
    let Some(task) = held(step, who, n, finish)? else { return Ok(Finished::Stale) };
    let (mut after, reply) = settle(step, &task, finish);
    if !finish.log.is_empty() {
        append_log(step, task.seq, &finish.log)?;
    }
    for Follow::Enqueue(child) in after.follows {
        meet(step, &child.queue)?;
        // A known id is not added again, so repeating the step is safe.
        let _known = add_child(step, child)?;
    }
    // A task that is handed back keeps its place. After an attempt it goes behind the others, its children included.
    if after.state == State::Ready && after.counted {
        after.turn = step.stamp();
    }
    if after.state.is_ended() {
        release(step, &task)?;
        step.news.ended.push(task.id.clone());
    } else {
        step.news.claimable.insert(task.queue.clone());
    }
    write(step, &task, finish, after, ends)?;
    Ok(reply)
}

/// The task, if this very attempt is still held.
fn held(step: &Step<'_>, who: &Incarnation, n: i64, finish: &Finish) -> Result<Option<Brief>, Failure> {
    let Ok(claimed_us) = i64::try_from(finish.member.claimed_us) else { return Ok(None) };
    let mut find = step
        .connection
        .prepare_cached(&format!("SELECT {BRIEF} FROM task WHERE id = ? AND queue = ? AND state = 3 AND held_by = ? AND claimed_us = ?"))?;
    Ok(find.query_row(params![finish.member.id.as_str(), who.queue.as_str(), n, claimed_us], brief).optional()?)
}

/// What a row becomes.
struct After<'a> {
    state: State,
    result: Option<&'a str>,
    counted: bool,
    turn: i64,
    due_at: Option<i64>,
    error: Option<TaskError>,
    /// What stands in the history, if anything.
    noted: Option<TaskError>,
    follows: &'a [Follow],
}

fn settle<'a>(step: &Step<'_>, task: &Brief, finish: &'a Finish) -> (After<'a>, Finished) {
    let becomes = transition(&finish.verdict, &finish.follows, step.settings.payload_limit);
    let noted = becomes.error.as_deref().cloned();
    let after = After {
        state: State::Cancelled,
        result: None,
        counted: becomes.is_counted,
        turn: task.turn,
        due_at: None,
        error: noted.clone(),
        noted,
        follows: &[],
    };
    if task.cancel_asked && becomes.yields_to_cancel {
        return (After { error: Some(cancelled_instead()), ..after }, Finished::CancelledInstead);
    }
    let (state, due_at) = match becomes.next {
        Next::Succeeded { result } => {
            return (After { state: State::Succeeded, result: Some(result), follows: becomes.follows, ..after }, Finished::Recorded);
        }
        Next::Dead => (State::Dead, None),
        Next::Cancelled => (State::Cancelled, None),
        Next::Parked => (State::Parked, None),
        Next::Waiting(delay) => match Some(sql(step.now.after(delay))).filter(|due| *due > step.now_ms()) {
            Some(due) => (State::Scheduled, Some(due)),
            None => (State::Ready, None),
        },
    };
    (After { state, due_at, follows: becomes.follows, ..after }, Finished::Recorded)
}

fn write(step: &Step<'_>, task: &Brief, finish: &Finish, after: After<'_>, ends: &mut Ends) -> Result<(), Failure> {
    let gone_at = match after.state.is_ended().then(|| keep(step, task, after.state)).transpose()? {
        Some(Kept::Nothing) => return remove(step, task),
        Some(Kept::Until(gone_at)) => {
            *ends.entry((after.state, gone_at)).or_default() += 1;
            gone_at
        }
        None => None,
    };
    let tries = task.tries.saturating_add(u32::from(after.counted));
    let lost = after.noted.as_ref().is_some_and(|error| error.kind == ErrorKind::WorkerLost);
    let errors = match after.noted {
        Some(error) => Some(note(step, task, finish, tries, error)?),
        None => task.errors.clone(),
    };
    // Handed back or parked, the code and worker of the last real attempt stay; its last error does, too.
    let (worker, code) = if after.counted { (Some(&*finish.worker), finish.code.as_ref()) } else { (None, None) };
    let error = after.error.as_ref().map(serde_json::to_string).transpose()?;
    let mut update = step.connection.prepare_cached(
        "UPDATE task SET state = ?1, turn = ?2, tries = ?3, losses = ?4, due_at = ?5, parked_at = ?6, ended_at = ?7, gone_at = ?8,
                held_by = NULL, cancel_asked = 0, progress = NULL, result = ?9, error = iif(?10, ?11, error), errors = ?12,
                worker = coalesce(?13, worker), plugin = coalesce(?14, plugin), version = coalesce(?15, version),
                digest = coalesce(?16, digest)
         WHERE seq = ?17",
    )?;
    update.execute(params![
        number(after.state),
        after.turn,
        tries,
        task.losses.saturating_add(u32::from(lost)),
        after.due_at,
        (after.state == State::Parked).then(|| step.now_ms()),
        after.state.is_ended().then(|| step.now_ms()),
        gone_at,
        after.result,
        after.counted || after.state.is_ended(),
        error,
        errors,
        worker,
        code.map(|code| &code.plugin),
        code.map(|code| &code.version),
        code.map(|code| &code.digest),
        task.seq,
    ])?;
    Ok(())
}

/// The history with one more error, the oldest left out.
fn note(step: &Step<'_>, task: &Brief, finish: &Finish, attempt: u32, error: TaskError) -> Result<String, Failure> {
    let mut errors: Vec<ErrorEntry> = match &task.errors {
        Some(stored) => serde_json::from_str(stored).unwrap_or_default(),
        None => Vec::new(),
    };
    let code = finish.code.as_deref().cloned().unwrap_or_default();
    errors.push(ErrorEntry { at: step.now, attempt, worker: finish.worker.to_string(), code, error });
    errors.drain(..errors.len().saturating_sub(ERRORS));
    Ok(serde_json::to_string(&errors)?)
}

/// The newest 64 KiB, whole lines.
fn append_log(step: &Step<'_>, seq: i64, text: &str) -> Result<(), Failure> {
    let mut find = step.connection.prepare_cached("SELECT text FROM log WHERE seq = ?")?;
    let mut log = find.query_row([seq], |row| words(row, 0)).optional()?.flatten().unwrap_or_default();
    if !log.is_empty() && !log.ends_with('\n') {
        log.push('\n');
    }
    log.push_str(text);
    let newest = newest_lines(&log, LOG_BYTES);
    step.connection.prepare_cached("INSERT OR REPLACE INTO log (seq, text) VALUES (?, ?)")?.execute(params![seq, newest])?;
    Ok(())
}

/// The last lines of `text` that fit `limit` bytes; of a last line that is longer alone, its end.
fn newest_lines(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let mut from = text.len() - limit;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let tail = &text[from..];
    if text[..from].ends_with('\n') {
        return tail;
    }
    match tail.find('\n') {
        Some(end) if end + 1 < tail.len() => &tail[end + 1..],
        _ => tail,
    }
}

#[cfg(test)]
mod tests {
    use super::newest_lines;

    #[test]
    fn a_long_log_keeps_its_newest_whole_lines() {
        assert_eq!(newest_lines("a\nb\n", 10), "a\nb\n");
        assert_eq!(newest_lines("aaaa\nbbbb\ncc\n", 9), "bbbb\ncc\n");
        assert_eq!(newest_lines("aaaa\nbbbb\ncc\n", 8), "bbbb\ncc\n");
        assert_eq!(newest_lines("aaaa\nbbbb\ncc", 6), "cc");
        assert_eq!(newest_lines("ääää", 3), "ä");
        assert_eq!(newest_lines("aaaaaaaa\n", 3), "aa\n");
    }
}
