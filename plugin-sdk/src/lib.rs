#![doc = include_str!("../README.md")]
//!
//! # Map of the crate
//!
//! `#[task]` turns a function into a [`Task`]: a name, parameters with [`Schema`], a `run` from JSON to JSON. `export_plugin!` makes
//! the component's exports of them. [`context`], [`log`], [`children`], [`kv`], [`spans`] and [`http`] call the host through the module `host`. In a guest
//! that is the contract's imports; elsewhere it is the fake of [`testing`].

// The macros write `::taskhost_sdk::…`. This line makes the path valid in the tests of this crate.
extern crate self as taskhost_sdk;

pub mod children;
pub mod context;
mod error;
#[cfg_attr(target_family = "wasm", path = "host/guest.rs")]
#[cfg_attr(not(target_family = "wasm"), path = "host/fake.rs")]
mod host;
#[cfg(feature = "http")]
pub mod http;
pub mod kv;
pub mod log;
mod result;
mod schema;
pub mod spans;
mod task;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use error::{Failure, OrPermanent, ResultExt, TaskError, TaskResult};
pub use schema::{Schema, SchemaWriter};
pub use task::{Parameter, Task};
pub use taskhost_sdk_macros::{Schema, export_plugin, task};

/// The items that most plugins need: `use taskhost_sdk::prelude::*;`
///
/// ```
/// use taskhost_sdk::prelude::*;
///
/// /// Adds two integers.
/// #[task]
/// fn add(a: i64, b: i64) -> TaskResult<i64> {
///     a.checked_add(b).or_permanent("integer overflow")
/// }
///
/// export_plugin!(add);
/// ```
pub mod prelude {
    #[cfg(feature = "http")]
    pub use crate::http;
    pub use crate::{OrPermanent, ResultExt, Schema, TaskError, TaskResult, children, context, export_plugin, kv, log, span, task};
}

/// The items that the code of the macros uses. They are not part of the interface.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_family = "wasm")]
    pub use crate::host::{bindings, export_component, exported};
    pub use crate::{
        result::BodyResult,
        task::{Arguments, Entry, block_on, finish, same},
    };
}
