//! The files that `plugin new` copies: the SDK and the contract of this build. A test keeps the list complete.

macro_rules! files {
    ($($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../../", $path)))),*]
    };
}

/// The path in this repository, which is also the path below `vendor/`, and the text.
pub(super) const FILES: &[(&str, &str)] = files![
    "plugin-sdk/Cargo.toml"
    "plugin-sdk/README.md"
    "plugin-sdk/macros/Cargo.toml"
    "plugin-sdk/macros/src/export.rs"
    "plugin-sdk/macros/src/lib.rs"
    "plugin-sdk/macros/src/schema.rs"
    "plugin-sdk/macros/src/task.rs"
    "plugin-sdk/macros/src/text.rs"
    "plugin-sdk/src/children.rs"
    "plugin-sdk/src/context.rs"
    "plugin-sdk/src/error.rs"
    "plugin-sdk/src/host/fake.rs"
    "plugin-sdk/src/host/guest.rs"
    "plugin-sdk/src/host/wasi_http.rs"
    "plugin-sdk/src/http.rs"
    "plugin-sdk/src/kv.rs"
    "plugin-sdk/src/lib.rs"
    "plugin-sdk/src/log.rs"
    "plugin-sdk/src/result.rs"
    "plugin-sdk/src/schema.rs"
    "plugin-sdk/src/spans.rs"
    "plugin-sdk/src/task.rs"
    "plugin-sdk/src/testing.rs"
    "wit/plugin.wit"
];
