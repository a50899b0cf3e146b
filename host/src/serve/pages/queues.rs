//! All queues at a glance, and one queue.

use maud::{Markup, html};
use taskhost_core::{
    task::{Millis, QueueName, State},
    units,
};

use super::{
    Page,
    chart::spark,
    layout::{Nav, Trouble},
    login::to,
    overview,
    parts::empty,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{HistoryPoint, HistoryQuery, HistoryStep, QueueView, TaskFilter},
    serve::{history, looks::past_lately, queues, segment::Segment},
};

/// Tasks that the page of a queue shows.
const SHOWN: usize = 20;
/// From the start of the first minute of the last hour to that of the newest one.
const HOUR_MS: u64 = 59 * 60_000;

/// `GET /queues`
pub(super) async fn list(view: View) -> Page {
    // From the list of queues in the frame of every page.
    if let Some(queue) = view.query.text("to") {
        return Ok(to(&view.href(format!("/queues/{}", escaped(queue)))));
    }
    let now = view.now().await?;
    let queues = view.queues().await?;
    let queues: Vec<_> = queues.iter().filter(|queue| view.caller.sees_queue(&queue.queue)).collect();
    let hour = hour(&view, now).await?;
    let content = html! {
        h1 { (view.say("Queues")) }
        section #queues data-part { (table(&view, &queues, &hour, now)) }
    };
    Ok(view.page(Nav::Queues, &format!("{} {}", queues.len(), view.say("Queues")), Some("/v1/events"), &content))
}

/// The last hour of all queues, as far as this reader may see it: one reading for all pages that show queues.
pub(super) async fn hour(view: &View, now: Millis) -> Result<Vec<HistoryPoint>, Trouble> {
    let from = Millis(now.0.saturating_sub(HOUR_MS));
    let query = HistoryQuery { queue: None, task: None, step: HistoryStep::Minute, from, to: now };
    history::seen(&view.app, &view.caller, &query, past_lately()).await.map_err(|problem| view.trouble(problem))
}

/// A table of queues, with what the minutes of the last `hour` had.
pub(super) fn table(view: &View, queues: &[&QueueView], hour: &[HistoryPoint], now: Millis) -> Markup {
    if queues.is_empty() {
        return empty(view.say("No queue has had a task yet. Enqueue one:"), &["taskhost enqueue add 1 1"]);
    }
    html! {
        div.scroll {
            table {
                thead { tr {
                    th { (view.say("Queue")) }
                    @for state in [State::Ready, State::Running, State::Scheduled, State::Parked, State::Dead, State::Succeeded] {
                        th.number { (view.pill(state)) }
                    }
                    th.number { (view.say("Oldest")) } th.number { (view.say("A minute")) }
                } }
                tbody {
                    @for queue in queues {
                        @let name = escaped(queue.queue.as_str());
                        tr data-row {
                            td.name { a href=(view.href(format!("/queues/{name}"))) { (queue.queue) } @if queue.paused { " " span.pill.paused { "‖ " (view.say("paused")) } } }
                            @for state in [State::Ready, State::Running, State::Scheduled, State::Parked, State::Dead, State::Succeeded] {
                                @let count = queue.counts.get(&state).copied().unwrap_or(0);
                                td.number.zero[count == 0] { a href=(view.href(format!("/tasks?queue={name}&state={}", state.as_str()))) { (units::show_count(count)) } }
                            }
                            td.number { @if let Some(ms) = queue.oldest_ready_ms { (units::age(Millis(now.0.saturating_sub(ms)), now)) } }
                            td.number { (rate(view, &queue.queue, hour)) }
                        }
                    }
                }
            }
        }
    }
}

