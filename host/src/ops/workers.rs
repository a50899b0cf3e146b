//! Lists the live workers.

use taskhost_broker::WorkerInfo;

use super::{connection::Ops, error::OpsError};

impl Ops {
    /// The live workers, by id.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, OpsError> {
        let mut workers = self.broker.workers().await?;
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }

    /// Asks a worker to drain and end. It hears of it within some seconds.
    pub async fn ask_to_drain(&self, worker: &str) -> Result<(), OpsError> {
        if self.broker.ask_to_drain(worker).await? { Ok(()) } else { Err(OpsError::NoSuchWorker(worker.to_owned())) }
    }
}
