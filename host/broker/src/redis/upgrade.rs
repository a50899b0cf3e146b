//! The version of the keys' layout, and how a Redis of an older one is taken over.
//!
//! Schema 2 reads everything that schema 1 wrote: a task that ran under it is adopted from its held set, and a result of it expires by
//! itself. But a worker of 0.1 knows neither the claims nor the batches of schema 2. So the first worker of schema 2 waits until the last
//! one of schema 1 has stopped, then writes the new number. From then on a worker of 0.1 refuses to start. Both may enqueue all the time.

use super::{
    driver::RedisBroker,
    values::{count, word},
};
use crate::{
    error::{BrokerError, Result},
    schedule::Schedules,
};
use taskhost_core::task::QueueName;

const SCHEMA: &str = "2";
/// The schema of taskhost 0.1.
const BEFORE: &str = "1";

/// What a Redis of a known schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    Current,
    /// Of schema 1: it can be written and read, but no worker of schema 2 may claim there.
    Before,
}

impl RedisBroker {
    /// Writes the schema's version if there is none, and refuses an unknown version.
    pub(super) async fn agree_on_schema(&self) -> Result<Schema> {
        let key = self.keys.shared("schema");
        let mut set = redis::cmd("SET");
        // GET answers the value that was there before.
        set.arg(&key).arg(SCHEMA).arg("NX").arg("GET");
        // A server that refuses writes for now is judged by its stored version.
        let before = match self.commands.send(&set).await {
            Err(BrokerError::Refused(_)) => self.commands.send(redis::cmd("GET").arg(&key)).await?,
            before => before?,
        };
        match word(before) {
            found if found.is_empty() || found == SCHEMA => Ok(Schema::Current),
            found if found == BEFORE => Ok(Schema::Before),
            found => Err(BrokerError::Misconfigured(format!(
                "Redis at {} is used by another version of taskhost (schema {found}, this one knows {SCHEMA}); \
                 use the same version everywhere, or another key prefix",
                self.target.place(&self.at)
            ))),
        }
    }

    /// Makes sure that the Redis is of this schema before a worker begins. Refuses for now while a worker of schema 1 lives.
    ///
    /// A worker of schema 1 that had read the number before and registers after it changed works on beside this one. What it still holds
    /// when its lease ends is adopted like anything of schema 1.
    pub(super) async fn take_over(&self) -> Result<()> {
        if self.agree_on_schema().await? == Schema::Current {
            return Ok(());
        }
        let now = self.now().await?.0;
        let mut living = Vec::new();
        for queue in self.all_queues().await? {
            // Under schema 1 every registered worker is one of schema 1. After its deadline what it holds is adopted.
            let live = count(&self.commands.send(redis::cmd("ZCOUNT").arg(self.keys.of(&queue, "workers")).arg(now).arg("+inf")).await?);
            if live > 0 {
                living.push((queue, live));
            }
        }
        if !living.is_empty() {
            return Err(BrokerError::Refused(still_served(&self.target.place(&self.at), &living)));
        }
        self.commands.send(redis::cmd("SET").arg(self.keys.shared("schema")).arg(SCHEMA)).await?;
        tracing::info!("Redis at {} held schema {BEFORE} of taskhost 0.1; it is schema {SCHEMA} now", self.target.place(&self.at));
        Ok(())
    }
}

fn still_served(at: &str, living: &[(QueueName, u64)]) -> String {
    let queues: Vec<_> = living.iter().map(|(queue, live)| format!("{live} of queue `{queue}`")).collect();
    format!(
        "workers of taskhost 0.1 still work on Redis at {at} ({}); this one begins when they have stopped: stop them, they end what they run",
        queues.join(", ")
    )
}
