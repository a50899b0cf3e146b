//! One attempt: a claimed task goes in, one `Finish` comes out.
//!
//! [`Attempt`] (offer resolved, slot taken) → invoke under a deadline → `retry::judge` → the finisher.
//!
//! Invariant: an attempt makes its finish exactly once, whatever happens to its future. One that is dropped before its end hands its task
//! back. Attempts run on the guests' runtime and reach the broker only through `services`.

use std::{future::Future, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration, vec};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::{
    held::{Held, Tokens},
    hooks::{Hooks, Told},
    inbox::Inbox,
    invoke::{Invoke, Work},
    load::Load,
    offers::Offer,
    services::{AttemptServices, ServiceDesk},
    slots::Slots,
};
use crate::engine::{About, Attempted};
use taskhost_broker::{Finish, Leased};
use taskhost_core::units;
use taskhost_core::{
    observe::{self, Event, Observers, Used},
    retry::{self, RetrySettings},
    task::{Clock, ErrorKind, Follow, Outcome, SystemClock, TaskError, Verdict},
    trace::{self, Sampling, Span, Within},
};

/// How much longer than its grace time a body is left to the engine before its future is dropped.
const BEYOND_GRACE: Duration = Duration::from_secs(1);
/// The delay of a task whose attempt broke in the host itself.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// The parts of the worker that every attempt needs.
pub(super) struct Attempts {
    pub(super) worker: Arc<str>,
    pub(super) grace: Duration,
    pub(super) retry: RetrySettings,
    pub(super) invoke: Arc<dyn Invoke>,
    pub(super) slots: Arc<Slots>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) load: Arc<Load>,
    pub(super) desk: Arc<ServiceDesk>,
    pub(super) tracker: TaskTracker,
    pub(super) control: Handle,
    pub(super) observers: Observers,
    pub(super) sampling: Option<Sampling>,
    pub(super) hooks: Hooks,
}

/// A task about to be run, or running.
pub(super) struct Attempt {
    all: Arc<Attempts>,
    held: Arc<Held>,
    leased: Leased,
    offer: Arc<Offer>,
    stop: Tokens,
    /// Whether it has a slot.
    entered: bool,
    /// Whether observers were told of its start, and not of its end.
    told: bool,
    /// Boxed, because most attempts have none and an attempt is moved often.
    span: Option<Box<Span>>,
}

impl Attempt {
    pub(super) fn new(all: Arc<Attempts>, held: Arc<Held>, leased: Leased, offer: Arc<Offer>, stop: Tokens) -> Self {
        Self { all, held, leased, offer, stop, entered: false, told: false, span: None }
    }

    /// Takes a slot. When the plugin is at its `concurrency`, the task is parked instead.
    pub(super) fn enter(mut self) -> Option<Self> {
        self.entered = self.all.slots.enter(&self.offer);
        if self.entered {
            return Some(self);
        }
        self.end(Verdict::Park, Vec::new(), None);
        None
    }

    /// Whether it must have no neighbour: its task was lost with a worker before, and this is its last attempt.
    pub(super) fn runs_alone(&self) -> bool {
        self.leased.task.losses > 0 && self.number() >= self.max_attempts()
    }

    /// Counts from 1.
    fn number(&self) -> u32 {
        self.leased.task.tries.saturating_add(1)
    }

