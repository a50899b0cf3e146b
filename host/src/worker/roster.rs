//! What can be run now, by name, and what runs it: the worker's narrow view of the plugins and of the engine.
//!
//! `Registry` → [`Roster`]: one [`Offer`] a body, with its hints at hand. [`Invoke`] makes one attempt of an offer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{About, Attempted, Call, Engine, Services, Terms},
    plugins::{Plugin, Registry, Tally},
};
use taskhost_core::{
    catalogue::{Bound, Hints, PluginInfo},
    retry::RetrySettings,
    task::{CodeId, Outcome, TaskName},
};

/// One body that this worker can start.
#[derive(Debug, Clone)]
pub struct Offer {
    pub code: Arc<CodeId>,
    /// As far as they are followed.
    pub hints: Hints,
    /// The timeout when neither the enqueuer nor a hint names one.
    pub timeout: Duration,
    /// Nobody may ask for more.
    pub ceiling: Option<Duration>,
    /// At most so many attempts of the plugin at once on this worker.
    pub concurrency: Option<usize>,
    /// What the engine runs; an [`Invoke`] that runs something else has no use for it.
    pub terms: Option<Arc<Terms>>,
    /// Where attempts are counted, if the plugin has a guard.
    pub tally: Option<Arc<Tally>>,
}

impl Offer {
    /// How long an attempt may take: the enqueuer's word, else the hint as far as it is followed; never beyond the ceiling.
    pub fn timeout(&self, asked: Option<Duration>) -> Duration {
        let wanted = asked.or_else(|| self.hints.timeout_ms.map(Duration::from_millis)).unwrap_or(self.timeout);
        self.ceiling.map_or(wanted, |ceiling| wanted.min(ceiling))
    }
}

/// What this worker can start now, and every plugin file it sees.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    pub offers: HashMap<TaskName, Arc<Offer>>,
    pub files: Vec<PluginInfo>,
}

impl Roster {
    /// `retry`: this worker's own.
    pub fn of(registry: &Registry, retry: &RetrySettings) -> Self {
        let offer = |(name, plugin): (&TaskName, &Arc<Plugin>)| {
            let body = plugin.description.bodies.iter().find(|body| &body.name == name);
            let (limits, hints) = (&plugin.limits, body.map(|body| body.hints.clone()).unwrap_or_default());
            let timeout = Bound { policy: limits.timeout_ceiling, setting: limits.timeout };
            let retries = Bound { policy: limits.retries, setting: retry.max_attempts.saturating_sub(1) };
            let offer = Offer {
                code: plugin.id.clone().into(),
                hints: hints.settled(timeout, retries),
                timeout: limits.timeout,
                ceiling: limits.timeout_ceiling,
                concurrency: plugin.concurrency,
                terms: Some(plugin.terms().into()),
                tally: plugin.tally.clone(),
            };
            (name.clone(), Arc::new(offer))
        };
        Self { offers: registry.bodies.iter().map(offer).collect(), files: registry.files.clone() }
    }

    pub(super) fn names(&self) -> BTreeSet<TaskName> {
        self.offers.keys().cloned().collect()
    }
}

/// Turns every new registry into a roster, until one of the two is gone.
pub(super) async fn follow(mut registry: watch::Receiver<Arc<Registry>>, retry: RetrySettings, sender: watch::Sender<Arc<Roster>>) {
    loop {
        tokio::select! {
            changed = registry.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
        let roster = Roster::of(&registry.borrow_and_update().clone(), &retry);
        sender.send_replace(Arc::new(roster));
    }
}

/// One attempt to be made.
pub struct Work {
    pub offer: Arc<Offer>,
    /// The body's name.
    pub body: TaskName,
    /// A JSON array.
    pub args: String,
    pub about: About,
    pub timeout: Duration,
    /// Set when somebody cancelled the task or its lease was lost; `grace` runs from then on.
    pub cancelled: CancellationToken,
    pub grace: Duration,
    pub services: Arc<dyn Services>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("body", &self.body).field("about", &self.about).finish_non_exhaustive()
    }
}

/// Makes attempts: the engine, or a script in its place.
#[async_trait]
pub trait Invoke: Send + Sync + 'static {
    /// One attempt; dropping the future stops it.
    async fn invoke(&self, work: Work) -> Attempted;
    /// Attempts that want CPU now.
    fn runnable(&self) -> usize;
    /// Where attempts run; `None`: where the worker does.
    fn runtime(&self) -> Option<tokio::runtime::Handle> {
        None
    }
}

#[async_trait]
impl Invoke for Arc<Engine> {
    async fn invoke(&self, work: Work) -> Attempted {
        let Some(terms) = work.offer.terms.clone() else {
            let reason = format!("an offer of `{}` without code: please report it", work.body);
            return Attempted {
                outcome: Outcome::HostFault { reason, delay: Duration::from_secs(5) },
                log: String::new(),
                ran: Duration::ZERO,
                cpu: Duration::ZERO,
                memory: 0,
            };
        };
        let call = Call {
            terms,
            body: work.body.as_str().to_owned(),
            args: work.args,
            about: work.about,
            timeout: work.timeout,
            cancelled: work.cancelled,
            grace: work.grace,
            services: work.services,
        };
        Engine::invoke(self, call).await
    }

    fn runnable(&self) -> usize {
        Engine::runnable(self)
    }

    fn runtime(&self) -> Option<tokio::runtime::Handle> {
        Some(self.guests())
    }
}
