//! Where tasks, results, schedules and the catalogue live: one trait for each role. Drivers: [`redis`], [`sqlite`].
//!
//! enqueue → claim → (extend …) → finish. A worker registers one incarnation on each queue. A claimed task is in the held set of its
//! incarnation until it is finished. The next claim or extend that finds an expired incarnation adopts its whole held set.
//!
//! Invariant: every method is one atomic step. After a crash or an error it happened or it did not, and repeating it is safe.
//! `tests/broker/laws.rs` holds the laws that every driver keeps.

mod address;
mod connect;
mod directory;
mod error;
mod flows;
mod history;
mod kv;
mod lease;
mod listing;
pub mod observed;
mod produce;
pub mod redis;
mod roles;
mod schedule;
mod settings;
pub mod sqlite;
mod tasks;
mod unreadable;

pub use address::BrokerAddress;
pub use connect::connect;
pub use directory::{Directory, Health, RunningInfo, WorkerInfo};
pub use error::{BrokerError, Result};
pub use flows::{Ask, AskReply, FlowLine, FlowView, Flows, Items, NewFlow, Runs, StepView, await_flow};
pub use history::{History, HistoryStep, Note, Noted, Point, QUEUE, Sample, Spread};
pub use kv::{Kv, KvError, KvRoom};
pub use lease::{Claimed, Extended, Finish, FinishReply, Finished, Incarnation, LEASES, Lease, LeaseReply, Leased, Member, grace};
pub use listing::{TaskFilter, TaskPage};
pub use produce::{Enqueued, Produce};
pub use roles::Broker;
pub use schedule::{CatchUp, FileSchedule, Fired, Overlap, Schedule, ScheduleEntry, ScheduleEvent, Schedules, Source};
pub use settings::{BrokerSettings, Durability, STUB, TOLD};
pub use tasks::{CancelReply, DeleteReply, EditReply, End, Feed, QueueView, RetryReply, Tasks, Totals};
