//! Installs programs that the tests need, as root, with the system's package manager.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// A program, and the packages that bring it.
pub(crate) struct Wanted<'a> {
    pub(crate) program: &'a str,
    pub(crate) apt: &'a [&'a str],
    pub(crate) dnf: &'a [&'a str],
    pub(crate) apk: &'a [&'a str],
}

/// The first of these programs on PATH.
pub(crate) fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).flat_map(|dir| names.iter().map(move |name| dir.join(name))).find(|file| file.is_file())
}

pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs a program. Its package may also start a service: no test touches it, and RUNLEVEL keeps it from starting where the package honours
/// that.
pub(crate) fn install(wanted: &Wanted<'_>) -> Result<()> {
    let program = wanted.program;
    let managers = [
        ("apt-get", vec![vec!["update", "-qq"], [&["install", "-y", "-qq", "--no-install-recommends"], wanted.apt].concat()]),
        ("dnf", vec![[&["install", "-y", "-q"], wanted.dnf].concat()]),
        ("apk", vec![[&["add", "-q"], wanted.apk].concat()]),
    ];
    for (manager, calls) in managers {
        if !["/usr/bin", "/sbin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(manager).is_file()) {
            continue;
        }
        for arguments in calls {
            let line = arguments.join(" ");
            say!("$ {manager} {line}");
            let mut call = Command::new(manager);
            call.args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
            let status = call.status().with_context(|| format!("failed to start {manager}"))?;
            if !status.success() {
                bail!("`{manager} {line}` failed: install {program} by hand and run this again");
            }
        }
        return Ok(());
    }
    bail!("no package manager that is known here (apt-get, dnf, apk): install {program} by hand and run this again")
}
