//! The connection that use cases share.

use std::{sync::Arc, time::Duration};

use taskhost_broker::{Broker, BrokerError, Health, connect};
use taskhost_core::{backoff::Backoff, catalogue::Catalogue, task::Millis};

use super::error::OpsError;
use crate::config::Settings;

/// The delay before the next try to reach the broker.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// A connection to the broker, and everything that is asked of it. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Ops {
    pub(super) broker: Arc<dyn Broker>,
}

impl Ops {
    /// Connects to the broker of these settings.
    pub async fn connect(settings: &Settings) -> Result<Self, OpsError> {
        Ok(Self { broker: connect(&settings.broker, settings.bounds.clone()).await? })
    }

    /// Connects, and tries again while the broker is away. `tell` hears why, and how long the pause is before the next try.
    pub async fn connect_patiently(settings: &Settings, mut tell: impl FnMut(&BrokerError, Duration)) -> Result<Self, OpsError> {
        let mut failures = 0;
        loop {
            let connected = async {
                let ops = Self::connect(settings).await?;
                let health = ops.health().await?;
                Ok((ops, health))
            };
            let error = match connected.await {
                Ok((ops, health)) => {
                    tracing::info!(broker = health.about, "connected");
                    health.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    return Ok(ops);
                }
                Err(OpsError::Broker(error)) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            let delay = RETRY.delay(failures, fastrand::f64());
            failures += 1;
            tell(&error, delay);
            tokio::time::sleep(delay).await;
        }
    }

    /// The broker itself, for a worker.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The broker's clock, which decides.
    pub async fn now(&self) -> Result<Millis, OpsError> {
        Ok(self.broker.now().await?)
    }

    /// How well the broker is set up.
    pub async fn health(&self) -> Result<Health, OpsError> {
        Ok(self.broker.check().await?)
    }

    /// The bodies that workers offer.
    pub async fn catalogue(&self) -> Result<Catalogue, OpsError> {
        Ok(self.broker.catalogue().await?)
    }
}