    /// As observers see it.
    fn about(&self) -> observe::Attempt<'_> {
        let task = &self.leased.task;
        observe::Attempt {
            worker: &self.all.worker,
            queue: &task.queue,
            id: &task.id,
            task: &task.name,
            number: self.number(),
            code: &self.offer.code,
            waited: (task.tries == 0)
                .then(|| Duration::from_micros(self.leased.member.claimed_us.saturating_sub(task.enqueued_at.0.saturating_mul(1000)))),
            span: self.span.as_deref(),
        }
    }

    /// Gives the attempt a span of its own, if it is traced. From here on everybody sees it as the task's: the body, and its children.
    fn trace(&mut self) {
        let headers = &mut self.leased.task.options.headers;
        self.span = self.all.sampling.and_then(|sampling| sampling.span(trace::of_headers(headers), fastrand::f64)).map(Box::new);
        if let Some(span) = &self.span {
            trace::set_traceparent(headers, &span.own);
        }
    }

    /// As hooks tell of it.
    fn told(&self) -> Told<'_> {
        let (task, claimed_us) = (&self.leased.task, self.leased.member.claimed_us);
        Told { task, claimed_us, worker: &self.all.worker, code: Some(&self.offer.code), now: SystemClock.now() }
    }

    fn tell_start(&mut self) {
        self.told = true;
        if !self.all.hooks.is_empty() {
            self.all.desk.enqueue_soon(self.all.hooks.started(self.told()));
        }
        self.all.observers.tell(|| Event::AttemptStarted(self.about()));
    }

    fn tell_end(&mut self, outcome: Option<&Outcome>, used: Used, within: &Within) {
        self.told = false;
        self.all.observers.tell(|| Event::AttemptEnded { attempt: self.about(), outcome, used, within });
    }

    fn max_attempts(&self) -> u32 {
        retry::max_attempts(&self.leased.task, Some(&self.offer.hints), &self.all.retry)
    }

    /// Makes the finish, unless the lease is lost or somebody made it before.
    fn end(&self, verdict: Verdict, follows: Vec<Follow>, attempted: Option<Attempted>) {
        if !self.held.begin_finish(&self.leased.member) {
            return;
        }
        let (ran, log) = attempted.map_or((Duration::ZERO, String::new()), |attempted| (attempted.ran, attempted.log));
        let finish = Finish {
            member: self.leased.member.clone(),
            code: self.entered.then(|| self.offer.code.clone()),
            worker: self.all.worker.clone(),
            ran_ms: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
            log,
            verdict,
            follows,
        };
        self.all.inbox.push(&self.held, self.leased.task.name.clone(), finish);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.told {
            self.tell_end(None, Used::default(), &Within::default());
        }
        // Without an end so far, it never began, or the host's own code panicked.
        let delay = if self.entered { AFTER_FAULT } else { Duration::ZERO };
        self.end(Verdict::HandBack { delay }, Vec::new(), None);
        if self.entered {
            self.all.slots.exit(&self.offer);
            if self.offer.concurrency.is_some() {
                self.all.slots.ask_for_parked();
            }
            self.all.load.attempt_ended();
        }
    }
}

/// Starts attempts on the guests' runtime: one hop for all of them, and short ones a few as one task of that runtime.
pub(super) fn start(all: &Attempts, attempts: Vec<Attempt>) {
    let runtime = all.invoke.runtime().unwrap_or_else(|| all.control.clone());
    let together = all.slots.pace().together();
    let mut attempts = attempts.into_iter();
    if attempts.len() <= together {
        // A second task would only wake a second thread to look for work that is not there.
        if attempts.len() > 0 {
            all.tracker.spawn_on(run_all(attempts), &runtime);
        }
        return;
    }
    let tracker = all.tracker.clone();
    let batch = async move {
        while attempts.len() > 0 {
            let some: Vec<Attempt> = attempts.by_ref().take(together).collect();
            tracker.spawn(run_all(some.into_iter()));
        }
    };
    all.tracker.spawn_on(batch, &runtime);
}

/// Runs one after the other, as long as each is over at its first poll. One that is not keeps this task of the runtime to itself, and the
/// others go on in another. One that panics does not end the others.
async fn run_all(mut attempts: vec::IntoIter<Attempt>) {
    while let Some(attempt) = attempts.next() {
        let all = Arc::clone(&attempt.all);
        let mut running = pin!(AssertUnwindSafe(run(attempt)).catch_unwind());
        if futures_util::poll!(running.as_mut()).is_pending() {
            go_on(&all, attempts);
            let _logged = running.await;
            return;
        }
    }
}

/// A function of its own: the type of `run_all`'s future can't contain itself.
fn go_on(all: &Attempts, attempts: vec::IntoIter<Attempt>) {
    if attempts.len() > 0 {
        all.tracker.spawn(run_all(attempts));
    }
}

