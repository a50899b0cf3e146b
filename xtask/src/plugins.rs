//! `cargo xtask plugins`: plugin folders → plugins/NAME.wasm.
//!
//! target there? → cargo, one plugin at a time → copy beside the folders: temp file + rename, so a worker that watches never sees half
//!
//! The initial memory is handed to the linker by `cargo rustc -- -C link-arg=…` and not by a config file: a RUSTFLAGS variable, which
//! CI sets readily, would replace what config files say, and each attempt of the plugin would then grow its memory anew (two system
//! calls a time).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) const TARGET: &str = "wasm32-wasip2";
/// Bytes of memory a guest starts with: its stack, its data and what a small body needs, so that it need not grow. Not more: after
/// each attempt the kernel looks through all of it for what was written.
const INITIAL_MEMORY: u32 = 2 << 20;

const HELP: &str = "\
Builds plugins: folders under plugins/ with a Cargo.toml, each into plugins/NAME.wasm.

  cargo xtask plugins [NAME…] [--out DIR] [--set-version VERSION] [--as FILE] [--greet]

  NAME                  only these; all Rust plugins when none is named
  --out DIR             where the .wasm files go, instead of plugins/
  --set-version VERSION what the plugin says its version is, instead of its package's; the .wasm differs in nothing else
                        (for trying a swap: cargo xtask plugins --out /tmp --set-version 0.2.0 math)
  --as FILE             the file's name without .wasm, if one NAME is given: what the plugin is called by the worker
  --greet               also plugins/greet.wasm, from JavaScript (needs node, npm and the npm registry)
";

/// What to build.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Folders under plugins/; empty: all.
    pub(crate) names: Vec<String>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) version: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) greet: bool,
}

pub(crate) fn main(words: &[&str]) -> Result<()> {
    let mut order = Order::default();
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().map(String::from).with_context(|| format!("`{word}` needs a value; see cargo xtask plugins --help"));
        match word {
            "--help" | "-h" => {
                crate::print(HELP);
                return Ok(());
            }
            "--out" => order.out = Some(value()?.into()),
            "--set-version" => order.version = Some(value()?),
            "--as" => order.file = Some(value()?),
            "--greet" => order.greet = true,
            flag if flag.starts_with('-') => bail!("no such flag: `{flag}`\n\n{HELP}"),
            name => order.names.push(name.into()),
        }
    }
    for file in build(&order)? {
        let size = fs::metadata(&file).map_or(0, |meta| meta.len());
        crate::print(&format!("{}  {} KB\n", file.display(), size / 1_000));
    }
    Ok(())
}

/// Builds what is ordered; the files that came of it.
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
    let mut cargo = cargo();
    cargo.args(["rustc", "--quiet", "--package", name, "--lib", "--profile", "plugin", "--target", TARGET]);
    cargo.args(["--", "-C", &format!("link-arg=--initial-memory={INITIAL_MEMORY}")]);
    match version {
        Some(version) => cargo.env("TASKHOST_PLUGIN_VERSION", version),
        None => cargo.env_remove("TASKHOST_PLUGIN_VERSION"),
    };
    run(&mut cargo, &format!("could not build the plugin `{name}`"))?;
    Ok(target_dir().join(TARGET).join("plugin").join(format!("{}.wasm", name.replace('-', "_"))))
}

/// Builds greet.wasm from JavaScript, as plugins/greet-js/README.md says. The tool is installed under target/ only, in the version
/// that package.json names; it names those of its own parts.
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
    run(
        Command::new(npm)
            .args(["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"])
            .stdout(Stdio::null())
            .current_dir(&tools),
        WHY,
    )?;

    let made = tools.join("greet.wasm");
    run(
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

/// Copies beside the goal, then renames: whoever watches the directory sees the old file or the new one.
fn place(from: &Path, to: &Path) -> Result<()> {
    let name = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let temporary = to.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    fs::copy(from, &temporary).with_context(|| format!("could not copy {} to {}", from.display(), temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("could not rename {} to {}", temporary.display(), to.display()))
}

fn run(command: &mut Command, why: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{why}; could not start `{program}`"))?;
    ensure!(status.success(), "{why}; `{program}` failed, see above");
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
