//! How rates change with what there is: waiting tasks, queues, workers, plugins, bytes of a payload.
//!
//! fill → the same steps, or the same loops, as ever → a figure a size; `plot` draws them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::{
    Bench, Failure, Figure,
    ceilings::finished,
    drain::{Attempts, ended_badly},
    enqueue, quantile, rate,
};
use crate::{
    broker::LeaseReply,
    plugins::Registry,
    task::{NewTask, QueueName, TaskName},
    worker::{self, Roster, Stop, WorkerSettings},
};

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grown {
    /// Tasks that wait beside those that are claimed and finished.
    Waiting,
    /// The same, how long a claim of one task takes, and one of many.
    Claim,
    ClaimMany,
    Queues,
    Workers,
    Plugins,
    Payload,
}

impl Grown {
    pub(super) const ALL: [Self; 7] =
        [Self::Waiting, Self::Claim, Self::ClaimMany, Self::Queues, Self::Workers, Self::Plugins, Self::Payload];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Waiting => "claim and finish, by waiting tasks",
            Self::Claim => "claim of one, by waiting tasks",
            Self::ClaimMany => "claim of 64, by waiting tasks",
            Self::Queues => "drain, by queues",
            Self::Workers => "drain, by workers",
            Self::Plugins => "drain, by plugins",
            Self::Payload => "drain, by bytes of payload",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        if matches!(self, Self::Claim | Self::ClaimMany) { "µs" } else { "tasks/s" }
    }
}

/// Tasks of one claim beside many that wait, and how many claims are looked at.
const CLAIMED: usize = 64;
const CLAIMS: usize = 1_500;
/// The deepest queue has so many times the tasks of a drain: 5,000,000 by default.
const DEEPEST: usize = 25;
/// Bytes of arguments and headers that are enqueued at once, and that all tasks of one figure have.
const AT_ONCE: usize = 4 << 20;
const PAYLOADS: usize = 256 << 20;

pub(super) async fn all(bench: &mut Bench<'_>) -> Result<(), Failure> {
    for waiting in [1_000, 100_000, bench.tasks * DEEPEST] {
        depth(bench, waiting).await?;
        bench.place.clear().await?;
    }
    let one = Fleet { queues: 1, workers: 1, plugins: 1, payload: 0 };
    let fleets = [
        [1, 10, 1_000].map(|queues| (Grown::Queues, queues, Fleet { queues, ..one })),
        [1, 4, 16].map(|workers| (Grown::Workers, workers, Fleet { workers, ..one })),
        [1, 100, 1_000].map(|plugins| (Grown::Plugins, plugins, Fleet { plugins, ..one })),
        // A little below the limit, which counts what stands around it as well.
        [1_000, 100_000, 1_000_000].map(|payload| (Grown::Payload, payload, Fleet { payload, ..one })),
    ];
    for (grown, size, fleet) in fleets.into_iter().flatten() {
        let drained = fleet.drain(bench).await?;
        bench.report.add(Figure::Growth(grown, size), drained);
        bench.place.clear().await?;
    }
    Ok(())
}

/// Claims and finishes beside `waiting` tasks; as many come in, their time not counted, so that the queue stays as deep.
async fn depth(bench: &mut Bench<'_>, waiting: usize) -> Result<(), Failure> {
    enqueue::fill(bench, waiting).await?;
    bench.place.settle(&bench.queue, waiting).await?;
    let broker = bench.place.broker();
    let lease = bench.settings.lease;
    let who = broker.register(&bench.queue, lease).await?;
    let (mut took, mut ones, mut many) = (Duration::ZERO, Vec::with_capacity(CLAIMS), Vec::with_capacity(CLAIMS));
    for round in 0..CLAIMS {
        let tasks: Vec<NewTask> = (0..=CLAIMED).map(|number| bench.task(round * CLAIMED + number)).collect();
        broker.enqueue(&tasks).await?;
        for (limit, claims) in [(1, &mut ones), (CLAIMED, &mut many)] {
            let began = Instant::now();
            let LeaseReply::Held(claimed) = broker.claim(&who, lease, limit, &[]).await? else {
                return Err(Failure::Failed("the broker was too slow to keep a lease: see how busy it is".to_owned()));
            };
            claims.push(began.elapsed().as_secs_f64() * 1e6);
            broker.finish(&who, &finished(bench, claimed.tasks)).await?;
            if limit == CLAIMED {
                took += began.elapsed();
            }
        }
    }
    broker.leave(&who).await?;
    bench.report.add(Figure::Growth(Grown::Waiting, waiting), rate(CLAIMS * CLAIMED, took));
    for (grown, claims) in [(Grown::Claim, &mut ones), (Grown::ClaimMany, &mut many)] {
        bench.report.add(Figure::Growth(grown, waiting), quantile(claims, 0.5));
    }
    Ok(())
}

