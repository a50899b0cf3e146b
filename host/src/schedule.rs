//! The loop that enqueues due tasks of schedules.
//!
//! (read all from the broker → put those of the file that are missing → sleep until the earliest is due, by the broker's clock → fire) …
//!
//! Any number of hosts run it at once. The broker moves a schedule's `last` and enqueues in one step. So each due time fires once, without
//! a leader and whatever the hosts' clocks say.
//!
//! Invariant: hosts fire only schedules that stand in the broker; no error ends the loop.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use taskhost_broker as broker;
use taskhost_broker::{BrokerError, Fired, Schedule, Schedules, observed::Observed};
use taskhost_core::{
    backoff::Backoff,
    observe::{Event, Observers},
    task::{Millis, NewTask, TaskId},
};

mod file;
mod plan;
mod plans;
#[cfg(test)]
mod tests;
mod valid;

pub use valid::{ScheduleError, upcoming, validate};

use file::File;
use plans::{BATCH, Plans};

/// How often the broker's schedules are read again. A change made elsewhere takes effect within this time.
const REFRESH: Duration = Duration::from_secs(2);

/// Hosts ask at a due time spread over this time, so that they do not all ask at once.
const SPREAD: Duration = Duration::from_millis(20);

/// The pauses after errors of the broker.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// The most schedules that one host fires at the same time.
const ABREAST: usize = 16;

/// Fires until `shutdown`. `defined` are the schedules of this host's `taskhost.toml`; `file.rs` says when they are put. A schedule that
/// left the file is not removed, because another host's file may have it. The log says so. `observers` are told of every firing.
pub async fn run(broker: Arc<dyn Schedules>, defined: Vec<Schedule>, observers: Observers, shutdown: CancellationToken) {
    let mut file = File::new(defined);
    let of_calls = observers.of_calls();
    let broker = if of_calls.is_empty() { broker } else { Arc::new(Observed::new(broker, of_calls)) };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = fire_for_ever(&*broker, &mut file, &observers) => {}
    }
}

async fn fire_for_ever<B: Schedules + ?Sized>(broker: &B, file: &mut File, observers: &Observers) {
    let (mut plans, mut troubles) = (Plans::default(), Troubles::default());
    loop {
        match turn(broker, file, &mut plans, observers).await {
            Ok(()) => troubles.over(),
            Err(error) => troubles.pause(&error).await,
        }
    }
}

/// Reads the schedules, then fires what falls due until it is time to read them again.
async fn turn<B: Schedules + ?Sized>(broker: &B, file: &mut File, plans: &mut Plans, observers: &Observers) -> broker::Result<()> {
    let mut stored = broker.schedules().await?;
    if file.put(broker, &stored, plans).await? {
        stored = broker.schedules().await?;
    }
    plans.refresh(stored);
    let until = Instant::now() + REFRESH.mul_f64(0.8 + 0.4 * fastrand::f64());
    if plans.is_empty() {
        // Without schedules the broker's clock is not needed.
        sleep_until(until).await;
        return Ok(());
    }
    let clock = BrokerClock::read(broker).await?;
    loop {
        let work = plans.due(clock.now());
        let more = work.iter().any(|(_, dues)| dues.len() == BATCH);
        let known = &*plans;
        let fires = stream::iter(work).map(|(name, dues)| fire_all(broker, known, observers, name, dues));
        let fired: Vec<_> = fires.buffer_unordered(ABREAST).collect().await;
        let mut trouble = None;
        for (name, done, met) in fired {
            if let Some(done) = done {
                plans.done_up_to(&name, done);
            }
            trouble = trouble.or(met);
        }
        match trouble {
            None => {}
            Some(Trouble::Clock) => break sleep(Duration::from_millis(100)).await,
            Some(Trouble::Broker(error)) => return Err(error),
        }
        if more && Instant::now() < until {
            continue;
        }
        let next = plans.next(clock.now()).map(|due| clock.instant(due) + SPREAD.mul_f64(fastrand::f64()));
        match next {
            Some(next) if next < until => sleep_until(next).await,
            _ => break sleep_until(until).await,
        }
    }
    Ok(())
}

/// Why a turn ends early.
enum Trouble {
    /// The broker's clock is not what was read.
    Clock,
    Broker(BrokerError),
}

