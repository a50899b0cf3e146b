//! Checks the dependencies with `cargo deny` by `deny.toml`, where cargo-deny is installed.
//!
//! Licences, sources and bans need only the lock file. Advisories need a database: a fresh one, else the one fetched earlier. With
//! neither, the check says that it did not look.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Checks licences, sources and bans, then the advisories if their database is here.
pub(crate) fn check() -> Result<()> {
    let deny = |words: &[&str]| -> Command {
        let mut call = cargo::command();
        call.arg("deny").args(words);
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
