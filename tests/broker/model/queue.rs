//! The model of one queue: its tasks, unique keys, stubs and outbox.
//!
//! Time stands still: a delay is none or an hour, and a time to start is past, an hour ahead, or none. So nothing becomes due by itself.
//! The pure `transition` says what a verdict becomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use taskhost_broker::{CancelReply, DeleteReply, EditReply, Enqueued, Finish, Finished, RetryReply, Totals};
use taskhost_core::{
    retry::{Next, transition},
    task::{ErrorKind, Follow, Millis, NewTask, QueueName, Start, State, TaskId, TaskName},
};

/// The payload limit of the model's brokers.
pub(super) const LIMIT: usize = 1_000;
/// Errors that are kept of a task.
const ERRORS: usize = 5;

/// The model's knowledge of a task.
#[derive(Debug, Clone)]
pub(super) struct Known {
    name: TaskName,
    priority: u8,
    unique: Option<String>,
    keeps_result: bool,
    is_child: bool,
    pub(super) expires: Option<Millis>,
    pub(super) args: String,
    pub(super) state: State,
    turn: u64,
    pub(super) tries: u32,
    pub(super) error: Option<ErrorKind>,
    pub(super) errors: usize,
    pub(super) cancel_asked: bool,
    holder: Option<usize>,
    pub(super) log: String,
    /// Where the lines of the attempt that runs begin in the log.
    log_from: usize,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) tasks: BTreeMap<TaskId, Known>,
    keys: BTreeMap<String, TaskId>,
    /// Tasks that the broker itself started and that are no longer kept.
    stubs: BTreeSet<TaskId>,
    /// Children for other queues that are not relayed yet.
    pub(super) outbox: Vec<NewTask>,
    /// Every id that this queue ever had.
    pub(super) ids: BTreeSet<TaskId>,
    turn: u64,
    pub(super) paused: bool,
    pub(super) totals: Totals,
}

/// The model's answer to a claim.
#[derive(Debug, PartialEq)]
pub(super) struct Claim {
    pub(super) ids: Vec<TaskId>,
    pub(super) parked: BTreeSet<TaskName>,
    pub(super) more: bool,
    pub(super) paused: bool,
}

impl Queue {
    pub(super) fn enqueue(&mut self, task: &NewTask, is_child: bool) -> Enqueued {
        if self.tasks.contains_key(&task.id) || (is_child && self.stubs.contains(&task.id)) {
            return Enqueued::Duplicate { holder: task.id.clone() };
        }
        let unique = task.unique.as_ref().map(|unique| unique.key.clone());
        if let Some(holder) = unique.as_ref().and_then(|key| self.keys.get(key)) {
            return Enqueued::Duplicate { holder: holder.clone() };
        }
        if let Some(key) = &unique {
            self.keys.insert(key.clone(), task.id.clone());
        }
        let known = Known {
            name: task.name.clone(),
            priority: task.options.priority.get(),
            unique,
            keeps_result: task.options.result_ttl != Some(Duration::ZERO),
            is_child,
            expires: task.expires,
            args: task.args.clone(),
            state: if task.start == Start::Now { State::Ready } else { State::Scheduled },
            turn: self.next_turn(),
            tries: 0,
            error: None,
            errors: 0,
            cancel_asked: false,
            holder: None,
            log: String::new(),
            log_from: 0,
        };
        self.tasks.insert(task.id.clone(), known);
        self.ids.insert(task.id.clone());
        self.totals.enqueued += 1;
        Enqueued::Added
    }

    /// Best first. Tasks whose time to start is over end before.
    pub(super) fn claim(&mut self, holder: usize, limit: usize, startable: &[TaskName], now: Millis) -> Claim {
        self.expire(now);
        let can = |task: &Known| task.state == State::Ready || (task.state == State::Parked && startable.contains(&task.name));
        let mut found: Vec<_> =
            self.tasks.iter().filter(|(_, task)| can(task)).map(|(id, task)| (9 - task.priority, task.turn, id.clone())).collect();
        found.sort();
        if self.paused {
            found.clear();
        }
        let more = found.len() > limit;
        let ids: Vec<_> = found.into_iter().take(limit).map(|(_, _, id)| id).collect();
        for id in &ids {
            let task = self.task(id);
            task.state = State::Running;
            task.holder = Some(holder);
            task.log_from = task.log.len();
        }
        let parked = self.tasks.values().filter(|task| task.state == State::Parked).map(|task| task.name.clone()).collect();
        Claim { ids, parked, more, paused: self.paused }
    }

    /// One line more of the attempt that runs. Gives all of its lines.
    pub(super) fn say(&mut self, id: &TaskId, step: usize) -> String {
        let task = self.task(id);
        task.log.extend([&step.to_string(), "\n"]);
        task.log[task.log_from..].to_owned()
    }

    /// Records a report. Also gives the children that belong to other queues.
    pub(super) fn finish(&mut self, line: &QueueName, finish: &Finish) -> (Finished, Vec<NewTask>) {
        let id = &finish.member.id;
        let becomes = transition(&finish.verdict, &finish.follows, LIMIT);
        let instead = becomes.instead().filter(|_| self.task(id).cancel_asked);
        let is_instead = instead.is_some();
        let becomes = instead.unwrap_or(becomes);
        let mut elsewhere = Vec::new();
        // The parent still holds its unique key.
        for Follow::Enqueue(child) in becomes.follows {
            if child.queue == *line {
                self.enqueue(child, true);
            } else {
                elsewhere.push(child.clone());
            }
        }
        let turn = self.next_turn();
        let task = self.task(id);
        if becomes.is_counted {
            task.tries += 1;
            task.error = becomes.noted.as_ref().map(|error| error.kind);
        }
        if becomes.noted.is_some() {
            task.errors = (task.errors + 1).min(ERRORS);
        }
        if is_instead {
            self.end(id, State::Cancelled, Some(ErrorKind::Cancelled));
            return (Finished::CancelledInstead, elsewhere);
        }
        let error = task.error;
        task.holder = None;
        match becomes.next {
            Next::Succeeded { .. } => self.end(id, State::Succeeded, None),
            Next::Dead => self.end(id, State::Dead, error),
            Next::Cancelled => self.end(id, State::Cancelled, error),
            Next::Parked => task.state = State::Parked,
            Next::Waiting(delay) if delay.is_zero() => {
                task.state = State::Ready;
                // A task that is handed back keeps its place.
                if becomes.is_counted {
                    task.turn = turn;
                }
            }
            Next::Waiting(_) => task.state = State::Scheduled,
        }
        (Finished::Recorded, elsewhere)
    }

