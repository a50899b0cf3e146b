//! The end of a worker: let attempts run on for a while, hand back the rest, leave.
//!
//! Invariant: it ends within the drain time and some seconds, also when the broker is gone; what could not be handed back
//! then comes back when the lease ends, and a line says so. When a part of the worker died, it ends within a second.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{Shared, Stop, heartbeat, hold::Lane};
use taskhost_core::task::Verdict;

/// How long what has ended may take to be recorded, and an incarnation to leave.
const FLUSH: Duration = Duration::from_secs(10);
const FLUSH_GONE: Duration = Duration::from_secs(3);
const LEAVE: Duration = Duration::from_secs(3);
/// Both when a part of the worker died: then it may be the one that records, and whoever waits for the worker's end must not.
const AFTER_FAILURE: Duration = Duration::from_millis(350);

pub(super) async fn run(shared: &Arc<Shared>, stop: &Stop) {
    shared.draining.cancel();
    shared.announce.notify_one();
    let running = shared.crew.running();
    if running > 0 && !stop.now.is_cancelled() {
        tracing::info!(worker = %shared.settings.id, running, "stopping: attempts may run on for {}", humantime::format_duration(shared.settings.drain));
        tokio::select! {
            () = idle(shared) => {}
            () = tokio::time::sleep(shared.settings.drain) => {}
            () = stop.now.cancelled() => {}
        }
    }
    let mut handed_back = 0;
    for hold in shared.lanes.iter().filter_map(Lane::hold) {
        for (member, name) in hold.abandon() {
            handed_back += 1;
            let verdict = Verdict::HandBack { delay: Duration::ZERO };
            shared.inbox.push(&hold, name, heartbeat::finish(shared, member, verdict));
        }
    }
    shared.tally.handed_back.store(handed_back, Ordering::Relaxed);
    let flush = if shared.link.is_up() { FLUSH } else { FLUSH_GONE };
    let (flush, leaving) = if stop.failed().is_some() { (AFTER_FAILURE, AFTER_FAILURE) } else { (flush, LEAVE) };
    // Its outcome is what is left in the holds.
    let _ = timeout(flush, settled(shared)).await;
    let left = join_all(shared.lanes.iter().map(|lane| leave(shared, lane, leaving))).await;
    shared.tally.left_behind.store(left.into_iter().sum(), Ordering::Relaxed);
}

/// Ends the incarnation of one queue, which hands back what it still holds; how many tasks could not be handed back.
async fn leave(shared: &Arc<Shared>, lane: &Lane, limit: Duration) -> u64 {
    let Some(hold) = lane.hold() else { return 0 };
    let unrecorded = u64::try_from(hold.len()).unwrap_or(u64::MAX);
    let gone = match timeout(limit, shared.broker.leave(&hold.incarnation)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer".into()),
    };
    lane.end(&hold);
    let Some(error) = gone else {
        if let Some(proof) = &hold.proof {
            proof.retire(shared);
        }
        return 0;
    };
    tracing::warn!(
        queue = %lane.queue, worker = %shared.settings.id, error,
        "left without the broker's knowledge: {unrecorded} tasks could not be handed back and run elsewhere when the lease ends, in {}",
        humantime::format_duration(shared.settings.lease)
    );
    unrecorded
}

/// Returns when no attempt runs.
async fn idle(shared: &Shared) {
    while shared.crew.running() > 0 {
        // The dispatcher has ended: its wake-ups are ours.
        shared.wake.notified().await;
    }
}

/// Returns when everything held is recorded.
async fn settled(shared: &Shared) {
    while shared.lanes.iter().filter_map(Lane::hold).any(|hold| hold.len() > 0) {
        shared.inbox.settled.notified().await;
    }
}
