//! A worker in this process on a full queue, beside a producer, or idle. It runs the loops of `taskhost worker`.
//!
//! fill → worker on its own plugin → all attempts have ended → drained: now all ends are recorded

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use taskhost_core::task::NewTask;
use tokio_util::sync::CancellationToken;

use crate::{
    attempts::Attempts,
    enqueue,
    error::BenchError,
    figure::Figure,
    setup::{Bench, SLOTS},
    stats::{each, per, rate},
    subject::WorkerOrder,
    usage,
};

/// The share of tasks for a drain on one slot, which needs a round trip for each task, and on ten.
const FEWER: [(usize, usize); 2] = [(1, 20), (10, 4)];

/// The cost of one drain.
struct Drained {
    count: usize,
    took: Duration,
    host: Duration,
    server: Option<Duration>,
}

impl Drained {
    fn rate(&self) -> f64 {
        rate(self.count, self.took)
    }
}

/// With each number of slots, then with the default.
pub(crate) async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    for slots in SLOTS {
        let share = FEWER.iter().find(|(few, _)| *few == slots).map_or(2, |(_, share)| *share);
        let drained = full_queue(bench, slots, (bench.options.tasks / share).max(100)).await?;
        bench.report.add(Figure::Drain(slots), drained.rate());
        bench.place.clear().await?;
    }
    by_default(bench).await
}

/// Drains `count` tasks on this many slots. The broker keeps their results.
async fn full_queue(bench: &Bench<'_>, slots: usize, count: usize) -> Result<Drained, BenchError> {
    enqueue::fill(bench, count).await?;
    let before = usage::Usage::now(bench.place).await?;
    let began = Instant::now();
    let attempts = Attempts::new(count);
    let ((), succeeded) = beside(bench, slots, &attempts, async {
        attempts.all_ended().await;
        Ok(())
    })
    .await?;
    let (took, host) = (began.elapsed(), before.host_since());
    let after = usage::Usage::now(bench.place).await?;
    attempts.check(count, succeeded)?;
    Ok(Drained { count, took, host, server: before.server_until(&after) })
}

/// Drains `count` tasks on the default slots, and gives the rate.
pub(crate) async fn rate_of(bench: &Bench<'_>, count: usize) -> Result<f64, BenchError> {
    Ok(full_queue(bench, bench.options.slots, count).await?.rate())
}

/// With the default slots. Also measures the CPU time and memory of a task.
async fn by_default(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let before = usage::Usage::now(bench.place).await?;
    let drained = full_queue(bench, bench.options.slots, bench.options.tasks).await?;
    let after = usage::Usage::now(bench.place).await?;
    bench.report.add(Figure::DrainDefault, drained.rate());
    bench.report.add(Figure::HostCpu, each(drained.count, drained.host));
    if let Some(server) = drained.server {
        bench.report.add(Figure::ServerCpu, each(drained.count, server));
    }
    if let Some(memory) = before.memory_until(&after) {
        bench.report.add(Figure::FinishedMemory, per(memory, drained.count));
    }
    if let Some(bytes) = usage::resident() {
        bench.report.add(Figure::Resident, per(bytes, 1 << 20));
    }
    Ok(())
}

/// A producer with its own connection and thread, and a worker beside it.
pub(crate) async fn end_to_end(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let count = bench.options.tasks;
    let broker = bench.place.again().await?;
    let (body, queue) = (bench.body.clone(), bench.queue.clone());
    let make = move |from: usize| {
        (from..count.min(from + 1_000))
            .map(|number| NewTask { queue: queue.clone(), ..NewTask::new(body.clone(), format!("[{number},1]")) })
            .collect()
    };
    let attempts = Attempts::new(count);
    let began = Instant::now();
    let work = async {
        let producer = tokio::task::spawn_blocking(move || -> Result<(), BenchError> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime
                .map_err(|error| BenchError::Failed(format!("can't start the producer's runtime: {error}; raise the limit of threads")))?;
            runtime.block_on(enqueue::stream(&broker, count, make))
        });
        producer.await.map_err(|error| BenchError::Failed(format!("the producer panicked: {error}")))??;
        attempts.all_ended().await;
        Ok(())
    };
    let ((), succeeded) = beside(bench, bench.options.slots, &attempts, work).await?;
    let took = began.elapsed();
    attempts.check(count, succeeded)?;
    bench.report.add(Figure::EndToEnd, rate(count, took));
    Ok(())
}

/// Runs a worker during `work`, then drains it. Returns the result of `work`, and the number of tasks that the worker recorded as succeeded.
pub(crate) async fn beside<T>(
    bench: &Bench<'_>,
    slots: usize,
    attempts: &Arc<Attempts>,
    work: impl Future<Output = Result<T, BenchError>>,
) -> Result<(T, u64), BenchError> {
    let order =
        WorkerOrder { broker: bench.place.broker(), queues: vec![bench.queue.clone()], slots, names: Vec::new(), ended: attempts.ended() };
    let drain = CancellationToken::new();
    let worker = bench.subject.work(order, drain.clone());
    tokio::pin!(worker, work);
    let done = tokio::select! {
        ended = &mut worker => {
            ended?;
            return Err(BenchError::Failed("the worker stopped by itself: see the log".to_owned()));
        }
        done = &mut work => done,
    };
    drain.cancel();
    let succeeded = worker.await?;
    Ok((done?, succeeded))
}
