//! `schedule`: name a rule and a task; the workers enqueue it by the clock.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Failure, ask, new_task,
    output::{self, Rows, cell},
    words::{Arguments, Wishes},
};
use crate::{
    broker::{Broker, CatchUp, Overlap, Schedule, Source},
    config::Settings,
    cron::Rule,
    task::{Millis, NewTask, TaskName},
};

/// How many firings `add` shows.
const SHOWN_FIRINGS: usize = 5;

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost schedule add bu \"57 9 * * ?\" transferBU --tz Asia/Shanghai")]
pub(super) enum ScheduleCommand {
    /// Add a schedule, or replace the one of this name
    Add(AddArgs),
    /// List the schedules, and when each fires next
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Keep a schedule from firing
    Pause(Named),
    /// Let a paused schedule fire again
    Resume(Named),
    /// Enqueue a schedule's task now, beside its rule; prints the task's id
    Run(Named),
    /// Remove a schedule
    Remove(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The schedule's name
    name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost schedule add bu \"57 9 * * ?\" transferBU --tz Asia/Shanghai
  taskhost schedule add poll \"@every 90s\" add 1 1 --overlap skip

A rule is: minute hour day-of-month month day-of-week, with seconds before them if there are six fields;
or @hourly, @daily, @weekly, @monthly, @yearly, @every 90s.")]
pub(super) struct AddArgs {
    /// Its name
    name: String,
    /// When it fires
    rule: String,
    /// The task to enqueue
    task: TaskName,
    #[command(flatten)]
    arguments: Arguments,
    /// The zone its rule is read in, an IANA name
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: String,
    #[command(flatten)]
    wishes: Wishes,
    /// What to do about firings that nobody was there for: skip, once or all
    #[arg(long, default_value = "once", value_parser = word::<CatchUp>)]
    catch_up: CatchUp,
    /// When the last firing's task has not ended: allow or skip
    #[arg(long, default_value = "allow", value_parser = word::<Overlap>)]
    overlap: Overlap,
    /// Add it whatever it is, also with a task that no plugin offers yet
    #[arg(long)]
    unchecked: bool,
}

/// One of the words that stand in `taskhost.toml` too.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

pub(super) async fn call(command: ScheduleCommand, settings: &Settings) -> Result<(), Failure> {
    let broker = ask::broker(settings).await?;
    match command {
        ScheduleCommand::Add(args) => add(&*broker, args, settings.bounds.payload_limit).await,
        ScheduleCommand::List { json } => list(&*broker, json).await,
        ScheduleCommand::Pause(Named { name }) => {
            found(broker.pause_schedule(&name, true).await?, &name)?;
            output::told(&format!("schedule `{name}` is paused"))
        }
        ScheduleCommand::Resume(Named { name }) => {
            found(broker.pause_schedule(&name, false).await?, &name)?;
            output::told(&format!("schedule `{name}` goes on"))
        }
        ScheduleCommand::Run(Named { name }) => run(&*broker, &name).await,
        ScheduleCommand::Remove(Named { name }) => {
            found(broker.remove_schedule(&name).await?, &name)?;
            output::told(&format!("schedule `{name}` is removed"))
        }
    }
}

async fn add(broker: &dyn Broker, args: AddArgs, payload_limit: usize) -> Result<(), Failure> {
    let catalogue = if args.unchecked { crate::catalogue::Catalogue::default() } else { broker.catalogue().await? };
    let given = args.arguments.given(payload_limit)?;
    let checked = if catalogue.offers.is_empty() {
        if !args.unchecked {
            output::note(&format!("taskhost: no worker has announced anything yet, so `{}` is scheduled unchecked", args.task));
        }
        given.unchecked()
    } else {
        catalogue.check(&args.task, &given)
    };
    let hint = catalogue.offers.get(&args.task).and_then(|offer| offer.body.hints.queue.clone());
    let now = broker.now().await?;
    let schedule = Schedule {
        name: args.name,
        rule: args.rule,
        timezone: args.tz,
        args: checked.map_err(|error| Failure::Usage(new_task::refusal(&error)))?,
        task: args.task,
        queue: args.wishes.queue.clone().or(hint).unwrap_or_default(),
        priority: args.wishes.priority.unwrap_or_default(),
        timeout_ms: args.wishes.timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        max_attempts: args.wishes.max_attempts(),
        catch_up: args.catch_up,
        overlap: args.overlap,
        source: Source::Cli,
        created_at: now,
        paused: false,
        last: now,
        last_task: None,
    };
    crate::schedule::validate(&schedule).map_err(|error| Failure::Usage(error.to_string()))?;
    let before = broker.schedules().await?.into_iter().find(|old| old.name == schedule.name);
    if before.is_some_and(|old| old.source == Source::Toml) {
        output::note(&format!(
            "taskhost: `{}` also stands in a taskhost.toml: the next worker that starts with it takes it from there",
            schedule.name
        ));
    }
    broker.put_schedule(&schedule).await?;
    let mut lines = vec![format!("schedule `{}` enqueues {} {}", schedule.name, schedule.task, output::short(&schedule.args, 200))];
    let rule = rule(&schedule)?;
    lines.extend(rule.firings(now, now).take(SHOWN_FIRINGS).map(|at| format!("  {}  {}", rule.show(at), output::until(at, now))));
    output::told(&lines.join("\n"))
}

fn rule(schedule: &Schedule) -> Result<Rule, Failure> {
    Rule::parse(&schedule.rule, &schedule.timezone)
        .map_err(|error| Failure::Usage(format!("schedule `{}`: {error}; add it again with a rule that can be read", schedule.name)))
}

/// A schedule, and when it fires next.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    schedule: Schedule,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<Millis>,
}

async fn list(broker: &dyn Broker, json: bool) -> Result<(), Failure> {
    let now = broker.now().await?;
    let mut schedules = broker.schedules().await?;
    schedules.sort_by(|a, b| a.name.cmp(&b.name));
    let next = |schedule: &Schedule, most: usize| -> Vec<Millis> {
        let fires = !schedule.paused;
        rule(schedule).ok().filter(|_| fires).map_or_else(Vec::new, |rule| rule.firings(schedule.created_at, now).take(most).collect())
    };
    if json {
        let listed = schedules.into_iter().map(|schedule| Listed { next: next(&schedule, SHOWN_FIRINGS), schedule });
        return output::json(&listed.collect::<Vec<_>>());
    }
    let mut rows = Rows::new(&["NAME", "RULE", "ZONE", "TASK", "ARGS", "QUEUE", "NEXT", "LAST", "FROM"]);
    for schedule in &schedules {
        let first = next(schedule, 1).first().map(|at| format!("{} ({})", output::instant(*at), output::until(*at, now)));
        rows.add(vec![
            cell(&schedule.name),
            cell(&schedule.rule),
            cell(&schedule.timezone),
            cell(&schedule.task),
            cell(output::short(&schedule.args, 40)),
            cell(&schedule.queue),
            cell(first.unwrap_or_else(|| if schedule.paused { "paused".to_owned() } else { "never".to_owned() })),
            cell(schedule.last_task.as_ref().map_or_else(|| "-".to_owned(), |_| format!("{} ago", output::age(schedule.last, now)))),
            cell(if schedule.source == Source::Toml { "taskhost.toml" } else { "cli" }),
        ]);
    }
    rows.print("taskhost: no schedule yet; `taskhost schedule add --help` shows how one is added")
}

/// Enqueues what a firing would, under an id of its own.
async fn run(broker: &dyn Broker, name: &str) -> Result<(), Failure> {
    let schedules = broker.schedules().await?;
    let Some(schedule) = schedules.into_iter().find(|schedule| schedule.name == name) else { return found(false, name) };
    let task = NewTask {
        queue: schedule.queue,
        priority: schedule.priority,
        timeout: schedule.timeout_ms.map(Duration::from_millis),
        max_attempts: schedule.max_attempts,
        ..NewTask::new(schedule.task, schedule.args)
    };
    // Its id is fresh, so it can't be a duplicate.
    broker.enqueue(std::slice::from_ref(&task)).await?;
    output::told(task.id.as_str())
}

fn found(there: bool, name: &str) -> Result<(), Failure> {
    if there { Ok(()) } else { Err(Failure::Usage(format!("no schedule `{name}`; `taskhost schedule list` shows what there is"))) }
}
