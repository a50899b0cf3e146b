//! Bounds and defaults that every driver enforces.

use std::time::Duration;

/// Bounds and defaults that every driver enforces.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Key prefix in Redis (`th`). SQLite does not use it.
    pub prefix: String,
    /// How long a result is kept after the end, unless the task sets its own time.
    pub result_ttl: Duration,
    /// The most bytes of a task's `args` and headers together, and the most bytes of a result.
    pub payload_limit: usize,
    /// The dead set keeps this many tasks, the newest ones.
    pub dead_count: u64,
    /// The dead set keeps no task longer than this.
    pub dead_age: Duration,
    /// A parked task is dead when nobody has offered its name for this time.
    pub unknown_task_ttl: Duration,
    /// Which servers hold a write before it is acknowledged. SQLite has no replicas.
    pub durability: Durability,
}

/// Which servers hold the effect of `enqueue`, `finish` and `relay` before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The master only. Its replicas get the write a moment later, or never if the master dies first.
    #[default]
    Master,
    /// The master and one replica (Redis's WAIT). Nothing acknowledged is lost when that replica is promoted. If no replica answers, the
    /// step fails as `Unavailable`, although it may have happened.
    Replica,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            prefix: "th".into(),
            result_ttl: Duration::from_secs(3600),
            payload_limit: 1 << 20,
            dead_count: 10_000,
            dead_age: Duration::from_secs(30 * 24 * 3600),
            unknown_task_ttl: Duration::from_secs(24 * 3600),
            durability: Durability::Master,
        }
    }
}

/// For this long after its end, a task that the broker itself started (a child, a firing) is known. This holds for a deleted task too,
/// and whatever `result_ttl` says.
pub const STUB: Duration = Duration::from_secs(600);
/// For this long after its end, an awaited task's end is told, and an `enqueue` whose answer was lost may be repeated. This holds
/// whatever `result_ttl` says.
pub const TOLD: Duration = Duration::from_secs(60);
