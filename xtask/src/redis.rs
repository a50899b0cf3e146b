//! The Redis that tests and the demo may start: found on PATH, installed where we may, never one that runs already.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];

/// The server's program; installs it as root with the system's package manager when there is none.
pub(crate) fn server() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    let wanted = "the tests need the program `redis-server` (7.0 or newer)";
    if !is_root() {
        bail!(
            "{wanted}: install it (Debian: `sudo apt-get install redis-server`, Fedora: `sudo dnf install redis`, macOS: `brew install redis`) and run this again"
        );
    }
    install().with_context(|| wanted.to_owned())?;
    find().with_context(|| format!("{wanted}: the package is installed, but no `redis-server` is on PATH"))
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|dir| SERVERS.map(|name| dir.join(name))).find(|file| file.is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Only the program: a service that a package starts listens on 6379, which no test touches, and is kept from starting where that
/// is possible.
fn install() -> Result<()> {
    let managers: [(&str, &[&[&str]]); 3] = [
        ("apt-get", &[&["update", "-qq"], &["install", "-y", "-qq", "--no-install-recommends", "redis-server"]]),
        ("dnf", &[&["install", "-y", "-q", "redis"]]),
        ("apk", &[&["add", "-q", "redis"]]),
    ];
    for (manager, calls) in managers {
        if !["/usr/bin", "/sbin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(manager).is_file()) {
            continue;
        }
        for arguments in calls {
            say!("$ {manager} {}", arguments.join(" "));
            let mut call = Command::new(manager);
            call.args(*arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
            let status = call.status().with_context(|| format!("failed to start {manager}"))?;
            if !status.success() {
                bail!("`{manager} {}` failed: install redis-server by hand and run this again", arguments.join(" "));
            }
        }
        return Ok(());
    }
    bail!("no package manager that is known here (apt-get, dnf, apk): install redis-server by hand and run this again")
}
