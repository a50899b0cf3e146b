//! The broker on Redis 7.0 or later: standalone, by Sentinel, in a cluster. docs/protocol.md describes its keys.
//!
//! address → connection → script → values. Each verb is one Lua script (`lua/*.lua`, linked with files of `lua/lib`), and so one atomic
//! step. The driver is the handle with its connections. Each role has a file: produce, tasks, lease, directory, kv,
//! schedules, history.
//!
//! Invariant: only keys.rs and the scripts build the names of keys. No error or debug text contains a password.

mod address;
mod cancellations;
mod connection;
mod directory;
mod driver;
mod ends;
mod fault;
mod flows;
mod health;
mod history;
mod keys;
mod kv;
mod lease;
mod listing;
mod load;
mod produce;
mod queues;
mod record;
mod relay;
mod schedules;
mod scripts;
mod tasks;
mod unreadable;
mod upgrade;
mod url;
mod values;
mod wait;
mod waiters;

pub use driver::RedisBroker;
pub use load::ServerLoad;
pub use url::RedisUrl;
