//! Checks the promises of ARCHITECTURE.md about the code's shape: layers, rooms that own a library, headers, lengths.

use std::{
    fs,
    path::{Path, PathBuf},
};

use spdx::{Expression, ParseMode};

/// Rooms of one row never meet; imports go to lower rows only. Lowest first.
const ROWS: [&[&str]; 13] = [
    &["text", "backoff", "pattern"],
    &["task", "telemetry", "private", "random"],
    &["units", "trace"],
    &["catalogue", "observe"],
    &["retry", "cron", "workflow"],
    &["engine", "broker"],
    &["plugins"],
    &["worker", "schedule"],
    &["config"],
    &["ops"],
    &["serve"],
    &["cli"],
    &["main"],
];

/// A library, as it is imported, and the one room that names it.
const OWNERS: [(&str, &str); 12] = [
    ("axum", "serve"),
    ("clap", "cli"),
    ("cron", "cron"),
    ("maud", "serve"),
    ("notify", "plugins"),
    ("wasmtime", "engine"),
    ("wasmparser", "engine"),
    ("opentelemetry", "telemetry"),
    ("prometheus_client", "telemetry"),
    ("ratatui", "cli"),
    ("redis", "broker"),
    ("rusqlite", "broker"),
];

/// A longer file has more than one subject.
const LONGEST: usize = 500;

