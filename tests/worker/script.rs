//! A worker on a script: the test plays the bodies, everything else is real.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use taskhost::{
    engine::Attempted,
    worker::{self, Invoke, Offer, Offers, Stop, Summary, Work, WorkerSettings},
};
use taskhost_broker::Broker;
use taskhost_core::{
    catalogue::Hints,
    task::{CodeId, ErrorKind, NewTask, Outcome, TaskError, TaskName},
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::support::{add, queue, task_id, task_name, wait_until};

/// Runs bodies by name: `add`, `fail`, `gate` (until the test opens it or it is cancelled), `deaf` (until opened, never
/// cancelled), `long` (a result of 4 KiB), `panic` (in the host), `kv` (counts and says its progress, then as `gate`), `parent` (its child
/// `add` goes to the queue `other`).
#[derive(Debug, Default)]
pub(super) struct Script {
    /// Name and attempt of everything that began, in order.
    pub(super) begun: Mutex<Vec<(String, u32)>>,
    /// For each body that began: the number of running bodies at that time, including itself.
    pub(super) beside: Mutex<Vec<usize>>,
    running: Mutex<HashMap<String, usize>>,
    pub(super) most: Mutex<HashMap<String, usize>>,
    pub(super) cancelled: AtomicUsize,
    pub(super) gate: Gate,
}

#[derive(Debug)]
pub(super) struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Gate {
    /// Lets `count` bodies through.
    pub(super) fn open(&self, count: usize) {
        self.0.add_permits(count);
    }

    async fn pass(&self) {
        self.0.acquire().await.expect("never closed").forget();
    }
}

impl Script {
    pub(super) fn begun(&self, name: &str) -> usize {
        self.begun.lock().expect("not poisoned").iter().filter(|(begun, _)| begun == name).count()
    }

    pub(super) fn running(&self, name: &str) -> usize {
        self.running.lock().expect("not poisoned").get(name).copied().unwrap_or(0)
    }

    pub(super) fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(super) async fn until_running(&self, name: &str, count: usize) {
        wait_until(crate::support::SOON, &format!("{count} of `{name}` run"), async || self.running(name) == count).await;
    }

    async fn play(&self, work: &Work) -> Outcome {
        match work.body.as_str() {
            "add" => {
                let numbers: Vec<i64> = serde_json::from_str(&work.args).expect("two numbers");
                done(&numbers.iter().sum::<i64>().to_string())
            }
            "fail" => failed(ErrorKind::Retry, "try again"),
            "long" => done(&format!("\"{}\"", "x".repeat(4096))),
            "parent" => {
                let id = task_id(&format!("{}.child", work.about.task_id));
                let child = NewTask { id, queue: queue("other"), ..add() };
                Outcome::Done { result: "null".into(), children: vec![child] }
            }
            "panic" => panic!("the host's own fault"),
            "deaf" => {
                self.gate.pass().await;
                done("null")
            }
            name => {
                if name == "kv" {
                    let sum = work.services.kv_increment("runs", 2).await.expect("the broker is there");
                    work.services.progress(taskhost_core::task::Progress {
                        done: sum.unsigned_abs(),
                        total: Some(10),
                        note: "half".into(),
                    });
                }
                tokio::select! {
                    () = self.gate.pass() => done("null"),
                    () = work.cancelled.cancelled() => {
                        self.cancelled.fetch_add(1, Ordering::SeqCst);
                        failed(ErrorKind::Cancelled, "cancelled")
                    }
                }
            }
        }
    }
}

fn done(result: &str) -> Outcome {
    Outcome::Done { result: result.into(), children: Vec::new() }
}

fn failed(kind: ErrorKind, message: &str) -> Outcome {
    Outcome::Failed { error: TaskError::new(kind, message), after: None }
}

/// Counts a body as running until it is dropped.
struct Runs<'a>(&'a Script, String);

