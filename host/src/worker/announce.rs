//! The loop that announces this worker: its queues, its plugins and what it runs.
//!
//! It announces every 5 s, and at once when the plugins change or the broker may have forgotten this worker. A worker that stops is taken
//! from the lists.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    offers::Offers,
    queue::Queues,
    services::ServiceDesk,
    settings::{WorkerSettings, host_name},
    stop::Stop,
};
use taskhost_broker::WorkerInfo;
use taskhost_core::{
    catalogue::PluginStatus,
    task::{Clock, Millis, SystemClock},
};

const EVERY: Duration = Duration::from_secs(5);
/// The most running attempts that are listed.
const LISTED: usize = 200;
const RETIRE: Duration = Duration::from_secs(2);

pub(super) struct Announcement {
    pub(super) settings: Arc<WorkerSettings>,
    pub(super) started_at: Millis,
    pub(super) connection: Arc<Connection>,
    pub(super) queues: Arc<Queues>,
    pub(super) offers: watch::Receiver<Arc<Offers>>,
    /// Announce at once.
    pub(super) now: Arc<Notify>,
    pub(super) draining: CancellationToken,
    pub(super) stop: Stop,
    pub(super) desk: Arc<ServiceDesk>,
}

impl Announcement {
    /// Announces until `end`, then retires.
    pub(super) async fn run(self, end: CancellationToken) {
        let mut offers = self.offers.clone();
        let mut plugins_live = true;
        let mut gone_back = self.gone_back();
        loop {
            tokio::select! {
                () = self.connection.up() => {}
                () = end.cancelled() => break,
            }
            match self.connection.broker.announce(&self.info(), 3 * EVERY).await {
                Ok(false) => {}
                Ok(true) if self.stop.drain.is_cancelled() => {}
                Ok(true) => {
                    tracing::info!(worker = %self.settings.id, "an operator asked this worker to drain and end");
                    self.stop.drain.cancel();
                }
                Err(error) => {
                    self.connection.failed(&error);
                    tracing::debug!(%error, "could not announce; later");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY.mul_f64(0.9 + fastrand::f64() / 5.0)) => {}
                changed = offers.changed(), if plugins_live => {
                    plugins_live = changed.is_ok();
                    self.tell_who_went_back(&mut gone_back);
                }
                () = self.now.notified() => {}
                () = end.cancelled() => break,
            }
        }
        let retired = timeout(RETIRE, self.connection.broker.retire(&self.settings.id)).await;
        if !matches!(retired, Ok(Ok(()))) {
            tracing::debug!(worker = %self.settings.id, "could not retire: it is gone from the lists in {} s", 3 * EVERY.as_secs());
        }
    }

    /// The plugins that went back, each with the code that serves.
    fn gone_back(&self) -> BTreeSet<(String, String)> {
        let offers = self.offers.borrow();
        let gone = offers.files.iter().filter(|info| info.status == PluginStatus::RolledBack);
        gone.filter_map(|info| Some((info.file.clone(), info.serving.as_ref()?.digest.clone()))).collect()
    }

    /// Tells hooks of plugins that have gone back since the last look.
    fn tell_who_went_back(&self, known: &mut BTreeSet<(String, String)>) {
        let now = self.gone_back();
        for (file, _) in now.difference(known) {
            let info = self.offers.borrow().files.iter().find(|info| info.file == *file).cloned();
            let told = info.map(|info| self.settings.hooks.rolled_back(&info, SystemClock.now()));
            self.desk.enqueue_soon(told.unwrap_or_default());
        }
        *known = now;
    }

    fn info(&self) -> WorkerInfo {
        let settings = &self.settings;
        WorkerInfo {
            id: settings.id.to_string(),
            host: host_name(),
            pid: std::process::id(),
            started_at: self.started_at,
            queues: self.queues.iter().map(|queue| queue.name.clone()).collect(),
            concurrency: settings.concurrency,
            running: self.queues.running(LISTED),
            draining: self.draining.is_cancelled(),
            plugins: self.offers.borrow().files.clone(),
            schedules: Some(settings.schedules.clone()),
        }
    }
}
