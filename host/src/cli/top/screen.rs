//! The screen of `top`, for 80 × 24 and more.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Row, Table},
};
use taskhost_core::{
    task::{Millis, State},
    text::{clean, middle},
    units,
};

use super::state::{Pane, Seen, Top};
use crate::{cli::output::short, ops::gist};

const QUIET: Style = Style::new().fg(Color::DarkGray);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) fn draw(frame: &mut Frame<'_>, top: &mut Top) {
    let [head, queues, tasks, workers, foot] = parts(frame.area(), top);
    frame.render_widget(Paragraph::new(title(top)), head);
    if let Some(seen) = top.seen.take() {
        draw_queues(frame, queues, top, &seen);
        draw_tasks(frame, tasks, top, &seen);
        draw_workers(frame, workers, top, &seen);
        top.seen = Some(seen);
    }
    frame.render_widget(Paragraph::new(bottom(top)), foot);
    if top.has_help {
        help(frame);
    }
}

/// The head, three tables and the foot. The tasks get what the others leave.
fn parts(area: Rect, top: &Top) -> [Rect; 5] {
    let (queues, workers) = top.seen.as_ref().map_or((1, 1), |seen| (seen.queues.len(), seen.workers.len()));
    let third = area.height / 3;
    let height = |rows: usize, most: u16| Constraint::Length(u16::try_from(rows + 2).unwrap_or(most).min(most));
    let rows = [Constraint::Length(2), height(queues, third), Constraint::Min(4), height(workers, area.height / 4), Constraint::Length(1)];
    Layout::vertical(rows).areas(area)
}

fn title(top: &Top) -> Vec<Line<'static>> {
    let Some(seen) = &top.seen else {
        return vec![Line::from(vec![Span::styled("taskhost", STRONG), Span::raw("  looking at the broker …")])];
    };
    let sum = |state: State| seen.queues.iter().filter_map(|queue| queue.counts.get(&state)).sum::<u64>();
    let slots: usize = seen.workers.iter().map(|worker| worker.concurrency).sum();
    let mut counts = vec![Span::styled("taskhost", STRONG)];
    for state in [State::Ready, State::Running, State::Scheduled, State::Parked, State::Dead] {
        let style = if state == State::Dead && sum(state) > 0 { STRONG.fg(Color::Red) } else { STRONG };
        counts.push(Span::raw("  "));
        counts.push(Span::styled(units::show_count(sum(state)), style));
        counts.push(Span::styled(format!(" {state}"), QUIET));
    }
    counts.push(Span::styled(format!("  {slots} slots"), QUIET));
    let about = match &top.away {
        Some(why) => {
            Span::styled(format!("the broker is away, shown is what was last known: {}", clean(why)), Style::new().fg(Color::Yellow))
        }
        None => Span::styled(clean(&seen.about), QUIET),
    };
    vec![Line::from(counts), Line::from(about)]
}

fn bottom(top: &Top) -> Line<'static> {
    match &top.said {
        Some(said) => Line::styled(clean(said), STRONG),
        None => Line::styled("Tab pane  jk move  s state  ⏎ queue  p pause  c cancel  r retry  ? help  q end", QUIET),
    }
}

fn table<'a>(top: &Top, pane: Pane, title: String, head: Vec<&'static str>, rows: Vec<Row<'a>>, widths: Vec<Constraint>) -> Table<'a> {
    let is_chosen = top.pane == pane;
    let style = if is_chosen { STRONG.fg(Color::Cyan) } else { STRONG };
    let chosen = if is_chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Table::new(rows, widths)
        .header(Row::new(head).style(QUIET))
        .block(Block::new().title(Line::styled(title, style)))
        .row_highlight_style(chosen)
        .column_spacing(2)
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, top: &mut Top, seen: &Seen) {
    let count = |queue: &crate::ops::QueueView, state: State| units::show_count(queue.counts.get(&state).copied().unwrap_or(0));
    let rows = seen.queues.iter().map(|queue| {
        let oldest = queue.oldest_ready_ms.map_or_else(String::new, |ms| units::age(Millis(0), Millis(ms)));
        let states = [State::Ready, State::Running, State::Scheduled, State::Parked, State::Dead];
        let counts = states.into_iter().map(|state| Line::from(count(queue, state)).alignment(Alignment::Right));
        let name = Line::from(format!("{}{}", queue.queue, if queue.paused { "  ‖ paused" } else { "" }));
        Row::new([name].into_iter().chain(counts).chain([Line::from(oldest).alignment(Alignment::Right)]))
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
    ];
    let head = vec!["QUEUE", "    READY", " RUNNING", "SCHEDULED", " PARKED", "   DEAD", "OLDEST"];
    let drawn = table(top, Pane::Queues, "Queues".to_owned(), head, rows.collect(), widths.to_vec());
    frame.render_stateful_widget(drawn, area, &mut top.queues);
}

fn draw_tasks(frame: &mut Frame<'_>, area: Rect, top: &mut Top, seen: &Seen) {
    let wide = usize::from(area.width).saturating_sub(62).max(12);
    let rows = seen.tasks.iter().map(|task| {
        let changed = task.ended_at.or(task.started_at).unwrap_or(task.enqueued_at);
        Row::new([
            middle(task.id.as_str(), 10, 13),
            task.task.to_string(),
            units::age(changed, seen.now),
            task.tries.to_string(),
            short(&clean(&gist(task, seen.now).replace('\n', " ")), wide),
        ])
    });
    let of = top.only_queue().map_or_else(String::new, |queue| format!(" of {queue}"));
    let widths = [Constraint::Length(24), Constraint::Length(18), Constraint::Length(5), Constraint::Length(5), Constraint::Min(12)];
    let title = format!("Tasks: {}{of}", top.shown());
    let drawn = table(top, Pane::Tasks, title, vec!["ID", "TASK", "SINCE", "TRIES", "WHAT OF IT"], rows.collect(), widths.to_vec());
    frame.render_stateful_widget(drawn, area, &mut top.tasks);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, top: &mut Top, seen: &Seen) {
    let rows = seen.workers.iter().map(|worker| {
        let queues: Vec<&str> = worker.queues.iter().map(AsRef::as_ref).collect();
        let state = if worker.draining { "draining" } else { "live" };
        let slots = format!("{}/{}", worker.running.len(), worker.concurrency);
        Row::new([clean(&worker.id), units::age(worker.started_at, seen.now), slots, clean(&queues.join(",")), state.to_owned()])
    });
    let title = if seen.workers.is_empty() { "No worker lives: `taskhost worker --plugins ./plugins`" } else { "Workers" };
    let widths = [Constraint::Min(20), Constraint::Length(5), Constraint::Length(10), Constraint::Length(24), Constraint::Length(9)];
    let drawn =
        table(top, Pane::Workers, title.to_owned(), vec!["WORKER", "UP", "SLOTS", "QUEUES", "STATE"], rows.collect(), widths.to_vec());
    frame.render_stateful_widget(drawn, area, &mut top.workers);
}

fn help(frame: &mut Frame<'_>) {
    let lines = [
        "Tab       next pane",
        "j k ↓ ↑   next and previous row; g G first and last",
        "s         which tasks: running, dead, ready, scheduled, …",
        "Enter     only the tasks of the chosen queue, or of all",
        "p         pause or resume the chosen queue",
        "c         cancel the chosen task",
        "r         run a dead or cancelled task again, a delayed one at once",
        "q Esc     end",
    ];
    let area = frame.area();
    let (width, height) = (68.min(area.width), 10.min(area.height));
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title("Keys")), place);
}

#[cfg(test)]
mod tests;
