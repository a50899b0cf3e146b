//! The macros of `taskhost-sdk`. They are documented there; what they write names `::taskhost_sdk` by its path.

mod export;
mod schema;
mod task;
mod text;

use proc_macro::TokenStream;

/// Makes a function a body: the code behind a task name.
///
/// The function stays as it is; beside it comes a hidden type of the same name and visibility that implements `Task`, for
/// `export_plugin!`. The doc comment becomes the body's doc. Parameters are owned types with a `Schema`; trailing `Option`s may be left
/// out by the caller. It returns `TaskResult<T>` and may be `async`.
///
/// | key | what the host is asked for |
/// |---|---|
/// | `name = "transferBU"` | the task name, instead of the function's |
/// | `timeout = "2m"` | `ms`, `s`, `m`, `h`, `d`, also `1h30m` |
/// | `retries = 5` | attempts beyond the first |
/// | `http = "https://host"` | an origin it calls; `env = "NAME=example"`, `enqueue = "task"`: what it wants of its policy |
/// | `queue = "mail"` | the queue of tasks that name none |
/// | `cron = "0 9 * * *"` | a schedule that the operator may add |
///
/// ```
/// use taskhost_sdk::{Task, prelude::*};
///
/// /// Greets somebody.
/// #[task(name = "greetSomebody", timeout = "2m", retries = 5)]
/// async fn greet(name: String, title: Option<String>) -> TaskResult<String> {
///     Ok(format!("Hello, {}{name}!", title.unwrap_or_default()))
/// }
/// # export_plugin!(greet);
/// assert_eq!(greet::NAME, "greetSomebody");
/// ```
#[proc_macro_attribute]
pub fn task(attribute: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(attribute.into(), &item.into()).into()
}

/// Makes the component's exports: all bodies of the plugin, by path. Once a plugin.
///
/// The plugin's version is the package's; `TASKHOST_PLUGIN_VERSION` at build time overrides it. Its doc is the package's description.
/// Outside a guest it exports nothing, and only checks the names.
///
/// ```
/// use taskhost_sdk::prelude::*;
///
/// mod transfer {
///     use taskhost_sdk::prelude::*;
///     #[task(name = "transferBU")]
///     pub async fn bu() -> TaskResult<u64> {
///         Ok(0)
///     }
/// }
/// #[task]
/// fn add(a: i64, b: i64) -> TaskResult<i64> {
///     a.checked_add(b).or_permanent("integer overflow")
/// }
///
/// export_plugin!(add, transfer::bu);
/// ```
#[proc_macro]
pub fn export_plugin(paths: TokenStream) -> TokenStream {
    export::expand(paths.into()).into()
}

/// Derives `Schema`, as serde's derive would write and read the type: `rename`, `rename_all`, `default` and `skip` are read, other serde
/// attributes are refused.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use taskhost_sdk::{SchemaWriter, prelude::*};
///
/// #[derive(Serialize, Deserialize, Schema)]
/// #[serde(rename_all = "lowercase")]
/// enum Kind {
///     Full,
///     Half,
/// }
/// assert_eq!(SchemaWriter::schema_of::<Kind>(), r#"{"type":"string","enum":["full","half"]}"#);
/// ```
#[proc_macro_derive(Schema, attributes(serde))]
pub fn schema(item: TokenStream) -> TokenStream {
    schema::expand(item.into()).into()
}
