//! The loop that shows attempts while they run: their progress and their logs. Bodies tell of both as often as they like; the broker gets the
//! newest of each task once a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use taskhost_broker::{Incarnation, Member};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use taskhost_core::task::{Progress, QueueName, TaskId};

/// The time between two writes for one task.
const APART: Duration = Duration::from_secs(1);
/// The most writes at once.
const AT_ONCE: usize = 32;

type Key = (QueueName, TaskId);

/// The news of each attempt.
#[derive(Debug, Default)]
pub(super) struct LatestNews {
    said: Mutex<HashMap<Key, Said>>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Said {
    news: News,
    written: Option<Instant>,
}

/// What is not written yet.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) progress: Option<Progress>,
    pub(super) log: Option<LogSoFar>,
}

/// The log of an attempt that runs.
#[derive(Debug)]
pub(super) struct LogSoFar {
    pub(super) who: Incarnation,
    pub(super) member: Member,
    pub(super) lines: String,
}

impl News {
    fn is_empty(&self) -> bool {
        self.progress.is_none() && self.log.is_none()
    }
}

impl LatestNews {
    /// Adds to the news of a task that are not written yet, or replaces a part of them.
    pub(super) fn say(&self, queue: &QueueName, task: &TaskId, say: impl FnOnce(&mut News)) {
        let mut said = self.said.lock();
        let said = said.entry((queue.clone(), task.clone())).or_default();
        let is_first = said.news.is_empty();
        say(&mut said.news);
        if is_first {
            self.ready.notify_one();
        }
    }

    /// The attempt has ended. Answers its progress if it is not written yet. Its log comes with its end.
    pub(super) fn close(&self, queue: &QueueName, task: &TaskId) -> Option<Progress> {
        self.said.lock().remove(&(queue.clone(), task.clone()))?.news.progress
    }

    /// The news that may be written now, and when the next may be.
    fn due(&self, now: Instant) -> (Vec<(Key, News)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (key, said) in self.said.lock().iter_mut().filter(|(_, said)| !said.news.is_empty()) {
            let at = said.written.map_or(now, |written| written + APART);
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            } else {
                said.written = Some(now);
                due.push((key.clone(), std::mem::take(&mut said.news)));
            }
        }
        (due, next)
    }
}

/// Writes news until `end`.
pub(super) async fn run(connection: Arc<Connection>, latest: Arc<LatestNews>, end: CancellationToken) {
    loop {
        let (due, next) = latest.due(Instant::now());
        let writes = stream::iter(due).for_each_concurrent(AT_ONCE, |((queue, task), News { progress, log })| {
            let broker = &connection.broker;
            async move {
                // Nothing depends on either. The next report is the repeat, and the end brings the whole log.
                if let Some(progress) = progress
                    && let Err(error) = broker.progress(&queue, &task, &progress).await
                {
                    tracing::debug!(%task, %error, "progress was not written");
                }
                if let Some(LogSoFar { who, member, lines }) = log
                    && let Err(error) = broker.log_so_far(&who, &member, &lines).await
                {
                    tracing::debug!(%task, %error, "the log so far was not written");
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
        let latest = LatestNews::default();
        let (queue, task) = (QueueName::default(), TaskId::new("a").unwrap());
        let say = |done| latest.say(&queue, &task, |news| news.progress = Some(Progress { done, total: None, note: String::new() }));
        let done = |news: &News| news.progress.as_ref().map(|progress| progress.done);
        say(1);
        say(2);
        let (due, next) = latest.due(Instant::now());
        assert_eq!((done(&due[0].1), due.len(), next), (Some(2), 1, None));
        say(3);
        let (due, next) = latest.due(Instant::now());
        assert!(due.is_empty());
        tokio::time::sleep_until(next.unwrap()).await;
        assert_eq!(done(&latest.due(Instant::now()).0[0].1), Some(3));
        say(4);
        assert_eq!(latest.close(&queue, &task).unwrap().done, 4);
        assert!(latest.close(&queue, &task).is_none());
    }
}
