//! What `plugin new` copies: the SDK and the contract, as they were when this host was built. A test keeps the list whole.

macro_rules! files {
    ($($path:literal)*) => {
        &[$(($path, include_str!(concat!("../../../../", $path)))),*]
    };
}

/// Path in this repository, which is also the path below `vendor/`, and text.
pub(super) const FILES: &[(&str, &str)] = files![
    "plugin-sdk/Cargo.toml"
    "plugin-sdk/macros/Cargo.toml"
    "plugin-sdk/macros/src/lib.rs"
    "plugin-sdk/src/lib.rs"
    "wit/plugin.wit"
];
