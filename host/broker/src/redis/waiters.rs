//! The bookkeeping of [`wait`](super::wait): which connection each queue waits on, and which callers wait for it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connection::Link;
use taskhost_core::task::QueueName;

/// How each queue is waited on, in the order of their first waits.
#[derive(Debug, Default)]
pub(super) struct Waiting(pub(super) Mutex<Places>);

#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) of: HashMap<QueueName, Place>,
    pub(super) last: Option<Arc<Group>>,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The queue's own connection, while no caller waits on it.
    Apart(Arc<Mutex<Option<Link>>>),
    Group(Arc<Group>),
}

/// Queues that share a connection.
#[derive(Debug)]
pub(super) struct Group {
    /// The waiting callers by key.
    pub(super) waiters: Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>,
    pub(super) line: tokio::sync::Mutex<Line>,
    /// One more key to pop from: an entry there ends the wait early.
    pub(super) nudge: String,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) link: Link,
    /// Whether a wait on it was dropped midway.
    pub(super) is_spoiled: bool,
}

/// A waiting caller; dropping it removes it from the group.
pub(super) struct Stands<'a> {
    group: &'a Group,
    key: String,
    pub(super) woken: oneshot::Receiver<()>,
}

impl Group {
    pub(super) fn new(nudge: String, link: Link) -> Self {
        Self { waiters: Mutex::default(), line: tokio::sync::Mutex::new(Line { link, is_spoiled: false }), nudge }
    }

    pub(super) fn enter(&self, key: String) -> Stands<'_> {
        let (sender, woken) = oneshot::channel();
        self.waiters.lock().entry(key.clone()).or_default().push(sender);
        Stands { group: self, key, woken }
    }

    /// Wakes the callers that wait for `key`. Gives whether there was one.
    pub(super) fn tell(&self, key: &str) -> bool {
        let told = self.waiters.lock().remove(key).unwrap_or_default();
        // All callers in this process: one wake-up is for one of them, and a wait may return for no reason.
        let mut is_heard = false;
        for waiter in told {
            is_heard |= waiter.send(()).is_ok();
        }
        is_heard
    }
}

impl Drop for Stands<'_> {
    fn drop(&mut self) {
        self.woken.close();
        let mut waiters = self.group.waiters.lock();
        if let Some(here) = waiters.get_mut(&self.key) {
            here.retain(|waiter| !waiter.is_closed());
            if here.is_empty() {
                waiters.remove(&self.key);
            }
        }
    }
}
