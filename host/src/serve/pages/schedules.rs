//! Schedules: when they fire next, what became of the last due times, and how they stand.

use std::{collections::BTreeSet, time::Duration};

use maud::{Markup, html};
use taskhost_core::{
    cron::Rule,
    task::{Millis, TaskId},
    text::clean,
    units,
};

use super::{
    Page,
    layout::{Nav, Trouble},
    parts::empty,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{Schedule, ScheduleEntry, ScheduleEvent, ScheduleSource, SeenSchedule},
    serve::{
        problem::{self, Problem},
        schedules,
        segment::Segment,
    },
};

/// Firings that the page of a schedule shows: to come, and past.
const NEXT: usize = 10;
const PAST: usize = 20;
/// A due time that passed within this time may still be fired.
const LATE: Duration = Duration::from_secs(10);

/// `GET /schedules`
pub(super) async fn list(view: View) -> Page {
    let now = view.now().await?;
    let mut all = view.ops()?.schedules().await.map_err(|error| view.trouble(error))?;
    all.retain(|seen| schedules::is_seen(&view.caller, seen));
    let content = html! {
        h1 { (view.say("Schedules")) }
        @if all.is_empty() {
            (empty(view.say("No schedule is set. Set one:"), &["taskhost schedule add nightly '0 3 * * *' add 1 1"]))
        } @else {
            div.scroll { table {
                thead { tr { th { (view.say("Schedule")) } th { (view.say("Rule")) } th { (view.say("Task")) } th { (view.say("Queue")) } th.number { (view.say("Last")) } th.number { (view.say("Next")) } th { span.hidden { (view.say("What to do")) } } } }
                tbody { @for seen in &all {
                    @let schedule = &seen.schedule;
                    tr data-row {
                        td { a href=(view.href(format!("/schedules/{}", escaped(&schedule.name)))) { (clean(&schedule.name)) } @if schedule.paused { " " span.pill.paused { "‖ " (view.say("paused")) } } }
                        td { code { (clean(&schedule.rule)) } " " span.note { (clean(&schedule.timezone)) } }
                        td { (schedule.task) } td { (schedule.queue) }
                        td.number { @if let Some(last) = seen.last_firing() { (view.ago(last, now)) } }
                        td.number { @if let Some(next) = seen.next.first() { (view.ago(*next, now)) } }
                        td { (warnings(&view, seen)) }
                    }
                } }
            } }
        }
    };
    Ok(view.page(Nav::Schedules, &format!("{} {}", all.len(), view.say("Schedules")), None, &content))
}

fn warnings(view: &View, seen: &SeenSchedule) -> Markup {
    html! {
        @if !seen.is_offered { span.error { (view.say("no plugin offers its task")) } " " }
        @if seen.is_orphan { span.error { (view.say("in no live worker's file")) } " " }
        @if !seen.differs.is_empty() { span.error { (view.say("differs from a worker's file:")) " " (clean(&seen.differs.join(", "))) } }
    }
}

