//! `cargo xtask plugins`: plugin folders → plugins/NAME.wasm.
//!
//! Check the target → run cargo for one plugin at a time → copy the file beside its goal and rename it. A worker that watches the
//! directory never sees half a file.
//!
//! `cargo rustc -- -C link-arg=…` passes the initial memory to the linker. A config file would not do: a RUSTFLAGS variable, which CI
//! often sets, replaces the flags of config files. Each attempt of the plugin would then grow its memory, at two system calls each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::cargo::{self, root, target_dir};

pub(crate) const TARGET: &str = "wasm32-wasip2";
/// Bytes of memory that a guest starts with. They hold its stack, its data and the needs of a small body, so that it need not grow.
/// More would cost time: after each attempt the kernel searches all of it for written pages.
const INITIAL_MEMORY: u32 = 2 << 20;

/// Which plugins to build, and where their files go.
#[derive(Debug, Default, Args)]
pub(crate) struct Order {
    /// Folders under plugins/ that have a Cargo.toml [default: all of them]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The directory for the .wasm files [default: plugins/]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The version that the plugin reports instead of its package's; nothing else in the .wasm changes
    ///
    /// To try a swap: cargo xtask plugins --out /tmp --set-version 0.2.0 math
    #[arg(long = "set-version", value_name = "VERSION")]
    pub(crate) version: Option<String>,
    /// The file's name without .wasm, which is the plugin's name to the worker; needs exactly one NAME
    #[arg(long = "as", value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Also build plugins/greet.wasm from JavaScript (needs node, npm and the npm registry)
    #[arg(long)]
    pub(crate) greet: bool,
}

pub(crate) fn run(order: &Order) -> Result<()> {
    for file in build(order)? {
        let size = fs::metadata(&file).map_or(0, |meta| meta.len());
        say!("{}  {} KB", file.display(), size / 1_000);
    }
    Ok(())
}

/// Builds the ordered plugins and returns their files.
pub(crate) fn build(order: &Order) -> Result<Vec<PathBuf>> {
    ensure!(order.file.is_none() || order.names.len() == 1, "`--as` names one file: name one plugin too");
    ensure_target()?;
    let folders = folders()?;
    for name in &order.names {
        ensure!(folders.contains(name), "no such plugin: `{name}`; there are {}", folders.join(", "));
    }
    let names = if order.names.is_empty() { &folders } else { &order.names };
    let out = order.out.clone().unwrap_or_else(|| root().join("plugins"));
    fs::create_dir_all(&out).with_context(|| format!("could not create the directory for the .wasm files: {}", out.display()))?;

    let mut built = Vec::new();
    for name in names {
        let wasm = compile(name, order.version.as_deref())?;
        let file = out.join(format!("{}.wasm", order.file.as_deref().unwrap_or(name)));
        place(&wasm, &file)?;
        built.push(file);
    }
    if order.greet {
        built.push(build_greet(&out)?);
    }
    Ok(built)
}

fn compile(name: &str, version: Option<&str>) -> Result<PathBuf> {
    let mut call = cargo::command();
    call.args(["rustc", "--quiet", "--package", name, "--lib", "--profile", "plugin", "--target", TARGET]);
    call.args(["--", "-C", &format!("link-arg=--initial-memory={INITIAL_MEMORY}")]);
    match version {
        Some(version) => call.env("TASKHOST_PLUGIN_VERSION", version),
        None => call.env_remove("TASKHOST_PLUGIN_VERSION"),
    };
    call_program(&mut call, &format!("could not build the plugin `{name}`"))?;
    Ok(target_dir().join(TARGET).join("plugin").join(format!("{}.wasm", name.replace('-', "_"))))
}

/// Builds greet.wasm from JavaScript, as plugins/greet-js/README.md says. npm installs the tool under target/ only, in the version
/// that package.json names.
pub(crate) fn build_greet(out: &Path) -> Result<PathBuf> {
    const WHY: &str =
        "greet.wasm is built by componentize-qjs from the npm registry: it needs node 20 or newer, npm, and a way to the registry";
    let started = Instant::now();
    let source = root().join("plugins/greet-js");
    let tools = target_dir().join("greet-js");
    fs::create_dir_all(&tools).with_context(|| format!("could not create {}", tools.display()))?;
    fs::create_dir_all(out).with_context(|| format!("could not create the directory for the .wasm files: {}", out.display()))?;
    let package = tools.join("package.json");
    fs::copy(source.join("package.json"), &package).with_context(|| format!("could not copy package.json to {}", tools.display()))?;
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    call_program(
        Command::new(npm)
            .args(["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"])
            .stdout(Stdio::null())
            .current_dir(&tools),
        WHY,
    )?;

    let made = tools.join("greet.wasm");
    call_program(
        Command::new("node")
            .arg(tools.join("node_modules/componentize-qjs/cli.mjs"))
            .args(["--sync", "--world", "plugin", "--wit"])
            .arg(root().join("wit"))
            .arg("--js")
            .arg(source.join("greet.js"))
            .arg("--output")
            .arg(&made)
            .current_dir(&source)
            .stdout(Stdio::null()),
        WHY,
    )?;
    let file = out.join("greet.wasm");
    place(&made, &file)?;
    eprintln!("greet.wasm from JavaScript took {:.1} s", started.elapsed().as_secs_f32());
    Ok(file)
}

/// The target's standard library, or a sentence that says how to get it.
fn ensure_target() -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).current_dir(root()).output();
    let sysroot = sysroot.context("could not start rustc: install Rust with rustup, https://rustup.rs")?;
    if sysroot.status.success() && Path::new(String::from_utf8_lossy(&sysroot.stdout).trim()).is_dir() {
        return Ok(());
    }
    eprintln!("adding the target {TARGET} …");
    let added = Command::new("rustup").args(["target", "add", TARGET]).current_dir(root()).status();
    match added {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("plugins are built for {TARGET}, and `rustup target add {TARGET}` failed: see above, then run it again"),
        Err(_) => bail!(
            "plugins are built for {TARGET}, which this Rust lacks, and there is no rustup to add it: install Rust with rustup, https://rustup.rs, or your distribution's package of the {TARGET} standard library"
        ),
    }
}

/// The Rust plugins: folders under plugins/ with a Cargo.toml.
fn folders() -> Result<Vec<String>> {
    let plugins = root().join("plugins");
    let mut names = Vec::new();
    for entry in fs::read_dir(&plugins).with_context(|| format!("could not read {}", plugins.display()))? {
        let path = entry?.path();
        if path.join("Cargo.toml").is_file() {
            names.extend(path.file_name().and_then(|name| name.to_str()).map(String::from));
        }
    }
    names.sort();
    Ok(names)
}

/// Copies beside the goal, then renames: a watcher of the directory sees the old file or the new one.
fn place(from: &Path, to: &Path) -> Result<()> {
    let name = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let temporary = to.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    fs::copy(from, &temporary).with_context(|| format!("could not copy {} to {}", from.display(), temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("could not rename {} to {}", temporary.display(), to.display()))
}

fn call_program(command: &mut Command, why: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{why}; could not start `{program}`"))?;
    ensure!(status.success(), "{why}; `{program}` failed, see above");
    Ok(())
}
