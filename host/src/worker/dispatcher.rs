//! The dispatcher: free slots are split among the queues that have something, and filled by claims.
//!
//! plan (slots, weights, names that can be started) → claim → park | wait to run alone | start → … → idle: wait.
//!
//! Invariant: nothing is claimed that there is no slot for, ends that wait to be recorded included ([`Inbox::burden`]), and a name that can't be started now is not claimed from where it
//! is parked: no spin. Claims go on with limit 0 while all slots are full, because they also promote and adopt.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    BATCHING, Shared,
    attempt::{self, Job},
    heartbeat,
    hold::{Hold, Lane, LaneState, backoff},
    lock,
    roster::Roster,
    share::{self, Wish},
};
use taskhost_broker::{BrokerError, Claimed, LeaseReply};
use taskhost_core::task::{QueueName, TaskName};

/// An idle queue is looked at after this time, whatever was said of it.
const LOOK: Duration = Duration::from_secs(5);
/// A full worker looks after what is due no more often than this.
const LOOK_FULL: Duration = Duration::from_millis(100);
/// How soon to look whether the cores have caught up: an attempt that parks in a host call says nothing.
const CATCH_UP: Duration = Duration::from_millis(5);
/// The broker's clock and ours differ a little: a due time is not polled more often than this.
const DUE: Duration = Duration::from_millis(2);

/// Claims until `drain`.
pub(super) async fn run(shared: &Arc<Shared>, drain: &CancellationToken) {
    let mut roster = shared.roster.clone();
    let mut plugins_live = true;
    let mut alone = Alone::default();
    let mut claimed_at = Instant::now();
    while !drain.is_cancelled() {
        if shared.crew.parked_asked() {
            for lane in &shared.lanes {
                heat_startable(shared, lane);
            }
        }
        let free = alone.most(shared.crew.running(), free(shared));
        let wanting = shared.wanting();
        let budget = free.min(shared.crew.ceiling(shared.settings.cores).saturating_sub(wanting));
        let early = claimed_at.elapsed() < BATCHING && !shared.crew.is_worth(budget, wanting, shared.settings.cores);
        let plan = if early { Vec::new() } else { plan(shared, budget) };
        if !plan.is_empty() {
            claimed_at = Instant::now();
            let claims = plan.into_iter().map(|wanted| claim(shared, wanted));
            shared.claiming.store(true, Ordering::Relaxed);
            let claimed = join_all(claims).await.into_iter().flatten().collect();
            shared.claiming.store(false, Ordering::Relaxed);
            attempt::start(shared, alone.sort(claimed, shared.crew.running()));
            // What ended meanwhile may have waited for this claim.
            shared.pace();
            continue;
        }
        let wait = async {
            let next = if early { Some(claimed_at + BATCHING) } else { next_look(shared, free > budget) };
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = shared.wake.notified() => {}
            changed = roster.changed(), if plugins_live => {
                plugins_live = changed.is_ok();
                shared.crew.ask_for_parked();
            }
            () = drain.cancelled() => {}
        }
    }
}

/// Slots that a claim may fill: those of attempts, less what ends that are not recorded take.
fn free(shared: &Shared) -> usize {
    if shared.stop.is_quiet() {
        return 0;
    }
    shared.crew.free().saturating_sub(shared.inbox.burden(shared.settings.concurrency))
}

/// Takes a slot, or parks the task of a plugin that is at its `concurrency`.
fn enter(mut job: Job) -> Option<Job> {
    if job.enter() {
        return Some(job);
    }
    job.park();
    None
}

/// Tasks that were lost with a worker before and are on their last attempt: each runs beside nobody, so that one which kills
/// its worker takes no neighbour to the dead set. None is held while others run, for all that a killed worker held counts as
/// lost: it is handed back uncounted, nothing more is claimed, and when nobody runs one task is claimed again.
#[derive(Default)]
struct Alone {
    wanted: bool,
    runs: bool,
}

impl Alone {
    /// How many may be claimed of `free` slots.
    fn most(&mut self, running: usize, free: usize) -> usize {
        self.runs &= running > 0;
        match self.runs {
            true => 0,
            false if self.wanted => free.min(usize::from(running == 0)),
            false => free,
        }
    }

