//! The heartbeat: one loop a queue registers its incarnation and keeps it alive, every third of the lease.
//!
//! register → extend … → lost: drop what was held, register anew. While the link is down this is the only loop that tries the
//! broker: the first command after a reconnect is the heartbeat.
//!
//! Why it has no thread of its own: nothing on the control runtime computes or blocks. Guests run elsewhere, batches are
//! bounded, files are touched by `spawn_blocking`. A thread of its own would keep the lease of a worker that hangs.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    Shared,
    hold::{Hold, Lane, backoff},
    proof,
};
use taskhost_broker as broker;
use taskhost_broker::{BrokerError, Extended, Finish, LeaseReply, Leased};
use taskhost_core::{
    retry,
    task::{ErrorKind, Outcome, TaskError, Verdict},
};

pub(super) async fn run(shared: Arc<Shared>, index: usize) {
    let lane = &shared.lanes[index];
    let mut failures = 0;
    let mut differed = 0;
    loop {
        let began = Instant::now();
        let beaten = beat(&shared, lane, &mut differed).await;
        if !lane.is_tried() {
            lane.set_tried();
            shared.wake.notify_one();
        }
        let next = match beaten {
            Ok(()) => {
                failures = 0;
                began + shared.settings.lease / 3
            }
            Err(error) => {
                if matches!(error, BrokerError::Gone(_)) {
                    shared.refuse(error);
                    return shared.end.cancelled().await;
                }
                if failures == 0 && !error.is_fate_unknown() {
                    tracing::warn!(queue = %lane.queue, %error, "the broker refused the heartbeat; retrying");
                }
                shared.link.failed(&error);
                failures += 1;
                // When the broker is back, whoever comes first grants the others some grace: we must come within it.
                Instant::now() + backoff(failures).min(broker::grace(shared.settings.lease) / 4)
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = lane.beat.notified() => {}
            () = shared.link.down(), if failures == 0 => tokio::time::sleep(backoff(0)).await,
            () = shared.end.cancelled() => return,
        }
    }
}

async fn beat(shared: &Arc<Shared>, lane: &Lane, differed: &mut u32) -> Result<(), BrokerError> {
    // Read before the call: a link that goes down meanwhile wants another beat.
    let downs = shared.link.downs();
    let Some(hold) = lane.hold() else {
        if !shared.draining.is_cancelled() {
            register(shared, lane).await?;
            lane.beaten(downs);
            shared.link.restored();
            shared.wake.notify_one();
        }
        return Ok(());
    };
    match shared.broker.extend(&hold.incarnation, shared.settings.lease).await? {
        LeaseReply::Lost => {
            lose(shared, lane, &hold);
            shared.link.restored();
            Ok(())
        }
        LeaseReply::Held(extended) => {
            lane.beaten(downs);
            shared.link.restored();
            shared.wake.notify_one();
            kept(shared, lane, &hold, extended, differed).await
        }
    }
}

async fn kept(shared: &Arc<Shared>, lane: &Lane, hold: &Arc<Hold>, extended: Extended, differed: &mut u32) -> Result<(), BrokerError> {
    adopt(shared, hold, extended.adopted);
    for id in &extended.cancelled {
        if hold.cancel(id) {
            tracing::info!(id = %id, queue = %lane.queue, "cancelled: its body is asked to return");
        }
    }
    if extended.outbox {
        shared.inbox.ask_relay(&lane.queue);
    }
    // A claim or a finish on its way makes the counts differ for a moment, so one difference says nothing.
    *differed = if extended.held == hold.len() { 0 } else { *differed + 1 };
    if lane.take_doubt() || *differed >= 2 {
        let reconciled = reconcile(shared, lane, hold).await;
        if reconciled.is_err() {
            lane.doubt();
        }
        reconciled?;
        *differed = 0;
    }
    Ok(())
}

async fn register(shared: &Arc<Shared>, lane: &Lane) -> Result<(), BrokerError> {
    let incarnation = match shared.broker.register(&lane.queue, shared.settings.lease).await {
        Ok(incarnation) => incarnation,
        Err(error @ BrokerError::Misconfigured(_)) if !shared.was_registered() => {
            let text = error.to_string();
            shared.refuse(error);
            return Err(BrokerError::Misconfigured(text));
        }
        Err(error) => return Err(error),
    };
    if shared.was_registered() {
        // The broker may be an empty one: who we are and what we offer is to stand there before anybody asks.
        shared.announce.notify_one();
    }
    shared.set_registered();
    let proof = proof::take(shared, &incarnation).await;
    tracing::debug!(queue = %lane.queue, incarnation = %incarnation.id, "registered");
    lane.begin(Arc::new(Hold::new(incarnation, proof)));
    Ok(())
}

/// The lease is lost: what was held under it is somebody else's now.
pub(super) fn lose(shared: &Arc<Shared>, lane: &Lane, hold: &Arc<Hold>) {
    let Some(dropped) = hold.lose() else { return };
    lane.end(hold);
    if let Some(proof) = &hold.proof {
        proof.retire(shared);
    }
    tracing::warn!(
        queue = %lane.queue,
        worker = %shared.settings.id,
        dropped,
        "lost the lease: its attempts are stopped and run elsewhere; if this recurs, give `lease` more time"
    );
    lane.beat.notify_one();
}

/// Judges attempts that were lost with their worker, like any other outcome.
pub(super) fn adopt(shared: &Arc<Shared>, hold: &Arc<Hold>, adopted: Vec<Leased>) {
    if adopted.is_empty() {
        return;
    }
    tracing::info!(queue = %hold.incarnation.queue, worker = %shared.settings.id, count = adopted.len(), "adopted tasks of a lost worker");
    let roster = shared.roster.borrow().clone();
    for Leased { member, task } in adopted {
        if hold.add(&member, &task.name).is_none() || !hold.begin_finish(&member) {
            continue;
        }
        let error = TaskError::new(ErrorKind::WorkerLost, "the worker that ran it is gone");
        let hints = roster.offers.get(&task.name).map(|offer| &offer.hints);
        // The first loss says nothing of the task: it need not wait. One that is lost again may be what kills its workers.
        let outcome = Outcome::Failed { error, after: (task.losses == 0).then_some(Duration::ZERO) };
        let (verdict, _) = retry::judge(&task, hints, &shared.settings.retry, outcome, fastrand::f64());
        shared.inbox.push(hold, task.name, finish(shared, member, verdict));
    }
}

/// Reads what the broker says we hold: hands back what is unknown here (a claim whose reply was lost), drops what is missing.
async fn reconcile(shared: &Arc<Shared>, lane: &Lane, hold: &Arc<Hold>) -> Result<(), BrokerError> {
    let _no_claim = lane.claiming.lock().await;
    let known = shared.broker.held(&hold.incarnation).await?;
    let there: HashSet<_> = known.iter().map(|leased| leased.member.clone()).collect();
    let (unknown, dropped) = hold.reconcile(&there);
    let unknown: HashSet<_> = unknown.into_iter().cloned().collect();
    if !unknown.is_empty() || dropped > 0 {
        tracing::warn!(
            queue = %lane.queue,
            handed_back = unknown.len(),
            dropped,
            "what the broker says we hold differs from what we know: reconciled"
        );
    }
    for Leased { member, task } in known {
        if unknown.contains(&member) && hold.add(&member, &task.name).is_some() && hold.begin_finish(&member) {
            shared.inbox.push(hold, task.name, finish(shared, member, Verdict::HandBack { delay: Duration::ZERO }));
        }
    }
    Ok(())
}

/// A finish of something that did not run here.
pub(super) fn finish(shared: &Shared, member: taskhost_broker::Member, verdict: Verdict) -> Finish {
    Finish { member, verdict, follows: Vec::new(), code: None, worker: shared.settings.id.clone(), ran_ms: 0, log: String::new() }
}

/// Tells attempts at once that somebody cancelled their task.
pub(super) async fn cancellations(shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let (sender, mut receiver) = mpsc::channel(256);
        let mut listening = shared.broker.cancellations(sender);
        let mut listens = true;
        let failed = loop {
            tokio::select! {
                ended = &mut listening, if listens => match ended {
                    Ok(()) => listens = false,
                    Err(error) => break Some(error),
                },
                told = receiver.recv() => match told {
                    Some((queue, id)) => {
                        failures = 0;
                        let hold = shared.lanes.iter().find(|lane| lane.queue == queue).and_then(Lane::hold);
                        if hold.is_some_and(|hold| hold.cancel(&id)) {
                            tracing::info!(id = %id, %queue, "cancelled: its body is asked to return");
                        }
                    }
                    None => break None,
                },
                () = shared.end.cancelled() => return,
            }
        };
        if let Some(error) = failed {
            tracing::debug!(%error, "no word of cancellations; the heartbeat brings them meanwhile");
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(backoff(failures)) => {}
            () = shared.end.cancelled() => return,
        }
    }
}
