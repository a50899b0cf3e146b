//! What may be built in: `cargo deny` by `deny.toml`, where it is installed.
//!
//! Licences, sources and bans need nothing but the lock file. Advisories need their database: it is fetched where that is possible,
//! else the one fetched earlier counts, else it is said that nobody looked.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::test::cargo_command;

/// What must hold, then what can only be looked at where the database is.
pub(crate) fn check(root: &Path) -> Result<()> {
    let deny = |words: &[&str]| -> Command {
        let mut call = cargo_command();
        call.current_dir(root).arg("deny").args(words);
        call
    };
    let version = deny(&["--version"]).output().context("failed to start cargo")?;
    if !version.status.success() {
        say!("NOT CHECKED: cargo-deny is not installed here (`cargo install --locked cargo-deny`), so nobody compared licences, sources");
        say!("and advisories of the dependencies with deny.toml; the licences alone are checked by the tests (tests/tidy.rs)");
        return Ok(());
    }
    let held = deny(&["check", "licenses", "sources", "bans"]).status()?;
    if !held.success() {
        bail!("a dependency does not fit deny.toml: see above");
    }
    let fetched = deny(&["fetch", "db"]).status()?.success();
    let offline: &[&str] = if fetched { &[] } else { &["--offline"] };
    let advisories = deny(&[offline, &["check", "advisories"][..]].concat()).output()?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    if advisories.status.success() {
        say!("no advisory against what is built in{}", if fetched { "" } else { ", by the database that was fetched earlier" });
        return Ok(());
    }
    if !fetched && (said.contains("failed to load advisory database") || said.contains("failed to fetch advisory database")) {
        say!("ADVISORIES NOT CHECKED: their database cannot be fetched here");
        return Ok(());
    }
    bail!("cargo deny check advisories:\n{said}")
}
