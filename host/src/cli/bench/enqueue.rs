//! What enqueueing takes: one task a call on a kept connection, and many a call.

use std::{sync::Arc, time::Instant};

use super::{Bench, Failure, Figure, each, rate, usage::Usage};
use crate::{broker::Broker, task::NewTask};

/// Tasks of one call, as `enqueue --bulk` sends them.
const BATCH: usize = 1_000;
/// One by one takes a round trip each: a share of the tasks is enough.
const SHARE: usize = 20;

pub(super) async fn singly(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let broker = bench.place.broker();
    let count = (bench.tasks / SHARE).max(100);
    let began = Instant::now();
    for number in 0..count {
        broker.enqueue(&[bench.task(number)]).await?;
    }
    bench.report.add(Figure::EnqueueSingle, rate(count, began.elapsed()));
    Ok(())
}

pub(super) async fn bulk(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let before = Usage::now(bench.place).await?;
    let began = Instant::now();
    fill(bench, bench.tasks).await?;
    let took = began.elapsed();
    let host = before.host_since();
    let after = Usage::now(bench.place).await?;
    bench.report.add(Figure::EnqueueBulk, rate(bench.tasks, took));
    bench.report.add(Figure::EnqueueHostCpu, each(bench.tasks, host));
    if let Some(server) = before.server_until(&after) {
        bench.report.add(Figure::EnqueueServerCpu, each(bench.tasks, server));
    }
    if let Some(memory) = before.memory_until(&after) {
        bench.report.add(Figure::WaitingMemory, per(memory, bench.tasks));
    }
    Ok(())
}

/// Enqueues so many; the next batch is made while the broker takes the last one.
pub(super) async fn fill(bench: &Bench<'_>, count: usize) -> Result<(), Failure> {
    let make = |from: usize| -> Vec<NewTask> { (from..count.min(from + BATCH)).map(|number| bench.task(number)).collect() };
    stream(&bench.place.broker(), count, make).await
}

/// Two batches under way at once: one is written while the broker answers the other.
pub(super) async fn stream(broker: &Arc<dyn Broker>, count: usize, make: impl Fn(usize) -> Vec<NewTask>) -> Result<(), Failure> {
    let lane = async |first: usize| -> Result<(), Failure> {
        for from in (first..count).step_by(2 * BATCH) {
            broker.enqueue(&make(from)).await?;
        }
        Ok(())
    };
    tokio::try_join!(lane(0), lane(BATCH))?;
    Ok(())
}

/// So much each.
#[expect(clippy::cast_precision_loss, reason = "bytes of a server's memory are far below 2^52")]
pub(super) fn per(sum: u64, count: usize) -> f64 {
    sum as f64 / count as f64
}
