//! What the machine could do at most, in the same run: bare SETs, claims and finishes that run nothing, and isolated
//! calls that nobody claimed. What taskhost does is given as a share of these, because machines vary and so do days.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Bench, Failure, Figure, each, enqueue, place::Place, rate, usage::Usage};
use crate::{
    broker::{Finish, LeaseReply, Leased},
    engine::{About, Call, LogLine, ServiceError, Services},
    task::{Clock, Outcome, Progress, SystemClock, TaskId, Verdict},
};

/// Tasks of one claim, and of one finish.
const BATCH: usize = 256;
/// Claim loops at once: while one is at the broker the other prepares.
const LOOPS: usize = 2;
/// Round trips are slow: so many of them per task of a drain.
const SHARE: usize = 20;
/// Calls under way at once for each thread.
const DEEP: usize = 16;

/// A bare `SET` of what a task's arguments are, on a kept connection; if there is a server.
pub(super) async fn round_trips(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let Place::Redis { broker, .. } = bench.place else { return Ok(()) };
    let count = (bench.tasks / SHARE).max(100);
    let began = Instant::now();
    for number in 0..count {
        broker.set(&format!("[{number},1]")).await?;
    }
    bench.report.add(Figure::RoundTrips, rate(count, began.elapsed()));
    Ok(())
}

/// The same steps at the broker that a worker takes, with nothing between claim and finish.
pub(super) async fn broker(bench: &mut Bench<'_>) -> Result<(), Failure> {
    enqueue::fill(bench, bench.tasks).await?;
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

async fn claim_and_finish(bench: &Bench<'_>) -> Result<usize, Failure> {
    let broker = bench.place.again().await?;
    let lease = bench.settings.lease;
    let who = broker.register(&bench.queue, lease).await?;
    let mut done = 0;
    loop {
        let LeaseReply::Held(claimed) = broker.claim(&who, lease, BATCH, &[]).await? else {
            return Err(Failure::Failed("the broker was too slow to keep a lease: see how busy it is".to_owned()));
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

/// Successes of what was claimed, as a worker would say them.
pub(super) fn finished(bench: &Bench<'_>, claimed: Vec<Leased>) -> Vec<Finish> {
    let worker: Arc<str> = "bench".into();
    let code = Arc::new(bench.plugin.id.clone());
    let finish = |leased: Leased| Finish {
        member: leased.member,
        verdict: Verdict::Succeed { result: "2".to_owned(), children: Vec::new() },
        code: Some(code.clone()),
        worker: worker.clone(),
        ran_ms: 0,
        log: String::new(),
    };
    claimed.into_iter().map(finish).collect()
}

/// Fresh instances of the body, one after the other on every thread.
pub(super) async fn engine(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let lanes = DEEP * bench.settings.threads;
    let each_lane = bench.tasks.div_ceil(lanes);
    let before = Usage::now(bench.place).await?;
    let began = Instant::now();
    let mut calls = JoinSet::new();
    let services: Arc<dyn Services> = Arc::new(Nothing);
    let terms = Arc::new(bench.plugin.terms());
    for _ in 0..lanes {
        let (engine, terms, body, services) = (bench.engine.clone(), terms.clone(), bench.body.clone(), services.clone());
        let queue = bench.queue.clone();
        let lane = async move {
            for number in 0..each_lane {
                let call = Call {
                    terms: terms.clone(),
                    body: body.as_str().to_owned(),
                    args: format!("[{number},1]"),
                    about: About {
                        task_id: TaskId::fresh(),
                        queue: queue.clone(),
                        attempt: 1,
                        max_attempts: 1,
                        enqueued_at: SystemClock.now(),
                        headers: Vec::new(),
                    },
                    timeout: terms.limits.timeout,
                    cancelled: CancellationToken::new(),
                    grace: std::time::Duration::from_secs(1),
                    services: services.clone(),
                };
                match engine.invoke(call).await.outcome {
                    Outcome::Done { .. } => {}
                    Outcome::Failed { error, .. } => return Err(error.to_string()),
                    Outcome::HostFault { reason, .. } => return Err(reason),
                }
            }
            Ok(())
        };
        calls.spawn_on(lane, &bench.engine.guests());
    }
    while let Some(lane) = calls.join_next().await {
        lane.map_err(|error| error.to_string())
            .and_then(|done| done)
            .map_err(|why| Failure::Failed(format!("a call of the benchmark failed: {why}; is this the plugin of the examples?")))?;
    }
    bench.report.add(Figure::EngineCeiling, rate(each_lane * lanes, began.elapsed()));
    bench.report.add(Figure::EngineCpu, each(each_lane * lanes, before.host_since()));
    Ok(())
}

/// A broker that is not there: `add` asks nothing of it.
struct Nothing;

fn nobody<T>() -> Result<T, ServiceError> {
    Err(ServiceError::Unavailable("the benchmark calls this body without a broker".to_owned()))
}

#[async_trait]
impl Services for Nothing {
    async fn kv_get(&self, _key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        nobody()
    }

    async fn kv_set(&self, _key: &str, _value: Vec<u8>) -> Result<(), ServiceError> {
        nobody()
    }

    async fn kv_remove(&self, _key: &str) -> Result<bool, ServiceError> {
        nobody()
    }

    async fn kv_increment(&self, _key: &str, _by: i64) -> Result<i64, ServiceError> {
        nobody()
    }

    async fn kv_keys(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<String>, ServiceError> {
        nobody()
    }

    fn progress(&self, _progress: Progress) {}

    fn log(&self, _line: &LogLine) {}
}