    pub(super) fn cancel(&mut self, id: &TaskId) -> CancelReply {
        match self.tasks.get_mut(id) {
            None => CancelReply::NotFound,
            Some(task) if task.state.is_ended() => CancelReply::AlreadyEnded(task.state),
            Some(task) if task.state == State::Running => {
                task.cancel_asked = true;
                CancelReply::Asked
            }
            Some(_) => {
                self.end(id, State::Cancelled, Some(ErrorKind::Cancelled));
                CancelReply::Cancelled
            }
        }
    }

    pub(super) fn retry(&mut self, id: &TaskId, now: Millis) -> RetryReply {
        let turn = self.next_turn();
        let Some(task) = self.tasks.get_mut(id) else { return RetryReply::NotFound };
        match task.state {
            State::Scheduled => task.expires = task.expires.filter(|expires| *expires > now),
            State::Dead | State::Cancelled => {
                if let Some(key) = &task.unique {
                    if let Some(holder) = self.keys.get(key) {
                        return RetryReply::Duplicate { holder: holder.clone() };
                    }
                    self.keys.insert(key.clone(), id.clone());
                }
                (task.tries, task.error, task.expires) = (0, None, None);
            }
            state => return RetryReply::NotEnded(state),
        }
        task.state = State::Ready;
        task.turn = turn;
        RetryReply::Ready
    }

    pub(super) fn edit(&mut self, id: &TaskId, args: &str) -> EditReply {
        match self.tasks.get_mut(id) {
            None => EditReply::NotFound,
            Some(task) if matches!(task.state, State::Running | State::Succeeded) => EditReply::Refused(task.state),
            Some(task) => {
                args.clone_into(&mut task.args);
                EditReply::Edited
            }
        }
    }

    pub(super) fn delete(&mut self, id: &TaskId) -> DeleteReply {
        match self.tasks.get(id) {
            None => DeleteReply::NotFound,
            Some(task) if task.state == State::Running => DeleteReply::Running,
            Some(_) => {
                self.release(id);
                self.forget(id);
                DeleteReply::Deleted
            }
        }
    }

    /// Deletes all tasks that wait. Gives how many.
    pub(super) fn purge(&mut self) -> u64 {
        let waiting = self.ids_of(|task| matches!(task.state, State::Scheduled | State::Ready | State::Parked));
        for id in &waiting {
            self.release(id);
            self.forget(id);
        }
        waiting.len() as u64
    }

    pub(super) fn leave(&mut self, holder: usize) {
        for id in self.ids_of(|task| task.holder == Some(holder)) {
            let task = self.task(&id);
            if task.cancel_asked {
                self.end(&id, State::Cancelled, Some(ErrorKind::Cancelled));
            } else {
                task.state = State::Ready;
                task.holder = None;
            }
        }
    }

    /// Gives everything that `from` holds to `to`.
    pub(super) fn adopt(&mut self, from: usize, to: usize) {
        for task in self.tasks.values_mut().filter(|task| task.holder == Some(from)) {
            task.holder = Some(to);
        }
    }

    /// Ends waiting tasks that did not start in time.
    pub(super) fn expire(&mut self, now: Millis) {
        let waits = |task: &Known| matches!(task.state, State::Scheduled | State::Ready | State::Parked);
        for id in self.ids_of(|task| waits(task) && task.tries == 0 && task.expires.is_some_and(|expires| expires <= now)) {
            self.end(&id, State::Cancelled, Some(ErrorKind::Expired));
        }
    }

    /// Running tasks that are to stop.
    pub(super) fn asked(&self) -> Vec<TaskId> {
        self.ids_of(|task| task.cancel_asked)
    }

    pub(super) fn goes_on(&self, id: &TaskId) -> bool {
        self.tasks.get(id).is_some_and(|task| !task.state.is_ended())
    }

    fn end(&mut self, id: &TaskId, state: State, error: Option<ErrorKind>) {
        match state {
            State::Succeeded => self.totals.succeeded += 1,
            State::Dead => self.totals.dead += 1,
            _ => self.totals.cancelled += 1,
        }
        let task = self.task(id);
        task.state = state;
        task.error = error;
        task.cancel_asked = false;
        task.holder = None;
        let is_gone = !task.keeps_result && state != State::Dead;
        self.release(id);
        if is_gone {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: &TaskId) {
        if self.tasks.remove(id).is_some_and(|task| task.is_child) {
            self.stubs.insert(id.clone());
        }
    }

    fn release(&mut self, id: &TaskId) {
        self.keys.retain(|_, holder| holder != id);
    }

    fn ids_of(&self, is: impl Fn(&Known) -> bool) -> Vec<TaskId> {
        self.tasks.iter().filter(|(_, task)| is(task)).map(|(id, _)| id.clone()).collect()
    }

    fn task(&mut self, id: &TaskId) -> &mut Known {
        self.tasks.get_mut(id).expect("a known task")
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}
