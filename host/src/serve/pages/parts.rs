//! Small parts that many pages show: states, times, numbers, JSON, buttons, empty lists.

use maud::{Markup, html};
use serde_json::Value;
use taskhost_core::{
    task::{Millis, State, TaskView},
    text::{self, clean_json},
    units,
};

use super::view::{View, escaped};
use crate::{config::Scope, serve::shown};

/// Characters of a preview in a list. The column is as wide, so that the browser does not cut it again.
const PREVIEW: usize = 30;
/// Lines of JSON that are shown unfolded.
const LINES: usize = 20;

impl View {
    /// A state: a word, a shape and a colour.
    pub(super) fn pill(&self, state: State) -> Markup {
        let (shape, word) = match state {
            State::Scheduled => ("◔", self.say("scheduled")),
            State::Ready => ("○", self.say("ready")),
            State::Parked => ("◇", self.say("parked")),
            State::Running => ("▶", self.say("running")),
            State::Succeeded => ("✓", self.say("succeeded")),
            State::Dead => ("✕", self.say("dead")),
            State::Cancelled => ("⊘", self.say("cancelled")),
        };
        html! { span class=(format!("pill {}", state.as_str())) { span aria-hidden="true" { (shape) } " " (word) } }
    }

    /// A time, relative, with the exact one behind it.
    pub(super) fn ago(&self, at: Millis, now: Millis) -> Markup {
        let exact = units::show_instant(at);
        let (shown, is_past) = if at <= now { (units::age(at, now), true) } else { (units::age(now, at), false) };
        let shown = match &*shown {
            "now" | "0s" => self.say("now").to_owned(),
            age if is_past => format!("{age} {}", self.say("ago")),
            age => format!("{} {age}", self.say("in")),
        };
        html! { time datetime=(exact.replace(' ', "T").replace("TUTC", "Z")) title=(exact) { (shown) } }
    }

    /// The link to a task.
    pub(super) fn task_link(&self, view: &TaskView) -> String {
        self.href(format!("/tasks/{}?queue={}", escaped(view.id.as_str()), escaped(view.queue.as_str())))
    }

    /// Tries as `2/4`; the second is the most there may be, if it is known.
    pub(super) fn tries(view: &TaskView) -> String {
        let tries = view.tries + u32::from(view.state == State::Running);
        view.options.max_attempts.map_or_else(|| tries.to_string(), |most| format!("{tries}/{most}"))
    }

    /// A form with one button. It posts to `path` what should be done.
    pub(super) fn button(&self, path: &str, act: &str, label: &'static str, is_dangerous: bool) -> Markup {
        html! {
            form.act method="post" action=(self.href(path)) {
                input type="hidden" name="do" value=(act);
                button.danger[is_dangerous] data-confirm=[is_dangerous.then_some(label)] { (label) }
            }
        }
    }

    /// A task without what this reader may not see.
    pub(super) fn masked(&self, view: TaskView) -> TaskView {
        shown::masked(view, &self.caller)
    }

    /// A row of a list of tasks.
    pub(super) fn task_row(&self, view: &TaskView, now: Millis) -> Markup {
        let link = self.task_link(view);
        let changed = view.ended_at.or(view.started_at).unwrap_or(view.enqueued_at);
        html! {
            tr data-row {
                @if self.may(Scope::Operate) {
                    td.check { input type="checkbox" name="task" value=(format!("{} {}", view.queue, view.id)) aria-label=(format!("{} {}", self.say("Select"), view.id)) form="selected"; }
                }
                td { (self.pill(view.state)) }
                td { a href=(link) { (view.task) } div.sub { (middle(view.id.as_str(), 22)) } }
                td.args { @if self.sees_payload() { (middle(&clean_json(view.args.get()), PREVIEW)) } @else { span.note { (self.say("masked")) } } }
                td { (view.queue) }
                td.number { (Self::tries(view)) }
                td.why { (self.gist(view)) }
                td.number { (self.ago(changed, now)) }
            }
        }
    }

