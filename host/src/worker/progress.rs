//! The loop that writes progress. Bodies report it as often as they like; the broker gets the newest of each task once a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use taskhost_core::task::{Progress, QueueName, TaskId};

/// The time between two writes for one task.
const APART: Duration = Duration::from_secs(1);
/// The most writes at once.
const AT_ONCE: usize = 32;

type Key = (QueueName, TaskId);

/// The newest progress of each attempt.
#[derive(Debug, Default)]
pub(super) struct LatestProgress {
    said: Mutex<HashMap<Key, Said>>,
    ready: Notify,
}

#[derive(Debug)]
struct Said {
    newest: Option<Progress>,
    written: Option<Instant>,
}

impl LatestProgress {
    /// Replaces the progress of a task that is not written yet.
    pub(super) fn say(&self, queue: &QueueName, task: &TaskId, progress: Progress) {
        let mut said = self.said.lock();
        let said = said.entry((queue.clone(), task.clone())).or_insert(Said { newest: None, written: None });
        if said.newest.replace(progress).is_none() {
            self.ready.notify_one();
        }
    }

    /// The attempt has ended. Answers its progress if it is not written yet.
    pub(super) fn close(&self, queue: &QueueName, task: &TaskId) -> Option<Progress> {
        self.said.lock().remove(&(queue.clone(), task.clone()))?.newest
    }

    /// The progress that may be written now, and when the next may be.
    fn due(&self, now: Instant) -> (Vec<(Key, Progress)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (key, said) in self.said.lock().iter_mut().filter(|(_, said)| said.newest.is_some()) {
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

/// Writes progress until `end`.
pub(super) async fn run(connection: Arc<Connection>, latest: Arc<LatestProgress>, end: CancellationToken) {
    loop {
        let (due, next) = latest.due(Instant::now());
        let writes = stream::iter(due).for_each_concurrent(AT_ONCE, |((queue, task), progress)| {
            let broker = &connection.broker;
            async move {
                // Nothing depends on it, and the next report is the repeat.
                if let Err(error) = broker.progress(&queue, &task, &progress).await {
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
                () = latest.ready.notified() => {}
            }
        };
        tokio::select! {
            () = written_and_woken => {}
            () = end.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_is_written_once_a_second_and_the_newest_wins() {
        let latest = LatestProgress::default();
        let (queue, task) = (QueueName::default(), TaskId::new("a").unwrap());
        let say = |done| latest.say(&queue, &task, Progress { done, total: None, note: String::new() });
        say(1);
        say(2);
        let (due, next) = latest.due(Instant::now());
        assert_eq!((due[0].1.done, due.len(), next), (2, 1, None));
        say(3);
        let (due, next) = latest.due(Instant::now());
        assert!(due.is_empty());
        tokio::time::sleep_until(next.unwrap()).await;
        assert_eq!(latest.due(Instant::now()).0[0].1.done, 3);
        say(4);
        assert_eq!(latest.close(&queue, &task).unwrap().done, 4);
        assert!(latest.close(&queue, &task).is_none());
    }
}
