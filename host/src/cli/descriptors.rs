//! Checks at the start that this process may open enough files for its queues.

use rustix::process::{Resource, getrlimit};

use super::failure::Failure;
use crate::config::{BrokerAddress, Settings};

/// The descriptors of a worker without queues: runtimes, libraries, the broker, plugins under way, log and state.
const BASE: u64 = 64;
/// How many queues of a Redis have a waiting connection each, and how many of the others share one.
const APART: u64 = 128;
const TOGETHER: u64 = 32;
/// The connections of each queue in a cluster of three masters.
const IN_CLUSTER: u64 = 3;

/// Refuses queues that this process could not wait on.
pub(super) fn check(settings: &Settings) -> Result<(), Failure> {
    let queues = settings.queues.len() as u64;
    let wanted = wanted(&settings.broker, queues);
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < wanted => Err(Failure::Usage(format!(
            "{queues} queues want some {wanted} open files, and this process may open {limit}; raise the limit (`ulimit -n {wanted}`, \
             LimitNOFILE= of systemd), or split the queues among workers"
        ))),
        _ => Ok(()),
    }
}

fn wanted(broker: &BrokerAddress, queues: u64) -> u64 {
    let for_queues = match broker {
        BrokerAddress::Sqlite(_) => 0,
        BrokerAddress::Redis(url) if url.is_cluster() => IN_CLUSTER * queues,
        BrokerAddress::Redis(_) => queues.min(APART) + queues.saturating_sub(APART).div_ceil(TOGETHER),
    };
    BASE + for_queues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_queues_want_no_thousand_descriptors_but_in_a_cluster() {
        let redis = |url| BrokerAddress::parse(url).unwrap();
        assert_eq!(wanted(&redis("redis://h"), 1000), 220);
        assert_eq!(wanted(&redis("redis+cluster://h"), 1000), 3064);
    }
}
