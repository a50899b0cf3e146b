//! Progress: bodies may say it as often as they like; the broker hears of a task once a second, the newest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{sync::Notify, time::Instant};

use super::{Shared, lock};
use taskhost_core::task::{Progress, QueueName, TaskId};

/// Between two writes of one task.
const APART: Duration = Duration::from_secs(1);
/// Writes under way at once.
const AT_ONCE: usize = 32;

type Key = (QueueName, TaskId);

/// What was said and is not written yet.
#[derive(Debug, Default)]
pub(super) struct ProgressDesk {
    said: Mutex<HashMap<Key, Said>>,
    ready: Notify,
}

#[derive(Debug)]
struct Said {
    newest: Option<Progress>,
    written: Option<Instant>,
}

impl ProgressDesk {
    /// Newest wins.
    pub(super) fn say(&self, queue: &QueueName, task: &TaskId, progress: Progress) {
        let mut said = lock(&self.said);
        let said = said.entry((queue.clone(), task.clone())).or_insert(Said { newest: None, written: None });
        if said.newest.replace(progress).is_none() {
            self.ready.notify_one();
        }
    }

    /// The attempt has ended: what is not written yet.
    pub(super) fn close(&self, queue: &QueueName, task: &TaskId) -> Option<Progress> {
        lock(&self.said).remove(&(queue.clone(), task.clone()))?.newest
    }

    /// What may be written now, and when the next may.
    fn due(&self, now: Instant) -> (Vec<(Key, Progress)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (key, said) in lock(&self.said).iter_mut().filter(|(_, said)| said.newest.is_some()) {
            let at = said.written.map_or(now, |written| written + APART);
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            } else if let Some(newest) = said.newest.take() {
                said.written = Some(now);
                due.push((key.clone(), newest));
            }
        }
        (due, next)
    }
}

/// Writes what is said until the end.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let (due, next) = shared.progress.due(Instant::now());
        let writes = stream::iter(due).for_each_concurrent(AT_ONCE, |((queue, task), progress)| {
            let shared = &shared;
            async move {
                // Only shown, never counted on: the next one is the repeat.
                if let Err(error) = shared.broker.progress(&queue, &task, &progress).await {
                    tracing::debug!(%task, %error, "progress was not written");
                }
            }
        });
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let written_and_woken = async {
            writes.await;
            tokio::select! {
                () = wait => {}
                () = shared.progress.ready.notified() => {}
            }
        };
        tokio::select! {
            () = written_and_woken => {}
            () = shared.end.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_is_written_once_a_second_and_the_newest_wins() {
        let desk = ProgressDesk::default();
        let (queue, task) = (QueueName::default(), TaskId::new("a").unwrap());
        let say = |done| desk.say(&queue, &task, Progress { done, total: None, note: String::new() });
        say(1);
        say(2);
        let (due, next) = desk.due(Instant::now());
        assert_eq!((due[0].1.done, due.len(), next), (2, 1, None));
        say(3);
        let (due, next) = desk.due(Instant::now());
        assert!(due.is_empty());
        tokio::time::sleep_until(next.unwrap()).await;
        assert_eq!(desk.due(Instant::now()).0[0].1.done, 3);
        say(4);
        assert_eq!(desk.close(&queue, &task).unwrap().done, 4);
        assert!(desk.close(&queue, &task).is_none());
    }
}
