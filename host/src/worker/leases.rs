//! Lost leases: this worker drops the tasks of its own lost lease, and judges those that it takes over from another worker.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    held::Held,
    hooks::{Hooks, Told},
    inbox::Inbox,
    lock_file::LockFiles,
    offers::Offers,
    queue::Queue,
};
use taskhost_broker::{Finish, Leased};
use taskhost_core::{
    observe::{Event, Observers},
    retry::{self, RetrySettings},
    task::{Clock, ErrorKind, Outcome, SystemClock, TaskError},
};

#[derive(Debug)]
pub(super) struct Leases {
    pub(super) worker: Arc<str>,
    pub(super) retry: RetrySettings,
    pub(super) inbox: Arc<Inbox>,
    pub(super) files: Arc<LockFiles>,
    pub(super) offers: watch::Receiver<Arc<Offers>>,
    pub(super) observers: Observers,
    pub(super) hooks: Hooks,
}

impl Leases {
    /// The lease is lost: another worker takes over the tasks that were held under it.
    pub(super) fn lose(&self, queue: &Queue, held: &Arc<Held>) {
        let Some(dropped) = held.lose() else { return };
        queue.end(held);
        if let Some(file) = &held.lock_file {
            self.files.retire(file);
        }
        tracing::warn!(
            queue = %queue.name,
            worker = %self.worker,
            dropped,
            "lost the lease: its attempts are stopped and run elsewhere; if this recurs, give `lease` more time"
        );
        queue.beat.notify_one();
    }

    /// Judges attempts that were lost with their worker, like any other outcome.
    pub(super) fn adopt(&self, held: &Arc<Held>, adopted: Vec<Leased>) {
        if adopted.is_empty() {
            return;
        }
        self.observers.tell(|| Event::Adopted { worker: &self.worker, queue: &held.incarnation.queue, tasks: adopted.len() });
        let offers = self.offers.borrow().clone();
        for Leased { member, task } in adopted {
            if held.add(&member, &task.name).is_none() || !held.begin_finish(&member) {
                continue;
            }
            let error = TaskError::new(ErrorKind::WorkerLost, "the worker that ran it is gone");
            let hints = offers.bodies.get(&task.name).map(|offer| &offer.hints);
            // The first loss says nothing about the task, so it need not wait. A task that is lost again may be what kills its workers.
            let outcome = Outcome::Failed { error, after: (task.losses == 0).then_some(Duration::ZERO) };
            // A lost attempt brings no children.
            let (verdict, _) = retry::judge(&task, hints, &self.retry, outcome, fastrand::f64());
            let told = Told { task: &task, claimed_us: member.claimed_us, worker: &self.worker, code: None, now: SystemClock.now() };
            let follows = self.hooks.follow(told, &verdict);
            self.inbox.push(held, task.name, Finish { follows, ..Finish::new(member, verdict, self.worker.clone()) });
        }
    }
}
