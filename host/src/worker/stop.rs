//! How a worker is steered from outside, and what ends it when a loop of it dies.
//!
//! signals → [`Stop`] → the dispatcher, the drain, the dump. A loop that the worker can't be without runs under [`Stop::watch`].
//!
//! Invariant: a watched loop that panics, or returns before it was told to, ends the worker with an error. The worker hands back its tasks.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// Tells a worker when to end, and to pause or to show what it runs. Clones tell the same worker.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// First signal: claim nothing more, let attempts run for the drain time, hand back the rest.
    pub drain: CancellationToken,
    /// Second signal: hand back at once.
    pub now: CancellationToken,
    told: Arc<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Why a loop of the worker died; only the first death is kept.
    failed: OnceLock<String>,
    quiet: AtomicBool,
    dump: AtomicBool,
    changed: Notify,
}

impl Stop {
    /// A loop of the worker died. The worker hands back everything within a second, and ends with this error.
    pub fn fail(&self, why: String) {
        tracing::error!("{why}");
        // Later deaths are in the log only.
        let _first = self.told.failed.set(why);
        self.now.cancel();
        self.drain.cancel();
    }

    /// Why the worker has to end, if a loop of it died.
    pub fn failed(&self) -> Option<&str> {
        self.told.failed.get().map(String::as_str)
    }

    /// While quiet, the worker claims nothing. Attempts that run go on.
    pub fn keep_quiet(&self, quiet: bool) {
        self.told.quiet.store(quiet, Ordering::Relaxed);
        self.told.changed.notify_one();
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.told.quiet.load(Ordering::Relaxed)
    }

    /// Returns when the worker was told something. Only one loop may wait for it.
    pub(super) async fn changed(&self) {
        self.told.changed.notified().await;
    }

    /// Whether a dump was asked for since the last call.
    pub(super) fn take_dump(&self) -> bool {
        self.told.dump.swap(false, Ordering::Relaxed)
    }

    /// Has the worker write into the log what it runs.
    pub fn dump(&self) {
        self.told.dump.store(true, Ordering::Relaxed);
        self.told.changed.notify_one();
    }

    /// Runs a loop that the worker can't be without. It may return once `over` is set.
    pub async fn watch(self, name: &'static str, over: CancellationToken, work: impl Future<Output = ()>) {
        let why = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(()) if over.is_cancelled() => return,
            Ok(()) => "it returned".to_owned(),
            Err(panic) => format!("it panicked: {}", telemetry::message(&*panic)),
        };
        self.fail(format!("a loop of this worker died (`{name}`: {why}); the worker hands back its tasks; please report it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_returns_before_it_was_told_to_ends_the_worker() {
        let (stop, over) = (Stop::default(), CancellationToken::new());
        over.cancel();
        stop.clone().watch("told", over, async {}).await;
        assert_eq!(stop.failed(), None);
        stop.clone().watch("early", CancellationToken::new(), async {}).await;
        assert!(stop.failed().unwrap().contains("(`early`: it returned)"));
        assert!(stop.now.is_cancelled() && stop.drain.is_cancelled());
        stop.clone().watch("later", CancellationToken::new(), async { panic!("no") }).await;
        assert!(stop.failed().unwrap().contains("`early`"), "the first is told");
    }
}
