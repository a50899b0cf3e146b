//! The use cases of an operator and of a producer, without a terminal. The command line is one face of them.
//!
//! settings → [`Ops::connect`] → one method for each use case → plain answers, or an [`OpsError`]
//!
//! Invariant: nothing here reads stdin, prints, ends the process or knows an exit code. What a person should hear meanwhile goes to a callback.
//! An error says what is wrong; the face adds how its users go on.

mod attempt;
mod bench;
mod bulk;
mod change;
mod clock;
mod connection;
mod engine;
mod error;
mod flows;
mod gist;
mod hooks;
mod new_task;
mod operations;
mod past;
mod plugin_files;
mod plugins;
mod producer;
mod queues;
mod request;
mod schedule_files;
mod schedules;
mod tasks;
mod token;
mod wait;
mod workers;

pub use attempt::{AttemptOrder, Heard, attempt};
pub use bench::BenchHost;
pub use bulk::{BulkReport, Source};
pub use change::{Change, Changed, Chosen};
pub use clock::BrokerClock;
pub use connection::Ops;
pub use engine::{foreground_engine, worker_engine};
pub use error::{OpsError, RequestError, Unchanged};
pub use flows::{FlowOrder, StartedFlow, check_flow, has_succeeded, read_flow};
pub use gist::{gist, what_it_waits_for};
pub use hooks::SeenHook;
pub use new_task::{Checks, Defaults, Unchecked, enqueue_each};
pub use operations::{Chooser, OPERATIONS, Operation};
pub use past::{HistoryPoint, HistoryQuery};
pub use plugin_files::{Followed, inspect, roll_back};
pub use plugins::{SeenPlugin, seen_plugins};
pub use producer::Producer;
pub use queues::Purgeable;
pub use request::whole;
pub use schedules::{AddedSchedule, NewSchedule, SeenSchedule};
pub use tasks::{Listing, header_filter};
pub use token::NewToken;
pub use wait::{Waiting, Wanted};

/// The plain data of lower rooms that answers and requests consist of.
pub use crate::{
    engine::{Attempted, COMPILE_SUBCOMMAND, HttpGrant, compile_plugin},
    plugins::{
        Generation, GenerationState, Inspection, Plugin, PluginsError, RolledBack, Trust, Wants, history, http_grant, keygen,
        read_signature, sign, signature_path,
    },
};
pub use taskhost_broker::{
    Ask, BrokerError, CatchUp, End, Enqueued, FlowLine, FlowView, Health, HistoryStep, Note, Noted, Overlap, QueueView, Sample, Schedule,
    ScheduleEntry, ScheduleEvent, Source as ScheduleSource, StepView, TaskFilter, TaskPage, Totals, WorkerInfo,
};
