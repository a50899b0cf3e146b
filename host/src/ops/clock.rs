//! The broker's time without asking for it each time.

use std::time::{Duration, Instant};

use taskhost_core::task::Millis;

use super::{connection::Ops, error::OpsError};

/// The broker's time as it was read once, continued by our monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct BrokerClock {
    read: Millis,
    at: Instant,
}

impl BrokerClock {
    pub fn now(&self) -> Millis {
        self.after(Duration::ZERO)
    }

    /// The time `span` from now.
    pub fn after(&self, span: Duration) -> Millis {
        self.read.after(self.at.elapsed()).after(span)
    }
}

impl Ops {
    /// Reads the broker's clock.
    pub async fn clock(&self) -> Result<BrokerClock, OpsError> {
        Ok(BrokerClock { read: self.broker.now().await?, at: Instant::now() })
    }
}
