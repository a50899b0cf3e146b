//! The contract `wit/plugin.wit` as Rust, generated during the build.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
    imports: {
        "taskhost:plugin/kv.get": async | trappable,
        "taskhost:plugin/kv.set": async | trappable,
        "taskhost:plugin/kv.remove": async | trappable,
        "taskhost:plugin/kv.increment": async | trappable,
        "taskhost:plugin/kv.keys": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    require_store_data_send: true,
});

pub(super) use self::taskhost::plugin::types::{Failure, TaskError};
pub(super) use exports::taskhost::plugin::tasks;
