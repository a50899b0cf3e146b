//! The state of `top`: the last look at the broker, the chosen pane and row, and the effect of each key. No I/O.

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    widgets::TableState,
};
use taskhost_core::task::{Millis, QueueName, State, TaskId, TaskView};

use crate::ops::{Change, QueueView, WorkerInfo};

/// The answers of one look at the broker.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) about: String,
    pub(super) queues: Vec<QueueView>,
    pub(super) tasks: Vec<TaskView>,
    pub(super) workers: Vec<WorkerInfo>,
    pub(super) now: Millis,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Queues,
    Tasks,
    Workers,
}

/// The request of a key.
#[derive(Debug, PartialEq)]
pub(super) enum Act {
    Look,
    End,
    Pause(QueueName),
    Resume(QueueName),
    Change(Change, QueueName, TaskId),
}

/// The states in the order in which `s` goes through them.
const SHOWN: [State; 7] = [State::Running, State::Dead, State::Ready, State::Scheduled, State::Parked, State::Succeeded, State::Cancelled];

#[derive(Debug, Default)]
pub(super) struct Top {
    pub(super) seen: Option<Seen>,
    /// Why nothing newer was seen.
    pub(super) away: Option<String>,
    pub(super) pane: Pane,
    /// The index in [`SHOWN`].
    shown: usize,
    /// Only the chosen queue's tasks are listed.
    pub(super) is_narrow: bool,
    pub(super) queues: TableState,
    pub(super) tasks: TableState,
    pub(super) workers: TableState,
    pub(super) has_help: bool,
    /// How the last change went.
    pub(super) said: Option<String>,
}

impl Top {
    pub(super) fn shown(&self) -> State {
        SHOWN[self.shown % SHOWN.len()]
    }

    pub(super) fn only_queue(&self) -> Option<QueueName> {
        self.queue().filter(|_| self.is_narrow).map(|queue| queue.queue.clone())
    }

    fn queue(&self) -> Option<&QueueView> {
        self.seen.as_ref()?.queues.get(self.queues.selected()?)
    }

    fn task(&self) -> Option<&TaskView> {
        self.seen.as_ref()?.tasks.get(self.tasks.selected()?)
    }

    /// The chosen rows stay chosen by name, wherever they stand now.
    pub(super) fn see(&mut self, seen: Seen) {
        let queue = self.queue().map(|queue| queue.queue.clone());
        let task = self.task().map(|task| (task.queue.clone(), task.id.clone()));
        let at = queue.and_then(|queue| seen.queues.iter().position(|one| one.queue == queue));
        keep(&mut self.queues, at, seen.queues.len());
        let at = task.and_then(|(queue, id)| seen.tasks.iter().position(|one| one.queue == queue && one.id == id));
        keep(&mut self.tasks, at, seen.tasks.len());
        let at = self.workers.selected();
        keep(&mut self.workers, at, seen.workers.len());
        self.seen = Some(seen);
        self.away = None;
    }

    pub(super) fn is_away(&mut self, why: String) {
        self.away = Some(why);
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Act> {
        if std::mem::take(&mut self.has_help) {
            return None;
        }
        self.said = None;
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Some(Act::End),
            KeyCode::Char('q') | KeyCode::Esc => return Some(Act::End),
            KeyCode::Char('?') => self.has_help = true,
            KeyCode::Tab => {
                self.pane = match self.pane {
                    Pane::Queues => Pane::Tasks,
                    Pane::Tasks => Pane::Workers,
                    Pane::Workers => Pane::Queues,
                }
            }
            KeyCode::Char('j') | KeyCode::Down => self.table().select_next(),
            KeyCode::Char('k') | KeyCode::Up => self.table().select_previous(),
            KeyCode::Char('g') | KeyCode::Home => self.table().select_first(),
            KeyCode::Char('G') | KeyCode::End => self.table().select_last(),
            KeyCode::Char('s') => {
                self.shown = (self.shown + 1) % SHOWN.len();
                self.tasks.select(None);
                return Some(Act::Look);
            }
            KeyCode::Enter if self.pane == Pane::Queues => {
                self.is_narrow = !self.is_narrow;
                self.tasks.select(None);
                return Some(Act::Look);
            }
            KeyCode::Char('p') => {
                let queue = self.queue()?;
                let name = queue.queue.clone();
                return Some(if queue.paused { Act::Resume(name) } else { Act::Pause(name) });
            }
            KeyCode::Char('c') => return self.change(Change::Cancel),
            KeyCode::Char('r') => return self.change(Change::Retry),
            _ => {}
        }
        None
    }

    fn change(&mut self, change: Change) -> Option<Act> {
        if self.pane != Pane::Tasks {
            self.said = Some("choose a task first: Tab goes to the tasks".to_owned());
            return None;
        }
        let task = self.task()?;
        Some(Act::Change(change, task.queue.clone(), task.id.clone()))
    }

    fn table(&mut self) -> &mut TableState {
        match self.pane {
            Pane::Queues => &mut self.queues,
            Pane::Tasks => &mut self.tasks,
            Pane::Workers => &mut self.workers,
        }
    }
}

/// Chooses the row where the chosen one stands now, or the nearest.
fn keep(table: &mut TableState, at: Option<usize>, rows: usize) {
    let at = at.or_else(|| table.selected()).unwrap_or(0);
    table.select((rows > 0).then(|| at.min(rows.saturating_sub(1))));
}
