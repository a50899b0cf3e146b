//! Adds, lists and steers schedules. Workers fire them.

use serde::Serialize;
use taskhost_broker::{CatchUp, Enqueued, Overlap, Schedule, ScheduleEntry, Source};
use taskhost_core::task::{Millis, NewTask, QueueName, TaskId, TaskName, TaskOptions};

use super::{connection::Ops, error::OpsError, new_task::Checks, schedule_files::Files};
use crate::schedule::{upcoming, validate};

/// How many due times of a schedule are listed.
const SHOWN_FIRINGS: usize = 5;

/// A schedule to add.
#[derive(Debug)]
pub struct NewSchedule {
    pub name: String,
    pub rule: String,
    pub timezone: String,
    pub task: TaskName,
    /// A JSON array, checked.
    pub args: String,
    /// `None`: the body's hint, else the default queue.
    pub queue: Option<QueueName>,
    pub options: TaskOptions,
    pub catch_up: CatchUp,
    pub overlap: Overlap,
}

impl NewSchedule {
    /// The queue of its tasks.
    pub fn queue_by(&self, checks: &Checks) -> QueueName {
        self.queue.clone().or_else(|| checks.queue_hint(&self.task)).unwrap_or_default()
    }
}

/// A schedule that was added.
#[derive(Debug)]
pub struct AddedSchedule {
    pub schedule: Schedule,
    /// The one of this name that it replaces.
    pub old: Option<Schedule>,
    /// Its next due times, each also as text in its zone.
    pub next: Vec<(Millis, String)>,
    /// The broker's time.
    pub now: Millis,
}

/// A schedule, when it fires next, and how it stands to the files.
#[derive(Debug, Serialize)]
pub struct SeenSchedule {
    #[serde(flatten)]
    pub schedule: Schedule,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<Millis>,
    /// The keys that differ from a live worker's `taskhost.toml`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
    /// It came from a `taskhost.toml`, and no live worker's file has it now.
    #[serde(rename = "orphan", skip_serializing_if = "std::ops::Not::not")]
    pub is_orphan: bool,
    /// Whether a plugin offers its task.
    #[serde(skip)]
    pub is_offered: bool,
}

impl SeenSchedule {
    /// The due time of its last firing. `last` also moves when it is resumed or its rule changes.
    pub fn last_firing(&self) -> Option<Millis> {
        let due = self.schedule.last_task.as_ref()?.as_str().rsplit_once(':')?.1;
        due.parse().ok().map(Millis)
    }

    /// The next `count` due times; none while it is paused.
    pub fn upcoming(&self, now: Millis, count: usize) -> Vec<Millis> {
        upcoming(&self.schedule, now, count)
    }
}

impl Ops {
    /// Adds a schedule, or replaces the one of this name.
    pub async fn add_schedule(&self, new: NewSchedule, checks: &Checks) -> Result<AddedSchedule, OpsError> {
        let queue = new.queue_by(checks);
        let NewSchedule { name, rule, timezone, task, args, queue: _, options, catch_up, overlap } = new;
        let now = self.broker.now().await?;
        let mut schedule = Schedule {
            queue,
            name,
            rule,
            timezone,
            task,
            args,
            options,
            catch_up,
            overlap,
            source: Source::Cli,
            defined_at: now,
            says_paused: None,
            created_at: now,
            paused: false,
            last: now,
            last_task: None,
        };
        let rule = validate(&schedule)?;
        let old = self.stored(&schedule.name).await?;
        if let Some(old) = &old {
            // Later than the stored definition, whatever the clocks say.
            schedule.defined_at = now.max(Millis(old.defined_at.0.saturating_add(1)));
        }
        self.broker.put_schedule(&schedule).await?;
        // The broker keeps the times of a schedule whose rule stays the same.
        let (anchor, last) = self.stored(&schedule.name).await?.map_or((now, now), |stored| (stored.created_at, stored.last));
        let next = rule.firings(anchor, now.max(last)).take(SHOWN_FIRINGS).map(|at| (at, rule.show(at))).collect();
        Ok(AddedSchedule { schedule, old, next, now })
    }