/// What is drained, and by how many.
#[derive(Debug, Clone, Copy)]
struct Fleet {
    queues: usize,
    workers: usize,
    /// Names that the workers offer; the tasks are all of one of them.
    plugins: usize,
    /// Bytes of a header that each task carries.
    payload: usize,
}

impl Fleet {
    /// Tasks a second, all workers and queues together.
    async fn drain(self, bench: &Bench<'_>) -> Result<f64, Failure> {
        let broken = |error: crate::task::InvalidName| Failure::Failed(error.to_string());
        let named = |number: usize| if number == 0 { super::QUEUE.to_owned() } else { format!("{}-{number}", super::QUEUE) };
        let queues = (0..self.queues).map(|number| QueueName::new(named(number))).collect::<Result<Vec<_>, _>>().map_err(broken)?;
        let count = PAYLOADS.checked_div(self.payload).unwrap_or(usize::MAX).min(bench.tasks / 2);
        let broker = bench.place.broker();
        let at_once = (AT_ONCE / (self.payload + 1)).clamp(1, 1_000);
        for from in (0..count).step_by(at_once) {
            let tasks = (from..count.min(from + at_once)).map(|number| {
                let mut task = bench.task(number);
                task.queue = queues[number % queues.len()].clone();
                if self.payload > 0 {
                    task.headers.push(("payload".to_owned(), "x".repeat(self.payload)));
                }
                task
            });
            broker.enqueue(&tasks.collect::<Vec<_>>()).await?;
        }

        let mut bodies = HashMap::from([(bench.body.clone(), bench.plugin.clone())]);
        for number in 1..self.plugins {
            bodies.insert(TaskName::new(format!("other-{number}")).map_err(broken)?, bench.plugin.clone());
        }
        let (_plugins, roster) = watch::channel(Arc::new(Roster::of(&Registry { bodies, ..Registry::default() }, &bench.settings.retry)));
        let attempts = Attempts::new(&bench.engine, count);
        let stop = Stop::default();
        let mut workers = Vec::new();
        for _ in 0..self.workers {
            let settings = WorkerSettings {
                queues: queues.iter().map(|queue| (queue.clone(), 1)).collect(),
                // All of them share one engine's slots.
                concurrency: (bench.settings.concurrency / self.workers).max(1),
                cores: bench.settings.threads,
                lease: bench.settings.lease,
                retry: bench.settings.retry.clone(),
                ..WorkerSettings::new(worker::worker_id())
            };
            workers.push(worker::run_with(settings, bench.place.again().await?, attempts.clone(), roster.clone(), stop.clone()));
        }
        let began = Instant::now();
        let workers = try_join_all(workers);
        tokio::pin!(workers);
        tokio::select! {
            ended = &mut workers => {
                ended.map_err(ended_badly)?;
                return Err(Failure::Failed("the workers stopped by themselves: see the log".to_owned()));
            }
            () = attempts.all_ended() => {}
        }
        let took = began.elapsed();
        stop.drain.cancel();
        let summaries = workers.await.map_err(ended_badly)?;
        attempts.check(count, summaries.iter().map(|summary| summary.succeeded).sum())?;
        Ok(rate(count, took))
    }
}
