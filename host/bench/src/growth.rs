//! How rates change with the number of waiting tasks, queues, workers and plugins, and with the size of a payload.
//!
//! fill → the same steps or loops as elsewhere → one figure for each size; `plot` draws them

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use taskhost_broker::LeaseReply;
use taskhost_core::task::{NewTask, QueueName, TaskName};
use tokio_util::sync::CancellationToken;

use crate::{
    attempts::Attempts,
    ceilings::finished,
    enqueue,
    error::BenchError,
    figure::Figure,
    grown::Grown,
    setup::{Bench, QUEUE},
    stats::{quantile, rate},
    subject::WorkerOrder,
};

/// The tasks of one claim beside many waiting ones, and the number of measured claims.
const CLAIMED: usize = 64;
const CLAIMS: usize = 1_500;
/// The deepest queue has this many times the tasks of a drain: 5,000,000 by default.
const DEEPEST: usize = 25;
/// Bytes of arguments and headers that are enqueued at once, and that all tasks of one figure have.
const AT_ONCE: usize = 4 << 20;
const PAYLOADS: usize = 256 << 20;

pub(crate) async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    for waiting in [1_000, 100_000, bench.options.tasks * DEEPEST] {
        depth(bench, waiting).await?;
        bench.place.clear().await?;
    }
    let one = Fleet { queues: 1, workers: 1, plugins: 1, payload: 0 };
    let fleets = [
        [1, 10, 1_000].map(|queues| (Grown::Queues, queues, Fleet { queues, ..one })),
        [1, 4, 16].map(|workers| (Grown::Workers, workers, Fleet { workers, ..one })),
        [1, 100, 1_000].map(|plugins| (Grown::Plugins, plugins, Fleet { plugins, ..one })),
        // A little below the limit, which also counts the text around it.
        [1_000, 100_000, 1_000_000].map(|payload| (Grown::Payload, payload, Fleet { payload, ..one })),
    ];
    for (grown, size, fleet) in fleets.into_iter().flatten() {
        let drained = fleet.drain(bench).await?;
        bench.report.add(Figure::Growth(grown, size), drained);
        bench.place.clear().await?;
    }
    Ok(())
}

/// Claims and finishes beside `waiting` tasks. As many are enqueued outside of the measured time, so that the queue keeps its depth.
async fn depth(bench: &mut Bench<'_>, waiting: usize) -> Result<(), BenchError> {
    enqueue::fill(bench, waiting).await?;
    bench.place.until_calm(&bench.queue, waiting).await?;
    let broker = bench.place.broker();
    let lease = bench.options.lease;
    let who = broker.register(&bench.queue, lease).await?;
    let (mut took, mut ones, mut many) = (Duration::ZERO, Vec::with_capacity(CLAIMS), Vec::with_capacity(CLAIMS));
    for round in 0..CLAIMS {
        let tasks: Vec<NewTask> = (0..=CLAIMED).map(|number| bench.task(round * CLAIMED + number)).collect();
        broker.enqueue(&tasks).await?;
        for (limit, claims) in [(1, &mut ones), (CLAIMED, &mut many)] {
            let began = Instant::now();
            let LeaseReply::Held(claimed) = broker.claim(&who, lease, limit, &[]).await? else {
                return Err(BenchError::Failed("the broker was too slow to keep a lease: see how busy it is".to_owned()));
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

/// The queues to drain, and the number of workers.
#[derive(Debug, Clone, Copy)]
struct Fleet {
    queues: usize,
    workers: usize,
    /// The names that the workers offer. All tasks have one of them.
    plugins: usize,
    /// Bytes of a header that each task carries.
    payload: usize,
}

impl Fleet {
    /// Tasks a second of all workers and queues together.
    async fn drain(self, bench: &Bench<'_>) -> Result<f64, BenchError> {
        let broken = |error: taskhost_core::task::InvalidName| BenchError::Failed(error.to_string());
        let named = |number: usize| if number == 0 { QUEUE.to_owned() } else { format!("{QUEUE}-{number}") };
        let queues = (0..self.queues).map(|number| QueueName::new(named(number))).collect::<Result<Vec<_>, _>>().map_err(broken)?;
        let count = PAYLOADS.checked_div(self.payload).unwrap_or(usize::MAX).min(bench.options.tasks / 2);
        let broker = bench.place.broker();
        let at_once = (AT_ONCE / (self.payload + 1)).clamp(1, 1_000);
        for from in (0..count).step_by(at_once) {
            let tasks = (from..count.min(from + at_once)).map(|number| {
                let mut task = bench.task(number);
                task.queue = queues[number % queues.len()].clone();
                if self.payload > 0 {
                    task.options.headers.push(("payload".to_owned(), "x".repeat(self.payload)));
                }
                task
            });
            broker.enqueue(&tasks.collect::<Vec<_>>()).await?;
        }

        let names =
            (1..self.plugins).map(|number| TaskName::new(format!("other-{number}"))).collect::<Result<Vec<_>, _>>().map_err(broken)?;
        let attempts = Attempts::new(count);
        let drain = CancellationToken::new();
        let mut workers = Vec::new();
        for _ in 0..self.workers {
            let order = WorkerOrder {
                broker: bench.place.again().await?,
                queues: queues.clone(),
                // All of them share one engine's slots.
                slots: (bench.options.slots / self.workers).max(1),
                names: names.clone(),
                ended: attempts.ended(),
            };
            workers.push(bench.subject.work(order, drain.clone()));
        }
        let began = Instant::now();
        let workers = try_join_all(workers);
        tokio::pin!(workers);
        tokio::select! {
            ended = &mut workers => {
                ended?;
                return Err(BenchError::Failed("the workers stopped by themselves: see the log".to_owned()));
            }
            () = attempts.all_ended() => {}
        }
        let took = began.elapsed();
        drain.cancel();
        let succeeded = workers.await?;
        attempts.check(count, succeeded.iter().sum())?;
        Ok(rate(count, took))
    }
}
