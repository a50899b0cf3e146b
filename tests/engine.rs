//! The engine on real guests: what they return, and every way in which they may not.

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
