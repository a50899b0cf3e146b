//! `plugin new`: a project with one body, its native test and everything needed to build it outside of this repository.
//!
//! Writes the SDK and the contract of this version into `vendor/`, so that the plugin fits this host and needs only crates.io.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{failure::Failure, output};

mod sdk;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost plugin new greetings && cd greetings && cargo plugin")]
pub(super) struct NewArgs {
    /// The plugin's name: a-z 0-9 _ -
    name: String,
    /// Where to write it [default: a directory of this name, here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The manifest of this host's workspace, whose versions the plugin uses too.
const WORKSPACE: &str = include_str!("../../../Cargo.toml");
const MANIFEST: &str = include_str!("plugin_new/manifest.txt");
const CARGO_CONFIG: &str = include_str!("plugin_new/config.txt");
const LIB: &str = include_str!("plugin_new/lib.txt");
const README: &str = include_str!("plugin_new/readme.txt");

pub(super) fn call(args: &NewArgs) -> Result<(), Failure> {
    check_name(&args.name)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::Usage(format!("`{}` is there already and not empty; name another directory with --dir", dir.display())));
    }
    for (path, text) in files(&args.name) {
        write(&dir.join(&path), &text)?;
    }
    let told = output::told(&format!("wrote the plugin `{}` into {}", args.name, dir.display()));
    output::note(&format!(
        "next:\n  cd {}\n  rustup target add wasm32-wasip2\n  cargo plugin\n  taskhost run target/wasm32-wasip2/release/{}.wasm greet Ada",
        dir.display(),
        args.name.replace('-', "_")
    ));
    told
}

/// The path and text of each file.
fn files(name: &str) -> Vec<(String, String)> {
    let fill = |text: &str| text.replace("@name@", name).replace("@lib@", &name.replace('-', "_"));
    let manifest = format!(
        "{}\n{}\n{}\n{}",
        fill(MANIFEST),
        section("[workspace.package]"),
        section("[workspace.dependencies]").replace("path = \"plugin-sdk", "path = \"vendor/plugin-sdk"),
        section("[workspace.lints.rust]") + &section("[workspace.lints.clippy]")
    );
    let mut files = vec![
        ("Cargo.toml".to_owned(), manifest),
        (".cargo/config.toml".to_owned(), fill(CARGO_CONFIG)),
        (".gitignore".to_owned(), "/target\n".to_owned()),
        ("README.md".to_owned(), fill(README)),
        ("src/lib.rs".to_owned(), fill(LIB)),
    ];
    files.extend(sdk::FILES.iter().map(|(path, text)| (format!("vendor/{path}"), (*text).to_owned())));
    files
}

/// One table of the workspace's manifest, its header included.
fn section(header: &str) -> String {
    let mut lines = WORKSPACE.lines().skip_while(|line| *line != header);
    let first = lines.next().into_iter();
    let lines: Vec<&str> = first.chain(lines.take_while(|line| !line.starts_with('['))).collect();
    lines.join("\n") + "\n"
}

/// Checks a plugin's name. Cargo has the same rule, but reserves some names.
fn check_name(name: &str) -> Result<(), Failure> {
    let fits = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    let reserved = ["test", "core", "std", "alloc", "proc_macro", "taskhost-sdk"].contains(&name);
    if fits && !reserved {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "a plugin's name here starts with a-z and has at most 64 characters of a-z 0-9 _ -: `{}`",
        output::short(name, 64)
    )))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("failed to write `{}`: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_project_has_every_table_it_inherits_from() {
        let files = files("my-plugin");
        let (_, manifest) = files.iter().find(|(path, _)| path == "Cargo.toml").unwrap();
        let table: toml::Table = toml::from_str(manifest).unwrap();
        assert_eq!(table["package"]["name"].as_str(), Some("my-plugin"));
        assert_eq!(table["workspace"]["dependencies"]["taskhost-sdk"]["path"].as_str(), Some("vendor/plugin-sdk"));
        assert!(table["workspace"]["package"]["rust-version"].is_str());
        assert!(files.iter().any(|(path, _)| path == "vendor/wit/plugin.wit"));
        assert!(files.iter().all(|(_, text)| !text.contains("@name@") && !text.contains("@lib@")));
    }

    #[test]
    fn every_source_of_the_sdk_is_on_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut wanted = Vec::new();
        let mut open = ["plugin-sdk/src", "plugin-sdk/macros/src", "wit"].map(PathBuf::from).to_vec();
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(root.join(&dir)).unwrap() {
                let path = dir.join(entry.unwrap().file_name());
                if root.join(&path).is_dir() { open.push(path) } else { wanted.push(path.to_string_lossy().into_owned()) }
            }
        }
        for path in wanted {
            assert!(sdk::FILES.iter().any(|(listed, _)| *listed == path), "cli/plugin_new/sdk.rs leaves out {path}");
        }
    }

    #[test]
    fn names_that_cargo_or_the_host_refuse_are_refused() {
        assert!(check_name("org-transfer2").is_ok());
        for wrong in ["", "2x", "Upper", "a b", "../x", "test"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