/// Fires one schedule's due times in order. Answers its name, up to where they are fired or given up, and the trouble that kept it from going on.
async fn fire_all<B: Schedules + ?Sized>(
    broker: &B,
    plans: &Plans,
    observers: &Observers,
    name: String,
    dues: Vec<Millis>,
) -> (String, Option<Millis>, Option<Trouble>) {
    let mut done = None;
    let Some(plan) = plans.get(&name) else { return (name, done, None) };
    for due in dues {
        match fire(broker, &plan.schedule, observers, due).await {
            Ok(()) => done = Some(due),
            Err(trouble) => return (name, done, Some(trouble)),
        }
    }
    (name, done, None)
}

/// Fires one due time. `Ok`: this host or another has fired it, or it can never be fired and the log says why.
async fn fire<B: Schedules + ?Sized>(broker: &B, schedule: &Schedule, observers: &Observers, due: Millis) -> Result<(), Trouble> {
    let name = &schedule.name;
    let task = match task(schedule, due) {
        Ok(task) => task,
        Err(why) => {
            tracing::error!(schedule = name, due = due.0, "schedule not fired: {why}");
            return Ok(());
        }
    };
    for _ in 0..5 {
        match broker.fire(schedule, due, &task).await {
            Ok(Fired::Enqueued(id)) => {
                observers.tell(|| Event::ScheduleFired { schedule: name, due, task: &schedule.task, id: &id });
            }
            Ok(Fired::Skipped(id)) => observers.tell(|| Event::ScheduleSkipped { schedule: name, due, id: &id }),
            Ok(Fired::NotNow) => tracing::trace!(schedule = name, due = due.0, "another host fired the schedule, or it changed"),
            // The clock was read over a network, so it is off by a little.
            Ok(Fired::TooEarly(wait)) if wait <= Duration::from_millis(250) => {
                sleep(wait.max(Duration::from_millis(1))).await;
                continue;
            }
            Ok(Fired::TooEarly(_)) => return Err(Trouble::Clock),
            Err(error) if error.is_transient() => return Err(Trouble::Broker(error)),
            Err(error) => tracing::error!(schedule = name, due = due.0, "schedule not fired: {error}"),
        }
        return Ok(());
    }
    Err(Trouble::Clock)
}

/// The task that a firing enqueues. Its id comes from the schedule and the due time, so that firing again enqueues nothing.
fn task(schedule: &Schedule, due: Millis) -> Result<NewTask, taskhost_core::task::InvalidName> {
    Ok(NewTask {
        id: TaskId::new(format!("cron:{}:{}", schedule.name, due.0))?,
        queue: schedule.queue.clone(),
        options: schedule.options.clone(),
        ..NewTask::new(schedule.task.clone(), schedule.args.clone())
    })
}

/// The broker's time: read once, and carried on by this host's monotonic clock.
struct BrokerClock {
    at: Instant,
    read: Millis,
}

impl BrokerClock {
    async fn read<B: Schedules + ?Sized>(broker: &B) -> broker::Result<Self> {
        let asked = Instant::now();
        let read = broker.now().await?;
        Ok(Self { at: asked + asked.elapsed() / 2, read })
    }

    fn now(&self) -> Millis {
        self.read.after(self.at.elapsed())
    }

    fn instant(&self, time: Millis) -> Instant {
        // An hour is far beyond the next refresh, so later times need not be exact.
        self.at + time.since(self.read).min(Duration::from_secs(3600))
    }
}

/// Errors of the broker in a row. Each pause is longer, and the log has one warning for each outage.
#[derive(Debug, Default)]
struct Troubles(u32);

impl Troubles {
    async fn pause(&mut self, error: &BrokerError) {
        if self.0 == 0 {
            tracing::warn!("schedules wait for the broker: {error}");
        } else {
            tracing::debug!("schedules still wait for the broker: {error}");
        }
        let pause = PAUSE.delay(self.0, fastrand::f64());
        self.0 = self.0.saturating_add(1);
        sleep(pause).await;
    }

    fn over(&mut self) {
        if self.0 > 0 {
            tracing::info!("schedules go on");
        }
        self.0 = 0;
    }
}