    /// The heads of [`View::task_row`].
    pub(super) fn task_heads(&self) -> Markup {
        html! {
            thead { tr {
                @if self.may(Scope::Operate) { th.check { span.hidden { (self.say("Select")) } } }
                th { (self.say("State")) } th { (self.say("Task")) } th { (self.say("Arguments")) } th { (self.say("Queue")) }
                th.number { (self.say("Tries")) } th { (self.say("What of it")) } th.number { (self.say("When")) }
            } }
        }
    }

    /// JSON for people: indented, folded if it is long, with a button that copies it. `id` is its own on the page.
    pub(super) fn json(&self, id: &str, text: &str) -> Markup {
        let pretty =
            serde_json::from_str::<Value>(text).and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| text.to_owned());
        let pretty = clean_json(&pretty);
        let lines = pretty.lines().count();
        html! {
            @if lines > LINES {
                details { summary { (units::show_count(lines as u64)) " " (self.say("lines")) } pre.json tabindex="0" { code #(id) { (pretty) } } }
            } @else {
                pre.json { code #(id) { (pretty) } }
            }
            (self.copier(id, self.say("Copy JSON")))
        }
    }

    /// A button that copies the text of the element `of`. Without script it is not shown: the text can be selected.
    pub(super) fn copier(&self, of: &str, label: &'static str) -> Markup {
        html! { button.copy type="button" data-copy=(of) data-done=(self.say("Copied")) { (label) } }
    }

    fn gist(&self, view: &TaskView) -> Markup {
        let error = view.error.as_ref().or_else(|| view.errors.last().map(|entry| &entry.error)).filter(|_| view.state != State::Succeeded);
        let error = error.filter(|_| view.state != State::Running || view.progress.is_none());
        html! {
            @if let Some(error) = error {
                @if !view.state.is_ended() { span.note { (self.say("last failure")) ": " } }
                span.error { (error.kind.as_str()) } " " (first_line(&error.message))
            } @else if let Some(progress) = &view.progress {
                (progress.done) @if let Some(total) = progress.total { "/" (total) } " " (first_line(&progress.note))
            } @else if let Some(result) = view.result.as_ref().filter(|_| self.sees_payload()) {
                code { (middle(&clean_json(result.get()), 48)) }
            }
        }
    }
}

/// Says that there is nothing yet, with commands that change that.
pub(super) fn empty(about: &str, commands: &[&str]) -> Markup {
    html! {
        div.empty {
            p { (about) }
            @for command in commands { pre { code { (command) } } }
        }
    }
}

/// A duration in one unit with two digits or three: `480 µs`, `12 ms`, `3.4 s`, `5 min`.
pub(super) fn took(duration: std::time::Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..10_000_000 => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        10_000_000..120_000_000 => format!("{} s", us / 1_000_000),
        _ => units::show_duration(std::time::Duration::from_secs(u64::try_from(us / 1_000_000).unwrap_or(u64::MAX))),
    }
}

/// A text that is cut in the middle, because both ends tell texts apart.
pub(super) fn middle(text: &str, most: usize) -> String {
    let head = most * 2 / 3;
    text::middle(text, head, most - head - 1)
}

pub(super) fn first_line(text: &str) -> String {
    middle(text.lines().next().unwrap_or_default(), 120)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_are_easy_to_read() {
        let shown = [480, 4_812, 12_000, 3_400_000, 61_000_000, 3_600_000_000].map(|us| took(Duration::from_micros(us)));
        assert_eq!(shown, ["480 µs", "4.8 ms", "12 ms", "3.4 s", "61 s", "1h"]);
    }

    #[test]
    fn a_long_text_keeps_both_ends() {
        assert_eq!(middle("short", 10), "short");
        let cut = middle("0199c0de-1111-2222-3333-444455556666", 12);
        assert_eq!((cut.chars().count(), cut.starts_with("0199c0de"), cut.ends_with("666")), (12, true, true));
        assert_eq!(middle("ééééééé", 4).chars().count(), 4);
        assert!(!middle("a\u{1b}[2J", 9).contains('\u{1b}'));
    }
}
