//! A worker of this very process on a full queue, beside a producer, or idle: the same loops that `taskhost worker` runs.
//!
//! fill → worker on its own plugin → every attempt has ended → drained and gone: only then everything is recorded.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::{Bench, Failure, Figure, each, enqueue, rate, usage};
use crate::{
    engine::{Attempted, Engine},
    plugins::Registry,
    task::Outcome,
    worker::{self, Invoke, Roster, Stop, Summary, Work, WorkerError, WorkerSettings},
};

/// What one drain took.
pub(super) struct Drained {
    count: usize,
    took: Duration,
    host: Duration,
    server: Option<Duration>,
}

impl Drained {
    pub(super) fn rate(&self) -> f64 {
        rate(self.count, self.took)
    }
}

/// Drains `count` tasks on so many slots. The broker is left with their results.
pub(super) async fn full_queue(bench: &Bench<'_>, slots: usize, count: usize) -> Result<Drained, Failure> {
    enqueue::fill(bench, count).await?;
    let before = usage::Usage::now(bench.place).await?;
    let began = Instant::now();
    let attempts = Attempts::new(&bench.engine, count);
    let ((), summary) = beside(bench, slots, &attempts, async {
        attempts.all_ended().await;
        Ok(())
    })
    .await?;
    let (took, host) = (began.elapsed(), before.host_since());
    let after = usage::Usage::now(bench.place).await?;
    attempts.check(count, summary.succeeded)?;
    Ok(Drained { count, took, host, server: before.server_until(&after) })
}

/// With as many slots as a worker has by default, and what a task takes of everything.
pub(super) async fn by_default(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let before = usage::Usage::now(bench.place).await?;
    let drained = full_queue(bench, bench.settings.concurrency, bench.tasks).await?;
    let after = usage::Usage::now(bench.place).await?;
    bench.report.add(Figure::DrainDefault, drained.rate());
    bench.report.add(Figure::HostCpu, each(drained.count, drained.host));
    if let Some(server) = drained.server {
        bench.report.add(Figure::ServerCpu, each(drained.count, server));
    }
    if let Some(memory) = before.memory_until(&after) {
        bench.report.add(Figure::FinishedMemory, enqueue::per(memory, drained.count));
    }
    if let Some(bytes) = usage::resident() {
        bench.report.add(Figure::Resident, enqueue::per(bytes, 1 << 20));
    }
    Ok(())
}

/// A producer with a connection and a thread of its own, and a worker beside it.
pub(super) async fn end_to_end(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let count = bench.tasks;
    let broker = bench.place.again().await?;
    let (body, queue) = (bench.body.clone(), bench.queue.clone());
    let make = move |from: usize| {
        (from..count.min(from + 1_000))
            .map(|number| {
                let mut task = crate::task::NewTask::new(body.clone(), format!("[{number},1]"));
                task.queue = queue.clone();
                task
            })
            .collect()
    };
    let attempts = Attempts::new(&bench.engine, count);
    let began = Instant::now();
    let work = async {
        let producer = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(enqueue::stream(&broker, count, make))
        });
        producer.await.map_err(|error| Failure::Failed(format!("the producer panicked: {error}")))??;
        attempts.all_ended().await;
        Ok(())
    };
    let ((), summary) = beside(bench, bench.settings.concurrency, &attempts, work).await?;
    let took = began.elapsed();
    attempts.check(count, summary.succeeded)?;
    bench.report.add(Figure::EndToEnd, rate(count, took));
    Ok(())
}

/// Runs a worker while `work` is under way, drains it then, and gives what both did.
pub(super) async fn beside<T>(
    bench: &Bench<'_>,
    slots: usize,
    attempts: &Arc<Attempts>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<(T, Summary), Failure> {
    let registry = Registry { bodies: HashMap::from([(bench.body.clone(), bench.plugin.clone())]), ..Registry::default() };
    let (_plugins, roster) = watch::channel(Arc::new(Roster::of(&registry, &bench.settings.retry)));
    let settings = WorkerSettings {
        queues: vec![(bench.queue.clone(), 1)],
        concurrency: slots,
        cores: bench.settings.threads,
        lease: bench.settings.lease,
        retry: bench.settings.retry.clone(),
        ..WorkerSettings::new(worker::worker_id())
    };
    let stop = Stop::default();
    let worker = worker::run_with(settings, bench.place.broker(), attempts.clone(), roster, stop.clone());
    tokio::pin!(worker, work);
    let done = tokio::select! {
        ended = &mut worker => {
            ended.map_err(ended_badly)?;
            return Err(Failure::Failed("the worker stopped by itself: see the log".to_owned()));
        }
        done = &mut work => done,
    };
    stop.drain.cancel();
    let summary = worker.await.map_err(ended_badly)?;
    Ok((done?, summary))
}

pub(super) fn ended_badly(error: WorkerError) -> Failure {
    match error {
        WorkerError::Settings(text) => Failure::Usage(text),
        WorkerError::Broker(error) => error.into(),
        WorkerError::Died(why) => Failure::Failed(why),
    }
}

/// The engine, and a count of the attempts that it ended.
pub(super) struct Attempts {
    engine: Arc<Engine>,
    expected: usize,
    ended: AtomicUsize,
    all: Notify,
    /// Why the first that did not succeed did not.
    failed: Mutex<Option<String>>,
}

impl Attempts {
    pub(super) fn new(engine: &Arc<Engine>, expected: usize) -> Arc<Self> {
        Arc::new(Self { engine: engine.clone(), expected, ended: AtomicUsize::new(0), all: Notify::new(), failed: Mutex::new(None) })
    }

    pub(super) async fn all_ended(&self) {
        self.all.notified().await;
    }

    /// A figure of something that failed is none.
    pub(super) fn check(&self, count: usize, succeeded: u64) -> Result<(), Failure> {
        if let Some(why) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Failure::Failed(format!("a task of the benchmark failed: {why}; is this the plugin of the examples?")));
        }
        if succeeded != count as u64 {
            return Err(Failure::Failed(format!("{count} tasks were enqueued, but {succeeded} recorded: see the log")));
        }
        Ok(())
    }
}

#[async_trait]
impl Invoke for Attempts {
    async fn invoke(&self, work: Work) -> Attempted {
        let attempted = Invoke::invoke(&self.engine, work).await;
        match &attempted.outcome {
            Outcome::Done { .. } => {}
            Outcome::Failed { error, .. } => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.to_string());
            }
            Outcome::HostFault { reason, .. } => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| reason.clone());
            }
        }
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 == self.expected {
            self.all.notify_one();
        }
        attempted
    }

    fn runnable(&self) -> usize {
        Engine::runnable(&self.engine)
    }

    fn runtime(&self) -> Option<tokio::runtime::Handle> {
        Some(self.engine.guests())
    }
}
