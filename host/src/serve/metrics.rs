//! What is counted in this process, for `/metrics`.

use std::{sync::Arc, time::Instant};

use tokio::sync::Mutex;

use crate::telemetry::metrics::{HttpMetrics, WorkerMetrics};

/// What is counted in this process, and the last answer.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) worker: Option<Arc<WorkerMetrics>>,
    pub(super) http: Arc<HttpMetrics>,
    pub(super) last: Mutex<Option<(Instant, String)>>,
}

impl Metrics {
    pub(super) fn new(worker: Option<Arc<WorkerMetrics>>) -> Self {
        Self { worker, http: Arc::default(), last: Mutex::new(None) }
    }
}