/// `GET /schedules/{name}`
pub(super) async fn show(view: View, Segment(name): Segment) -> Page {
    let (ops, now) = (view.ops()?, view.now().await?);
    let seen = ops.schedules().await.map_err(|error| view.trouble(error))?.into_iter().find(|seen| seen.schedule.name == name);
    let seen = seen.filter(|seen| schedules::is_seen(&view.caller, seen));
    let seen = seen.ok_or_else(|| view.trouble(Problem::new(&problem::UNKNOWN_SCHEDULE, format!("no schedule `{name}`"))))?;
    let schedule = &seen.schedule;
    let path = format!("/schedules/{}", escaped(&schedule.name));
    let is_of_file = schedule.source == ScheduleSource::Toml && !seen.is_orphan;
    let content = html! {
        h1 { (view.say("Schedule")) " " (clean(&schedule.name)) @if schedule.paused { " " span.pill.paused { "‖ " (view.say("paused")) } } }
        p { code { (clean(&schedule.rule)) } " " (clean(&schedule.timezone)) " · " (schedule.task) " · " a href=(view.href(format!("/queues/{}", escaped(schedule.queue.as_str())))) { (schedule.queue) } }
        (warnings(&view, &seen))
        @if view.may(Scope::Schedule) {
            div.acts {
                (view.button(&path, "run", view.say("Run now"), false))
                @if schedule.paused { (view.button(&path, "resume", view.say("Resume"), false)) } @else { (view.button(&path, "pause", view.say("Pause"), false)) }
                @if is_of_file { span.note { (view.say("It stands in a worker's taskhost.toml: change it there.")) } } @else { (view.button(&path, "remove", view.say("Remove"), true)) }
            }
        }
        h2 { (view.say("Next")) }
        ol { @for next in &seen.upcoming(now, NEXT) { li { (view.ago(*next, now)) " " span.note { (units::show_instant(*next)) } } } }
        h2 { (view.say("Last firings")) }
        (firings(&view, &seen, now).await?)
        h2 { (view.say("Arguments")) }
        @if view.sees_payload() { (view.json("args", &schedule.args)) } @else { p.note { (view.say("masked")) } }
        p.note { "catch_up " (format!("{:?}", schedule.catch_up).to_lowercase()) " · overlap " (format!("{:?}", schedule.overlap).to_lowercase()) }
    };
    Ok(view.page(Nav::Schedules, &format!("{} {}", view.say("Schedule"), schedule.name), None, &content))
}

/// The due times before now, and what became of each.
async fn firings(view: &View, seen: &SeenSchedule, now: Millis) -> Result<Markup, Trouble> {
    let (ops, schedule) = (view.ops()?, &seen.schedule);
    let record = ops.schedule_record(&schedule.name).await.map_err(|error| view.trouble(error))?;
    let mut rows = Vec::new();
    for due in past_dues(schedule, &record, now) {
        let became = became(schedule, &record, due, now);
        let task = match TaskId::new(format!("cron:{}:{}", schedule.name, due.0)) {
            Ok(id) if matches!(became, Became::Fired | Became::Unknown) => ops.task(Some(&schedule.queue), &id).await.ok(),
            _ => None,
        };
        rows.push((due, became, task));
    }
    Ok(html! {
        @if rows.is_empty() { p.note { (view.say("It has not been due yet.")) } }
        table { tbody { @for (due, became, task) in &rows {
            tr data-row {
                td.when { (view.ago(*due, now)) " " span.note { (units::show_instant(*due)) } }
                td { @if let Some(task) = task { a href=(view.task_link(task)) { (view.pill(task.state)) } } @else { (became.shown(view)) } }
            }
        } } }
    })
}

/// What became of a due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Fired,
    Skipped,
    Missed,
    Paused,
    /// It has just passed: a worker may still fire it.
    Due,
    /// The record begins later.
    Unknown,
}

impl Became {
    /// A word with a shape, and the reason.
    fn shown(self, view: &View) -> Markup {
        let (class, shape, word, why) = match self {
            Self::Fired => ("pill", "●", view.say("fired"), view.say("its task is no longer kept")),
            Self::Skipped => ("pill skipped", "↷", view.say("skipped"), view.say("the task before had not ended")),
            Self::Missed => ("pill missed", "△", view.say("missed"), view.say("no worker fired it")),
            Self::Paused => ("pill paused", "‖", view.say("paused"), ""),
            Self::Due => ("pill scheduled", "◔", view.say("due"), ""),
            Self::Unknown => ("pill", "·", view.say("not known"), view.say("it is older than the record")),
        };
        html! { span class=(class) { span aria-hidden="true" { (shape) } " " (word) } " " span.note { (why) } }
    }
}

