//! The macros of `taskhost-sdk`, which documents them. Their code names `::taskhost_sdk` by its path.

mod export;
mod schema;
mod task;
mod text;

use proc_macro::TokenStream;

/// Makes a function a body: the code behind a task name.
///
/// The function stays the same. The macro adds a hidden type of the same name and visibility that implements `Task`, for `export_plugin!`. The
/// doc comment becomes the body's doc. Parameters are owned types with a `Schema`. The caller may leave out `Option`s at the end. The function
/// returns `TaskResult<T>` and may be `async`.
///
/// | key | request to the host |
/// |---|---|
/// | `name = "transferBU"` | the task name, instead of the function's |
/// | `timeout = "2m"` | `ms`, `s`, `m`, `h`, `d`, also `1h30m` |
/// | `retries = 5` | attempts beyond the first |
/// | `http = "https://host"` | an origin that it calls; also `env = "NAME=example"`, `enqueue = "task"`: wishes for the policy |
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

/// Makes the component's exports from the paths of all bodies. Use it once in a plugin.
///
/// The plugin's version is that of the package, or `TASKHOST_PLUGIN_VERSION` at build time. Its doc is the package's description. Outside a guest
/// the macro exports nothing and only checks the names.
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

/// Derives `Schema` for the JSON that serde's derive writes and reads. It reads `rename`, `rename_all`, `default` and `skip`, and refuses other
/// serde attributes.
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
