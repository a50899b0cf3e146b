//! The engine with real guests: their results, and all kinds of failures.

mod bombs;
pub(crate) mod held;
pub(crate) mod hostile;
pub(crate) mod support;

mod compiler;
mod cpu;
mod endings;
mod files;
mod grants;
mod plugins;
