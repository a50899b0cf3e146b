//! Flows: the list, and one flow with its graph, its steps and what can be done with it.

use maud::{Markup, html};
use taskhost_core::{
    text::{clean, clean_json},
    workflow::FlowWord,
};

use super::{
    Page,
    layout::Nav,
    parts::{empty, first_line},
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{FlowLine, FlowView, StepView},
    serve::{flows, segment::Segment},
};

/// Flows of a page.
const LISTED: usize = 100;
/// The most steps that are drawn. More would be a picture that nobody can read; the table has them.
const DRAWN: usize = 60;

impl View {
    /// The state of a flow, or of a step of one.
    fn flow_pill(&self, state: &str) -> Markup {
        let (shape, class, word) = match state {
            "running" => ("▶", "running", self.say("running")),
            "failing" => ("▶", "dead", self.say("failing")),
            "stopping" => ("▶", "paused", self.say("stopping")),
            "undoing" => ("↶", "paused", self.say("undoing")),
            "waiting" => ("◔", "scheduled", self.say("waiting")),
            "succeeded" => ("✓", "succeeded", self.say("succeeded")),
            "failed" => ("✕", "dead", self.say("failed")),
            "dead" => ("✕", "dead", self.say("dead")),
            "cancelled" => ("⊘", "cancelled", self.say("cancelled")),
            "skipped" => ("–", "skipped", self.say("skipped")),
            _ => ("·", "idle", self.say("not begun")),
        };
        html! { span class=(format!("pill {class}")) { span aria-hidden="true" { (shape) } " " (word) } }
    }

    fn flow_link(&self, line: &FlowLine) -> String {
        self.href(format!("/flows/{}?queue={}", escaped(line.id.as_str()), escaped(line.queue.as_str())))
    }
}

/// `GET /flows`
pub(super) async fn list(view: View) -> Page {
    let now = view.now().await?;
    let queue = view.query.queue().map_err(|problem| view.trouble(problem))?;
    let all = flows::listed(view.ops()?, &view.caller, queue.as_ref(), LISTED).await.map_err(|problem| view.trouble(problem))?;
    let content = html! {
        h1 { (view.say("Flows")) }
        section #flows data-part {
            @if all.is_empty() {
                (empty(view.say("No flow yet. A flow is a graph of tasks that depend on tasks:"), &["taskhost enqueue add 1 1 --then echo", "taskhost flow run order.json --input '{\"id\": 7}'"]))
            } @else {
                div.scroll { table {
                    thead { tr { th { (view.say("State")) } th { (view.say("Name")) } th { (view.say("Id")) } th { (view.say("Queue")) } th.number { (view.say("Nodes")) } th.number { (view.say("When")) } th { (view.say("Why")) } } }
                    tbody { @for line in &all {
                        tr data-row {
                            td { (view.flow_pill(line.state.as_str())) @if line.paused.is_some() { " " span.note { (view.say("paused")) } } }
                            td { (clean(&line.name)) }
                            td { a.id href=(view.flow_link(line)) { (line.id) } }
                            td { (line.queue) }
                            td.number { (line.nodes) }
                            td.number { (view.ago(line.ended_at.unwrap_or(line.started_at), now)) }
                            td { @if let Some(why) = &line.why { span.error { (first_line(why)) } } }
                        }
                    } }
                } }
            }
        }
    };
    Ok(view.page(Nav::Flows, view.say("Flows"), Some("/v1/events"), &content))
}

