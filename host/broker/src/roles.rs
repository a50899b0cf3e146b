//! The sum of the roles.

use std::fmt;

use super::{
    directory::Directory, flows::Flows, history::History, kv::Kv, lease::Lease, produce::Produce, schedule::Schedules, tasks::Tasks,
};

/// All roles in one. A caller that needs fewer takes the narrowest role, such as `&dyn Produce`.
pub trait Broker: Produce + Tasks + Lease + Directory + Kv + Schedules + History + Flows + fmt::Debug + 'static {}

impl<B> Broker for B where B: Produce + Tasks + Lease + Directory + Kv + Schedules + History + Flows + fmt::Debug + 'static {}