async fn run(mut attempt: Attempt) {
    attempt.trace();
    let task = &attempt.leased.task;
    // At the default level an attempt that the host could run logs nothing, so it must not cost a span either.
    let span = tracing::debug_span!(
        "attempt",
        id = %task.id,
        task = %task.name,
        attempt = attempt.number(),
        plugin = %attempt.offer.code.plugin,
        queue = %task.queue,
        worker = %attempt.all.worker,
        trace_id = attempt.span.as_ref().map(|span| span.own.trace_id()),
    );
    span.in_scope(|| attempt.tell_start());
    let attempted = make(&attempt).instrument(span.clone()).await;
    let _entered = span.entered();
    let Some(attempted) = attempted else { return };
    attempt.all.slots.used(attempted.cpu);
    let used = Used { wall: attempted.ran, cpu: attempted.cpu, memory: attempted.memory, requests: attempted.requests };
    attempt.tell_end(Some(&attempted.outcome), used, &attempted.within);
    if attempt.held.is_lost() {
        tracing::info!(id = %attempt.leased.task.id, "the lease was lost meanwhile: nothing is recorded");
        return;
    }
    let Attempted { outcome, log, ran, .. } = attempted;
    if let Some(tally) = &attempt.offer.tally {
        tally.count(&outcome);
    }
    let (verdict, mut follows) =
        retry::judge(&attempt.leased.task, Some(&attempt.offer.hints), &attempt.all.retry, outcome, fastrand::f64());
    if !attempt.all.hooks.is_empty() {
        follows.extend(attempt.all.hooks.follow(attempt.told(), &verdict));
    }
    // The outcome went into the verdict. The rest is for the record.
    let outcome = Outcome::HostFault { reason: String::new(), delay: Duration::ZERO };
    attempt.end(verdict, follows, Some(Attempted { log, ran, ..Attempted::unrun(outcome) }));
}

/// `None`: the attempt was taken away, and its finish is made by somebody else.
async fn make(attempt: &Attempt) -> Option<Attempted> {
    let (task, all) = (&attempt.leased.task, &attempt.all);
    if attempt.stop.cancel.is_cancelled() {
        all.slots.started();
        return Some(stopped("cancelled before it started".into()));
    }
    let kv = attempt.offer.terms.as_ref().and_then(|terms| terms.grants.kv);
    let services = Arc::new(AttemptServices::new(&all.desk, &attempt.offer.code, kv, &attempt.held, &attempt.leased.member));
    let work = Work {
        offer: attempt.offer.clone(),
        body: task.name.clone(),
        args: task.args.clone(),
        about: About {
            task_id: task.id.clone(),
            queue: task.queue.clone(),
            attempt: attempt.number(),
            max_attempts: attempt.max_attempts(),
            enqueued_at: task.enqueued_at,
            headers: task.options.headers.clone(),
            trace: attempt.span.as_ref().map(|span| Box::new(span.own)),
        },
        timeout: attempt.offer.timeout(task.options.timeout),
        cancelled: attempt.stop.cancel.clone(),
        grace: all.grace,
        services: services.clone(),
    };
    let invoked = seen(&all.slots, all.invoke.invoke(work));
    let overdue = async {
        attempt.stop.cancel.cancelled().await;
        tokio::time::sleep(all.grace + BEYOND_GRACE).await;
    };
    let attempted = tokio::select! {
        biased;
        () = attempt.stop.abandon.cancelled() => return None,
        attempted = invoked => attempted,
        () = overdue => stopped(format!("stopped {} after it was cancelled", units::show_duration(all.grace))),
    };
    services.flush().await;
    Some(attempted)
}

/// The engine counts an attempt from its first poll on. Until then the slots count it as starting.
async fn seen<T>(slots: &Slots, invoked: impl Future<Output = T>) -> T {
    let mut invoked = pin!(invoked);
    let mut starting = Starting(Some(slots));
    std::future::poll_fn(move |context| {
        let polled = invoked.as_mut().poll(context);
        starting.end();
        if polled.is_ready() { polled } else { Poll::Pending }
    })
    .await
}

/// Counts as starting until `end`, or until it is dropped.
struct Starting<'a>(Option<&'a Slots>);

impl Starting<'_> {
    fn end(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.started();
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn stopped(message: String) -> Attempted {
    Attempted::unrun(Outcome::Failed { error: TaskError::new(ErrorKind::Cancelled, message), after: None })
}
