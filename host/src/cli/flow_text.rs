//! A flow as text: its steps with their states, or as a graph for `dot`.

use std::fmt::Write as _;

use crate::ops::{FlowView, StepView};
use taskhost_core::{
    task::Millis,
    units::{age, show_instant},
};

use super::output::short;

/// The most characters of a result or an error in a line.
const WORDS: usize = 80;

/// The head: name, id, state, progress, and why.
fn head(view: &FlowView, now: Millis) -> Vec<String> {
    let line = &view.line;
    let paused = line.paused.map_or_else(String::new, |since| format!(", paused since {}", show_instant(since)));
    let mut lines = vec![
        format!("flow      {} ({})", line.id, line.name),
        format!("queue     {}", line.queue),
        format!("state     {}{paused}", line.state.as_str()),
        format!("progress  {}", progress(view)),
        format!("started   {} ({} ago)", show_instant(line.started_at), age(line.started_at, now)),
    ];
    lines.extend(line.ended_at.map(|at| format!("ended     {} ({} ago)", show_instant(at), age(at, now))));
    lines.extend(view.deadline.filter(|_| line.ended_at.is_none()).map(|at| format!("deadline  {}", show_instant(at))));
    lines.extend(line.parent.as_ref().map(|parent| format!("of        step `{}` of flow {}", parent.node, parent.flow)));
    lines.extend(line.why.as_ref().map(|why| format!("why       {}", short(why, 200))));
    lines.extend(view.result.as_ref().map(|result| format!("result    {}", short(result.get(), 200))));
    if !view.signals.is_empty() {
        lines.push(format!("signals   {}", short(&view.signals.join(", "), 200)));
    }
    lines
}

/// `12 of 40 steps, 3 running, 1 failed`
pub(super) fn progress(view: &FlowView) -> String {
    let sum = &view.progress;
    let mut text = format!("{} of {}", sum.succeeded, sum.total);
    for (n, what) in [(sum.running, "running"), (sum.failed, "failed"), (sum.skipped, "skipped")] {
        if n > 0 {
            let _infallible = write!(text, ", {n} {what}");
        }
    }
    text
}

/// The flow with all its steps, each below what it needs and indented by how deep it stands.
pub(super) fn drawn(view: &FlowView, now: Millis) -> String {
    let mut lines = head(view, now);
    lines.push(String::new());
    let depths = depths(&view.steps);
    let names: Vec<String> =
        view.steps.iter().zip(&depths).map(|(step, depth)| format!("{}{} {}", "  ".repeat(*depth), mark(step.state), step.name)).collect();
    let width = |list: &[String]| list.iter().map(|text| text.chars().count()).max().unwrap_or(0);
    let whats: Vec<String> = view.steps.iter().map(what).collect();
    let (names_width, whats_width) = (width(&names), width(&whats));
    for ((step, name), what) in view.steps.iter().zip(&names).zip(&whats) {
        let pad = |text: &str, width: usize| " ".repeat(width - text.chars().count());
        let line = format!("{name}{}  {what}{}  {}", pad(name, names_width), pad(what, whats_width), state(step));
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// A mark for each state, told apart without colours.
fn mark(state: &str) -> char {
    match state {
        "succeeded" => '✓',
        "dead" => '✗',
        "cancelled" => '⊘',
        "skipped" => '-',
        "running" => '▶',
        "waiting" => '◷',
        _ => '·',
    }
}

/// How many steps stand before a step at most.
fn depths(steps: &[StepView]) -> Vec<usize> {
    let mut depths: Vec<usize> = Vec::with_capacity(steps.len());
    for step in steps {
        let of =
            |need: &String| steps.iter().position(|other| other.name == *need).and_then(|at| depths.get(at)).map_or(0, |depth| depth + 1);
        depths.push(step.needs.iter().map(of).max().unwrap_or(0).min(20));
    }
    depths
}

fn what(step: &StepView) -> String {
    let kind = match step.kind {
        "task" => String::new(),
        kind => format!("{kind} "),
    };
    let needs = if step.needs.is_empty() { String::new() } else { format!(" ← {}", short(&step.needs.join(", "), WORDS)) };
    let on = match step.on {
        "success" => "",
        "failure" => " (on failure)",
        _ => " (however it ends)",
    };
    format!("{kind}{}{needs}{on}", step.what)
}

fn state(step: &StepView) -> String {
    let mut text = step.state.to_owned();
    if let Some(items) = &step.items {
        let _infallible = write!(text, " {} of {}", items.succeeded, items.total);
        for (n, what) in [(items.running, "running"), (items.failed, "failed")] {
            if n > 0 {
                let _infallible = write!(text, ", {n} {what}");
            }
        }
    }
    if step.epoch > 1 {
        let _infallible = write!(text, " (time {})", step.epoch);
    }
    if let Some(until) = step.until.filter(|_| step.state == "waiting") {
        let _infallible = write!(text, " until {}", show_instant(until));
    }
    if let Some(words) = &step.text {
        let _infallible = write!(text, ": {}", short(words, WORDS));
    }
    if let Some(undo) = step.undo {
        let _infallible = write!(text, "; undo {undo}");
    }
    text
}

/// The graph in the language of Graphviz.
pub(super) fn dot(view: &FlowView) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut lines = vec![format!("digraph {} {{", quoted(&view.line.name)), "  rankdir=LR; node [shape=box, style=rounded];".to_owned()];
    for step in &view.steps {
        let colour = match step.state {
            "succeeded" => "darkgreen",
            "dead" => "red",
            "cancelled" | "skipped" => "gray",
            "running" => "blue",
            "waiting" => "orange",
            _ => "black",
        };
        let label = format!("{}\\n{} {}", step.name, mark(step.state), step.state);
        lines.push(format!("  {} [label=\"{label}\", color={colour}];", quoted(&step.name)));
    }
    for step in &view.steps {
        let style = if step.on == "failure" { " [style=dashed, color=red]" } else { "" };
        lines.extend(step.needs.iter().map(|need| format!("  {} -> {}{style};", quoted(need), quoted(&step.name))));
    }
    lines.push("}".to_owned());
    lines.join("\n")
}
