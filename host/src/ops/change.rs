//! Cancels, retries and deletes tasks, by id or by filter.

use std::{collections::HashSet, fmt};

use serde::{Deserialize, Serialize};
use taskhost_broker::{CancelReply, DeleteReply, EditReply, RetryReply, TaskFilter};
use taskhost_core::{
    catalogue::Given,
    task::{QueueName, State, TaskId, TaskView},
};

use super::{
    connection::Ops,
    error::{OpsError, Unchanged},
    tasks::PAGE,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Keeps a waiting task from running, and stops a running one.
    Cancel,
    /// Runs a dead or cancelled task again, and a delayed one at once.
    Retry,
    Delete,
}

/// The effect of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Cancelled,
    /// It runs, and its worker was told to stop it.
    AskedToStop,
    Ready,
    Deleted,
}

/// The tasks that a filter chose for a change.
#[derive(Debug, Default)]
pub struct Chosen {
    pub tasks: Vec<(QueueName, TaskId)>,
    /// The states of those that the change does not apply to.
    pub unfit: Vec<State>,
}

impl Change {
    /// Whether the change applies to this state.
    pub fn fits(self, state: State) -> bool {
        match self {
            Self::Cancel => !state.is_ended(),
            Self::Retry => matches!(state, State::Dead | State::Cancelled | State::Scheduled),
            Self::Delete => state != State::Running,
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::AskedToStop => "asked to stop",
            Self::Ready => "ready",
            Self::Deleted => "deleted",
        })
    }
}

impl Ops {
    /// All tasks that the filter chooses, with those apart that the change does not apply to. Changes nothing.
    pub async fn choose(&self, filter: &TaskFilter, change: Change) -> Result<Chosen, OpsError> {
        let mut chosen = Chosen::default();
        let mut seen = HashSet::new();
        let mut from = None;
        // A task that changes its state meanwhile may be listed twice. Only ids are kept, not views with their results.
        loop {
            let page = self.broker.list(filter, from.as_deref(), PAGE).await?;
            for view in page.tasks {
                let key = (view.queue, view.id);
                if seen.insert(key.clone()) {
                    if change.fits(view.state) { chosen.tasks.push(key) } else { chosen.unfit.push(view.state) }
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(chosen);
            }
        }
    }

    /// Changes one task. A task that stays as it is answers [`OpsError::Unchanged`].
    pub async fn change(&self, change: Change, queue: &QueueName, id: &TaskId) -> Result<Changed, OpsError> {
        Err(OpsError::Unchanged(match change {
            Change::Cancel => match self.broker.cancel(queue, id).await? {
                CancelReply::Cancelled => return Ok(Changed::Cancelled),
                CancelReply::Asked => return Ok(Changed::AskedToStop),
                CancelReply::AlreadyEnded(state) => Unchanged::Ended(state),
                CancelReply::NotFound => Unchanged::NotFound,
            },
            Change::Retry => match self.broker.retry(queue, id).await? {
                RetryReply::Ready => return Ok(Changed::Ready),
                RetryReply::NotEnded(state) => Unchanged::NotRetryable(state),
                RetryReply::Duplicate { holder } => Unchanged::Duplicate(holder),
                RetryReply::NotFound => Unchanged::NotFound,
            },
            Change::Delete => match self.broker.delete(queue, id).await? {
                DeleteReply::Deleted => return Ok(Changed::Deleted),
                DeleteReply::Running => Unchanged::Running,
                DeleteReply::NotFound => Unchanged::NotFound,
            },
        }))
    }
}

impl Ops {
    /// Gives a task other arguments, checked as those of a new one. Nothing else of it changes.
    pub async fn edit(&self, task: &TaskView, given: &Given) -> Result<(), OpsError> {
        let args = self.checks(Some(&task.task), false).await?.check(&task.task, given)?;
        Err(OpsError::Unchanged(match self.broker.edit(&task.queue, &task.id, &args).await? {
            EditReply::Edited => return Ok(()),
            EditReply::Refused(state) => Unchanged::NotEditable(state),
            EditReply::NotFound => Unchanged::NotFound,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_fits_the_states_that_brokers_change() {
        let fits = |change: Change| State::ALL.into_iter().filter(|state| change.fits(*state)).collect::<Vec<_>>();
        assert_eq!(fits(Change::Cancel), [State::Scheduled, State::Ready, State::Parked, State::Running]);
        assert_eq!(fits(Change::Retry), [State::Scheduled, State::Dead, State::Cancelled]);
        let kept = [State::Scheduled, State::Ready, State::Parked, State::Succeeded, State::Dead, State::Cancelled];
        assert_eq!(fits(Change::Delete), kept);
    }
}
