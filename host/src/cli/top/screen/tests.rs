use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent},
};
use serde_json::value::RawValue;
use taskhost_core::task::{ErrorKind, QueueName, TaskError, TaskId, TaskName, TaskOptions, TaskView};

use super::*;
use crate::{
    cli::top::state::Act,
    ops::{Change, QueueView, Totals, WorkerInfo},
};

fn queue(name: &str, counts: &[(State, u64)], paused: bool) -> QueueView {
    let counts = State::ALL.into_iter().map(|state| (state, counts.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count)));
    QueueView {
        queue: QueueName::new(name).expect("a name"),
        counts: counts.collect(),
        oldest_ready_ms: Some(74_000),
        paused,
        totals: Totals::default(),
    }
}

fn task(id: &str, state: State) -> TaskView {
    TaskView {
        id: TaskId::new(id).expect("an id"),
        task: TaskName::new("send.mail").expect("a name"),
        queue: QueueName::default(),
        state,
        waits_for: None,
        args: RawValue::NULL.to_owned(),
        options: TaskOptions::default(),
        tries: 1,
        result: None,
        error: Some(TaskError::new(ErrorKind::Trap, "un\u{1b}[2Jreachable\nat line 7")),
        errors: Vec::new(),
        enqueued_at: Millis(0),
        due_at: None,
        expires_at: None,
        started_at: None,
        ended_at: Some(Millis(1_000)),
        worker: None,
        plugin: None,
        version: None,
        digest: None,
        progress: None,
        cancel_asked: false,
    }
}

fn seen(tasks: Vec<TaskView>) -> Seen {
    let worker = WorkerInfo {
        id: "box:7:a1b2c3".into(),
        host: "box".into(),
        pid: 7,
        started_at: Millis(0),
        queues: vec![QueueName::default()],
        concurrency: 256,
        running: Vec::new(),
        draining: false,
        plugins: Vec::new(),
        schedules: None,
    };
    let queues = vec![
        queue("default", &[(State::Ready, 12_408), (State::Dead, 3), (State::Running, 7)], false),
        queue("mail", &[(State::Scheduled, 1)], true),
    ];
    Seen { about: "Redis 7.0.15, standalone".into(), queues, tasks, workers: vec![worker], now: Millis(61_000) }
}

fn press(top: &mut Top, keys: &str) -> Option<Act> {
    keys.chars().map(|key| top.press(KeyEvent::from(if key == '\t' { KeyCode::Tab } else { KeyCode::Char(key) }))).last().flatten()
}

fn drawn(top: &mut Top, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
    terminal.draw(|frame| draw(frame, top)).expect("drawn");
    terminal.backend().to_string()
}

#[test]
fn the_screen_is_readable_at_80_by_24_and_uses_a_large_one() {
    let mut top = Top::default();
    insta::assert_snapshot!("first", drawn(&mut top, 80, 24));
    press(&mut top, "s");
    top.see(seen((0..40).map(|n| task(&format!("0199c0de-{n:04}"), State::Dead)).collect()));
    insta::assert_snapshot!("small", drawn(&mut top, 80, 24));
    insta::assert_snapshot!("large", drawn(&mut top, 200, 60));
    top.is_away("connection refused".into());
    press(&mut top, "?");
    insta::assert_snapshot!("away_with_help", drawn(&mut top, 80, 24));
    for (width, height) in [(1, 1), (20, 5), (79, 3)] {
        drawn(&mut top, width, height);
    }
}

#[test]
fn keys_choose_and_act() {
    let mut top = Top::default();
    assert_eq!(press(&mut top, "p"), None, "nothing was seen yet");
    top.see(seen(vec![task("a", State::Dead), task("b", State::Dead)]));
    assert_eq!(press(&mut top, "p"), Some(Act::Pause(QueueName::default())));
    assert_eq!(press(&mut top, "jp"), Some(Act::Resume(QueueName::new("mail").expect("a name"))));
    assert_eq!(press(&mut top, "c"), None, "no task is chosen");
    assert!(top.said.as_ref().is_some_and(|said| said.contains("Tab")));
    assert_eq!(press(&mut top, "\tjr"), Some(Act::Change(Change::Retry, QueueName::default(), TaskId::new("b").expect("an id"))));
    // The list changes: the chosen one stays chosen.
    top.see(seen(vec![task("new", State::Dead), task("a", State::Dead), task("b", State::Dead)]));
    assert_eq!(press(&mut top, "c"), Some(Act::Change(Change::Cancel, QueueName::default(), TaskId::new("b").expect("an id"))));
    top.see(seen(Vec::new()));
    assert_eq!(press(&mut top, "r"), None);
    assert_eq!((press(&mut top, "s"), top.shown()), (Some(Act::Look), State::Dead));
    assert_eq!(press(&mut top, "q"), Some(Act::End));
}
