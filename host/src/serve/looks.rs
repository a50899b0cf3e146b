//! What pages, scrapes and the pulse look at: each look costs the broker the same for one and for a hundred viewers.
//!
//! a page asks for what is new enough → a reading of a moment ago, or one that all share who ask now (`kept`)
//!
//! Invariant: a page shows no reading that began before the last change by this server, or before the last news of the pulse. A resource of the
//! API gets a reading that began after its request came.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::value::RawValue;
use taskhost_core::task::{Millis, QueueName, State, TaskView};

use super::{
    app::App,
    kept::{Kept, KeptBy},
    problem::Problem,
};
use crate::ops::{
    BrokerClock, Health, HistoryPoint, HistoryQuery, HistoryStep, OpsError, QueueView, SeenSchedule, TaskFilter, TaskPage, WorkerInfo,
};

/// How old a reading is at most that a page shows; a little more than the time between two beats of the pulse, which reads too.
const FRESH: Duration = Duration::from_millis(1_200);
/// The same of the past and of the broker's set-up: workers record what they counted every ten seconds, and a set-up seldom changes.
const SLOW: Duration = Duration::from_secs(5);
/// The same of the broker's clock, which goes on by our own.
const CLOCK: Duration = Duration::from_secs(10);
/// Dead tasks whose errors the overview shows.
const DEAD: usize = 200;
/// A page with longer arguments and results than this is not kept.
const KEPT_BYTES: usize = 256 << 10;

/// The kept readings.
#[derive(Debug)]
pub(super) struct Looks {
    since: Mutex<Since>,
    clock: Kept<BrokerClock>,
    queues: Kept<Vec<QueueView>>,
    workers: Kept<Vec<WorkerInfo>>,
    health: Kept<Health>,
    schedules: Kept<Vec<SeenSchedule>>,
    dead: Kept<Dead>,
    past: KeptBy<Past, Vec<HistoryPoint>>,
    pages: KeptBy<String, TaskPage>,
}

/// Older readings are not shown.
#[derive(Debug, Clone, Copy)]
struct Since {
    changed: Instant,
    /// The beat of the pulse that had the last news: when it began to read the queues, and when it had read them.
    news: (Instant, Instant),
}

/// The newest dead tasks, and the counts of the dead that were known before they were read.
#[derive(Debug)]
pub(super) struct Dead {
    counts: Vec<(QueueName, u64, u64)>,
    pub(super) tasks: Vec<TaskView>,
}

/// A part of the past: queue, step, its first step, and the number of steps.
type Past = (Option<QueueName>, HistoryStep, u64, u64);

impl Default for Looks {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            since: Mutex::new(Since { changed: now, news: (now, now) }),
            clock: Kept::default(),
            queues: Kept::default(),
            workers: Kept::default(),
            health: Kept::default(),
            schedules: Kept::default(),
            dead: Kept::default(),
            past: KeptBy::default(),
            pages: KeptBy::default(),
        }
    }
}

impl Looks {
    /// This server has changed something. Whoever looks from now on sees it.
    pub(super) fn changed(&self) {
        self.since.lock().changed = Instant::now();
    }

    /// The queues that the pulse began to read at `begun` differ from those before.
    pub(super) fn news(&self, begun: Instant) {
        self.since.lock().news = (begun, Instant::now());
    }

    /// The queues that were read last, for the frame of the pages: it costs the broker nothing.
    pub(super) fn known_queues(&self) -> Option<Arc<Vec<QueueView>>> {
        self.queues.last()
    }

    /// The `since` of a page.
    pub(super) fn lately(&self) -> Instant {
        let Since { changed, news } = *self.since.lock();
        ago(FRESH).max(changed).max(news.1)
    }

    /// The `since` of a page for the queues: the reading that had the last news is new enough.
    fn queues_lately(&self) -> Instant {
        let Since { changed, news } = *self.since.lock();
        ago(FRESH).max(changed).max(news.0)
    }
}

/// The `since` of a page for the past.
pub(super) fn past_lately() -> Instant {
    ago(SLOW)
}

fn ago(span: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(span).unwrap_or(now)
}

