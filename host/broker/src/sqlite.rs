//! The broker in one SQLite file: for one machine, without a server.
//!
//! a verb → a closure for the one writer thread, which groups it with others into one transaction → its answer. Reads use a few
//! reading connections. Several processes may share the file. Each role has a file: produce, tasks, lease, directory, kv,
//! schedules, history.
//!
//! Invariant: one verb is one step of a transaction, and this process's clock inside it decides. All queues are in one database, so
//! the finishing step adds the children itself and there is no outbox.

mod columns;
mod connection;
mod directory;
mod driver;
mod end;
mod enqueue;
mod events;
mod finish;
mod flows;
mod history;
mod incarnation;
mod kept;
mod kv;
mod lease;
mod listing;
mod looks;
mod produce;
mod rows;
mod schedules;
mod schema;
mod show;
mod standing;
mod sweep;
mod tasks;
mod wait;
mod wake;
mod writer;

pub use driver::SqliteBroker;

#[cfg(test)]
mod tests;
