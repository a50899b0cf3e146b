//! Shares the CPU: the epoch ticker, the CPU permits, and the meter of one attempt.
//!
//! A computing guest yields at every tick (1 ms). A guest that has computed a little without waiting in a host call needs a permit of the
//! first queue; after 20 ms it needs one of the second. Each queue has as many permits as there are threads. A guest keeps its permit
//! until it waits in a host call, ends, or changes queues. So long bodies run a few at a time and short ones pass between them. Time in a
//! queue does not count against a timeout.
//!
//! Invariant: an attempt counts as runnable exactly while it waits neither in a host call nor for a permit. It holds at most one permit.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::UpdateDeadline;

use super::error::EngineError;

/// The time between two ticks of the epoch.
const TICK: Duration = Duration::from_millis(1);
/// A guest that has computed this long without waiting needs a permit of the queue at this index. Permits of the first queue come back at
/// the latest when the second takes over, so a short body never waits for one that computes for minutes.
const LINES: [Duration; 2] = [Duration::from_micros(2500), Duration::from_millis(20)];
/// The ticker sleeps after this many ticks without a runnable attempt.
const IDLE_TICKS: u32 = 20;

/// The CPU of this process, shared by guests.
pub(super) struct Cpu {
    lines: [Arc<Semaphore>; LINES.len()],
    runnable: AtomicUsize,
    stopping: AtomicBool,
    ticker: OnceLock<Thread>,
}

impl Cpu {
    /// Starts the ticker. It ends after [`Cpu::stop`], when the last attempt is gone, because a computing guest only yields at a tick.
    pub(super) fn start(wasm: &wasmtime::Engine, permits: usize) -> Result<Arc<Self>, EngineError> {
        let cpu = Arc::new(Self {
            lines: LINES.map(|_| Arc::new(Semaphore::new(permits))),
            runnable: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            ticker: OnceLock::new(),
        });
        let (of_thread, wasm) = (Arc::clone(&cpu), wasm.clone());
        let thread = thread::Builder::new()
            .name("epoch".into())
            .spawn(move || of_thread.tick(&wasm))
            .map_err(|error| EngineError::Host(format!("can't start the epoch thread: {error}")))?;
        let _ = cpu.ticker.set(thread.thread().clone());
        Ok(cpu)
    }

    pub(super) fn runnable(&self) -> usize {
        self.runnable.load(Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.wake();
    }

    fn tick(&self, wasm: &wasmtime::Engine) {
        let mut idle = 0;
        loop {
            if self.runnable() > 0 {
                idle = 0;
                wasm.increment_epoch();
            } else if self.stopping.load(Relaxed) {
                return;
            } else if idle < IDLE_TICKS {
                idle += 1;
            } else {
                // The first attempt that becomes runnable wakes it. A wake-up before this line is not lost.
                thread::park();
                idle = 0;
            }
            thread::sleep(TICK);
        }
    }

    fn wake(&self) {
        if let Some(ticker) = self.ticker.get() {
            ticker.unpark();
        }
    }
}

/// Counts one attempt as runnable.
pub(super) struct Turn {
    cpu: Arc<Cpu>,
    parked: bool,
}

impl Turn {
    pub(super) fn new(cpu: &Arc<Cpu>) -> Self {
        let mut turn = Self { cpu: Arc::clone(cpu), parked: true };
        turn.resume();
        turn
    }

    fn resume(&mut self) {
        if self.parked {
            self.parked = false;
            // A wake-up between the ticker's check and its sleep leaves a token, so it is not lost.
            if self.cpu.runnable.fetch_add(1, Relaxed) == 0 {
                self.cpu.wake();
            }
        }
    }

    fn park(&mut self) {
        if !self.parked {
            self.parked = true;
            self.cpu.runnable.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.park();
    }
}

/// The CPU time of one attempt. Its store, its future and its timer share it; only one of them acts at a time.
pub(super) struct Meter {
    cpu: Arc<Cpu>,
    born: Instant,
    /// The poll is pending because of a tick, not because of a host call.
    yielded: AtomicBool,
    /// Waits for a permit.
    queued: AtomicBool,
    /// Nanoseconds computed in all, and since it last waited in a host call.
    spent: AtomicU64,
    streak: AtomicU64,
    /// The guest is stopped when `spent` goes beyond this; nanoseconds.
    ceiling: u64,
    /// The sum of finished waits for CPU (for a permit, for the next turn); nanoseconds.
    waited: AtomicU64,
    /// When the present wait for CPU began, in nanoseconds after `born`; 0 if there is none.
    waiting: AtomicU64,
    /// How many queues it has been through since it last waited in a host call. It holds a permit of the last one.
    lines: AtomicUsize,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

/// The guest computed longer than the ceiling.
#[derive(Debug, thiserror::Error)]
#[error("used more than its share of CPU time")]
pub(super) struct CpuSpent;

impl Meter {
    /// `ceiling`: CPU time after which the guest is stopped; `None` for an attempt, which its timeout bounds.
    pub(super) fn new(cpu: &Arc<Cpu>, ceiling: Option<Duration>) -> Self {
        Self {
            cpu: Arc::clone(cpu),
            born: Instant::now(),
            yielded: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            spent: AtomicU64::new(0),
            streak: AtomicU64::new(0),
            ceiling: ceiling.map_or(u64::MAX, nanos),
            waited: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            lines: AtomicUsize::new(0),
            permit: Mutex::new(None),
        }
    }

