//! The calls of cargo, the root of the workspace and the directory that cargo builds into.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Prints the call, runs it in the root and fails if it fails.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    say!("$ cargo {}", arguments.join(" "));
    finish(command().args(arguments))
}

/// Cargo in the root, without the variables in which the calling cargo describes xtask's package.
///
/// Build scripts (ring's is one) watch those variables. With them, each change between `cargo` and `cargo xtask` would build ring and
/// everything above it again.
pub(crate) fn command() -> Command {
    let mut command = Command::new(program());
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs the call and fails if it fails.
pub(crate) fn finish(call: &mut Command) -> Result<()> {
    let status = call.status().with_context(|| format!("failed to start {call:?}"))?;
    if status.success() { Ok(()) } else { bail!("ended with {status}") }
}

/// The cargo that runs xtask, so that every step uses the same toolchain.
fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
