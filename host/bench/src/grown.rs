//! The quantities that grow in the growth figures.

/// A quantity that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grown {
    /// Tasks that wait beside those that are claimed and finished.
    Waiting,
    /// The same, how long a claim of one task takes, and one of many.
    Claim,
    ClaimMany,
    Queues,
    Workers,
    Plugins,
    Payload,
}

impl Grown {
    pub(crate) const ALL: [Self; 7] =
        [Self::Waiting, Self::Claim, Self::ClaimMany, Self::Queues, Self::Workers, Self::Plugins, Self::Payload];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Waiting => "claim and finish, by waiting tasks",
            Self::Claim => "claim of one, by waiting tasks",
            Self::ClaimMany => "claim of 64, by waiting tasks",
            Self::Queues => "drain, by queues",
            Self::Workers => "drain, by workers",
            Self::Plugins => "drain, by plugins",
            Self::Payload => "drain, by bytes of payload",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        if matches!(self, Self::Claim | Self::ClaimMany) { "µs" } else { "tasks/s" }
    }
}
