//! Lookups that several roles share: the names of all queues, and the views of tasks by their ids.

use futures_util::future::try_join_all;

use super::{
    connection::ANSWER,
    driver::RedisBroker,
    scripts::VIEW,
    values::{Odd, bytes, is_yes, list, view},
};
use crate::{
    directory::Directory,
    error::{BrokerError, Result},
    unreadable,
};
use taskhost_core::task::{QueueName, State, TaskId, TaskView};

impl RedisBroker {
    pub(super) async fn all_queues(&self) -> Result<Vec<QueueName>> {
        let (key, mut queues, mut odd) = (self.keys.shared("queues"), Vec::new(), Vec::new());
        for name in list(self.commands.send(redis::cmd("SMEMBERS").arg(&key)).await?)?.into_iter().map(bytes) {
            match QueueName::new(String::from_utf8_lossy(&name)) {
                Ok(queue) => queues.push(queue),
                Err(why) => {
                    unreadable::say(&self.at, &format!("a name in `{key}`"), why, "it is taken from there");
                    odd.push(name);
                }
            }
        }
        if !odd.is_empty() {
            self.commands.send(redis::cmd("SREM").arg(&key).arg(&odd)).await?;
        }
        queues.sort_unstable();
        Ok(queues)
    }

    pub(super) async fn find_in(&self, queue: &QueueName, id: &TaskId) -> Result<Option<TaskView>> {
        let found = self.views(queue, &[id.to_string()]).await?.pop().flatten();
        let Some(mut found) = found else { return Ok(None) };
        if found.state == State::Running {
            // A claim does not write to the task, so the worker is known from the workers' own descriptions.
            let running = self.workers().await?.into_iter().find(|worker| worker.running.iter().any(|running| running.id == *id));
            found.worker = running.map(|worker| worker.id).or(found.worker);
        }
        Ok(Some(found))
    }

    /// Looks in all queues at once.
    pub(super) async fn find_anywhere(&self, id: &TaskId) -> Result<Option<TaskView>> {
        let queues = self.all_queues().await?;
        let asked = queues.iter().map(|queue| async move {
            let is = self.commands.send(redis::cmd("EXISTS").arg(self.keys.task(queue, id))).await?;
            Ok::<_, BrokerError>(is_yes(&is).then_some(queue))
        });
        let mut found: Vec<TaskView> = Vec::new();
        for queue in try_join_all(asked).await?.into_iter().flatten() {
            found.extend(self.find_in(queue, id).await?);
        }
        if found.len() > 1 {
            return Err(unreadable::ambiguous(id, found.iter().map(|view| &view.queue)));
        }
        Ok(found.pop())
    }

    /// The views in the order given; of ids or of held members.
    pub(super) async fn views(&self, queue: &QueueName, ids: &[String]) -> Result<Vec<Option<TaskView>>> {
        let mut call = VIEW.call(&self.keys.queue(queue));
        for id in ids {
            call.push(&**id);
        }
        let mut views: Vec<_> = list(self.commands.call(&call).await?)?.into_iter().map(|row| view(queue, row)).collect::<Result<_>>()?;
        let mut odd = Vec::new();
        for (id, view) in ids.iter().zip(&mut views).filter(|(id, _)| !id.contains('@')) {
            // No caller can name this id. The task ends here, and is shown under another id.
            if let Err(error) = TaskId::new(id)
                && view.take().is_some_and(|view| !view.state.is_ended())
            {
                odd.push(Odd::waiting(id, error));
            }
        }
        self.end_unreadable(&self.commands, ANSWER, queue, "", odd).await;
        Ok(views)
    }
}
