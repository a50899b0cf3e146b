//! How a worker is steered from outside, and what ends it when a part of it dies.
//!
//! signals → [`Stop`] → the dispatcher, the drain, [`listen`]. A loop that the worker can't be without runs under [`Stop::watch`].
//!
//! Invariant: a watched loop that panics, or returns before it was told to, ends the worker with an error; what it holds goes back.

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

use super::{Shared, hold::Lane};
use crate::telemetry;
use taskhost_core::task::{Clock as _, SystemClock};

/// How many attempts a dump lists.
const LISTED: usize = 1_000;

/// When to end, and what else a worker is told while it runs.
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
    /// Why a part of the worker died, the first of them.
    failed: OnceLock<String>,
    quiet: AtomicBool,
    dump: AtomicBool,
    changed: Notify,
}

impl Stop {
    /// A part of the worker died: everything is handed back within a second, and the worker ends with this error.
    pub fn fail(&self, why: String) {
        tracing::error!("{why}");
        // Later ones are in the log.
        let _first = self.told.failed.set(why);
        self.now.cancel();
        self.drain.cancel();
    }

    /// Why the worker has to end.
    pub fn failed(&self) -> Option<&str> {
        self.told.failed.get().map(String::as_str)
    }

    /// Claims nothing while it is quiet; what runs goes on.
    pub fn keep_quiet(&self, quiet: bool) {
        self.told.quiet.store(quiet, Ordering::Relaxed);
        self.told.changed.notify_one();
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.told.quiet.load(Ordering::Relaxed)
    }

    /// Says in the log what runs.
    pub fn dump(&self) {
        self.told.dump.store(true, Ordering::Relaxed);
        self.told.changed.notify_one();
    }

    /// Runs a loop that the worker can't be without until `over`.
    pub async fn watch(self, name: &'static str, over: CancellationToken, work: impl Future<Output = ()>) {
        let why = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(()) if over.is_cancelled() => return,
            Ok(()) => "it returned".to_owned(),
            Err(panic) => format!("it panicked: {}", telemetry::message(&*panic)),
        };
        self.fail(format!("a part of this worker died (`{name}`: {why}); what the worker holds is handed back; please report it"));
    }
}

/// Hands on what is told: the dispatcher looks anew, a dump is written.
pub(super) async fn listen(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.told.changed.notified() => {}
            () = shared.end.cancelled() => return,
        }
        if shared.stop.told.dump.swap(false, Ordering::Relaxed) {
            dump(&shared);
        }
        shared.wake.notify_one();
    }
}

fn dump(shared: &Shared) {
    let (kept, bytes) = shared.inbox.kept();
    tracing::info!(
        worker = %shared.settings.id,
        running = shared.crew.running(),
        slots = shared.settings.concurrency,
        unrecorded = kept,
        unrecorded_bytes = bytes,
        broker = if shared.link.is_up() { "reachable" } else { "away" },
        claims = if shared.stop.is_quiet() { "paused by SIGTSTP" } else { "on" },
        "what runs now"
    );
    let now = SystemClock.now();
    let running = shared.lanes.iter().filter_map(Lane::hold).flat_map(|hold| hold.running(LISTED)).take(LISTED);
    for info in running {
        tracing::info!(id = %info.id, task = %info.task, queue = %info.queue, since = ?now.since(info.since), "runs");
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
