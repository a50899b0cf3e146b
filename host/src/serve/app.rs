//! What all requests share.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use taskhost_core::task::{QueueName, TaskId, TaskView};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    access::Access,
    browser::Browsers,
    cursor::CursorKey,
    looks::Looks,
    metrics::Metrics,
    pages::Undos,
    problem::{self, Problem},
    pulse::Pulse,
};
use crate::{
    config::Settings,
    ops::{Ops, OpsError, Producer},
    telemetry::{metrics::WorkerMetrics, traces::Traces},
};

/// What all requests share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) browsers: Browsers,
    pub(super) cursors: CursorKey,
    pub(super) metrics: Metrics,
    pub(super) pulse: Pulse,
    pub(super) looks: Looks,
    pub(super) undos: Undos,
    pub(super) traces: Option<Arc<Traces>>,
    /// What goes on beside a request, such as reading the rest of its body.
    pub(super) tasks: TaskTracker,
    connected: OnceLock<Connected>,
    answered: Mutex<Option<Instant>>,
    /// Cancelled when requests should go elsewhere.
    pub(super) drain: CancellationToken,
}

/// What is observed in this process.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// What the worker of this process counts.
    pub metrics: Option<Arc<WorkerMetrics>>,
    pub traces: Option<Arc<Traces>>,
}

/// What can be done with a broker.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) ops: Ops,
    pub(super) producer: Producer,
}

/// The broker is taken for well if it answered within this time.
const WELL: Duration = Duration::from_secs(5);

impl App {
    pub(super) fn new(settings: Settings, told: Observed, drain: CancellationToken) -> Self {
        let access = Access::new(&settings.http.tokens);
        Self {
            browsers: Browsers::new(settings.http.origins.clone(), access.is_open()),
            cursors: CursorKey::new(&settings.http.tokens),
            access,
            metrics: Metrics::new(told.metrics),
            pulse: Pulse::default(),
            looks: Looks::default(),
            undos: Undos::default(),
            traces: told.traces,
            tasks: TaskTracker::new(),
            connected: OnceLock::new(),
            answered: Mutex::new(None),
            drain,
            settings,
        }
    }

    /// A link to a path of this server, as the browser must write it.
    pub(super) fn href(&self, path: &str) -> String {
        let base = &self.settings.http.base;
        if path == "/" && !base.is_empty() { base.clone() } else { format!("{base}{path}") }
    }

    pub(super) fn connect(&self, ops: Ops, producer: Producer) {
        self.broker_answered();
        _ = self.connected.set(Connected { ops, producer });
    }

    /// The broker, once it has answered.
    pub(super) fn connected(&self) -> Result<&Connected, Problem> {
        let away = || Problem::new(&problem::UNAVAILABLE, "this server has not reached its broker yet; its log says why").retry_after(2);
        self.connected.get().ok_or_else(away)
    }

    pub(super) fn ops(&self) -> Result<&Ops, Problem> {
        Ok(&self.connected()?.ops)
    }

    /// The task at its end, or as it is after `limit`, or when this server stops.
    pub(super) async fn await_end(&self, ops: &Ops, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<TaskView, OpsError> {
        tokio::select! {
            ended = ops.await_end(queue, id, limit) => ended,
            () = self.drain.cancelled() => ops.task(queue, id).await,
        }
    }

    pub(super) fn broker_answered(&self) {
        *self.answered.lock() = Some(Instant::now());
    }

    /// Why requests should go elsewhere; `None`: they are welcome.
    pub(super) fn unready(&self) -> Option<&'static str> {
        if self.drain.is_cancelled() {
            return Some("this server is stopping");
        }
        if self.connected.get().is_none() {
            return Some("this server has not reached its broker yet");
        }
        let is_well = self.answered.lock().is_some_and(|at| at.elapsed() < WELL);
        (!is_well).then_some("the broker has not answered for 5 seconds")
    }
}