/// How many attempts of a queue ended in the last whole minute, beside those of each minute of the hour. Nothing if there were none.
fn rate(view: &View, queue: &QueueName, hour: &[HistoryPoint]) -> Markup {
    let ended = |point: &HistoryPoint| -> u64 {
        let own = point.parts.iter().filter(|((of, _), _)| of == queue);
        own.map(|(_, sample)| sample.succeeded + sample.retried + sample.dead + sample.cancelled).sum()
    };
    let values: Vec<u64> = hour.iter().map(ended).collect();
    let (sum, top) = (values.iter().sum::<u64>(), values.iter().copied().max().unwrap_or(0));
    if sum == 0 {
        return html! {};
    }
    // The newest minute is not over yet: a line with it would always fall at its end.
    let whole = values.split_last().map_or(&[][..], |(_, whole)| whole);
    let last = whole.last().copied().unwrap_or(0);
    let (last, top, sum) = (units::show_count(last), units::show_count(top), units::show_count(sum));
    let about = format!(
        "{}: {last} {}, {} {top}, {sum} {}",
        view.say("Attempts a minute"),
        view.say("in the last one"),
        view.say("at most"),
        view.say("in the hour")
    );
    html! { (spark(whole, &about)) " " span.last { (last) } }
}

/// `GET /queues/{queue}`
pub(super) async fn show(view: View, Segment(queue): Segment) -> Page {
    let now = view.now().await?;
    let about = &queues::seen(&view.queues().await?, &view.caller, &queue).map_err(|problem| view.trouble(problem))?;
    let name = &about.queue;
    let from = Millis(now.0.saturating_sub(HOUR_MS));
    let query = HistoryQuery { queue: Some(name.clone()), task: None, step: HistoryStep::Minute, from, to: now };
    let points = history::seen(&view.app, &view.caller, &query, past_lately()).await.map_err(|problem| view.trouble(problem))?;
    let filter = TaskFilter { queue: Some(name.clone()), ..TaskFilter::default() };
    let page = view.listed(&filter, None, SHOWN).await?;
    let tasks: Vec<_> = view.seen(&page.tasks).collect();
    let path = format!("/queues/{}", escaped(name.as_str()));
    let waiting: u64 = [State::Ready, State::Scheduled, State::Parked].iter().filter_map(|state| about.counts.get(state)).sum();
    let content = html! {
        h1 { (view.say("Queue")) " " (name) @if about.paused { " " span.pill.paused { "‖ " (view.say("paused")) } } }
        @if view.may(Scope::Operate) {
            div.acts {
                @if about.paused { (view.button(&path, "resume", view.say("Resume"), false)) } @else { (view.button(&path, "pause", view.say("Pause"), false)) }
                @if waiting > 0 && view.caller.sees_all_tasks() {
                    details.danger {
                        summary { (view.say("Purge…")) }
                        form method="post" action=(view.href(&path)) {
                            input type="hidden" name="do" value="purge";
                            label { (view.say("It deletes all that wait. Type how many:")) " " b { (waiting) } input name="confirm" inputmode="numeric" autocomplete="off" required size="8"; }
                            button.danger { (view.say("Purge")) }
                        }
                    }
                }
            }
        }
        section #counts data-part { (table(&view, &[about], &points, now)) }
        p.note {
            (view.say("Ever enqueued")) " " (units::show_count(about.totals.enqueued)) " · " (view.say("succeeded")) " " (units::show_count(about.totals.succeeded))
            " · " (view.say("dead")) " " (units::show_count(about.totals.dead)) " · " (view.say("cancelled")) " " (units::show_count(about.totals.cancelled))
        }
        section #charts data-part { (overview::charts(&view, &points)) }
        section #tasks data-part {
            h2 { a href=(view.href(format!("/tasks?queue={}", escaped(name.as_str())))) { (view.say("Tasks")) } }
            div.scroll { table { (view.task_heads()) tbody { @for task in &tasks { (view.task_row(task, now)) } } } }
        }
    };
    let title = format!("{} {} · {name}", units::show_count(about.counts.get(&State::Ready).copied().unwrap_or(0)), view.say("ready"));
    Ok(view.page(Nav::Queues, &title, Some(&format!("/v1/events?queue={}", escaped(name.as_str()))), &content))
}
