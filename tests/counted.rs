//! The cost of a task for the host, in instructions. `cargo xtask count` runs these two tests under callgrind, with few tasks and with many. The
//! suite runs them with few.
//!
//! A drain is observed as `COUNT_OBSERVED` says: by nobody, by the metrics, or by the traces that the `OTEL_…` variables set up.
//!
//! Invariant: a call is the same work on any machine, but for the turns of a guest at the ticks. The batches of a drain vary. The engine's pool
//! fits into valgrind's address space.

use std::{collections::HashMap, env, path::PathBuf, sync::Arc, time::Duration};

use taskhost::{
    engine::{Engine, EngineSettings},
    plugins::{self, Plugin, Registry},
    telemetry::{metrics::WorkerMetrics, traces::Traces},
    worker::{self, Offers, Stop, WorkerSettings},
};
use taskhost_broker::BrokerSettings;
use taskhost_core::{observe::Observers, retry::RetrySettings, task::NewTask};
use tokio::sync::watch;

use super::engine::support::{call, result, settings};
use crate::support::{Place, RedisServer, named, queue, task_name};

/// Valgrind makes everything some fifty times slower.
const LONG: Duration = Duration::from_secs(900);
/// Attempts at once. Each has three memories, and more do not fit into valgrind's address space.
const SLOTS: usize = 16;

fn tasks() -> usize {
    env::var("COUNT_TASKS").map_or(50, |text| text.parse().expect("COUNT_TASKS is a number"))
}

async fn math() -> (Arc<Engine>, Plugin) {
    let engine = Engine::start(EngineSettings { slots: SLOTS, threads: 1, ..settings() }).expect("the engine starts");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/math.wasm");
    let inspected = plugins::inspect(&path, &engine, None, None, &taskhost::engine::Limits::default()).await;
    (engine, inspected.expect("`cargo xtask plugins` has built math.wasm").plugin)
}

#[tokio::test]
async fn isolated_calls_end() {
    let (engine, math) = math().await;
    for number in 0..tasks() {
        let attempted = engine.invoke(call(&math.code, "add", &format!("[{number},1]"))).await;
        assert_eq!(result(attempted), (number + 1).to_string());
    }
    engine.stop();
}

#[tokio::test]
async fn a_full_queue_is_drained() {
    let server = RedisServer::make().await;
    let broker = server.open(BrokerSettings::default()).await;
    let (engine, math) = math().await;
    let tasks: Vec<NewTask> = (0..tasks()).map(|number| named("add", &format!("[{number},1]"))).collect();
    for some in tasks.chunks(1_000) {
        broker.enqueue(some).await.expect("enqueue");
    }
    let registry = Registry { bodies: HashMap::from([(task_name("add"), Arc::new(math))]), ..Registry::default() };
    let (_plugins, offers) = watch::channel(Arc::new(Offers::of(&registry, &RetrySettings::default())));
    let (observers, traces) = observed();
    let settings = WorkerSettings {
        queues: vec![(queue("default"), 1)],
        concurrency: SLOTS,
        cores: 1,
        lease: LONG,
        observers,
        sampling: traces.as_ref().map(|traces| traces.sampling()),
        ..WorkerSettings::new(worker::worker_id())
    };
    let stop = Stop::default();
    let worker = tokio::spawn(worker::run_with(settings, broker.clone(), Arc::new(engine.clone()), offers, stop.clone()));
    let last = tasks.last().expect("some tasks").id.clone();
    let ended = broker.await_end(Some(&queue("default")), &last, LONG).await.expect("await_end").expect("a known task");
    assert!(ended.state.is_ended(), "{:?}", ended.state);
    stop.drain.cancel();
    let summary = worker.await.expect("no panic").expect("the worker drains");
    assert_eq!(summary.succeeded, tasks.len() as u64);
    if let Some(traces) = traces {
        traces.finish();
    }
    engine.stop();
}

/// The observers of a drain, and the traces among them.
fn observed() -> (Observers, Option<Arc<Traces>>) {
    match env::var("COUNT_OBSERVED").as_deref() {
        Err(_) => (Observers::none(), None),
        Ok("metrics") => (Observers::none().with(Arc::<WorkerMetrics>::default()), None),
        Ok("traces") => {
            let traces = Traces::from_environment().expect("OTEL_… variables that can be used").expect("a collector");
            (Observers::none().with(traces.clone()), Some(traces))
        }
        Ok(other) => panic!("COUNT_OBSERVED is `metrics` or `traces`: `{other}`"),
    }
}
