//! The ceilings of the machine, measured in the same run: bare SETs, claims and finishes without bodies, and isolated calls without a broker. Other
//! figures are shares of these, because machines and days differ.

use std::{sync::Arc, time::Instant};

use taskhost_broker::{Finish, LeaseReply, Leased};
use taskhost_core::task::Verdict;

use crate::{
    enqueue,
    error::BenchError,
    figure::Figure,
    place::Place,
    setup::Bench,
    stats::{each, rate},
    usage::Usage,
};

/// Tasks of one claim, and of one finish.
const BATCH: usize = 256;
/// Claim loops at once. While one waits for the broker, the other one prepares.
const LOOPS: usize = 2;
/// Round trips are slow, so there are only this many for each task of a drain.
const SHARE: usize = 20;
/// Calls under way at once for each thread.
const DEEP: usize = 16;

/// A bare `SET` of a task's arguments on an open connection, if there is a server.
pub(crate) async fn round_trips(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let Place::Redis { broker, .. } = bench.place else { return Ok(()) };
    let count = (bench.options.tasks / SHARE).max(100);
    let began = Instant::now();
    for number in 0..count {
        broker.set(&format!("[{number},1]")).await?;
    }
    bench.report.add(Figure::RoundTrips, rate(count, began.elapsed()));
    Ok(())
}

/// The steps of a worker at the broker, with nothing between claim and finish.
pub(crate) async fn broker(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    enqueue::fill(bench, bench.options.tasks).await?;
    let before = Usage::now(bench.place).await?;
    let began = Instant::now();
    let mut loops = Vec::new();
    for _ in 0..LOOPS {
        loops.push(claim_and_finish(bench));
    }
    let done: usize = futures_util::future::try_join_all(loops).await?.into_iter().sum();
    let took = began.elapsed();
    let after = Usage::now(bench.place).await?;
    bench.report.add(Figure::BrokerCeiling, rate(done, took));
    if let Some(server) = before.server_until(&after) {
        bench.report.add(Figure::BrokerCeilingCpu, each(done, server));
    }
    bench.place.clear().await
}

async fn claim_and_finish(bench: &Bench<'_>) -> Result<usize, BenchError> {
    let broker = bench.place.again().await?;
    let lease = bench.options.lease;
    let who = broker.register(&bench.queue, lease).await?;
    let mut done = 0;
    loop {
        let LeaseReply::Held(claimed) = broker.claim(&who, lease, BATCH, &[]).await? else {
            return Err(BenchError::Failed("the broker was too slow to keep a lease: see how busy it is".to_owned()));
        };
        if claimed.tasks.is_empty() {
            break;
        }
        let finishes = finished(bench, claimed.tasks);
        done += broker.finish(&who, &finishes).await?.len();
    }
    broker.leave(&who).await?;
    Ok(done)
}

/// Finishes for claimed tasks, like those of a worker.
pub(crate) fn finished(bench: &Bench<'_>, claimed: Vec<Leased>) -> Vec<Finish> {
    let worker: Arc<str> = "bench".into();
    let code = Arc::new(bench.subject.code());
    let finish = |leased: Leased| Finish {
        member: leased.member,
        verdict: Verdict::Succeed { result: "2".to_owned() },
        follows: Vec::new(),
        code: Some(code.clone()),
        worker: worker.clone(),
        ran_ms: 0,
        log: String::new(),
    };
    claimed.into_iter().map(finish).collect()
}

/// Fresh instances of the body, one after the other on each thread.
pub(crate) async fn engine(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let lanes = DEEP * bench.options.threads;
    let each_lane = bench.options.tasks.div_ceil(lanes);
    let before = Usage::now(bench.place).await?;
    let began = Instant::now();
    bench.subject.call(lanes, each_lane).await?;
    bench.report.add(Figure::EngineCeiling, rate(each_lane * lanes, began.elapsed()));
    bench.report.add(Figure::EngineCpu, each(each_lane * lanes, before.host_since()));
    Ok(())
}
