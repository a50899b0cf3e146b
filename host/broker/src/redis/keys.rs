//! The names of keys and channels. Only this file builds them; docs/protocol.md describes their contents.
//!
//! The keys of a queue begin with `th:{Q}:`, which is one hash tag and so one slot of a cluster. Keys of no queue begin with `th:{_}:`.
//! Scripts get the queue's prefix and add the rest themselves.

use crate::error::{BrokerError, Result};
use taskhost_core::task::{QueueName, TaskId};

/// A checked prefix: it can't break the hash tag or the pattern of a subscription.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Result<Self> {
        let fits = (1..=64).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b));
        if fits {
            Ok(Self { prefix: prefix.to_owned() })
        } else {
            Err(BrokerError::Misconfigured(format!("a key prefix has 1 to 64 characters of A-Z a-z 0-9 _ . : -: `{prefix}`")))
        }
    }

    /// `th:{Q}:`
    pub(super) fn queue(&self, queue: &QueueName) -> String {
        format!("{}:{{{queue}}}:", self.prefix)
    }

    pub(super) fn task(&self, queue: &QueueName, id: &TaskId) -> String {
        format!("{}t:{id}", self.queue(queue))
    }

    pub(super) fn log(&self, queue: &QueueName, id: &TaskId) -> String {
        format!("{}log:{id}", self.queue(queue))
    }

    /// The channel of one task's end.
    pub(super) fn done(&self, queue: &QueueName, id: &TaskId) -> String {
        format!("{}done:{id}", self.queue(queue))
    }

    /// A key of the queue with a fixed name, such as `ready`.
    pub(super) fn of(&self, queue: &QueueName, name: &str) -> String {
        format!("{}{name}", self.queue(queue))
    }

    pub(super) fn schedule(&self, queue: &QueueName, name: &str) -> String {
        format!("{}schedule:{name}", self.queue(queue))
    }

    /// The channel of cancels: `<queue> <id>` each.
    pub(super) fn control(&self) -> String {
        format!("{}:control", self.prefix)
    }

    /// A key of no queue: `queues`, `catalogue`, `workers`, `schedules`, `schema`.
    pub(super) fn shared(&self, name: &str) -> String {
        format!("{}:{{_}}:{name}", self.prefix)
    }

    /// `th:{kv:PLUGIN}:`
    pub(super) fn kv(&self, plugin: &str) -> String {
        format!("{}:{{kv:{plugin}}}:", self.prefix)
    }
}
