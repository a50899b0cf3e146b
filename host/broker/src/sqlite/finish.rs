//! Finishing: a verdict and everything that follows from it, in one step.
//!
//! member → still held by this incarnation? → transition, or its cancel → log and follows → [`end_task`], or ready, scheduled or parked again

use rusqlite::{OptionalExtension, params};

use super::{
    end::{Attempt, End, Ends, end_task},
    enqueue::{add_child, meet},
    incarnation::alive,
    rows::{BRIEF, Brief, brief, number, words},
    writer::{Failure, Step, sql},
};
use crate::{
    error::Result,
    lease::{Finish, FinishReply, Finished, Incarnation, Member},
};
use taskhost_core::{
    retry::{Next, Transition, transition},
    task::{ErrorEntry, Follow, State, TaskError},
};

/// How many errors of a task are kept.
const ERRORS: usize = 5;
/// How many bytes of a task's log are kept.
const LOG_BYTES: usize = 64 << 10;

pub(super) fn finish(step: &mut Step<'_>, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply, Failure> {
    let Some(n) = alive(step, who)? else { return Ok(vec![Finished::Stale; finishes.len()]) };
    let mut ends = Ends::default();
    let reply = finishes.iter().map(|finish| one(step, who, n, finish, &mut ends)).collect();
    ends.count(step, &who.queue)?;
    reply
}

fn one(step: &mut Step<'_>, who: &Incarnation, n: i64, finish: &Finish, ends: &mut Ends) -> Result<Finished, Failure> {
    let Some(task) = held(step, who, n, &finish.member)? else { return Ok(Finished::Stale) };
    let becomes = transition(&finish.verdict, &finish.follows, step.settings.payload_limit);
    let (becomes, reply) = match becomes.instead().filter(|_| task.cancel_asked) {
        Some(instead) => (instead, Finished::CancelledInstead),
        None => (becomes, Finished::Recorded),
    };
    if !finish.log.is_empty() {
        keep_log(step, task.seq, finish.member.claimed_us, &finish.log)?;
    }
    for Follow::Enqueue(child) in becomes.follows {
        meet(step, &child.queue)?;
        // A known id is not added again, so repeating this is safe.
        let _known = add_child(step, child)?;
    }
    let attempt = attempt(step, &task, finish, &becomes)?;
    let (state, result) = match becomes.next {
        Next::Succeeded { result } => (State::Succeeded, Some(result)),
        Next::Dead => (State::Dead, None),
        Next::Cancelled => (State::Cancelled, None),
        Next::Waiting(delay) => {
            let due = Some(sql(step.now.after(delay))).filter(|due| *due > step.now_ms());
            wait(step, &task, if due.is_some() { State::Scheduled } else { State::Ready }, due, &becomes, &attempt)?;
            return Ok(reply);
        }
        Next::Parked => {
            wait(step, &task, State::Parked, None, &becomes, &attempt)?;
            return Ok(reply);
        }
    };
    end_task(step, ends, &task, &End { state, result, error: becomes.error.as_deref(), attempt })?;
    Ok(reply)
}

/// The task, if the incarnation still holds this attempt of it.
fn held(step: &Step<'_>, who: &Incarnation, n: i64, member: &Member) -> Result<Option<Brief>, Failure> {
    let Ok(claimed_us) = i64::try_from(member.claimed_us) else { return Ok(None) };
    let mut find = step
        .connection
        .prepare_cached(&format!("SELECT {BRIEF} FROM task WHERE id = ? AND queue = ? AND state = 3 AND held_by = ? AND claimed_us = ?"))?;
    Ok(find.query_row(params![member.id.as_str(), who.queue.as_str(), n, claimed_us], brief).optional()?)
}

