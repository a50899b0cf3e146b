//! The cost of enqueueing: one task in each call on an open connection, and many in each call.

use std::{sync::Arc, time::Instant};

use taskhost_broker::Broker;
use taskhost_core::task::NewTask;

use crate::{
    error::BenchError,
    figure::Figure,
    setup::Bench,
    stats::{each, per, rate},
    usage::Usage,
};

/// Tasks of one call, as `enqueue --bulk` sends them.
const BATCH: usize = 1_000;
/// Each single enqueue needs a round trip, so a share of the tasks is enough.
const SHARE: usize = 20;

pub(crate) async fn singly(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let broker = bench.place.broker();
    let count = (bench.options.tasks / SHARE).max(100);
    let began = Instant::now();
    for number in 0..count {
        broker.enqueue(&[bench.task(number)]).await?;
    }
    bench.report.add(Figure::EnqueueSingle, rate(count, began.elapsed()));
    Ok(())
}

pub(crate) async fn bulk(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let before = Usage::now(bench.place).await?;
    let began = Instant::now();
    fill(bench, bench.options.tasks).await?;
    let took = began.elapsed();
    let host = before.host_since();
    let after = Usage::now(bench.place).await?;
    bench.report.add(Figure::EnqueueBulk, rate(bench.options.tasks, took));
    bench.report.add(Figure::EnqueueHostCpu, each(bench.options.tasks, host));
    if let Some(server) = before.server_until(&after) {
        bench.report.add(Figure::EnqueueServerCpu, each(bench.options.tasks, server));
    }
    if let Some(memory) = before.memory_until(&after) {
        bench.report.add(Figure::WaitingMemory, per(memory, bench.options.tasks));
    }
    Ok(())
}

/// Enqueues this many tasks. The next batch is prepared while the broker takes the last one.
pub(crate) async fn fill(bench: &Bench<'_>, count: usize) -> Result<(), BenchError> {
    let make = |from: usize| -> Vec<NewTask> { (from..count.min(from + BATCH)).map(|number| bench.task(number)).collect() };
    stream(&bench.place.broker(), count, make).await
}

/// Two batches at once: one is written while the broker answers the other.
pub(crate) async fn stream(broker: &Arc<dyn Broker>, count: usize, make: impl Fn(usize) -> Vec<NewTask>) -> Result<(), BenchError> {
    let lane = async |first: usize| -> Result<(), BenchError> {
        for from in (first..count).step_by(2 * BATCH) {
            broker.enqueue(&make(from)).await?;
        }
        Ok(())
    };
    tokio::try_join!(lane(0), lane(BATCH))?;
    Ok(())
}