#[test]
fn imports_go_downwards_only() {
    let row = |room: &str| ROWS.iter().position(|rooms| rooms.contains(&room));
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        // A room's tests may import anything. The broker is a crate: the compiler keeps it apart, and its files have names of their own.
        if room == "lib" || room == "broker" || path.ends_with("tests.rs") {
            continue;
        }
        let own =
            row(&room).unwrap_or_else(|| panic!("{} is in no row: add its room to tests/tidy.rs and ARCHITECTURE.md", path.display()));
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for other in ROWS.iter().flat_map(|rooms| rooms.iter()).filter(|other| **other != room) {
            if imports(code, other) && row(other) >= Some(own) {
                wrong.push(format!("{}: {room} imports {other}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports go downwards only:\n{}", wrong.join("\n"));
}

/// `crate::other` anywhere, or `other::` at the top level of a `use crate::{…}`.
fn imports(code: &str, room: &str) -> bool {
    let named = |text: &str, at: usize| {
        let end = text[at + room.len()..].chars().next();
        !end.is_some_and(|c| c.is_alphanumeric() || c == '_')
    };
    let direct = format!("crate::{room}");
    if code.match_indices(&direct).any(|(at, _)| named(code, at + "crate::".len())) {
        return true;
    }
    code.match_indices("use crate::{").any(|(at, open)| {
        let mut depth = 1;
        let mut word = String::new();
        for c in code[at + open.len()..].chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if c.is_alphanumeric() || c == '_' || depth > 1 {
                if depth == 1 {
                    word.push(c);
                }
                continue;
            }
            if word == room {
                return true;
            }
            // The word after `::` belongs to the path before it.
            if !c.is_whitespace() && c != ':' || c == '\n' {
                word.clear();
            } else if c == ':' {
                word.push(':');
            }
        }
        word == room
    })
}

/// `ops` has the use cases; the command line and the HTTP API are faces of it. Only the command that starts a worker puts the loops of lower
/// rooms together.
#[test]
fn a_face_asks_ops_alone() {
    let starts_a_worker = ["cli/worker.rs", "cli/signals.rs"].map(Path::new);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        if ["cli", "serve"].contains(&&*room) && !starts_a_worker.contains(&path.as_path()) {
            let lower = ["engine", "plugins", "worker", "schedule"].into_iter().filter(|lower| imports(&text, lower));
            wrong.extend(lower.map(|lower| format!("{}: imports {lower}", path.display())));
            if text.contains("taskhost_broker") {
                wrong.push(format!("{}: names the broker", path.display()));
            }
        }
        let of_a_terminal = ["stdin", "stdout", "stderr", "print!", "println!", "ExitCode", "process::exit", "is_terminal"];
        if room == "ops" {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let named = code.flat_map(|line| of_a_terminal.iter().filter(|word| line.contains(**word)));
            wrong.extend(named.map(|word| format!("{}: names {word}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_library_lives_in_one_room() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        for (library, owner) in OWNERS {
            let named = text.lines().any(|line| {
                let line = line.trim_start();
                [format!("use {library}::"), format!("use ::{library}::"), format!("use {library};")]
                    .iter()
                    .any(|start| line.starts_with(start.as_str()))
                    || line.contains(&format!(" ::{library}::"))
                    || (library != "cron" && library != "redis" && !line.starts_with("//") && line.contains(&format!(" {library}::")))
            });
            if named && room != owner {
                wrong.push(format!("{}: {library} belongs to {owner}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_header_and_a_length() {
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let header = text.lines().take_while(|line| line.starts_with("//!")).count();
        if !(1..=12).contains(&header) && room_of(&path) != "lib" {
            wrong.push(format!("{}: a header has 1 to 12 lines, this one {header}", path.display()));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{}: {lines} lines; look for the second thing in it", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `KEYS` is the one list of settings and defaults. The README and the help of the worker repeat it.
#[test]
fn the_readme_and_the_help_name_every_setting_with_its_default() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("## Settings").nth(1).and_then(|rest| rest.split("\n\nThe same file").next()).expect("the table of settings");
    let mut listed = std::collections::BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(quoted).collect();
        let defaults = cells[2].iter().map(|text| Some(text.as_str())).chain(std::iter::repeat(None));
        listed.extend(cells[1].iter().cloned().zip(defaults.map(|text| text.map(str::to_owned))));
    }
    let help = fs::read_to_string(root().join("host/src/cli/worker.rs")).unwrap();
    let mut shown = std::collections::BTreeMap::new();
    let mut default = None;
    for line in help.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("[default: ") {
            default = rest.strip_suffix(']').map(str::to_owned);
        } else if let Some((name, _)) = line.split_once(": Option<String>,") {
            shown.extend(default.take().map(|default| (name.to_owned(), default)));
        }
    }
    assert!(shown.len() > 5, "the help of the worker names defaults: {shown:?}");
    for taskhost::config::Key { name: key, default, .. } in taskhost::config::KEYS {
        let row = listed.get(*key).unwrap_or_else(|| panic!("README.md leaves out the setting `{key}`"));
        if !default.is_empty() {
            assert_eq!(row.as_deref(), Some(*default), "README.md: the default of `{key}`");
            assert_eq!(shown.get(*key).map_or(*default, String::as_str), *default, "`taskhost worker --help`: the default of `{key}`");
        }
    }
}

/// The texts between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// cargo-deny checks this and more where it is installed. This test checks the licences and the sources everywhere.
#[test]
fn every_licence_and_source_fits_deny_toml() {
    let rules: toml::Table = fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let allowed: Vec<&str> = rules["licenses"]["allow"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform]);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "the dependencies are listed");
    let mut wrong = Vec::new();
    for package in packages {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{name}: `{licence}` is not among the licences in deny.toml"));
        }
        if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+https://github.com/rust-lang/crates.io-index")) {
            wrong.push(format!("{name} comes from {}", package["source"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(is_allowed("(MIT OR GPL-3.0) AND ISC", &allowed) && !is_allowed("MIT AND GPL-3.0", &allowed) && !is_allowed("", &allowed));
}

/// Whether these licences alone satisfy an SPDX expression. Older packages write `MIT/Apache-2.0`, which the lax mode reads as `OR`.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    Expression::parse_mode(expression, ParseMode::LAX)
        .is_ok_and(|expression| expression.evaluate(|licence| allowed.contains(&licence.to_string().as_str())))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The room of `host/broker/src/redis.rs` is `broker`.
fn room_of(path: &Path) -> String {
    let first = path.components().next().expect("a relative path").as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").map_or(first.clone(), str::to_owned)
}

/// Every source of the host's crates, by its path below `src`; a file of the broker's crate is one of the room `broker`.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for (base, room) in [("host/src", ""), ("host/core/src", ""), ("host/broker/src", "broker")] {
        let base = root().join(base);
        let mut open = vec![base.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    found.push((Path::new(room).join(path.strip_prefix(&base).unwrap()), fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    assert!(found.len() > 20, "the sources are found");
    found
}
