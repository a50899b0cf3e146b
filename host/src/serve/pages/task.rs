//! One task: its state and the reason, buttons, earlier attempts, arguments and result, log.

use maud::{Markup, html};
use taskhost_core::{
    task::{LogLine, Millis, State, TaskView},
    text::{clean, clean_json, clean_lines},
    trace::{TRACEPARENT, TraceContext},
    units,
};

use super::{
    Page,
    layout::Nav,
    parts::took,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::what_it_waits_for,
    serve::{segment::Segment, tasks},
};

/// `GET /tasks/{id}`
pub(super) async fn show(view: View, Segment(id): Segment) -> Page {
    let id = tasks::task_id(&id).map_err(|problem| view.trouble(problem))?;
    let queue = view.query.queue().map_err(|problem| view.trouble(problem))?;
    let task = tasks::seen(&view.app, &view.caller, queue.as_ref(), &id).await.map_err(|problem| view.trouble(problem))?;
    let log = if view.sees_payload() { view.ops()?.log(Some(&task.queue), &id).await.unwrap_or_default() } else { String::new() };
    let (now, task) = (view.now().await?, view.masked(task));
    let path = format!("/tasks/{}?queue={}", escaped(id.as_str()), escaped(task.queue.as_str()));
    let content = html! {
        section #state data-part {
            h1 { (view.pill(task.state)) " " (task.task) }
            p.sub { code { (task.id) } " · " a href=(view.href(format!("/queues/{}", escaped(task.queue.as_str())))) { (task.queue) } }
            (since(&view, &task, now))
            (why(&view, &task, now))
            @if let Some(progress) = task.progress.as_ref().filter(|_| task.state == State::Running) {
                p.progress {
                    @if let Some(total) = progress.total { progress max=(total) value=(progress.done) {} " " (progress.done) "/" (total) } @else { (progress.done) }
                    " " (clean(&progress.note))
                }
            }
            (what_now(&view, &task, &path))
        }
        section #attempts data-part { (attempts(&view, &task, now)) }
        section #data data-part {
            h2 { (view.say("Arguments")) }
            @if view.sees_payload() { (view.json("args", task.args.get())) " " (commands(&view, &task)) (edit(&view, &task, &path)) } @else { p.note { (view.say("masked")) ": " (view.say("the token lacks the scope `payload`")) } }
            @if let Some(result) = &task.result { h2 { (view.say("Result")) } (view.json("result", result.get())) }
        }
        section #log data-part {
            h2 { (view.say("Log")) }
            @if log.is_empty() { p.note { @if view.sees_payload() { (view.say("Its body has logged nothing, or nothing has come here yet.")) } @else { (view.say("masked")) } } }
            @else { (lines(&log)) }
        }
        section #about data-part { (about(&view, &task, now)) }
    };
    let live =
        (!task.state.is_ended()).then(|| format!("/v1/tasks/{}/events?queue={}", escaped(id.as_str()), escaped(task.queue.as_str())));
    Ok(view.page(Nav::Tasks, &format!("{} {}", task.task, task.state), live.as_deref(), &content))
}

/// The state, and since when.
fn since(view: &View, task: &TaskView, now: Millis) -> Markup {
    html! {
        p {
            @match task.state {
                State::Scheduled => @if let Some(due) = task.due_at { (view.say("due")) " " (view.ago(due, now)) },
                State::Running => {
                    @if let Some(at) = task.started_at { (view.say("running since")) " " (view.ago(at, now)) }
                    @if task.tries > 0 { " · " (view.say("attempt")) " " (View::tries(task)) }
                }
                state if state.is_ended() => {
                    @if let Some(at) = task.ended_at { (view.say("ended")) " " (view.ago(at, now)) }
                    @if let (Some(from), Some(to)) = (task.started_at, task.ended_at) { " · " (view.say("took")) " " (took(to.since(from))) }
                }
                _ => { (view.say("enqueued")) " " (view.ago(task.enqueued_at, now)) }
            }
            @if let Some(worker) = &task.worker { " · " (view.say("by")) " " (clean(worker)) }
            @if task.cancel_asked { " · " (view.say("asked to stop")) }
        }
    }
}

/// The reason of the state: the error with the body's own words, or the plugin that is awaited. Of a task that goes on, the failure of an earlier
/// attempt is the past.
fn why(view: &View, task: &TaskView, now: Millis) -> Markup {
    html! {
        @if let Some(error) = task.error.as_ref().filter(|_| matches!(task.state, State::Dead | State::Cancelled)) {
            div.because {
                p { span.error { (error.kind.as_str()) @if let Some(code) = &error.code { " " (clean(code)) } } }
                pre { (clean_lines(&error.message)) }
            }
        } @else if task.state == State::Parked {
            p.because { (what_it_waits_for(&task.task, task.waits_for)) ". " a href=(view.href("/plugins")) { (view.say("Plugins")) } }
        }
        @if let Some(entry) = task.errors.last().filter(|_| !task.state.is_ended()) {
            div.before {
                p { (view.say("last failure")) ", " (view.say("attempt")) " " (entry.attempt) ", " (view.ago(entry.at, now)) ": " span.error { (entry.error.kind.as_str()) @if let Some(code) = &entry.error.code { " " (clean(code)) } } }
                pre { (clean_lines(&entry.error.message)) }
            }
        }
    }
}

