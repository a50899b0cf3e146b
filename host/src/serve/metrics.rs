//! What is counted in this process, for `/metrics`.

use std::sync::Arc;

use crate::telemetry::metrics::{HttpMetrics, WorkerMetrics};

/// What is counted in this process.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) worker: Option<Arc<WorkerMetrics>>,
    pub(super) http: Arc<HttpMetrics>,
}

impl Metrics {
    pub(super) fn new(worker: Option<Arc<WorkerMetrics>>) -> Self {
        Self { worker, http: Arc::default() }
    }
}