    pub(super) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Relaxed))
    }

    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// The sum of all waits for CPU, the present one included.
    pub(super) fn waited(&self) -> Duration {
        let since = self.waiting.load(Relaxed);
        let now = if since == 0 { 0 } else { nanos(self.born.elapsed()).saturating_sub(since) };
        Duration::from_nanos(self.waited.load(Relaxed) + now)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed) != 0
    }

    /// What a guest does at a tick. `this` is the meter, in a form that the future may keep.
    pub(super) fn on_tick<S: AsRef<Self> + Send + Sync + 'static>(this: &Arc<S>) -> wasmtime::Result<UpdateDeadline> {
        let meter: &Self = (**this).as_ref();
        if meter.spent.load(Relaxed) > meter.ceiling {
            return Err(CpuSpent.into());
        }
        meter.yielded.store(true, Relaxed);
        let streak = meter.streak.load(Relaxed);
        let line = LINES.iter().filter(|free| streak >= nanos(**free)).count();
        if line == meter.lines.load(Relaxed) || meter.take_permit(line) {
            return Ok(UpdateDeadline::Yield(1));
        }
        meter.queued.store(true, Relaxed);
        let this = Arc::clone(this);
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(async move { (*this).as_ref().wait_for_permit(line).await })))
    }

    /// Takes a permit of the queue at this place, counted from 1. A permit of another queue goes back first.
    fn take_permit(&self, line: usize) -> bool {
        self.put_back();
        // This never overtakes: a permit that is given back goes straight to the first attempt in the queue.
        let permit = Arc::clone(&self.cpu.lines[line - 1]).try_acquire_owned().ok();
        let took = permit.is_some();
        self.keep(line, permit);
        took
    }

    async fn wait_for_permit(&self, line: usize) {
        // The semaphore is never closed. If it were, there would be no limit any more.
        let permit = Arc::clone(&self.cpu.lines[line - 1]).acquire_owned().await.ok();
        self.keep(line, permit);
        self.queued.store(false, Relaxed);
        self.end_wait();
    }

    fn begin_wait(&self) {
        if !self.is_waiting() {
            self.waiting.store(nanos(self.born.elapsed()).max(1), Relaxed);
        }
    }

    fn end_wait(&self) {
        if self.is_waiting() {
            self.waited.store(nanos(self.waited()), Relaxed);
            self.waiting.store(0, Relaxed);
        }
    }

    fn keep(&self, line: usize, permit: Option<OwnedSemaphorePermit>) {
        if permit.is_some() {
            *self.permit.lock() = permit;
            self.lines.store(line, Relaxed);
        }
    }

    fn put_back(&self) {
        if self.lines.swap(0, Relaxed) > 0 {
            self.permit.lock().take();
        }
    }

    /// The guest waits in a host call or has ended: it begins again without a permit.
    pub(super) fn release(&self) {
        self.streak.store(0, Relaxed);
        self.put_back();
    }
}

/// A guest's call under its meter. Counts CPU time, and notices when the guest waits in a host call and when it is back.
pub(super) struct Metered<'a, F> {
    pub(super) call: Pin<&'a mut F>,
    pub(super) meter: &'a Meter,
    pub(super) turn: Turn,
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let meter = this.meter;
        this.turn.resume();
        meter.yielded.store(false, Relaxed);
        if !meter.queued.load(Relaxed) {
            meter.end_wait();
        }
        let clock = Stopwatch::start(meter.streak.load(Relaxed) > 0);
        let polled = this.call.as_mut().poll(cx);
        let used = clock.stop();
        meter.spent.fetch_add(used, Relaxed);
        meter.streak.fetch_add(used, Relaxed);
        if polled.is_ready() {
            meter.release();
        } else if meter.queued.load(Relaxed) {
            // The attempts that hold permits are counted. If those in the queue counted too, a worker would claim nothing more, and
            // short bodies would wait behind long ones.
            meter.begin_wait();
            this.turn.park();
        } else if meter.yielded.load(Relaxed) {
            meter.begin_wait();
        } else {
            meter.release();
            this.turn.park();
        }
        polled
    }
}

/// Measures one poll. The first poll after a host call is measured by the cheap clock. Later ones are measured by the CPU time of the
/// thread, so that a busy machine does not make a guest look greedy.
enum Stopwatch {
    Wall(Instant),
    Cpu(Duration),
}

impl Stopwatch {
    fn start(exact: bool) -> Self {
        if exact { Self::Cpu(thread_cpu()) } else { Self::Wall(Instant::now()) }
    }

    fn stop(self) -> u64 {
        match self {
            // A poll ends at the second tick at the latest. Other processes took the rest of the time.
            Self::Wall(start) => nanos(start.elapsed().min(2 * TICK)),
            Self::Cpu(start) => nanos(thread_cpu().saturating_sub(start)),
        }
    }
}

fn thread_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
