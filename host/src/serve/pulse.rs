//! One look at the broker a second for all who watch, and none while nobody does.
//!
//! subscribe → the first one starts the pulse → each second: the queues, and what ended in those whose totals changed → all subscribers
//!
//! Invariant: the cost for the broker does not depend on how many watch.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use taskhost_core::task::{Millis, QueueName};
use tokio::sync::broadcast;

use super::{app::App, problem::Problem};
use crate::ops::{End, QueueView, Totals};

const EVERY: Duration = Duration::from_secs(1);
/// The most ends of a queue that one beat tells.
pub(super) const ENDS: usize = 200;
/// The beats that a slow subscriber may be behind.
const BEHIND: usize = 16;

/// The changes of one second.
#[derive(Debug)]
pub(super) struct Beat {
    /// Whether anything differs from the beat before.
    pub(super) is_news: bool,
    pub(super) queues: Arc<Vec<QueueView>>,
    /// Ends by queue, oldest first.
    pub(super) ends: Vec<(QueueName, Vec<End>)>,
    /// Whether some queue had more ends than [`ENDS`].
    pub(super) is_cut: bool,
    /// All ends before this time were sent.
    pub(super) until: Millis,
}

/// The pulse of one process.
#[derive(Debug)]
pub(super) struct Pulse {
    beats: broadcast::Sender<Arc<Beat>>,
    is_running: Mutex<bool>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { beats: broadcast::Sender::new(BEHIND), is_running: Mutex::new(false) }
    }
}

impl Pulse {
    /// The beats from now on.
    pub(super) fn subscribe(app: &Arc<App>) -> broadcast::Receiver<Arc<Beat>> {
        let mut is_running = app.pulse.is_running.lock();
        let beats = app.pulse.beats.subscribe();
        if !*is_running {
            *is_running = true;
            app.tasks.spawn(run(Arc::clone(app)));
        }
        beats
    }

    /// Whether nobody watches any more. Then the pulse ends.
    fn is_over(&self) -> bool {
        let mut is_running = self.is_running.lock();
        *is_running = self.beats.receiver_count() > 0;
        !*is_running
    }
}

async fn run(app: Arc<App>) {
    let mut last = Last::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !app.pulse.is_over() {
        match last.beat(&app).await {
            // Without a receiver it is dropped.
            Ok(beat) => drop(app.pulse.beats.send(Arc::new(beat))),
            Err(problem) => tracing::debug!(error = problem.detail(), "no news for those who watch: the broker did not answer"),
        }
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.drain.cancelled() => {
                *app.pulse.is_running.lock() = false;
                return;
            }
        }
    }
}

/// The beat before.
#[derive(Default)]
struct Last {
    queues: Arc<Vec<QueueView>>,
    since: HashMap<QueueName, (Totals, Millis)>,
}

impl Last {
    async fn beat(&mut self, app: &App) -> Result<Beat, Problem> {
        let ops = match app.ops() {
            Ok(ops) => ops,
            Err(_away) => return Ok(Beat { is_news: false, queues: Arc::default(), ends: Vec::new(), is_cut: false, until: Millis(0) }),
        };
        let (now, begun) = (ops.now().await?, Instant::now());
        let queues = app.queues(begun).await?;
        let (mut ends, mut is_cut, mut until) = (Vec::new(), false, now);
        for view in &*queues {
            let ended = Totals { enqueued: 0, ..view.totals };
            let Some((before, since)) = self.since.get(&view.queue).copied() else {
                self.since.insert(view.queue.clone(), (ended, now));
                continue;
            };
            if before == ended {
                self.since.insert(view.queue.clone(), (ended, since));
                continue;
            }
            let feed = ops.feed(&view.queue, since, ENDS).await?;
            is_cut |= feed.is_cut;
            until = until.min(feed.until);
            // The feed leaves the last moment out: the next beat has its ends.
            let is_whole = !feed.ends.is_empty();
            self.since.insert(view.queue.clone(), (if is_whole { ended } else { before }, feed.until));
            if is_whole {
                ends.push((view.queue.clone(), feed.ends));
            }
        }
        let is_same = |a: &QueueView, b: &QueueView| (&a.queue, &a.counts, a.paused, a.totals) == (&b.queue, &b.counts, b.paused, b.totals);
        let is_news =
            !ends.is_empty() || queues.len() != self.queues.len() || !queues.iter().zip(&*self.queues).all(|(a, b)| is_same(a, b));
        self.queues = Arc::clone(&queues);
        if is_news {
            app.looks.news(begun);
        }
        Ok(Beat { is_news, queues, ends, is_cut, until })
    }
}
