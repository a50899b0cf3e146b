//! The bodies that this worker can start now, by name: its narrow view of the plugins.
//!
//! `Registry` → [`Offers`]: one [`Offer`] for each body, with its hints at hand.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    engine::Terms,
    plugins::{Plugin, Registry, Tally},
};
use taskhost_core::{
    catalogue::{Bound, Hints, PluginInfo},
    retry::RetrySettings,
    task::{CodeId, TaskName},
};

/// The bodies that this worker can start now, and every plugin file that it sees.
#[derive(Debug, Clone, Default)]
pub struct Offers {
    pub bodies: HashMap<TaskName, Arc<Offer>>,
    pub files: Vec<PluginInfo>,
}

/// One body that this worker can start.
#[derive(Debug, Clone)]
pub struct Offer {
    pub code: Arc<CodeId>,
    /// The body's hints, within the bounds of the policy.
    pub hints: Hints,
    /// The timeout when neither the enqueuer nor a hint names one.
    pub timeout: Duration,
    /// No attempt gets a longer timeout.
    pub ceiling: Option<Duration>,
    /// The most attempts of the plugin at once on this worker.
    pub concurrency: Option<usize>,
    /// The code and its limits for the engine. An [`Invoke`](super::Invoke) that runs something else does not need it.
    pub terms: Option<Arc<Terms>>,
    /// Where attempts are counted, if the plugin has a guard.
    pub tally: Option<Arc<Tally>>,
}

impl Offer {
    /// How long an attempt may take: the time that the enqueuer `asked` for, else the hint, else the default; never beyond the ceiling.
    pub fn timeout(&self, asked: Option<Duration>) -> Duration {
        let wanted = asked.or_else(|| self.hints.timeout_ms.map(Duration::from_millis)).unwrap_or(self.timeout);
        self.ceiling.map_or(wanted, |ceiling| wanted.min(ceiling))
    }
}

impl Offers {
    /// `retry` are this worker's own settings: a body's hint for retries is bounded by them.
    pub fn of(registry: &Registry, retry: &RetrySettings) -> Self {
        let offer = |(name, plugin): (&TaskName, &Arc<Plugin>)| {
            let body = plugin.description.bodies.iter().find(|body| &body.name == name);
            let (limits, hints) = (&plugin.limits, body.map(|body| body.hints.clone()).unwrap_or_default());
            let timeout = Bound { policy: limits.timeout_ceiling, setting: limits.timeout };
            let retries = Bound { policy: limits.retries, setting: retry.max_attempts.saturating_sub(1) };
            let offer = Offer {
                code: plugin.id.clone().into(),
                hints: hints.bound(timeout, retries),
                timeout: limits.timeout,
                ceiling: limits.timeout_ceiling,
                concurrency: plugin.concurrency,
                terms: Some(plugin.terms().into()),
                tally: plugin.tally.clone(),
            };
            (name.clone(), Arc::new(offer))
        };
        let with_policy = |info: &PluginInfo| {
            let serving = registry.bodies.values().find(|plugin| plugin.file == info.file);
            let wants = serving.map(|plugin| plugin.wants(&plugin.code.imports())).unwrap_or_default();
            PluginInfo { granted: wants.granted, lacking: wants.lacking, ..info.clone() }
        };
        Self { bodies: registry.bodies.iter().map(offer).collect(), files: registry.files.iter().map(with_policy).collect() }
    }

    pub(super) fn names(&self) -> BTreeSet<TaskName> {
        self.bodies.keys().cloned().collect()
    }
}

/// Turns every new registry into offers, until one end of the two channels is gone.
pub(super) async fn follow(
    mut registry: watch::Receiver<Arc<Registry>>,
    offered: impl Fn(&Registry) -> Arc<Offers>,
    sender: watch::Sender<Arc<Offers>>,
) {
    loop {
        tokio::select! {
            changed = registry.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
        let registry = registry.borrow_and_update().clone();
        sender.send_replace(offered(&registry));
    }
}
