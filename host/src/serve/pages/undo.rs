//! The arguments that a task had before an edit, so that the person who made it can take it back.
//!
//! Invariant: they stay in this process. An address has only the key, so it shows no arguments, and nobody can make a link that changes them.

use std::collections::VecDeque;

use parking_lot::Mutex;
use taskhost_core::task::{QueueName, TaskId, TaskView};

/// The most edits that can be taken back at once, and the longest arguments of each.
const MOST: usize = 64;
const LONGEST: usize = 64 << 10;

/// The latest edits.
#[derive(Debug, Default)]
pub(in crate::serve) struct Undos(Mutex<VecDeque<Undo>>);

#[derive(Debug)]
struct Undo {
    key: String,
    by: String,
    queue: QueueName,
    id: TaskId,
    args: String,
}

impl Undos {
    /// Keeps the arguments of a task that is about to change. `None`: they are too long.
    pub(super) fn keep(&self, by: &str, task: &TaskView) -> Option<String> {
        let args = task.args.get();
        if args.len() > LONGEST {
            return None;
        }
        let key = uuid::Uuid::new_v4().simple().to_string();
        let mut all = self.0.lock();
        if all.len() == MOST {
            all.pop_front();
        }
        all.push_back(Undo { key: key.clone(), by: by.to_owned(), queue: task.queue.clone(), id: task.id.clone(), args: args.to_owned() });
        Some(key)
    }

    /// The arguments before the edit of this key, if the same caller made it, of this task.
    pub(super) fn of(&self, key: &str, by: &str, task: &TaskView) -> Option<String> {
        let all = self.0.lock();
        let undo = all.iter().find(|undo| undo.key == key && undo.by == by && undo.queue == task.queue && undo.id == task.id);
        undo.map(|undo| undo.args.clone())
    }
}
