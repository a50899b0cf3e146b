//! The quantities that grow in the growth figures.

/// A quantity that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grown {
    /// Tasks that wait beside those that are claimed and finished.
    Waiting,
    /// The same, how long a claim of one task takes, and one of many.
    Claim,
    ClaimMany,
    /// Ended tasks that are kept.
    Ended,
    /// The same, how long the slowest hundredth of claims takes.
    ClaimEnded,
    /// Seconds for which a result is kept, while as many go as come: the slowest hundredth of claims.
    Kept,
    Queues,
    Workers,
    Plugins,
    Payload,
}

impl Grown {
    pub(crate) const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Claim,
        Self::ClaimMany,
        Self::Ended,
        Self::ClaimEnded,
        Self::Kept,
        Self::Queues,
        Self::Workers,
        Self::Plugins,
        Self::Payload,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Waiting => "claim and finish, by waiting tasks",
            Self::Claim => "claim of one, by waiting tasks",
            Self::ClaimMany => "claim of 64, by waiting tasks",
            Self::Ended => "claim and finish, by ended tasks",
            Self::ClaimEnded => "claim of 64 (p99), by ended tasks",
            Self::Kept => "claim of 64 (p99), by seconds a result is kept",
            Self::Queues => "drain, by queues",
            Self::Workers => "drain, by workers",
            Self::Plugins => "drain, by plugins",
            Self::Payload => "drain, by bytes of payload",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        if matches!(self, Self::Claim | Self::ClaimMany | Self::ClaimEnded | Self::Kept) { "µs" } else { "tasks/s" }
    }
}
