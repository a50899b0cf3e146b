//! Builds tasks and checks their arguments against what the live workers offer.

use std::{sync::Arc, time::Duration};

use taskhost_broker::{Broker, BrokerError, Enqueued};
use taskhost_core::{
    catalogue::{ArgumentsError, Catalogue, Checker, Given, PluginStatus},
    task::{Millis, NewTask, QueueName, Start, TaskName, TaskOptions, Unique},
};

use super::{connection::Ops, error::OpsError};

/// The values of a task whose own request, and whose body's hint, give none.
#[derive(Debug, Default)]
pub struct Defaults {
    pub queue: Option<QueueName>,
    pub start: Start,
    pub expires: Option<Millis>,
    /// The time of the unique key.
    pub unique: Option<Duration>,
    pub options: TaskOptions,
}

/// How arguments are checked. Clones share what they check against.
#[derive(Debug, Clone)]
pub enum Checks {
    /// Against the bodies that live workers offer.
    Against(Arc<Catalogue>),
    No(Unchecked),
}

/// Why arguments are not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unchecked {
    /// The caller wants it so.
    Wanted,
    /// No worker has announced anything yet.
    NothingAnnounced,
    /// A worker has not judged this plugin file yet, so its bodies are missing in the catalogue.
    Loading(String),
}

/// [`Checks`] for many tasks: schemas are compiled once.
#[derive(Debug)]
pub(super) struct ManyChecks {
    checks: Checks,
    checker: Option<Checker>,
}

impl Defaults {
    /// A task with these values. The body's hint, if its arguments are checked, gives the queue where nothing else does.
    pub fn task(&self, name: &TaskName, args: String, checks: &Checks) -> NewTask {
        NewTask {
            queue: self.queue.clone().or_else(|| checks.queue_hint(name)).unwrap_or_default(),
            start: self.start,
            expires: self.expires,
            unique: self.unique.map(|ttl| Unique { key: same(name, &args), ttl }),
            options: self.options.clone(),
            ..NewTask::new(name.clone(), args)
        }
    }
}

/// The default unique key: name and arguments.
pub(super) fn same(name: &TaskName, args: &str) -> String {
    format!("{name} {args}")
}

impl Checks {
    /// The arguments as a compact JSON array.
    pub fn check(&self, name: &TaskName, given: &Given) -> Result<String, ArgumentsError> {
        ManyChecks::new(self).check(name, given)
    }

    /// Whether a body is known to take these arguments.
    pub fn takes(&self, name: &TaskName, given: &Given) -> bool {
        matches!(self, Self::Against(catalogue) if catalogue.check(name, given).is_ok())
    }

    /// Whether a body is known to take no arguments.
    pub fn is_without_arguments(&self, name: &TaskName) -> bool {
        matches!(self, Self::Against(catalogue) if catalogue.offers.get(name).is_some_and(|offer| offer.body.parameters.is_empty()))
    }

    pub(super) fn queue_hint(&self, name: &TaskName) -> Option<QueueName> {
        match self {
            Self::Against(catalogue) => catalogue.offers.get(name)?.body.hints.queue.clone(),
            Self::No(_) => None,
        }
    }
}

impl ManyChecks {
    pub(super) fn new(checks: &Checks) -> Self {
        let checker = match checks {
            Checks::Against(catalogue) => Some(Checker::new(Arc::clone(catalogue))),
            Checks::No(_) => None,
        };
        Self { checks: checks.clone(), checker }
    }

    pub(super) fn checks(&self) -> &Checks {
        &self.checks
    }

    pub(super) fn check(&mut self, name: &TaskName, given: &Given) -> Result<String, ArgumentsError> {
        match &mut self.checker {
            Some(checker) => checker.check(name, given),
            None => given.unchecked(),
        }
    }
}

/// Enqueues tasks together, and answers each. One task that is wrong refuses a whole call, so each is then enqueued by itself to find it. After a
/// failure of the broker the rest is not tried.
pub async fn enqueue_each(broker: &dyn Broker, tasks: &[NewTask]) -> Vec<Result<Enqueued, BrokerError>> {
    match broker.enqueue(tasks).await {
        Ok(enqueued) => return enqueued.into_iter().map(Ok).collect(),
        Err(BrokerError::Invalid(_)) if tasks.len() > 1 => {}
        Err(error) => return vec![Err(error); tasks.len()],
    }
    let mut answers = Vec::new();
    for task in tasks {
        let enqueued =
            broker.enqueue(std::slice::from_ref(task)).await.map(|enqueued| enqueued.into_iter().next().unwrap_or(Enqueued::Added));
        let failed = enqueued.as_ref().err().filter(|error| !matches!(error, BrokerError::Invalid(_))).cloned();
        answers.push(enqueued);
        if let Some(error) = failed {
            answers.resize(tasks.len(), Err(error));
            break;
        }
    }
    answers
}

impl Ops {
    /// How to check the arguments of a task of this `name`, or of any task without one. While a worker loads plugins, a name that nobody
    /// offers may still come.
    pub async fn checks(&self, name: Option<&TaskName>, is_unchecked: bool) -> Result<Checks, OpsError> {
        if is_unchecked {
            return Ok(Checks::No(Unchecked::Wanted));
        }
        let catalogue = self.broker.catalogue().await?;
        if catalogue.offers.is_empty() {
            return Ok(Checks::No(Unchecked::NothingAnnounced));
        }
        if name.is_some_and(|name| catalogue.offers.contains_key(name)) {
            return Ok(Checks::Against(Arc::new(catalogue)));
        }
        let mut plugins = self.broker.workers().await?.into_iter().flat_map(|worker| worker.plugins);
        Ok(match plugins.find(|plugin| plugin.status == PluginStatus::Loading) {
            Some(plugin) => Checks::No(Unchecked::Loading(plugin.file)),
            None => Checks::Against(Arc::new(catalogue)),
        })
    }

    /// Enqueues one task. A duplicate answers with the task that is there.
    pub async fn enqueue(&self, task: &NewTask) -> Result<Enqueued, OpsError> {
        let answers = self.broker.enqueue(std::slice::from_ref(task)).await?;
        Ok(answers.into_iter().next().unwrap_or(Enqueued::Added))
    }
}