impl App {
    /// The broker's time.
    pub(super) async fn now(&self) -> Result<Millis, Problem> {
        let read = async { Ok(self.ops()?.clock().await?) };
        Ok(self.looks.clock.read(ago(CLOCK), read).await?.now())
    }

    /// All queues, by name.
    pub(super) async fn queues(&self, since: Instant) -> Result<Arc<Vec<QueueView>>, Problem> {
        self.looks.queues.read(since, async { Ok(self.ops()?.queues().await?) }).await
    }

    /// The same for a page.
    pub(super) async fn queues_lately(&self) -> Result<Arc<Vec<QueueView>>, Problem> {
        self.queues(self.looks.queues_lately()).await
    }

    /// The live workers, by id.
    pub(super) async fn workers(&self, since: Instant) -> Result<Arc<Vec<WorkerInfo>>, Problem> {
        self.looks.workers.read(since, async { Ok(self.ops()?.workers().await?) }).await
    }

    pub(super) async fn health(&self) -> Result<Arc<Health>, Problem> {
        self.looks.health.read(ago(SLOW), async { Ok(self.ops()?.health().await?) }).await
    }

    pub(super) async fn schedules(&self, since: Instant) -> Result<Arc<Vec<SeenSchedule>>, Problem> {
        self.looks.schedules.read(since, async { Ok(self.ops()?.schedules().await?) }).await
    }

    /// A page of the list of tasks.
    pub(super) async fn page(
        &self,
        filter: &TaskFilter,
        from: Option<&str>,
        limit: usize,
        since: Instant,
    ) -> Result<Arc<TaskPage>, Problem> {
        let asked = format!("{filter:?} {from:?} {limit}");
        let page = self.looks.pages.of(asked.clone()).read(since, async { Ok(self.ops()?.page(filter, from, limit).await?) }).await;
        let bytes = |page: &TaskPage| -> usize {
            page.tasks.iter().map(|task| task.args.get().len() + task.result.as_ref().map_or(0, |result| result.get().len())).sum()
        };
        if page.as_ref().is_ok_and(|page| bytes(page) > KEPT_BYTES) {
            self.looks.pages.forget(&asked);
        }
        page
    }

    /// The newest dead tasks, without what producers wrote. They are read again when the counts of the dead differ.
    pub(super) async fn latest_dead(&self) -> Result<Arc<Dead>, Problem> {
        let queues = self.queues_lately().await?;
        let dead = |view: &QueueView| view.counts.get(&State::Dead).copied().unwrap_or(0);
        let counts: Vec<_> = queues.iter().map(|view| (view.queue.clone(), view.totals.dead, dead(view))).collect();
        let read = async {
            let filter = TaskFilter { states: vec![State::Dead], ..TaskFilter::default() };
            let mut page = self.ops()?.page(&filter, None, DEAD).await?;
            for task in &mut page.tasks {
                task.args = RawValue::NULL.to_owned();
                task.options.headers.clear();
                task.errors.clear();
            }
            Ok(Dead { counts: counts.clone(), tasks: page.tasks })
        };
        self.looks.dead.read_unless(Instant::now(), |dead| dead.counts == counts, read).await
    }

    /// The past of all queues, or of one.
    pub(super) async fn past(&self, query: &HistoryQuery, since: Instant) -> Result<Vec<HistoryPoint>, Problem> {
        let (first, count) = query.step.range(query.from, query.to).map_err(OpsError::from)?;
        let asked = (query.queue.clone(), query.step, first, count);
        let read = async {
            let queues = match &query.queue {
                Some(queue) => vec![queue.clone()],
                None => self.queues(since).await?.iter().map(|view| view.queue.clone()).collect(),
            };
            Ok(self.ops()?.history(&queues, query.step, query.from, query.to).await?)
        };
        let mut points = (*self.looks.past.of(asked).read(since, read).await?).clone();
        if let Some(task) = &query.task {
            for point in &mut points {
                point.ready.clear();
                point.parts.retain(|(_, name), _| name == task.as_str());
            }
        }
        Ok(points)
    }
}
