//! The loop that enqueues what is due.
//!
//! (read all from the broker → put the file's where missing → sleep until the earliest is due, by the broker's clock → fire) …
//!
//! Any number of hosts run it at once: the broker moves a schedule's `last` and enqueues in one step, so that each due time fires once,
//! without a leader and whatever the hosts' clocks say.
//!
//! Invariant: hosts fire what stands in the broker and nothing else; no error ends the loop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use taskhost_broker as broker;
use taskhost_broker::{BrokerError, Fired, Schedule, Schedules};
use taskhost_core::{
    cron::{CronError, Rule},
    task::{Millis, NewTask, TaskId},
};

mod file;
mod plan;
#[cfg(test)]
mod tests;

use file::File;

/// How often the broker's schedules are read again: a change made elsewhere takes hold within this time.
const REFRESH: Duration = Duration::from_secs(2);

/// Hosts come to a due time spread over this much, so that they do not all ask at once.
const SPREAD: Duration = Duration::from_millis(20);

/// Due times of one schedule fired in a row before the others have their turn.
const BATCH: usize = 50;

/// The longest pause after a broker's error.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Schedules fired at the same time by one host.
const ABREAST: usize = 16;

/// Fires until `shutdown`. `defined` are the schedules of this host's `taskhost.toml`; see `file.rs` for when they are put. One that left
/// the file is not removed, since another host's file may have it: the log says so.
pub async fn run(broker: Arc<dyn Schedules>, defined: Vec<Schedule>, shutdown: CancellationToken) {
    let mut file = File::new(defined);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = fire_for_ever(&*broker, &mut file) => {}
    }
}

/// Why a schedule is refused: each a sentence that says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("a schedule's name starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -: `{0}`")]
    Name(String),
    #[error(transparent)]
    Rule(#[from] CronError),
    #[error("a schedule's arguments are a JSON array such as [1, \"x\"]: {0}")]
    Arguments(String),
    #[error("a schedule's tasks have at least 1 attempt, and 1 ms for each")]
    Limits,
}

/// Whether a schedule can be stored; its rule, for showing when it fires ([`upcoming`]).
pub fn validate(schedule: &Schedule) -> Result<Rule, ScheduleError> {
    let name = &schedule.name;
    let valid = (1..=64).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !valid {
        return Err(ScheduleError::Name(name.chars().take(80).flat_map(char::escape_debug).collect()));
    }
    if schedule.options.max_attempts == Some(0) || schedule.options.timeout == Some(Duration::ZERO) {
        return Err(ScheduleError::Limits);
    }
    serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&schedule.args).map_err(|why| ScheduleError::Arguments(why.to_string()))?;
    Ok(Rule::parse(&schedule.rule, &schedule.timezone)?)
}

/// The next `count` due times after `now`: none of a paused one, or of one whose rule can't be read.
pub fn upcoming(schedule: &Schedule, now: Millis, count: usize) -> Vec<Millis> {
    match Rule::parse(&schedule.rule, &schedule.timezone) {
        Ok(rule) if !schedule.paused => rule.firings(schedule.created_at, now.max(schedule.last)).take(count).collect(),
        _ => Vec::new(),
    }
}

// -- the loop ---------------------------------------------------------------------------------------------------------

async fn fire_for_ever<B: Schedules + ?Sized>(broker: &B, file: &mut File) {
    let (mut plans, mut troubles) = (Plans::default(), Troubles::default());
    loop {
        match turn(broker, file, &mut plans).await {
            Ok(()) => troubles.over(),
            Err(error) => troubles.pause(&error).await,
        }
    }
}

