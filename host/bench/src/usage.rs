//! The CPU time and memory of this process and of the broker's server. The difference of two samples is the cost of a part.

use std::{fs, time::Duration};

use taskhost_broker::redis::ServerLoad;

use crate::{error::BenchError, place::Place};

/// One look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    host: Duration,
    /// `None` for SQLite, which works within this process.
    server: Option<ServerLoad>,
}

impl Usage {
    pub(crate) async fn now(place: &Place) -> Result<Self, BenchError> {
        let server = place.load().await?;
        Ok(Self { host: host_cpu(), server })
    }

    /// CPU time of this process since `self`.
    pub(crate) fn host_since(&self) -> Duration {
        host_cpu().saturating_sub(self.host)
    }

    /// CPU time of the server from `self` to `later`.
    pub(crate) fn server_until(&self, later: &Self) -> Option<Duration> {
        Some(later.server?.cpu.saturating_sub(self.server?.cpu))
    }

    /// Commands that the server was sent from `self` to `later`, the look itself not counted.
    pub(crate) fn commands_until(&self, later: &Self) -> Option<u64> {
        Some(later.server?.reads.saturating_sub(self.server?.reads).saturating_sub(1))
    }

    /// Bytes by which the server's data grew from `self` to `later`.
    pub(crate) fn memory_until(&self, later: &Self) -> Option<u64> {
        Some(later.server?.memory.saturating_sub(self.server?.memory))
    }
}

/// CPU time of this process, all its threads.
fn host_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Bytes of memory that this process occupies; `None` where the system has no /proc.
pub(crate) fn resident() -> Option<u64> {
    resident_of(std::process::id())
}

/// The same of any process.
pub(crate) fn resident_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
