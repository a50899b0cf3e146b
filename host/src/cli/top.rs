//! `top`: queues, tasks and workers in the terminal, live, from the broker alone.
//!
//! a look at the broker each second → the screen, of which only changed cells are sent; a key → the state, and perhaps an act at the broker
//!
//! Invariant: the terminal is left as it was found, also after a panic or a signal. A broker that is away costs nothing but a line on the screen.

use std::{
    io::{IsTerminal, stdout},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use taskhost_core::units;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};

use self::state::{Act, Seen, Top};
use super::failure::Failure;
use crate::{
    config::Settings,
    ops::{Change, Ops, OpsError, TaskFilter},
};

mod screen;
mod state;

/// How many tasks are listed.
const TASKS: usize = 200;
/// How long a look at the broker may take before the screen says that it is away.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
#[command(after_help = "Example:
  taskhost top --broker redis://127.0.0.1:6379

Keys: Tab changes the pane, j and k move, s chooses which tasks are listed, p pauses or resumes a queue, c cancels a task, r retries it, q ends.")]
pub(super) struct TopArgs {
    /// The pause between two looks at the broker
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::positive_duration)]
    every: Duration,
}

pub(super) async fn call(args: &TopArgs, settings: &Settings) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        return Err(Failure::Usage("`top` draws on a terminal, and stdout is none: `taskhost queue list` prints".to_owned()));
    }
    let ops = Ops::connect(settings).await?;
    let listen = |kind| signal(kind).map_err(|error| Failure::Failed(format!("failed to listen for signals: {error}")));
    let (mut terminate, mut hangup) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let mut terminal = ratatui::try_init().map_err(|error| Failure::Failed(format!("failed to use the terminal: {error}")))?;
    let (keys, mut pressed) = mpsc::channel(64);
    std::thread::spawn(move || listen_to_keys(&keys));
    let mut top = Top::default();
    let mut ticks = tokio::time::interval(args.every.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| screen::draw(frame, &mut top)) {
            break Err(Failure::from(error));
        }
        let act = tokio::select! {
            _ = ticks.tick() => Some(Act::Look),
            key = pressed.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => top.press(key),
                Some(_) => None,
                None => break Ok(()),
            },
            _ = terminate.recv() => break Ok(()),
            _ = hangup.recv() => break Ok(()),
        };
        match act {
            None => {}
            Some(Act::End) => break Ok(()),
            Some(Act::Look) => match timeout(PATIENCE, look(&ops, &top)).await {
                Ok(Ok(seen)) => top.see(seen),
                Ok(Err(error)) => top.is_away(error.to_string()),
                Err(_slow) => top.is_away("it does not answer".to_owned()),
            },
            Some(act) => {
                top.said = Some(match timeout(PATIENCE, done(&ops, act)).await {
                    Ok(Ok(said)) => said,
                    Ok(Err(error)) => error.to_string(),
                    Err(_slow) => "the broker does not answer: whether it was done is not known".to_owned(),
                });
                ticks.reset_immediately();
            }
        }
    };
    ENDED.store(true, Ordering::Relaxed);
    ratatui::restore();
    ended
}

/// Set when the program ends, so that the thread that reads keys ends too.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Sends each key to the receiver, until the receiver is gone.
fn listen_to_keys(keys: &mpsc::Sender<Event>) {
    while !ENDED.load(Ordering::Relaxed) {
        match event::poll(Duration::from_millis(100)) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(event) => {
                    if keys.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            },
            // The terminal has gone.
            Err(_) => return,
        }
    }
}

async fn look(ops: &Ops, top: &Top) -> Result<Seen, OpsError> {
    let queues = ops.queues().await?;
    let filter = TaskFilter { states: vec![top.shown()], queue: top.only_queue(), ..TaskFilter::default() };
    let tasks = ops.page(&filter, None, TASKS).await?.tasks;
    Ok(Seen { about: ops.health().await?.about, queues, tasks, workers: ops.workers().await?, now: ops.now().await? })
}

/// Carries out the request of a key, and says how it went.
async fn done(ops: &Ops, act: Act) -> Result<String, OpsError> {
    Ok(match act {
        Act::Pause(queue) => {
            ops.pause_queue(&queue, false).await?;
            format!("{queue} is paused; p resumes it")
        }
        Act::Resume(queue) => {
            ops.resume_queue(&queue).await?;
            format!("{queue} goes on")
        }
        Act::Change(change, queue, id) => {
            let how = ops.change(change, &queue, &id).await?;
            let again = if change == Change::Cancel { "; r in the list of the cancelled runs it again" } else { "" };
            format!("{id}: {how}{again}")
        }
        Act::Look | Act::End => String::new(),
    })
}
