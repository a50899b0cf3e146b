//! Who may compute: the epoch ticker, the CPU permits, and the meter of one attempt.
//!
//! Every tick (1 ms) a computing guest yields. One that has computed a little without parking in a host call needs a permit of the
//! first line, and one that has computed 20 ms a permit of the second; each line has as many as there are threads. A permit is kept
//! until the guest parks, ends or changes lines. So long bodies run a few at a time, shorter ones pass between them, hundreds that
//! come at once soon stand in line instead of in the way, and waiting for a permit counts against nobody's timeout.
//!
//! Invariant: an attempt is counted as runnable exactly while it is neither parked in a host call nor in the line for a permit, and
//! holds at most one permit.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::UpdateDeadline;

use super::error::EngineError;

/// Between two ticks of the epoch.
const TICK: Duration = Duration::from_millis(1);
/// Computing so long without parking needs a permit of the line at this place. The first holds for what is over soon: its permits
/// come back at the latest when the second takes over, so nobody in it waits for a body that computes for minutes.
const LINES: [Duration; 2] = [Duration::from_micros(2500), Duration::from_millis(20)];
/// The ticker sleeps after so many ticks with nobody runnable.
const IDLE_TICKS: u32 = 20;

/// The CPU of this process as guests share it.
pub(super) struct Cpu {
    lines: [Arc<Semaphore>; LINES.len()],
    runnable: AtomicUsize,
    stopping: AtomicBool,
    ticker: OnceLock<Thread>,
}

impl Cpu {
    /// Starts the ticker. It ends after [`Cpu::stop`], when the last attempt has gone: a computing guest only leaves at a tick.
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
                // Woken by the first attempt that becomes runnable; a wake-up that came before this line is not lost.
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

/// One attempt in the count of the runnable.
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
            // A wake-up between the ticker's look and its parking is not lost: it leaves a token behind.
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

/// What one attempt has used. Shared by its store, its future and its timer; only one of them acts at a time.
pub(super) struct Meter {
    cpu: Arc<Cpu>,
    born: Instant,
    /// The pending poll was our doing (a tick) and not a host call.
    yielded: AtomicBool,
    /// Waits for a permit.
    queued: AtomicBool,
    /// Computed so far, and since it last parked: nanoseconds.
    spent: AtomicU64,
    streak: AtomicU64,
    /// Stopped when `spent` goes beyond; nanoseconds.
    ceiling: u64,
    /// Waits for a share of the CPU that are over (for a permit, for the next turn); nanoseconds.
    waited: AtomicU64,
    /// Since when it waits for one; nanoseconds after `born`, 0 when it does not.
    waiting: AtomicU64,
    /// The lines it has been through in this streak, counted; it holds a permit of the last of them.
    lines: AtomicUsize,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

/// Computed more than the ceiling.
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

    /// Time that waiting for a share of the CPU took, the present wait included.
    pub(super) fn waited(&self) -> Duration {
        let since = self.waiting.load(Relaxed);
        let now = if since == 0 { 0 } else { nanos(self.born.elapsed()).saturating_sub(since) };
        Duration::from_nanos(self.waited.load(Relaxed) + now)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Relaxed) != 0
    }

    /// What a guest does at a tick. `this` is the meter inside of what the future may keep.
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

    /// Of the line at this place, counted from 1. What it held of another goes back first.
    fn take_permit(&self, line: usize) -> bool {
        self.put_back();
        // Never jumps the line: a permit given back while others wait goes straight to the first of them.
        let permit = Arc::clone(&self.cpu.lines[line - 1]).try_acquire_owned().ok();
        let took = permit.is_some();
        self.keep(line, permit);
        took
    }

    async fn wait_for_permit(&self, line: usize) {
        // Closed is impossible, and would only mean that there are no limits any more.
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
            *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
            self.lines.store(line, Relaxed);
        }
    }

    fn put_back(&self) {
        if self.lines.swap(0, Relaxed) > 0 {
            self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// It has parked or ended: the next streak begins without a permit.
    pub(super) fn release(&self) {
        self.streak.store(0, Relaxed);
        self.put_back();
    }
}

/// A guest's call under its meter: counts CPU time, and sees when the guest parks in a host call and when it is back.
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
            // Somebody else holds the permit and is counted: a worker that counted those in the line too would claim nothing more,
            // and the shortest body would wait behind all that compute for long.
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

/// Measures one poll. The first one of a streak by the cheap clock, which is enough for what ends within it; the later ones by
/// the CPU time of the thread, so that a busy machine does not make a guest look hungry.
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
            // A poll ends at the second tick at the latest; what is beyond was taken by other processes.
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
