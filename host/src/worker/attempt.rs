//! One attempt: a claimed task goes in, one `Finish` comes out.
//!
//! [`Job`] (offer resolved, slot taken) → invoke under a deadline → `retry::judge` → the finisher.
//!
//! Invariant: a job makes its finish exactly once, whatever happens to its future: a job that is dropped before its end hands
//! its task back. Runs on the guests' runtime; touches the broker only through `services`.

use std::{future::Future, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration, vec};

use futures_util::FutureExt as _;
use tracing::Instrument as _;

use super::{
    Shared,
    hold::{Hold, Tokens},
    roster::{Offer, Work},
    services::AttemptServices,
};
use crate::engine::{About, Attempted};
use taskhost_broker::{Finish, Leased};
use taskhost_core::{
    retry,
    task::{ErrorKind, Follow, Outcome, TaskError, Verdict},
};

/// How long a body is left to the engine beyond its grace time before its future is dropped.
const BEYOND_GRACE: Duration = Duration::from_secs(1);
/// The delay of a task whose attempt broke in the host itself.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// A task about to be run, or running.
pub(super) struct Job {
    shared: Arc<Shared>,
    hold: Arc<Hold>,
    leased: Leased,
    offer: Arc<Offer>,
    stop: Tokens,
    /// Holds a slot.
    entered: bool,
}

impl Job {
    pub(super) fn new(shared: Arc<Shared>, hold: Arc<Hold>, leased: Leased, offer: Arc<Offer>, stop: Tokens) -> Self {
        Self { shared, hold, leased, offer, stop, entered: false }
    }

    /// Takes a slot; `false` when the plugin is at its `concurrency`.
    pub(super) fn enter(&mut self) -> bool {
        self.entered = self.shared.crew.enter(&self.offer);
        self.entered
    }

    /// Nobody can start it here now.
    pub(super) fn park(self) {
        self.end(Verdict::Park, Vec::new(), None);
    }

    /// It was lost with a worker before, and this is its last attempt: it must not take others with it.
    pub(super) fn runs_alone(&self) -> bool {
        self.leased.task.losses > 0 && self.leased.task.tries.saturating_add(1) >= self.max_attempts()
    }

    fn max_attempts(&self) -> u32 {
        retry::max_attempts(&self.leased.task, Some(&self.offer.hints), &self.shared.settings.retry)
    }

    /// Makes the finish, unless the lease is lost or somebody made it already.
    fn end(&self, verdict: Verdict, follows: Vec<Follow>, attempted: Option<Attempted>) {
        if !self.hold.begin_finish(&self.leased.member) {
            return;
        }
        let (ran, log) = attempted.map_or((Duration::ZERO, String::new()), |attempted| (attempted.ran, attempted.log));
        let finish = Finish {
            member: self.leased.member.clone(),
            code: self.entered.then(|| self.offer.code.clone()),
            worker: self.shared.settings.id.clone(),
            ran_ms: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
            log,
            verdict,
            follows,
        };
        self.shared.inbox.push(&self.hold, self.leased.task.name.clone(), finish);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Not ended: it never began, or the host's own code panicked.
        let delay = if self.entered { AFTER_FAULT } else { Duration::ZERO };
        self.end(Verdict::HandBack { delay }, Vec::new(), None);
        if self.entered {
            self.shared.crew.exit(&self.offer);
            if self.offer.concurrency.is_some() {
                self.shared.crew.ask_for_parked();
            }
            self.shared.pace();
        }
    }
}

/// Starts all of them where guests run: one hop for the batch, and short ones a few at a time.
pub(super) fn start(shared: &Arc<Shared>, jobs: Vec<Job>) {
    let runtime = shared.invoke.runtime().unwrap_or_else(|| shared.control.clone());
    let together = shared.crew.together();
    let mut jobs = jobs.into_iter();
    if jobs.len() <= together {
        // What is one task anyway would wake a second thread to look for work that is not there.
        if jobs.len() > 0 {
            shared.tracker.spawn_on(run_all(jobs), &runtime);
        }
        return;
    }
    let tracker = shared.tracker.clone();
    let batch = async move {
        while jobs.len() > 0 {
            let some: Vec<Job> = jobs.by_ref().take(together).collect();
            tracker.spawn(run_all(some.into_iter()));
        }
    };
    shared.tracker.spawn_on(batch, &runtime);
}

/// One after the other, as long as each is over when it was looked at once. One that is not has this task to itself from then on, and
/// one that panics is no end of the others.
async fn run_all(mut jobs: vec::IntoIter<Job>) {
    while let Some(job) = jobs.next() {
        let shared = Arc::clone(&job.shared);
        let mut running = pin!(AssertUnwindSafe(run(job)).catch_unwind());
        if futures_util::poll!(running.as_mut()).is_pending() {
            go_on(&shared, jobs);
            let _told = running.await;
            return;
        }
    }
}

