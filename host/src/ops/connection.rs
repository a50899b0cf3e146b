//! The connection that use cases share.

use std::sync::Arc;

use taskhost_broker::{Broker, Health, connect};
use taskhost_core::{catalogue::Catalogue, task::Millis};

use super::error::OpsError;
use crate::config::Settings;

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
