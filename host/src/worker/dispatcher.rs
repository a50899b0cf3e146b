//! The dispatcher: free slots are split among the queues that may have something, and filled by claims.
//!
//! plan (slots, weights, startable names) → claim → start | park | hand back what must run alone → … → idle: sleep until woken.
//!
//! Invariant: nothing is claimed without a slot for it; finishes that are not recorded take slots too. While all slots are full, claims
//! go on with limit 0, because a claim also promotes delayed tasks and adopts those of lost workers.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{self, Attempt, Attempts},
    connection::{self, Connection},
    follow_up::FollowUps,
    held::Held,
    inbox::Inbox,
    leases::Leases,
    load::Load,
    offers::Offers,
    pace::{self, Alone, BATCHING},
    parked::Parked,
    queue::{Queue, Queues},
    round_robin::{self, Wish},
    slots::Slots,
    stop::Stop,
};
use taskhost_broker::{Claimed, LeaseReply};
use taskhost_core::{
    observe::{Event, Observers},
    task::{Clock, SystemClock, TaskName, Verdict},
};

pub(super) struct Dispatcher {
    pub(super) lease: Duration,
    pub(super) connection: Arc<Connection>,
    pub(super) queues: Arc<Queues>,
    pub(super) slots: Arc<Slots>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) load: Arc<Load>,
    pub(super) offers: watch::Receiver<Arc<Offers>>,
    pub(super) parked: Parked,
    pub(super) follow_ups: Arc<FollowUps>,
    pub(super) leases: Arc<Leases>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) observers: Observers,
    pub(super) stop: Stop,
}

/// One claim to be made.
struct Wanted<'a> {
    queue: &'a Queue,
    held: Arc<Held>,
    limit: usize,
    startable: Vec<TaskName>,
}