    /// What of a claim is started. The drop of the others hands them back.
    fn sort(&mut self, claimed: Vec<Job>, running: usize) -> Vec<Job> {
        if claimed.is_empty() && running > 0 {
            return claimed;
        }
        if !claimed.iter().any(Job::runs_alone) {
            self.wanted = false;
            return claimed.into_iter().filter_map(enter).collect();
        }
        let (mut alone, others): (Vec<_>, Vec<_>) = claimed.into_iter().partition(Job::runs_alone);
        self.wanted = !alone.is_empty();
        if !others.is_empty() || running > 0 {
            return others.into_iter().filter_map(enter).collect();
        }
        alone.truncate(1);
        let started: Vec<_> = alone.into_iter().filter_map(enter).collect();
        self.runs = !started.is_empty();
        started
    }
}

/// One claim to be made.
struct Wanted<'a> {
    lane: &'a Lane,
    hold: Arc<Hold>,
    limit: usize,
    startable: Vec<TaskName>,
}

/// Who claims how much now.
fn plan(shared: &Shared, budget: usize) -> Vec<Wanted<'_>> {
    // At the start no queue takes the slots of one that has not registered yet.
    if !shared.link.is_up() || !shared.lanes.iter().all(Lane::is_tried) {
        return Vec::new();
    }
    let now = Instant::now();
    let roster = shared.roster.borrow().clone();
    let mut wishes = Vec::new();
    let mut lanes = Vec::new();
    let mut upkeep = Vec::new();
    for lane in &shared.lanes {
        let Some(hold) = lane.hold() else { continue };
        if !lane.is_beaten(shared.link.downs()) {
            continue;
        }
        let mut state = lock(&lane.state);
        let due = state.look_at <= now;
        state.hot |= due;
        if state.hot && budget > 0 {
            wishes.push(Wish { weight: lane.weight, credit: state.credit, got: 0 });
            lanes.push((lane, hold));
        } else if due {
            upkeep.push(Wanted { lane, hold, limit: 0, startable: Vec::new() });
        }
    }
    share::split(budget, shared.crew.together(), &mut wishes);
    let claims = lanes.into_iter().zip(wishes).filter_map(|((lane, hold), wish)| {
        let mut state = lock(&lane.state);
        state.credit = wish.credit;
        let (limit, startable) = startable(shared, &roster, &mut state, wish.got);
        (limit > 0).then_some(Wanted { lane, hold, limit, startable })
    });
    claims.chain(upkeep).collect()
}

/// The parked names to claim from, and how many tasks in all. Those of plugins with a `concurrency` have a turn of their own,
/// no larger than what those plugins can take: else all that are parked would be claimed and parked again.
fn startable(shared: &Shared, roster: &Roster, state: &mut LaneState, slots: usize) -> (usize, Vec<TaskName>) {
    let (mut limited, mut names) = (0, Vec::new());
    for name in &state.parked {
        let Some(offer) = roster.offers.get(name) else { continue };
        match shared.crew.room(offer) {
            None => names.push(name.clone()),
            Some(room) if room > 0 && state.limited_turn => {
                limited += room;
                names.push(name.clone());
            }
            Some(_) => {}
        }
    }
    state.limited_turn = !state.limited_turn;
    (if limited > 0 { slots.min(limited) } else { slots }, names)
}

/// Whether a task parked here could be started now, by a name that was not among `tried`.
fn has_startable(shared: &Shared, state: &LaneState, tried: &[TaskName]) -> bool {
    let roster = shared.roster.borrow();
    let can = |name: &TaskName| roster.offers.get(name).is_some_and(|offer| shared.crew.room(offer) != Some(0));
    state.parked.iter().any(|name| !tried.contains(name) && can(name))
}

fn heat_startable(shared: &Shared, lane: &Lane) {
    let mut state = lock(&lane.state);
    if has_startable(shared, &state, &[]) {
        state.hot = true;
    }
}

/// A task was parked under `name`: if it can be started by now, it is claimed again.
pub(super) fn parked(shared: &Shared, queue: &QueueName, name: &TaskName) {
    if let Some(lane) = shared.lanes.iter().find(|lane| &lane.queue == queue) {
        let first = lock(&lane.state).parked.insert(name.clone());
        if first && !shared.roster.borrow().offers.contains_key(name) {
            tracing::info!(task = %name, %queue, "tasks wait for a plugin that offers `{name}`");
        }
        heat_startable(shared, lane);
        shared.wake.notify_one();
    }
}

