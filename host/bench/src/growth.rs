//! How rates change with the number of waiting tasks, queues, workers and plugins, and with the size of a payload.
//!
//! fill → the same steps or loops as elsewhere → one figure for each size; `plot` draws them

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use taskhost_broker::{Broker, LeaseReply};
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
/// Tasks that are ended in one step to fill the results.
const AT_END: usize = 500;
/// How long results are kept while claims are measured beside their removal, and how long that runs before.
const KEPT: [usize; 2] = [3600, 1];
const WARM: Duration = Duration::from_secs(3);
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
    for ended in [1_000, 100_000, bench.options.tasks * DEEPEST] {
        beside_ended(bench, ended).await?;
        bench.place.clear().await?;
    }
    for seconds in KEPT {
        beside_sweeps(bench, seconds).await?;
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
    let mut steps = Steps::of(bench, &bench.place.broker()).await?;
    bench.report.add(Figure::Growth(Grown::Waiting, waiting), steps.rate());
    for (grown, claims) in [(Grown::Claim, &mut steps.ones), (Grown::ClaimMany, &mut steps.many)] {
        bench.report.add(Figure::Growth(grown, waiting), quantile(claims, 0.5));
    }
    Ok(())
}

/// The same beside `ended` tasks whose results are kept.
async fn beside_ended(bench: &mut Bench<'_>, ended: usize) -> Result<(), BenchError> {
    let broker = bench.place.broker();
    let lease = bench.options.lease;
    let who = broker.register(&bench.queue, lease).await?;
    for from in (0..ended).step_by(AT_END) {
        let tasks: Vec<NewTask> = (from..ended.min(from + AT_END)).map(|number| bench.task(number)).collect();
        broker.enqueue(&tasks).await?;
        let claimed = held(broker.claim(&who, lease, tasks.len(), &[]).await?)?;
        broker.finish(&who, &finished(bench, claimed.tasks)).await?;
    }
    broker.leave(&who).await?;
    bench.place.until_calm(&bench.queue, ended).await?;
    let mut steps = Steps::of(bench, &broker).await?;
    bench.report.add(Figure::Growth(Grown::Ended, ended), steps.rate());
    bench.report.add(Figure::Growth(Grown::ClaimEnded, ended), quantile(&mut steps.many, 0.99));
    Ok(())
}

/// The same while results go that were kept for this many seconds: after the first seconds as many go as come.
async fn beside_sweeps(bench: &mut Bench<'_>, seconds: usize) -> Result<(), BenchError> {
    let broker = bench.place.keeping(Duration::from_secs(seconds as u64)).await?;
    let began = Instant::now();
    while began.elapsed() < WARM {
        Steps::of(bench, &broker).await?;
    }
    let mut steps = Steps::of(bench, &broker).await?;
    bench.report.add(Figure::Growth(Grown::Kept, seconds), quantile(&mut steps.many, 0.99));
    Ok(())
}

fn held<T>(reply: LeaseReply<T>) -> Result<T, BenchError> {
    match reply {
        LeaseReply::Held(held) => Ok(held),
        LeaseReply::Lost => Err(BenchError::Failed("the broker was too slow to keep a lease: see how busy it is".to_owned())),
    }
}

/// How long claims of one task and of many took, in microseconds, and claims and finishes of many together.
struct Steps {
    ones: Vec<f64>,
    many: Vec<f64>,
    took: Duration,
}

impl Steps {
    fn rate(&self) -> f64 {
        rate(CLAIMS * CLAIMED, self.took)
    }

    async fn of(bench: &Bench<'_>, broker: &Arc<dyn Broker>) -> Result<Self, BenchError> {
        let lease = bench.options.lease;
        let who = broker.register(&bench.queue, lease).await?;
        let (mut took, mut ones, mut many) = (Duration::ZERO, Vec::with_capacity(CLAIMS), Vec::with_capacity(CLAIMS));
        for round in 0..CLAIMS {
            let tasks: Vec<NewTask> = (0..=CLAIMED).map(|number| bench.task(round * CLAIMED + number)).collect();
            broker.enqueue(&tasks).await?;
            for (limit, claims) in [(1, &mut ones), (CLAIMED, &mut many)] {
                let began = Instant::now();
                let claimed = held(broker.claim(&who, lease, limit, &[]).await?)?;
                claims.push(began.elapsed().as_secs_f64() * 1e6);
                broker.finish(&who, &finished(bench, claimed.tasks)).await?;
                if limit == CLAIMED {
                    took += began.elapsed();
                }
            }
        }
        broker.leave(&who).await?;
        Ok(Self { ones, many, took })
    }
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