fn what_now(view: &View, task: &TaskView, path: &str) -> Markup {
    if !view.may(Scope::Operate) {
        return html! {};
    }
    let is_waiting = matches!(task.state, State::Ready | State::Scheduled | State::Parked);
    html! {
        div.acts {
            @if matches!(task.state, State::Dead | State::Cancelled) { (view.button(path, "retry", view.say("Retry"), false)) }
            @if task.state == State::Scheduled { (view.button(path, "run-now", view.say("Run now"), false)) }
            @if is_waiting || task.state == State::Running { (view.button(path, "cancel", view.say("Cancel"), task.state == State::Running)) }
            @if task.state != State::Running { (view.button(path, "delete", view.say("Delete"), true)) }
        }
    }
}

/// The attempts that failed, oldest first, and the one that runs or was the last.
fn attempts(view: &View, task: &TaskView, now: Millis) -> Markup {
    html! {
        h2 { (view.say("What happened")) }
        ol.line {
            li { (view.ago(task.enqueued_at, now)) " " (view.say("enqueued")) }
            @for entry in &task.errors {
                li.failed {
                    (view.ago(entry.at, now)) " " (view.say("attempt")) " " (entry.attempt) ": " span.error { (entry.error.kind.as_str()) } " " (clean(&entry.error.message))
                    div.sub { (clean(&entry.worker)) @if !entry.code.version.is_empty() { " · " (clean(&entry.code.plugin)) " " (clean(&entry.code.version)) } }
                }
            }
            @if let Some(at) = task.started_at.filter(|_| matches!(task.state, State::Running | State::Succeeded)) {
                li {
                    (view.ago(at, now)) " " (view.say("attempt")) " " (task.tries + u32::from(task.state == State::Running)) " " @if task.state == State::Running { (view.say("runs")) } @else { (view.say("succeeded")) }
                    @if let (Some(plugin), Some(version)) = (&task.plugin, &task.version) { div.sub { (clean(plugin)) " " (clean(version)) } }
                }
            }
            @if let Some(at) = task.ended_at { li { (view.ago(at, now)) " " (view.pill(task.state)) } }
        }
    }
}

fn edit(view: &View, task: &TaskView, path: &str) -> Markup {
    if !view.may(Scope::Operate) || matches!(task.state, State::Running | State::Succeeded) {
        return html! {};
    }
    html! {
        details {
            summary { (view.say("Edit…")) }
            form method="post" action=(view.href(path)) {
                input type="hidden" name="do" value="edit";
                label { (view.say("Arguments, a JSON array")) textarea name="args" rows="6" spellcheck="false" { (clean_json(task.args.get())) } }
                div.acts {
                    button { (view.say("Save")) }
                    @if matches!(task.state, State::Dead | State::Cancelled) { button name="then" value="retry" { (view.say("Save and retry")) } }
                }
            }
        }
    }
}

/// What enqueues the same task again. A reader without the arguments does not get here.
fn commands(view: &View, task: &TaskView) -> Markup {
    let (args, name, queue) = (clean_json(task.args.get()), &task.task, &task.queue);
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let token = if view.app.access.is_open() { "" } else { "-H \"Authorization: Bearer $TASKHOST_TOKEN\" " };
    let body = format!("{{\"task\":\"{name}\",\"queue\":\"{queue}\",\"args\":{args}}}");
    let curl = format!("curl {token}-d {} {}", quoted(&body), quoted(&format!("{}{}", view.site, view.href("/v1/tasks"))));
    let command = format!("taskhost enqueue {name} --queue {queue} --args-json {}", quoted(&args));
    html! {
        (view.copier("as-curl", view.say("Copy as curl"))) " " (view.copier("as-command", view.say("Copy as a command")))
        details {
            summary { (view.say("As commands")) }
            pre.json { code #as-curl { (clean_lines(&curl)) } }
            pre.json { code #as-command { (clean_lines(&command)) } }
        }
    }
}

fn lines(log: &str) -> Markup {
    html! {
        pre.log tabindex="0" {
            @for line in log.lines() {
                @if let Ok(line) = serde_json::from_str::<LogLine>(line) {
                    span class=(format!("line {}", if ["error", "warn"].contains(&&*line.level) { "loud" } else { "quiet" })) {
                        time { (units::show_instant(line.at).get(11..19).unwrap_or_default()) } " " b { (clean(&line.level)) } " " (clean(&line.message))
                        @for (name, value) in &line.fields { " " span.pair { (clean(name)) "=" (clean(value)) } }
                    }
                    "\n"
                }
            }
        }
    }
}

fn about(view: &View, task: &TaskView, now: Millis) -> Markup {
    let header = |name: &str| task.options.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    let trace = header(TRACEPARENT).and_then(|text| text.parse::<TraceContext>().ok()).and(header(TRACEPARENT));
    let parent = task.id.as_str().rsplit_once('/').map(|(parent, _)| parent.to_owned());
    html! {
        details {
            summary { (view.say("More")) }
            dl.about {
                dt { (view.say("Priority")) } dd { (task.options.priority.get()) }
                @if let Some(timeout) = task.options.timeout { dt { (view.say("Timeout")) } dd { (units::show_duration(timeout)) } }
                @if let Some(at) = task.expires_at { dt { (view.say("Expires")) } dd { (view.ago(at, now)) } }
                @if let Some(digest) = &task.digest { dt { (view.say("Code")) } dd { code { (clean(digest.get(..12).unwrap_or(digest))) } } }
                @if let Some(parent) = parent { dt { (view.say("Parent")) } dd { a href=(view.href(format!("/tasks/{}", escaped(&parent)))) { (clean(&parent)) } } }
                @if let Some(trace) = trace { dt { (view.say("Trace")) } dd { code { (clean(trace.split('-').nth(1).unwrap_or_default())) } } }
                @for (name, value) in &task.options.headers { dt { (clean(name)) } dd { (clean(value)) } }
            }
        }
    }
}