async fn claim(shared: &Arc<Shared>, wanted: Wanted<'_>) -> Vec<Job> {
    let Wanted { lane, hold, limit, startable } = wanted;
    let _claiming = lane.claiming.lock().await;
    match shared.broker.claim(&hold.incarnation, shared.settings.lease, limit, &startable).await {
        Ok(LeaseReply::Held(claimed)) => taken(shared, lane, &hold, limit, &startable, claimed),
        Ok(LeaseReply::Lost) => {
            heartbeat::lose(shared, lane, &hold);
            Vec::new()
        }
        Err(error) => {
            shared.link.failed(&error);
            if error.is_fate_unknown() {
                lane.doubt();
            }
            let mut state = lock(&lane.state);
            if state.failures == 0 && !error.is_fate_unknown() {
                tracing::warn!(queue = %lane.queue, %error, "could not claim; retrying");
            }
            state.failures += 1;
            state.hot = false;
            state.look_at = Instant::now() + backoff(state.failures);
            Vec::new()
        }
    }
}

/// What a claim brought: jobs to start, names to park, and what it says of the queue.
fn taken(shared: &Arc<Shared>, lane: &Lane, hold: &Arc<Hold>, limit: usize, tried: &[TaskName], claimed: Claimed) -> Vec<Job> {
    let roster = shared.roster.borrow().clone();
    let mut jobs = Vec::with_capacity(claimed.tasks.len());
    for leased in claimed.tasks {
        let Some(stop) = hold.add(&leased.member, &leased.task.name) else { continue };
        let Some(offer) = roster.offers.get(&leased.task.name) else {
            if hold.begin_finish(&leased.member) {
                tracing::debug!(id = %leased.task.id, task = %leased.task.name, queue = %lane.queue, "parked: nothing here offers it");
                let finish = heartbeat::finish(shared, leased.member, taskhost_core::task::Verdict::Park);
                shared.inbox.push(hold, leased.task.name, finish);
            }
            continue;
        };
        jobs.push(Job::new(shared.clone(), hold.clone(), leased, offer.clone(), stop));
    }
    heartbeat::adopt(shared, hold, claimed.adopted);

    let mut state = lock(&lane.state);
    if state.failures > 0 {
        state.failures = 0;
        tracing::debug!(queue = %lane.queue, "claims again");
    }
    state.parked = claimed.parked.into_iter().collect();
    if claimed.paused != state.paused {
        state.paused = claimed.paused;
        tracing::info!(queue = %lane.queue, "{}", if claimed.paused { "paused" } else { "resumed" });
    }
    let floor = if limit == 0 { LOOK_FULL } else { DUE };
    state.look_at = Instant::now() + claimed.next_due.map_or(LOOK, |due| due.clamp(floor, LOOK));
    let more = claimed.more || has_startable(shared, &state, tried);
    // A claim of nothing says nothing of what waits.
    state.hot = !claimed.paused && (more || (limit == 0 && state.hot));
    if !state.hot {
        lane.idle.notify_one();
    }
    jobs
}

/// When to look again by ourselves: what is due, or, when slots are free and the cores have their fill, soon.
fn next_look(shared: &Shared, gated: bool) -> Option<Instant> {
    if !shared.link.is_up() {
        return None;
    }
    let looks = shared.lanes.iter().filter(|lane| lane.hold().is_some() && lane.is_beaten(shared.link.downs()));
    let mut next: Option<Instant> = None;
    let mut hot = false;
    for lane in looks {
        let state = lock(&lane.state);
        hot |= state.hot;
        next = Some(next.map_or(state.look_at, |next| next.min(state.look_at)));
    }
    if gated && hot {
        let soon = Instant::now() + CATCH_UP;
        next = Some(next.map_or(soon, |next| next.min(soon)));
    }
    next
}

/// Blocks on the broker for one idle queue, and says when it may have something.
pub(super) async fn wait(shared: Arc<Shared>, index: usize) {
    let lane = &shared.lanes[index];
    let mut failures = 0;
    loop {
        tokio::select! {
            () = lane.idle.notified() => {}
            () = shared.draining.cancelled() => return,
            () = shared.end.cancelled() => return,
        }
        let limit = lock(&lane.state).look_at.saturating_duration_since(Instant::now()).clamp(DUE, LOOK);
        let waited = tokio::select! {
            waited = shared.broker.wait(&lane.queue, limit) => waited,
            () = shared.draining.cancelled() => return,
            () = shared.end.cancelled() => return,
        };
        match waited {
            Ok(()) => failures = 0,
            Err(error @ BrokerError::Gone(_)) => {
                shared.refuse(error);
                return shared.end.cancelled().await;
            }
            Err(error) => {
                shared.link.failed(&error);
                failures += 1;
                let again = async {
                    tokio::time::sleep(backoff(failures)).await;
                    shared.link.up().await;
                };
                tokio::select! {
                    () = again => {}
                    () = shared.draining.cancelled() => return,
                    () = shared.end.cancelled() => return,
                }
            }
        }
        lane.heat();
        shared.wake.notify_one();
    }
}