/// Not part of `run_all`, which could not be a part of itself.
fn go_on(shared: &Shared, jobs: vec::IntoIter<Job>) {
    if jobs.len() > 0 {
        shared.tracker.spawn(run_all(jobs));
    }
}

async fn run(job: Job) {
    let task = &job.leased.task;
    // At the default level nothing is logged of an attempt that the host could run: it shall not cost a span either.
    let span = tracing::debug_span!(
        "attempt",
        id = %task.id,
        task = %task.name,
        attempt = task.tries.saturating_add(1),
        plugin = %job.offer.code.plugin,
        queue = %task.queue,
        worker = %job.shared.settings.id,
    );
    let attempted = make(&job).instrument(span.clone()).await;
    let Some(attempted) = attempted else { return };
    job.shared.crew.used(attempted.cpu);
    let _entered = span.entered();
    let id = &job.leased.task.id;
    match &attempted.outcome {
        Outcome::Done { .. } => tracing::debug!(ran = ?attempted.ran, "succeeded"),
        Outcome::Failed { error, .. } => tracing::debug!(ran = ?attempted.ran, %error, "failed"),
        Outcome::HostFault { reason, delay } => {
            tracing::warn!(id = %id, task = %job.leased.task.name, %reason, ?delay, "handed back: the host could not run it");
        }
    }
    if job.hold.is_lost() {
        tracing::info!(id = %id, "the lease was lost meanwhile: nothing is recorded");
        return;
    }
    let Attempted { outcome, log, ran, cpu, memory } = attempted;
    if let Some(tally) = &job.offer.tally {
        tally.count(&outcome);
    }
    let (verdict, follows) = retry::judge(&job.leased.task, Some(&job.offer.hints), &job.shared.settings.retry, outcome, fastrand::f64());
    // The outcome went into the verdict; what is left is for the record.
    let rest = Attempted { outcome: Outcome::HostFault { reason: String::new(), delay: Duration::ZERO }, log, ran, cpu, memory };
    job.end(verdict, follows, Some(rest));
}

/// `None`: the attempt was taken away, and its finish is somebody else's.
async fn make(job: &Job) -> Option<Attempted> {
    let (task, settings) = (&job.leased.task, &job.shared.settings);
    if job.stop.cancel.is_cancelled() {
        job.shared.crew.started();
        return Some(stopped("cancelled before it started".into()));
    }
    let kv = job.offer.terms.as_ref().and_then(|terms| terms.grants.kv);
    let services = Arc::new(AttemptServices::new(&job.shared, &job.offer.code.plugin, kv, task));
    let work = Work {
        offer: job.offer.clone(),
        body: task.name.clone(),
        args: task.args.clone(),
        about: About {
            task_id: task.id.clone(),
            queue: task.queue.clone(),
            attempt: task.tries.saturating_add(1),
            max_attempts: job.max_attempts(),
            enqueued_at: task.enqueued_at,
            headers: task.headers.clone(),
        },
        timeout: job.offer.timeout(task.timeout),
        cancelled: job.stop.cancel.clone(),
        grace: settings.grace,
        services: services.clone(),
    };
    tracing::debug!("started");
    let invoked = seen(job, job.shared.invoke.invoke(work));
    let overdue = async {
        job.stop.cancel.cancelled().await;
        tokio::time::sleep(settings.grace + BEYOND_GRACE).await;
    };
    let attempted = tokio::select! {
        biased;
        () = job.stop.abandon.cancelled() => return None,
        attempted = invoked => attempted,
        () = overdue => stopped(format!("stopped {} after it was cancelled", humantime::format_duration(settings.grace))),
    };
    services.flush().await;
    Some(attempted)
}

/// The engine counts an attempt from its first poll on: until then the crew does.
async fn seen<T>(job: &Job, invoked: impl Future<Output = T>) -> T {
    let mut invoked = pin!(invoked);
    let mut counted = Starting(Some(job));
    std::future::poll_fn(move |context| {
        let polled = invoked.as_mut().poll(context);
        counted.done();
        if polled.is_ready() { polled } else { Poll::Pending }
    })
    .await
}

/// Counts as starting until it is done or dropped.
struct Starting<'a>(Option<&'a Job>);

impl Starting<'_> {
    fn done(&mut self) {
        if let Some(job) = self.0.take() {
            job.shared.crew.started();
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.done();
    }
}

fn stopped(message: String) -> Attempted {
    Attempted {
        outcome: Outcome::Failed { error: TaskError::new(ErrorKind::Cancelled, message), after: None },
        log: String::new(),
        ran: Duration::ZERO,
        cpu: Duration::ZERO,
        memory: 0,
    }
}