/// The newest due times before now, newest first: those of the rule, and those of the record, which another rule may have given.
fn past_dues(schedule: &Schedule, record: &[ScheduleEntry], now: Millis) -> Vec<Millis> {
    let mut dues: BTreeSet<Millis> =
        record.iter().filter(|entry| matches!(entry.event, ScheduleEvent::Fired | ScheduleEvent::Skipped)).map(|entry| entry.at).collect();
    if let Ok(rule) = Rule::parse(&schedule.rule, &schedule.timezone) {
        // Look back further until there are enough.
        let mut span = 3_600_000;
        loop {
            let from = Millis(now.0.saturating_sub(span).max(schedule.created_at.0));
            let found: Vec<_> = rule.firings(schedule.created_at, from).take_while(|due| *due <= now).take(5_000).collect();
            if found.len() >= PAST || from == schedule.created_at || span > 400 * 86_400_000 {
                dues.extend(found);
                break;
            }
            span *= 8;
        }
    }
    dues.into_iter().rev().take(PAST).collect()
}

fn became(schedule: &Schedule, record: &[ScheduleEntry], due: Millis, now: Millis) -> Became {
    let settled = record.iter().rev().find(|entry| entry.at == due);
    match settled.map(|entry| entry.event) {
        Some(ScheduleEvent::Fired) => return Became::Fired,
        Some(ScheduleEvent::Skipped) => return Became::Skipped,
        _ => {}
    }
    let before: Vec<_> = record.iter().filter(|entry| entry.at <= due).collect();
    let turned = before.iter().rev().find(|entry| matches!(entry.event, ScheduleEvent::Begun | ScheduleEvent::Paused));
    if before.is_empty() {
        Became::Unknown
    } else if turned.is_some_and(|entry| entry.event == ScheduleEvent::Paused) {
        Became::Paused
    } else if due > schedule.last && now.since(due) < LATE {
        Became::Due
    } else {
        Became::Missed
    }
}

#[cfg(test)]
mod tests {
    use taskhost_core::task::{QueueName, TaskName, TaskOptions};

    use super::*;
    use crate::ops::{CatchUp, Overlap};

    const MINUTE: u64 = 60_000;

    fn schedule(created: u64, last: u64) -> Schedule {
        Schedule {
            name: "tick".into(),
            rule: "* * * * *".into(),
            timezone: "UTC".into(),
            task: TaskName::new("add").expect("a name"),
            args: "[]".into(),
            queue: QueueName::default(),
            options: TaskOptions::default(),
            catch_up: CatchUp::Once,
            overlap: Overlap::Skip,
            source: ScheduleSource::Cli,
            defined_at: Millis(0),
            says_paused: None,
            created_at: Millis(created * MINUTE),
            paused: false,
            last: Millis(last * MINUTE),
            last_task: None,
        }
    }

    #[test]
    fn each_due_time_is_told_apart() {
        use ScheduleEvent::{Begun, Fired, Paused, Skipped};
        let entry = |(minute, event): (u64, ScheduleEvent)| ScheduleEntry { at: Millis(minute * MINUTE), event };
        let record: Vec<_> =
            [(1002, Begun), (1003, Fired), (1004, Skipped), (1006, Fired), (1007, Paused), (1009, Begun), (1010, Fired)].map(entry).into();
        let (tick, now) = (schedule(1000, 1010), Millis(1012 * MINUTE + 5_000));
        let dues = past_dues(&tick, &record, now);
        let seen: Vec<_> = dues.iter().rev().map(|due| (due.0 / MINUTE, became(&tick, &record, *due, now))).collect();
        let expected = [
            (1001, Became::Unknown),
            (1002, Became::Missed),
            (1003, Became::Fired),
            (1004, Became::Skipped),
            (1005, Became::Missed),
            (1006, Became::Fired),
            (1007, Became::Paused),
            (1008, Became::Paused),
            (1009, Became::Missed),
            (1010, Became::Fired),
            (1011, Became::Missed),
            (1012, Became::Due),
        ];
        assert_eq!(seen, expected);
        assert_eq!(past_dues(&schedule(0, 0), &[], now).len(), PAST);
        let other = Schedule { rule: "0 0 1 1 *".into(), ..schedule(1011, 1010) };
        assert_eq!(past_dues(&other, &record, now).len(), 4, "the firings by an earlier rule");
    }
}
