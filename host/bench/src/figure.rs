//! The figures: the name of each, its unit, and the figure that is its ceiling.

use crate::grown::Grown;

/// The figures, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    RoundTrips,
    BrokerCeiling,
    BrokerCeilingCpu,
    EngineCeiling,
    EngineCpu,
    EnqueueSingle,
    EnqueueBulk,
    EnqueueHostCpu,
    EnqueueServerCpu,
    WaitingMemory,
    Drain(usize),
    DrainDefault,
    HostCpu,
    ServerCpu,
    FinishedMemory,
    Resident,
    EndToEnd,
    Idle50,
    Idle95,
    Idle99,
    IdleCpu,
    IdleCommands,
    IdleResident,
    Late50,
    Late99,
    ColdStart,
    WarmStart,
    HttpCeiling,
    HttpEnqueue,
    HttpEnqueue99,
    HttpEnqueueOne50,
    HttpBulk,
    HttpWaitingMemory,
    HttpStreamsMemory,
    HttpTasksPage,
    LookingCpu,
    UnwatchedDrain,
    WatchedDrain,
    FlowPlainDrain,
    FlowChord,
    FlowMembers,
    FlowEdges,
    FlowEdgeIdle,
    Growth(Grown, usize),
}

impl Figure {
    #[expect(clippy::match_same_arms, reason = "the same words stand under several headings, in the order of the report")]
    pub(crate) fn name(self) -> String {
        match self {
            Self::RoundTrips => "ceiling: one SET after the other",
            Self::BrokerCeiling => "ceiling: claim and finish, nothing run",
            Self::BrokerCeilingCpu => "  CPU of the server, a task",
            Self::EngineCeiling => "ceiling: isolated calls, no broker",
            Self::EngineCpu => "  CPU of this process, a call",
            Self::EnqueueSingle => "enqueue, one by one",
            Self::EnqueueBulk => "enqueue, in bulk",
            Self::EnqueueHostCpu => "  CPU of this process, a task",
            Self::EnqueueServerCpu => "  CPU of the server, a task",
            Self::WaitingMemory => "  memory of a waiting task",
            Self::Drain(slots) => return format!("drain, {slots} {}", if slots == 1 { "slot" } else { "slots" }),
            Self::DrainDefault => "drain, default slots",
            Self::HostCpu => "  CPU of this process, a task",
            Self::ServerCpu => "  CPU of the server, a task",
            Self::FinishedMemory => "  memory of a finished task",
            Self::Resident => "  memory of this process",
            Self::EndToEnd => "end to end, producer and worker at once",
            Self::Idle50 => "idle: enqueue to result, p50",
            Self::Idle95 => "idle: enqueue to result, p95",
            Self::Idle99 => "idle: enqueue to result, p99",
            Self::IdleCpu => "idle: CPU of a worker",
            Self::IdleCommands => "idle: commands to the server",
            Self::IdleResident => "idle: memory of this process",
            Self::Late50 => "delayed: started late by, p50",
            Self::Late99 => "delayed: started late by, p99",
            Self::ColdStart => "start to first result, nothing compiled",
            Self::WarmStart => "start to first result, compiled before",
            Self::HttpCeiling => "ceiling: HTTP, 64 connections, nothing asked",
            Self::HttpEnqueue => "HTTP: enqueue, 64 connections",
            Self::HttpEnqueue99 => "  time of a request, p99",
            Self::HttpEnqueueOne50 => "HTTP: enqueue, one connection, p50",
            Self::HttpBulk => "HTTP: enqueue, lines in bulk",
            Self::HttpWaitingMemory => "HTTP: memory of a request that waits",
            Self::HttpStreamsMemory => "HTTP: memory of 1,000 streams of events",
            Self::HttpTasksPage => "HTTP: the page of tasks, all of a drain ended",
            Self::LookingCpu => "looking: CPU of the server, 10 watchers, 20 queues",
            Self::UnwatchedDrain => "drain, nobody looks",
            Self::WatchedDrain => "drain, 10 watchers",
            Self::FlowPlainDrain => "ceiling: as many tasks without a flow",
            Self::FlowChord => "flow: a chord of 10,000, start to callback",
            Self::FlowMembers => "  its members",
            Self::FlowEdges => "flow: steps of 2,000 chains of 10",
            Self::FlowEdgeIdle => "flow: a step of a chain alone",
            Self::Growth(grown, size) => return format!("{}: {size}", grown.title()),
        }
        .to_owned()
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::RoundTrips | Self::IdleCommands | Self::HttpCeiling => "1/s",
            Self::HttpWaitingMemory => "KiB",
            Self::BrokerCeiling
            | Self::EngineCeiling
            | Self::EnqueueSingle
            | Self::EnqueueBulk
            | Self::Drain(_)
            | Self::DrainDefault
            | Self::EndToEnd
            | Self::UnwatchedDrain
            | Self::WatchedDrain
            | Self::FlowPlainDrain
            | Self::FlowMembers
            | Self::FlowEdges
            | Self::HttpEnqueue
            | Self::HttpBulk => "tasks/s",
            Self::BrokerCeilingCpu | Self::EngineCpu | Self::EnqueueHostCpu | Self::EnqueueServerCpu | Self::HostCpu | Self::ServerCpu => {
                "µs"
            }
            Self::WaitingMemory | Self::FinishedMemory => "B",
            Self::Resident | Self::IdleResident | Self::HttpStreamsMemory => "MiB",
            Self::Growth(grown, _) => grown.unit(),
            Self::IdleCpu | Self::LookingCpu => "% of a core",
            Self::Idle50
            | Self::Idle95
            | Self::Idle99
            | Self::Late50
            | Self::Late99
            | Self::ColdStart
            | Self::WarmStart
            | Self::HttpEnqueue99
            | Self::HttpEnqueueOne50
            | Self::HttpTasksPage
            | Self::FlowChord
            | Self::FlowEdgeIdle => "ms",
        }
    }

    /// The figure that is its ceiling; for a duration, its floor.
    pub(crate) fn ceiling(self) -> Option<Self> {
        match self {
            Self::EnqueueSingle => Some(Self::RoundTrips),
            Self::Drain(_) | Self::DrainDefault | Self::EndToEnd => Some(Self::BrokerCeiling),
            Self::HostCpu => Some(Self::EngineCpu),
            Self::HttpEnqueue => Some(Self::HttpCeiling),
            Self::HttpBulk => Some(Self::EnqueueBulk),
            Self::FlowMembers | Self::FlowEdges => Some(Self::FlowPlainDrain),
            Self::WatchedDrain => Some(Self::UnwatchedDrain),
            Self::ServerCpu => Some(Self::BrokerCeilingCpu),
            _ => None,
        }
    }
}
