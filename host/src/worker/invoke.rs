//! The seam to the engine: [`Invoke`] runs one attempt of an offer. Tests put a script in the engine's place.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::offers::Offer;
use crate::engine::{About, Attempted, Call, Engine, Services};
use taskhost_core::task::{Outcome, TaskName};

/// Runs attempts: the engine, or a script in its place.
#[async_trait]
pub trait Invoke: Send + Sync + 'static {
    /// Runs one attempt. Dropping the future stops it.
    async fn invoke(&self, work: Work) -> Attempted;
    /// How many attempts want CPU now.
    fn runnable(&self) -> usize;
    /// The runtime of the attempts; `None` for the worker's own.
    fn runtime(&self) -> Option<tokio::runtime::Handle> {
        None
    }
}

/// One attempt to run.
pub struct Work {
    pub offer: Arc<Offer>,
    /// The body's name.
    pub body: TaskName,
    /// A JSON array.
    pub args: String,
    pub about: About,
    pub timeout: Duration,
    /// Set when somebody cancelled the task, or its lease was lost. The body then has `grace` to return.
    pub cancelled: CancellationToken,
    pub grace: Duration,
    pub services: Arc<dyn Services>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("body", &self.body).field("about", &self.about).finish_non_exhaustive()
    }
}

#[async_trait]
impl Invoke for Arc<Engine> {
    async fn invoke(&self, work: Work) -> Attempted {
        let Some(terms) = work.offer.terms.clone() else {
            let reason = format!("an offer of `{}` without code: please report it", work.body);
            return Attempted::unrun(Outcome::HostFault { reason, delay: Duration::from_secs(5) });
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