impl<'a> Runs<'a> {
    fn new(script: &'a Script, work: &Work) -> Self {
        let name = work.body.to_string();
        script.begun.lock().expect("not poisoned").push((name.clone(), work.about.attempt));
        let mut running = script.running.lock().expect("not poisoned");
        let now = running.entry(name.clone()).or_default();
        *now += 1;
        let mut most = script.most.lock().expect("not poisoned");
        let most = most.entry(name.clone()).or_default();
        *most = (*most).max(*now);
        script.beside.lock().expect("not poisoned").push(running.values().sum());
        Self(script, name)
    }
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        if let Some(now) = self.0.running.lock().expect("not poisoned").get_mut(&self.1) {
            *now -= 1;
        }
    }
}

/// The memory that every attempt reports.
pub(super) const MEMORY: u64 = 64 << 10;

/// The script in the engine's place.
#[derive(Debug, Clone)]
pub(super) struct Scripted(pub(super) Arc<Script>);

#[async_trait]
impl Invoke for Scripted {
    async fn invoke(&self, work: Work) -> Attempted {
        let _runs = Runs::new(&self.0, &work);
        let outcome = self.0.play(&work).await;
        let (ran, cpu) = (Duration::from_millis(1), Duration::from_micros(10));
        Attempted { ran, cpu, memory: MEMORY, ..Attempted::unrun(outcome) }
    }

    fn runnable(&self) -> usize {
        0
    }
}

/// A worker that runs beside the test.
pub(super) struct Started {
    pub(super) script: Arc<Script>,
    pub(super) offers: watch::Sender<Arc<Offers>>,
    pub(super) stop: Stop,
    worker: JoinHandle<Result<Summary, worker::WorkerError>>,
}

impl Started {
    /// Stops it by the first signal and waits for its end.
    pub(super) async fn drain(self) -> Summary {
        self.stop.drain.cancel();
        self.worker.await.expect("it does not panic").expect("it was set up right")
    }

    /// Waits until it ends by itself.
    pub(super) async fn ended(self) -> Result<Summary, worker::WorkerError> {
        tokio::time::timeout(crate::support::SOON, self.worker).await.expect("it ends by itself").expect("it does not panic")
    }

    /// Stops it by both signals.
    pub(super) async fn stop(self) -> Summary {
        self.stop.now.cancel();
        self.drain().await
    }
}

/// Settings that make a test quick: retries after a millisecond, a short grace time.
pub(super) fn settings() -> WorkerSettings {
    let mut settings = WorkerSettings::new(worker::worker_id());
    settings.cores = 4;
    settings.concurrency = 16;
    settings.grace = Duration::from_millis(50);
    settings.retry.backoff.base = Duration::from_millis(1);
    settings
}

/// Starts a worker that offers `names`.
pub(super) fn start(broker: Arc<dyn Broker>, settings: WorkerSettings, names: &[&str]) -> Started {
    let script = Arc::new(Script::default());
    let (offers, receiver) = watch::channel(Arc::new(offering(names)));
    let stop = Stop::default();
    let worker = tokio::spawn(worker::run_with(settings, broker, Arc::new(Scripted(script.clone())), receiver, stop.clone()));
    Started { script, offers, stop, worker }
}

/// One plugin for each name. `name*2` sets its concurrency to 2.
pub(super) fn offering(names: &[&str]) -> Offers {
    let offer = |name: &&str| -> (TaskName, Arc<Offer>) {
        let (name, most) = name.split_once('*').map_or((*name, None), |(name, most)| (name, most.parse().ok()));
        let offer = Offer {
            code: CodeId { plugin: format!("plugin-{}", name.to_lowercase()), version: "1".into(), digest: "ab".repeat(32) }.into(),
            hints: Hints::default(),
            timeout: Duration::from_secs(60),
            ceiling: None,
            concurrency: most,
            terms: None,
            tally: None,
        };
        (task_name(name), Arc::new(offer))
    };
    Offers { bodies: names.iter().map(offer).collect(), files: Vec::new() }
}
