//! A count of the ended attempts. A drain is over when all have ended.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{error::BenchError, subject::Ended};

pub(crate) struct Attempts {
    expected: usize,
    ended: AtomicUsize,
    all: Notify,
    /// The error of the first attempt that failed.
    failed: Mutex<Option<String>>,
}

impl Attempts {
    pub(crate) fn new(expected: usize) -> Arc<Self> {
        Arc::new(Self { expected, ended: AtomicUsize::new(0), all: Notify::new(), failed: Mutex::new(None) })
    }

    /// Called by a worker after each attempt.
    pub(crate) fn ended(self: &Arc<Self>) -> Ended {
        let attempts = self.clone();
        Arc::new(move |outcome| {
            if let Err(why) = outcome {
                attempts.failed.lock().get_or_insert(why);
            }
            if attempts.ended.fetch_add(1, Ordering::Relaxed) + 1 == attempts.expected {
                attempts.all.notify_one();
            }
        })
    }

    pub(crate) async fn all_ended(&self) {
        self.all.notified().await;
    }

    /// Refuses a figure if a task failed or was not recorded.
    pub(crate) fn check(&self, count: usize, succeeded: u64) -> Result<(), BenchError> {
        if let Some(why) = self.failed.lock().take() {
            return Err(BenchError::Failed(format!("a task of the benchmark failed: {why}; is this the plugin of the examples?")));
        }
        if succeeded != count as u64 {
            return Err(BenchError::Failed(format!("{count} tasks were enqueued, but {succeeded} recorded: see the log")));
        }
        Ok(())
    }
}