/// `GET /flows/{id}`
pub(super) async fn show(view: View, Segment(id): Segment) -> Page {
    let queue = view.query.queue().map_err(|problem| view.trouble(problem))?;
    let found = flows::seen(view.ops()?, &view.caller, queue.as_ref(), &id).await.map_err(|problem| view.trouble(problem))?;
    let flow = flows::shown(found, &view.caller).view;
    let now = view.now().await?;
    let line = &flow.line;
    let sum = &flow.progress;
    let content = html! {
        h1 { (clean(&line.name)) " " span.id { (line.id) } }
        section #state data-part {
            p.large { (view.flow_pill(line.state.as_str())) @if let Some(since) = line.paused { " " (view.say("paused")) " " (view.ago(since, now)) } }
            @if let Some(why) = &line.why { p.error { (clean(why)) } }
            p {
                progress value=(sum.succeeded + sum.skipped) max=(sum.total) aria-label=(view.say("Progress")) {}
                " " b { (sum.succeeded) } " / " (sum.total)
                @if sum.running > 0 { ", " (sum.running) " " (view.say("running")) }
                @if sum.failed > 0 { ", " (sum.failed) " " (view.say("failed")) }
                @if sum.skipped > 0 { ", " (sum.skipped) " " (view.say("skipped")) }
            }
            p.note {
                (view.say("Started")) " " (view.ago(line.started_at, now))
                @if let Some(at) = line.ended_at { ", " (view.say("ended")) " " (view.ago(at, now)) }
                @if let Some(at) = flow.deadline.filter(|_| line.ended_at.is_none()) { ", " (view.say("deadline")) " " (view.ago(at, now)) }
                ", " (view.say("queue")) " " a href=(view.href(format!("/queues/{}", escaped(line.queue.as_str())))) { (line.queue) }
                @if let Some(parent) = &line.parent {
                    ", " (view.say("step")) " " (parent.node) " " (view.say("of")) " "
                    a href=(view.href(format!("/flows/{}?queue={}", escaped(parent.flow.as_str()), escaped(parent.queue.as_str())))) { (parent.flow) }
                }
            }
            (acts(&view, &flow))
        }
        section #graph data-part {
            h2 { (view.say("Graph")) }
            (graph(&view, &flow))
        }
        section #steps data-part {
            h2 { (view.say("Steps")) }
            div.scroll tabindex="0" role="group" aria-label=(view.say("Steps")) { table {
                thead { tr { th { (view.say("Step")) } th { (view.say("State")) } th { (view.say("What")) } th { (view.say("After")) } th { (view.say("Task")) } th { (view.say("Says")) } } }
                tbody { @for step in &flow.steps { (row(&view, line, step)) } }
            } }
        }
        @if view.sees_payload() {
            section #data data-part {
                h2 { (view.say("Input")) }
                (view.json("input", flow.input.get()))
                @if let Some(result) = &flow.result {
                    h2 { (view.say("Result")) }
                    (view.json("result", result.get()))
                }
            }
        }
    };
    let live = line.ended_at.is_none().then_some("poll");
    let title = format!("{} · {}", line.state.as_str(), line.name);
    Ok(view.page(Nav::Flows, &title, live, &content))
}

/// What this reader can do with the flow now.
fn acts(view: &View, flow: &FlowView) -> Markup {
    let line = &flow.line;
    let place = format!("/flows/{}?queue={}", escaped(line.id.as_str()), escaped(line.queue.as_str()));
    let waits: Vec<&str> =
        flow.steps.iter().filter(|step| step.state == "waiting").filter_map(|step| step.what.strip_prefix("signal ")).collect();
    html! {
        @if view.may(Scope::Operate) {
            div.acts {
                @if line.ended_at.is_none() {
                    @if line.paused.is_some() { (view.button(&place, "resume", view.say("Resume"), false)) } @else { (view.button(&place, "pause", view.say("Pause"), false)) }
                    @if line.state != FlowWord::Stopping && line.state != FlowWord::Undoing { (view.button(&place, "cancel", view.say("Cancel"), true)) }
                } @else if line.state != FlowWord::Succeeded {
                    (view.button(&place, "retry", view.say("Retry what failed"), false))
                }
            }
            @for name in waits {
                form.act.signal method="post" action=(view.href(&place)) {
                    input type="hidden" name="do" value="signal";
                    input type="hidden" name="name" value=(name);
                    label { (view.say("Signal")) " " b { (clean(name)) } " " input name="value" value="true" aria-label=(view.say("Value, as JSON")); }
                    button { (view.say("Give the signal")) }
                }
            }
        }
    }
}