impl Dispatcher {
    /// Claims until `drain`.
    pub(super) async fn run(self, drain: CancellationToken) {
        let mut offers = self.offers.clone();
        let mut plugins_live = true;
        let mut alone = Alone::default();
        let mut claimed_at = Instant::now();
        while !drain.is_cancelled() {
            if self.slots.take_parked_asked() {
                self.parked.heat_all();
            }
            let free = if self.stop.is_quiet() { 0 } else { self.load.free() };
            let free = alone.most(self.slots.running(), free);
            let (pace, wanting) = (self.slots.pace(), self.load.wanting());
            let budget = pace.budget(free, wanting);
            let is_early = pace.is_too_early(claimed_at.elapsed(), budget, wanting);
            let plan = if is_early { Vec::new() } else { self.plan(budget) };
            if !plan.is_empty() {
                claimed_at = Instant::now();
                let claims = plan.into_iter().map(|wanted| self.claim(wanted));
                self.load.set_claiming(true);
                let claimed = join_all(claims).await.into_iter().flatten().collect();
                self.load.set_claiming(false);
                attempt::start(&self.attempts, enter(&mut alone, claimed, self.slots.running()));
                // Attempts that ended meanwhile may have waited for this claim.
                self.load.attempt_ended();
                continue;
            }
            let next = if is_early { Some(claimed_at + BATCHING) } else { self.next_look(free > budget) };
            let wait = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.queues.woken() => {}
                changed = offers.changed(), if plugins_live => {
                    plugins_live = changed.is_ok();
                    self.slots.ask_for_parked();
                }
                () = drain.cancelled() => {}
            }
        }
    }

    /// How many tasks each queue is asked for now.
    fn plan(&self, budget: usize) -> Vec<Wanted<'_>> {
        // At the start no queue takes the slots of one that has not registered yet.
        if !self.connection.is_up() || !self.queues.iter().all(Queue::is_tried) {
            return Vec::new();
        }
        let now = Instant::now();
        let offers = self.offers.borrow().clone();
        let mut wishes = Vec::new();
        let mut wishing = Vec::new();
        let mut upkeep = Vec::new();
        for (queue, held) in self.claimable() {
            let mut state = queue.state.lock();
            let is_due = state.look_at <= now;
            state.hot |= is_due;
            if state.hot && budget > 0 {
                wishes.push(Wish { weight: queue.weight, credit: state.credit, got: 0 });
                wishing.push((queue, held));
            } else if is_due {
                upkeep.push(Wanted { queue, held, limit: 0, startable: Vec::new() });
            }
        }
        round_robin::split(budget, self.slots.pace().together(), &mut wishes);
        let claims = wishing.into_iter().zip(wishes).filter_map(|((queue, held), wish)| {
            let mut state = queue.state.lock();
            state.credit = wish.credit;
            let (limit, startable) = self.parked.startable(&offers, &mut state, wish.got);
            (limit > 0).then_some(Wanted { queue, held, limit, startable })
        });
        claims.chain(upkeep).collect()
    }

    /// Queues whose incarnation lives, and had a heartbeat since the connection was last down.
    fn claimable(&self) -> impl Iterator<Item = (&Queue, Arc<Held>)> {
        self.queues.iter().filter_map(|queue| {
            let held = queue.held()?;
            queue.is_beaten(self.connection.downs()).then_some((queue, held))
        })
    }

    async fn claim(&self, wanted: Wanted<'_>) -> Vec<Attempt> {
        let Wanted { queue, held, limit, startable } = wanted;
        let _claiming = queue.claiming.lock().await;
        match self.connection.broker.claim(&held.incarnation, self.lease, limit, &startable).await {
            Ok(LeaseReply::Held(claimed)) => self.claimed(queue, &held, limit, &startable, claimed),
            Ok(LeaseReply::Lost) => {
                self.leases.lose(queue, &held);
                Vec::new()
            }
            Err(error) => {
                self.connection.failed(&error);
                if error.is_fate_unknown() {
                    queue.doubt();
                }
                let mut state = queue.state.lock();
                if state.failures == 0 && !error.is_fate_unknown() {
                    tracing::warn!(queue = %queue.name, %error, "could not claim; retrying");
                }
                state.failures += 1;
                state.hot = false;
                state.look_at = Instant::now() + connection::retry_delay(state.failures);
                Vec::new()
            }
        }
    }

    /// Takes in the answer of a claim: attempts to start, tasks to park, and what it says of the queue.
    fn claimed(&self, queue: &Queue, held: &Arc<Held>, limit: usize, tried: &[TaskName], claimed: Claimed) -> Vec<Attempt> {
        if !claimed.tasks.is_empty() {
            let worker = &self.attempts.worker;
            self.observers.tell(|| Event::Claimed { worker, queue: &queue.name, tasks: claimed.tasks.len() });
        }
        if claimed.flows {
            self.follow_ups.ask(&queue.name);
        }
        if claimed.tasks.iter().any(|leased| leased.task.options.flow.is_some()) {
            held.note_steps();
        }
        let offers = self.offers.borrow().clone();
        let mut attempts = Vec::with_capacity(claimed.tasks.len());
        for leased in claimed.tasks {
            let Some(stop) = held.add(&leased.member, &leased.task.name) else { continue };
            let Some(offer) = offers.bodies.get(&leased.task.name) else {
                if held.begin_finish(&leased.member) {
                    tracing::debug!(id = %leased.task.id, task = %leased.task.name, queue = %queue.name, "parked: nothing here offers it");
                    self.inbox.push_unrun(held, leased.task.name, leased.member, Verdict::Park);
                }
                continue;
            };
            attempts.push(Attempt::new(self.attempts.clone(), held.clone(), leased, offer.clone(), stop));
        }
        self.leases.adopt(held, claimed.adopted);

        let mut state = queue.state.lock();
        if state.failures > 0 {
            state.failures = 0;
            tracing::debug!(queue = %queue.name, "claims again");
        }
        state.parked = claimed.parked.into_iter().collect();
        if claimed.paused != state.paused {
            state.paused = claimed.paused;
            tracing::info!(queue = %queue.name, "{}", if claimed.paused.is_some() { "paused" } else { "resumed" });
            if let Some(since) = claimed.paused {
                self.attempts.desk.enqueue_soon(self.attempts.hooks.paused(&queue.name, since, SystemClock.now()));
            }
        }
        state.look_at = Instant::now() + pace::look_again(claimed.next_due, limit == 0);
        let more = claimed.more || self.parked.has_startable(&state, tried);
        // A claim with limit 0 does not tell whether tasks wait.
        state.hot = claimed.paused.is_none() && (more || (limit == 0 && state.hot));
        if !state.hot {
            queue.idle.notify_one();
        }
        attempts
    }

    /// When to look again if nobody wakes the dispatcher. `is_gated`: slots are free, but the cores have their fill.
    fn next_look(&self, is_gated: bool) -> Option<Instant> {
        if !self.connection.is_up() {
            return None;
        }
        let now = Instant::now();
        let looks = self.claimable().map(|(queue, _)| {
            let state = queue.state.lock();
            (state.hot, state.look_at.saturating_duration_since(now))
        });
        pace::next_look(looks, is_gated).map(|left| now + left)
    }
}

/// Takes slots for the attempts of a claim that may start now. The drop of the others hands their tasks back.
fn enter(alone: &mut Alone, claimed: Vec<Attempt>, running: usize) -> Vec<Attempt> {
    let (lone, others): (Vec<_>, Vec<_>) = claimed.into_iter().partition(Attempt::runs_alone);
    if alone.is_turn(lone.len(), others.len(), running) {
        let started: Vec<_> = lone.into_iter().take(1).filter_map(Attempt::enter).collect();
        alone.turned(!started.is_empty());
        return started;
    }
    others.into_iter().filter_map(Attempt::enter).collect()
}
