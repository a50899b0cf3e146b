//! The failure of a command: its sentence on stderr and its exit code.

use std::{io, process::ExitCode};

use taskhost_core::catalogue::ArgumentsError;

use crate::ops::{BrokerError, OpsError, PluginsError};

/// The kinds differ by what a calling script does next.
#[derive(Debug)]
pub enum Failure {
    /// 1: the task failed. The text says all that is known.
    Task(String),
    /// 1: neither the task nor the broker failed, but something here.
    Failed(String),
    /// 2: wrong usage.
    Usage(String),
    /// 3: the broker can't be reached, or refuses.
    Broker(String),
    /// 4: the time for waiting is over. The task goes on.
    TimedOut(String),
    /// 0: the reader of stdout has left, such as `head`.
    ClosedPipe,
}

impl Failure {
    /// The same with one more line.
    pub(super) fn and(self, more: &str) -> Self {
        let longer = |text: String| format!("{text}\n  {more}");
        match self {
            Self::Task(text) => Self::Task(longer(text)),
            Self::Failed(text) => Self::Failed(longer(text)),
            Self::Usage(text) => Self::Usage(longer(text)),
            Self::Broker(text) => Self::Broker(longer(text)),
            Self::TimedOut(text) => Self::TimedOut(longer(text)),
            Self::ClosedPipe => Self::ClosedPipe,
        }
    }

    /// The exit code, and the sentence for stderr if there is one to read it.
    pub(super) fn told(self) -> (ExitCode, Option<String>) {
        let (code, text) = match self {
            Self::Task(text) | Self::Failed(text) => (1, text),
            Self::Usage(text) => (2, text),
            Self::Broker(text) => (3, text),
            Self::TimedOut(text) => (4, text),
            Self::ClosedPipe => return (ExitCode::SUCCESS, None),
        };
        (ExitCode::from(code), Some(format!("taskhost: {text}")))
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Invalid(text) => Self::Usage(text),
            BrokerError::Ambiguous { .. } => Self::Usage(format!("{error} with --queue")),
            BrokerError::Corrupt(text) => Self::Failed(text),
            BrokerError::Unavailable(text) | BrokerError::Refused(text) | BrokerError::Misconfigured(text) | BrokerError::Gone(text) => {
                Self::Broker(text)
            }
        }
    }
}

/// Adds how a person at a terminal goes on.
impl From<OpsError> for Failure {
    fn from(error: OpsError) -> Self {
        let text = error.to_string();
        match error {
            OpsError::NoSuchTask { .. } => Self::Usage(format!("{text}; `taskhost task list` shows what there is")),
            OpsError::NotEnded { id, .. } => Self::TimedOut(format!("{text}; `taskhost result {id} --wait` waits on")),
            OpsError::NoSuchQueue { .. } => Self::Usage(format!("{text}; `taskhost queue list` shows what there is")),
            OpsError::NoSuchSchedule(_) => Self::Usage(format!("{text}; `taskhost schedule list` shows what there is")),
            OpsError::ScheduleStandsInFile { schedule, .. } => {
                Self::Usage(format!("{text}, or keep it from firing with `taskhost schedule pause {schedule}`"))
            }
            OpsError::Arguments(error) => Self::Usage(refusal(&error)),
            OpsError::NoSuchWorker(_) => Self::Usage(format!("{text}; `taskhost workers` shows who lives")),
            OpsError::NoSuchFlow { .. } => Self::Usage(format!("{text}; `taskhost flow list` shows what there is")),
            OpsError::FlowArguments { why: ArgumentsError::UnknownTask { .. }, .. } => {
                Self::Usage(format!("{text}\n  `--unchecked` starts it anyway; the step waits for a plugin that offers the task"))
            }
            OpsError::NoSuchPlugin(_) => Self::Usage(format!("{text}; `taskhost plugin list` shows what there is")),
            OpsError::BulkBroken { .. } => Self::Broker(text),
            OpsError::Request(_)
            | OpsError::Flow(_)
            | OpsError::FlowArguments { .. }
            | OpsError::FlowUnchanged { .. }
            | OpsError::Unchanged(_)
            | OpsError::FilesUnknown(_)
            | OpsError::Schedule(_)
            | OpsError::NoSuchBody { .. }
            | OpsError::BulkUnreadable { .. }
            | OpsError::Plugins(PluginsError::Directory(_) | PluginsError::Policy(_) | PluginsError::File(_)) => Self::Usage(text),
            OpsError::Forgotten(_) | OpsError::Machine(_) | OpsError::Plugins(PluginsError::State(_) | PluginsError::Machine(_)) => {
                Self::Failed(text)
            }
            OpsError::Broker(error) => error.into(),
        }
    }
}

impl From<PluginsError> for Failure {
    fn from(error: PluginsError) -> Self {
        OpsError::from(error).into()
    }
}

/// A refusal of arguments, and how to enqueue anyway.
pub(super) fn refusal(error: &ArgumentsError) -> String {
    match error {
        ArgumentsError::UnknownTask { .. } => format!("{error}\n  `--unchecked` enqueues it anyway; it waits for a plugin that offers it"),
        _ => error.to_string(),
    }
}

/// An error of writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(format!("failed to write to stdout: {error}; is the disk full?")),
        }
    }
}