fn row(view: &View, line: &FlowLine, step: &StepView) -> Markup {
    let place = format!("/flows/{}?queue={}", escaped(line.id.as_str()), escaped(line.queue.as_str()));
    let may_retry = step.state == "dead" && line.ended_at.is_some() && line.state != FlowWord::Succeeded && view.may(Scope::Operate);
    html! {
        tr data-row id=(format!("step-{}", step.name)) {
            td { (step.name) }
            td {
                (view.flow_pill(step.state))
                @if let Some(items) = &step.items { " " (items.succeeded) "/" (items.total) @if items.failed > 0 { ", " (items.failed) " " (view.say("failed")) } }
                @if step.epoch > 1 { " " span.note { "×" (step.epoch) } }
                @if let Some(undo) = step.undo { " " span.note { (view.say("undo")) ":" } " " (view.flow_pill(undo)) }
            }
            td { (clean(&step.what)) }
            td { (step.needs.join(", ")) @if step.on == "failure" { " " span.note { (view.say("on failure")) } } @if step.on == "end" { " " span.note { (view.say("however it ends")) } } }
            td {
                @if let Some(runs) = &step.runs {
                    @let kind = if step.kind == "flow" { "flows" } else { "tasks" };
                    a.id href=(view.href(format!("/{kind}/{}?queue={}", escaped(runs.id.as_str()), escaped(runs.queue.as_str())))) { (runs.id) }
                }
            }
            td {
                @if let Some(text) = &step.text {
                    @if step.state == "succeeded" { code { (clean_json(text)) } } @else { span.error { (first_line(text)) } }
                }
                @if may_retry { " " form.act method="post" action=(view.href(&place)) {
                    input type="hidden" name="do" value="retry";
                    input type="hidden" name="step" value=(step.name);
                    button { (view.say("Retry this step")) }
                } }
            }
        }
    }
}

/// The width and height of a step in the picture, and the room beside it.
const BOX: (usize, usize) = (150, 40);
const GAP: (usize, usize) = (50, 16);

/// The steps as boxes in columns, each right of all that it needs, with lines between.
fn graph(view: &View, flow: &FlowView) -> Markup {
    if flow.steps.len() > DRAWN {
        return html! { p.note { (view.say("Too many steps for a picture: the table has them.")) } };
    }
    let at = |name: &str| flow.steps.iter().position(|step| step.name == name);
    let mut columns: Vec<usize> = Vec::new();
    for step in &flow.steps {
        let before = step.needs.iter().filter_map(|need| columns.get(at(need)?)).max().map_or(0, |column| column + 1);
        columns.push(before);
    }
    let mut filled = vec![0; columns.iter().max().map_or(1, |last| last + 1)];
    let spots: Vec<(usize, usize)> = columns
        .iter()
        .map(|column| {
            let row = filled[*column];
            filled[*column] += 1;
            (column * (BOX.0 + GAP.0) + 4, row * (BOX.1 + GAP.1) + 4)
        })
        .collect();
    let width = filled.len() * (BOX.0 + GAP.0) - GAP.0 + 8;
    let height = filled.iter().max().copied().unwrap_or(1) * (BOX.1 + GAP.1) - GAP.1 + 8;
    let lines = flow.steps.iter().zip(&spots).flat_map(|(step, to)| {
        let of = step.on == "failure";
        step.needs.iter().filter_map(move |need| Some((at(need)?, *to, of)))
    });
    html! {
        div.scroll tabindex="0" role="group" aria-label=(view.say("Graph")) {
            svg.graph viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height) role="img" aria-label=(view.say("The steps of the flow; the table below has them as text")) {
                @for (from, to, on_failure) in lines {
                    @let (x, y) = (spots[from].0 + BOX.0, spots[from].1 + BOX.1 / 2);
                    @let (tx, ty) = (to.0, to.1 + BOX.1 / 2);
                    @let bend = usize::midpoint(x, tx);
                    path.edge.rare[on_failure] d=(format!("M{x} {y} C{bend} {y} {bend} {ty} {tx} {ty}")) {}
                }
                @for (step, (x, y)) in flow.steps.iter().zip(&spots) {
                    @let shown = if step.name.len() > 18 { format!("{}…", &step.name[..17]) } else { step.name.clone() };
                    g class=(format!("node {}", step.state)) {
                        title { (step.name) ": " (step.state) }
                        rect x=(x) y=(y) width=(BOX.0) height=(BOX.1) rx="6" {}
                        text x=(x + 10) y=(y + 17) { (shown) }
                        text.word x=(x + 10) y=(y + 32) { (step.state) @if let Some(items) = &step.items { " " (items.succeeded) "/" (items.total) } }
                    }
                }
            }
        }
    }
}