    /// All schedules, by name.
    pub async fn schedules(&self) -> Result<Vec<SeenSchedule>, OpsError> {
        let now = self.broker.now().await?;
        let mut schedules = self.broker.schedules().await?;
        schedules.sort_by(|a, b| a.name.cmp(&b.name));
        let files = Files::read(&*self.broker).await?;
        let catalogue = self.broker.catalogue().await?;
        let seen = schedules.into_iter().map(|schedule| SeenSchedule {
            next: upcoming(&schedule, now, SHOWN_FIRINGS),
            differs: files.differences(&schedule),
            is_orphan: files.is_orphan(&schedule),
            is_offered: catalogue.offers.contains_key(&schedule.task),
            schedule,
        });
        Ok(seen.collect())
    }

    /// What happened to a schedule lately, oldest first; see `Schedules::schedule_record` of the broker.
    pub async fn schedule_record(&self, name: &str) -> Result<Vec<ScheduleEntry>, OpsError> {
        Ok(self.broker.schedule_record(name).await?)
    }

    /// Keeps a schedule from firing, or lets it fire again. Answers the worker whose file says the opposite: the next worker that starts
    /// with that file does as it says.
    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Option<String>, OpsError> {
        found(self.broker.pause_schedule(name, paused).await?, name)?;
        let files = Files::read(&*self.broker).await?;
        Ok(files.named(name).filter(|(_, file)| file.paused == Some(!paused)).map(|(worker, _)| worker.id.clone()))
    }

    /// Removes a schedule, unless a live worker's file would put it back. Answers whether it came from a file.
    pub async fn remove_schedule(&self, name: &str) -> Result<bool, OpsError> {
        let stored = self.stored(name).await?;
        if stored.is_some()
            && let Some((worker, _)) = Files::read(&*self.broker).await?.named(name)
        {
            return Err(OpsError::ScheduleStandsInFile { schedule: name.to_owned(), worker: worker.id.clone() });
        }
        found(self.broker.remove_schedule(name).await?, name)?;
        Ok(stored.is_some_and(|schedule| schedule.source == Source::Toml))
    }

    /// The names of schedules that came from a file and stand in no live worker's any more.
    pub async fn orphans(&self) -> Result<Vec<String>, OpsError> {
        let files = Files::read(&*self.broker).await?;
        files.are_known()?;
        let schedules = self.broker.schedules().await?;
        Ok(schedules.into_iter().filter(|schedule| files.is_orphan(schedule)).map(|schedule| schedule.name).collect())
    }

    /// Removes one of [`Ops::orphans`]. Somebody else may have removed it meanwhile.
    pub async fn remove_orphan(&self, name: &str) -> Result<(), OpsError> {
        self.broker.remove_schedule(name).await?;
        Ok(())
    }

    /// Enqueues the task of a schedule now, beside its rule, under an id of its own.
    pub async fn run_schedule(&self, name: &str) -> Result<TaskId, OpsError> {
        let Some(schedule) = self.stored(name).await? else { return Err(OpsError::NoSuchSchedule(name.to_owned())) };
        let task = NewTask { queue: schedule.queue, options: schedule.options, ..NewTask::new(schedule.task, schedule.args) };
        Ok(match self.enqueue(&task).await? {
            Enqueued::Added => task.id,
            Enqueued::Duplicate { holder } => holder,
        })
    }

    async fn stored(&self, name: &str) -> Result<Option<Schedule>, OpsError> {
        Ok(self.broker.schedules().await?.into_iter().find(|schedule| schedule.name == name))
    }
}

fn found(is_there: bool, name: &str) -> Result<(), OpsError> {
    if is_there { Ok(()) } else { Err(OpsError::NoSuchSchedule(name.to_owned())) }
}