/// The changes of the attempt to its task. A task that was handed back or parked keeps the worker and code of its last counted attempt.
fn attempt<'a>(step: &Step<'_>, task: &Brief, finish: &'a Finish, becomes: &Transition<'_>) -> Result<Attempt<'a>, Failure> {
    let tries = task.tries.saturating_add(u32::from(becomes.is_counted));
    Ok(Attempt {
        tries,
        losses: task.losses.saturating_add(u32::from(becomes.is_loss())),
        errors: match &becomes.noted {
            Some(error) => Some(note(step, task, finish, tries, error.as_ref().clone())?),
            None => task.errors.clone(),
        },
        worker: becomes.is_counted.then_some(&*finish.worker),
        code: finish.code.as_deref().filter(|_| becomes.is_counted),
    })
}

/// The task has not ended: it waits again.
fn wait(
    step: &mut Step<'_>,
    task: &Brief,
    state: State,
    due_at: Option<i64>,
    becomes: &Transition<'_>,
    attempt: &Attempt<'_>,
) -> Result<(), Failure> {
    // A ready task that was handed back keeps its place. After an attempt it goes behind the others.
    let turn = if state == State::Ready && becomes.is_counted { step.stamp() } else { task.turn };
    let mut update = step.connection.prepare_cached(
        "UPDATE task SET state = ?1, turn = ?2, tries = ?3, losses = ?4, due_at = ?5, parked_at = ?6, held_by = NULL, cancel_asked = 0,
                progress = NULL, error = coalesce(?7, error), errors = ?8, worker = coalesce(?9, worker), plugin = coalesce(?10, plugin),
                version = coalesce(?11, version), digest = coalesce(?12, digest)
         WHERE seq = ?13",
    )?;
    update.execute(params![
        number(state),
        turn,
        attempt.tries,
        attempt.losses,
        due_at,
        (state == State::Parked).then(|| step.now_ms()),
        becomes.error.as_deref().map(serde_json::to_string).transpose()?,
        attempt.errors,
        attempt.worker,
        attempt.code.map(|code| &code.plugin),
        attempt.code.map(|code| &code.version),
        attempt.code.map(|code| &code.digest),
        task.seq,
    ])?;
    step.news.claimable.insert(task.queue.clone());
    Ok(())
}

/// The history with one more error. The oldest is dropped if there are too many.
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

/// Shows the log of an attempt that runs.
pub(super) fn log_so_far(step: &mut Step<'_>, who: &Incarnation, member: &Member, log: &str) -> Result<(), Failure> {
    let Some(n) = alive(step, who)? else { return Ok(()) };
    let Some(task) = held(step, who, n, member)? else { return Ok(()) };
    keep_log(step, task.seq, member.claimed_us, log)
}

/// Writes the lines of an attempt into the log of its task. They replace the lines that were written earlier for the same attempt. The log keeps
/// its newest 64 KiB in whole lines.
fn keep_log(step: &Step<'_>, seq: i64, claimed_us: u64, text: &str) -> Result<(), Failure> {
    let claim = i64::try_from(claimed_us).unwrap_or(i64::MAX);
    let mut find = step.connection.prepare_cached("SELECT text, live_claim, live_from FROM log WHERE seq = ?")?;
    let read =
        |row: &rusqlite::Row<'_>| Ok((words(row, 0)?.unwrap_or_default(), row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?));
    let (mut log, owner, from) = find.query_row([seq], read).optional()?.unwrap_or_default();
    if owner == Some(claim) {
        let from = from.and_then(|from| usize::try_from(from).ok()).unwrap_or(0).min(log.len());
        log.truncate(log.floor_char_boundary(from));
    }
    if !log.is_empty() && !log.ends_with('\n') {
        log.push('\n');
    }
    let from = log.len();
    log.push_str(text);
    let newest = newest_lines(&log, LOG_BYTES);
    let from = from.saturating_sub(log.len() - newest.len());
    let mut put = step.connection.prepare_cached("INSERT OR REPLACE INTO log (seq, text, live_claim, live_from) VALUES (?, ?, ?, ?)")?;
    put.execute(params![seq, newest, claim, i64::try_from(from).unwrap_or(0)])?;
    Ok(())
}

/// The last lines of `text` that fit `limit` bytes. If the last line alone is longer, its end.
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