/// Reads the schedules, then fires what falls due until it is time to read them again.
async fn turn<B: Schedules + ?Sized>(broker: &B, file: &mut File, plans: &mut Plans) -> broker::Result<()> {
    let mut stored = broker.schedules().await?;
    if file.put(broker, &stored, plans).await? {
        stored = broker.schedules().await?;
    }
    plans.refresh(stored);
    let until = Instant::now() + REFRESH.mul_f64(0.8 + 0.4 * fastrand::f64());
    if plans.0.is_empty() {
        // Nothing to be on time for: the broker is not asked what time it is.
        sleep_until(until).await;
        return Ok(());
    }
    let clock = BrokerClock::read(broker).await?;
    loop {
        let work = plans.due(clock.now());
        let more = work.iter().any(|(_, dues)| dues.len() == BATCH);
        let fired: Vec<_> = stream::iter(work).map(|(name, dues)| plans.fire(broker, name, dues)).buffer_unordered(ABREAST).collect().await;
        let mut trouble = None;
        for (name, done, met) in fired {
            if let (Some(plan), Some(done)) = (plans.0.get_mut(&name), done) {
                plan.done = plan.done.max(done);
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

/// The broker's schedules as this host sees them, by name.
#[derive(Debug, Default)]
struct Plans(HashMap<String, Plan>);

#[derive(Debug)]
struct Plan {
    schedule: Schedule,
    /// `None`: can't be read; the log has said so.
    rule: Option<Rule>,
    /// Due times up to here are settled: fired by somebody, or given up.
    done: Millis,
}

/// Why a turn ends early.
enum Trouble {
    /// The broker's clock is not what was read.
    Clock,
    Broker(BrokerError),
}

impl Plans {
    /// Takes over what is new or changed, keeps what is known of the others, forgets what is gone.
    fn refresh(&mut self, schedules: Vec<Schedule>) {
        let mut before = std::mem::take(&mut self.0);
        for schedule in schedules {
            let plan = match before.remove(&schedule.name) {
                Some(old) if old.schedule.is_defined_as(&schedule) && old.schedule.created_at == schedule.created_at => {
                    if old.schedule.paused != schedule.paused {
                        let now = if schedule.paused { "is paused" } else { "goes on" };
                        tracing::info!(schedule = schedule.name, "schedule {now}");
                    }
                    Plan { done: old.done.max(schedule.last), schedule, rule: old.rule }
                }
                _ => {
                    let rule = Rule::parse(&schedule.rule, &schedule.timezone);
                    if let Err(why) = &rule {
                        let name = &schedule.name;
                        tracing::error!(
                            schedule = name,
                            "schedule can't be fired: {why}; add it again, or `taskhost schedule remove {name}`"
                        );
                    }
                    Plan { done: schedule.last, rule: rule.ok(), schedule }
                }
            };
            self.0.insert(plan.schedule.name.clone(), plan);
        }
    }

    /// `new`, which is missing in the broker, with what had become of it as far as this host saw: its due times and its pause.
    fn remembered(&self, new: Schedule) -> Schedule {
        let alike = |plan: &&Plan| (&plan.schedule.rule, &plan.schedule.timezone) == (&new.rule, &new.timezone);
        match self.0.get(&new.name).filter(alike) {
            Some(plan) => Schedule { created_at: plan.schedule.created_at, last: plan.done, paused: plan.schedule.paused, ..new },
            None => new,
        }
    }

    /// What is to be fired at `now`.
    fn due(&self, now: Millis) -> Vec<(String, Vec<Millis>)> {
        let due = |plan: &Plan| {
            let rule = plan.rule.as_ref().filter(|_| !plan.schedule.paused)?;
            let mut dues = plan::due(rule, plan.schedule.created_at, plan.done, now, plan.schedule.catch_up);
            dues.truncate(BATCH);
            (!dues.is_empty()).then_some(dues)
        };
        self.0.iter().filter_map(|(name, plan)| Some((name.clone(), due(plan)?))).collect()
    }

    /// The earliest due time after `now`.
    fn next(&self, now: Millis) -> Option<Millis> {
        let running = self.0.values().filter(|plan| !plan.schedule.paused);
        running.filter_map(|plan| plan.rule.as_ref()?.next_after(plan.schedule.created_at, now.max(plan.done))).min()
    }

    /// Fires one schedule's due times in order: its name, up to where they are settled, and what kept it from going on.
    async fn fire<B: Schedules + ?Sized>(&self, broker: &B, name: String, dues: Vec<Millis>) -> (String, Option<Millis>, Option<Trouble>) {
        let mut done = None;
        let Some(plan) = self.0.get(&name) else { return (name, done, None) };
        for due in dues {
            match fire(broker, &plan.schedule, due).await {
                Ok(()) => done = Some(due),
                Err(trouble) => return (name, done, Some(trouble)),
            }
        }
        (name, done, None)
    }
}

/// Fires one due time. `Ok`: it is settled, by this host or another, or can't ever be fired, which the log says.
async fn fire<B: Schedules + ?Sized>(broker: &B, schedule: &Schedule, due: Millis) -> Result<(), Trouble> {
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
            Ok(Fired::Enqueued(id)) => tracing::info!(schedule = name, due = due.0, task = %schedule.task, id = %id, "schedule fired"),
            Ok(Fired::Skipped(id)) => {
                tracing::info!(schedule = name, due = due.0, id = %id, "schedule skipped: the task of its last firing has not ended");
            }
            Ok(Fired::NotNow) => tracing::trace!(schedule = name, due = due.0, "another host fired the schedule, or it changed"),
            // A clock is read over a network, so it is off by a little.
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

/// What a firing enqueues. Its id is the schedule's and the due time's, so that firing it again enqueues nothing.
fn task(schedule: &Schedule, due: Millis) -> Result<NewTask, taskhost_core::task::InvalidName> {
    Ok(NewTask {
        id: TaskId::new(format!("cron:{}:{}", schedule.name, due.0))?,
        queue: schedule.queue.clone(),
        options: schedule.options.clone(),
        ..NewTask::new(schedule.task.clone(), schedule.args.clone())
    })
}

/// The broker's time, told by this host's monotonic clock from one reading.
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
        // Far beyond the next refresh, it does not matter by how much.
        self.at + time.since(self.read).min(Duration::from_secs(3600))
    }
}

/// Pauses after errors: longer each time, said once an outage.
#[derive(Debug, Default)]
struct Troubles(u32);

impl Troubles {
    async fn pause(&mut self, error: &BrokerError) {
        if self.0 == 0 {
            tracing::warn!("schedules wait for the broker: {error}");
        } else {
            tracing::debug!("schedules still wait for the broker: {error}");
        }
        let whole = Duration::from_millis(100).saturating_mul(1 << self.0.min(10)).min(LONGEST_PAUSE);
        self.0 = self.0.saturating_add(1);
        sleep(whole.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }

    fn over(&mut self) {
        if self.0 > 0 {
            tracing::info!("schedules go on");
        }
        self.0 = 0;
    }
}
