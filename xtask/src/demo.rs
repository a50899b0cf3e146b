//! `cargo xtask demo`: the story of taskhost, played with the real program.
//!
//! build → a directory of its own with plugins and a SQLite broker → a worker → each command printed before its output → a clean
//! stop. It ends by itself and ends only what it started.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, plugins};

/// The limit of each step of the demo.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run() -> Result<()> {
    let root = &cargo::root();
    say!("Building the host and the plugins; the first time this takes some minutes.");
    cargo::cargo(&["build", "--package", "taskhost"])?;
    let dir = scratch()?;
    let built = dir.join("built");
    let played = build(&built).and_then(|newer| play(&mut Stage::open(root, &dir)?, &built, &newer));
    let removed = fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()));
    played.and(removed)
}

/// The plugins of the story, and a newer version of one.
fn build(out: &Path) -> Result<PathBuf> {
    let order = |name: &str| plugins::Order { names: vec![name.to_owned()], out: Some(out.to_owned()), ..plugins::Order::default() };
    plugins::build(&plugins::Order { version: Some("0.2.0".to_owned()), file: Some("newer".to_owned()), ..order("math") })?;
    plugins::build(&order("math"))?;
    plugins::build(&order("text"))?;
    Ok(out.join("newer.wasm"))
}

fn play(stage: &mut Stage, built: &Path, newer: &Path) -> Result<()> {
    tell("A worker runs what is in its plugin directory. It has `math` so far, and SQLite as its broker: no server needed.");
    stage.drop_in(&built.join("math.wasm"), "math.wasm")?;
    stage.start_worker()?;
    stage.until("the worker serves `add`", |stage| stage.ask(&["plugin", "list"]).is_ok_and(|text| text.contains("add")))?;
    stage.show(&["plugin", "list"], 0)?;

    tell("A task is a name and arguments. --wait prints the result.");
    ensure!(stage.show(&["enqueue", "add", "1", "1", "--wait"], 0)?.trim() == "2", "1 + 1 was not 2");

    tell("What can't work is refused before it is enqueued.");
    stage.show(&["enqueue", "ad", "1", "1"], 2)?;
    stage.show(&["enqueue", "add", "1", "x"], 2)?;

    tell("A task of a plugin that is not there yet waits for it …");
    let id = stage.show(&["enqueue", "concat", "[\"drop \",\"it \",\"in\"]", "--unchecked"], 0)?.trim().to_owned();
    stage.until("the task is parked", |stage| stage.ask(&["task", "show", &id, "--json"]).is_ok_and(|text| text.contains("\"parked\"")))?;
    stage.show(&["task", "list"], 0)?;
    tell("… and runs as soon as the .wasm is dropped in, without a restart.");
    stage.drop_in(&built.join("text.wasm"), "text.wasm")?;
    stage.show(&["result", &id, "--wait=30s"], 0)?;

    tell("A plugin is replaced while its tasks run: they go on being enqueued until version 0.2.0 serves.");
    let (tasks, last) = stage.feed_while_swapping(newer)?;
    stage.until("all of them have ended", |stage| {
        let open = ["task", "list", "--state", "ready,running,scheduled,parked", "--limit", "1", "--json"];
        stage.ask(&open).is_ok_and(|text| text.trim() == "[]")
    })?;
    stage.show(&["queue", "list"], 0)?;
    let ended = stage.ask(&["task", "list", "--task", "add", "--state", "succeeded", "--limit", "1000000", "--json"])?;
    let by = |version: &str| ended.matches(&format!("\"version\":\"{version}\"")).count();
    say!(
        "{tasks} tasks enqueued: {} ran on 0.1.0 (the first one of this story too) and {} on 0.2.0, none failed",
        by("0.1.0"),
        by("0.2.0")
    );
    ensure!(by("0.1.0") + by("0.2.0") == tasks + 1, "not every task succeeded");
    stage.show(&["result", &last], 0)?;
    stage.show(&["plugin", "list"], 0)?;

    tell("Tasks can come by the clock: a rule is cron's, with seconds if it has six fields.");
    stage.show(&["schedule", "add", "tick", "* * * * * *", "multiply", "6", "7", "--tz", "Asia/Shanghai"], 0)?;
    stage.until("the schedule has fired twice", |stage| {
        stage
            .ask(&["task", "list", "--task", "multiply", "--state", "succeeded", "--json"])
            .is_ok_and(|text| text.matches("\"id\"").count() >= 2)
    })?;
    stage.show(&["task", "list", "--task", "multiply", "--limit", "3"], 0)?;
    stage.show(&["schedule", "remove", "tick"], 0)?;

    tell("A worker that is told to stop lets its attempts end.");
    stage.stop_worker()?;
    say!("\nThat was it. To go on:");
    say!("  cargo run --package taskhost -- worker --plugins ./plugins       # one terminal");
    say!("  cargo run --package taskhost -- enqueue add 1 1 --wait           # another");
    say!("  … --broker redis://127.0.0.1:6379                                # the same with Redis, on any number of machines");
    say!("  cargo run --package taskhost -- plugin new greetings             # a plugin of your own");
    Ok(())
}

/// The directory, the program, and the worker, which must not outlive the demo.
struct Stage {
    program: PathBuf,
    dir: PathBuf,
    worker: Option<Child>,
}

impl Stage {
    fn open(root: &Path, dir: &Path) -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let program = target.join("debug/taskhost");
        ensure!(program.is_file(), "cargo built no {}", program.display());
        fs::create_dir(dir.join("plugins"))?;
        Ok(Self { program, dir: dir.to_owned(), worker: None })
    }

    /// A command with the demo's own settings, without the user's environment and state.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TASKHOST_")) {
            command.env_remove(name);
        }
        command.current_dir(&self.dir).args(arguments).env("TASKHOST_STATE", self.dir.join("state"));
        command
    }

    fn start_worker(&mut self) -> Result<()> {
        say!("$ taskhost worker --plugins ./plugins 2> worker.log &");
        let log = fs::File::create(self.dir.join("worker.log"))?;
        let mut command = self.command(&["worker", "--plugins", "./plugins"]);
        self.worker = Some(command.stdin(Stdio::null()).stderr(log).spawn().context("failed to start the worker")?);
        Ok(())
    }

    fn stop_worker(&mut self) -> Result<()> {
        let Some(mut worker) = self.worker.take() else { return Ok(()) };
        say!("$ kill -TERM {}", worker.id());
        Command::new("kill").args(["-TERM", &worker.id().to_string()]).status().context("failed to send a signal")?;
        let status = worker.wait()?;
        let log = fs::read_to_string(self.dir.join("worker.log")).unwrap_or_default();
        for line in log.lines().rev().take(2).collect::<Vec<_>>().into_iter().rev() {
            say!("{line}");
        }
        ensure!(status.success(), "the worker ended with {status}");
        Ok(())
    }

    /// As an operator should: beside the place, then one rename.
    fn drop_in(&self, file: &Path, name: &str) -> Result<()> {
        let hidden = self.dir.join(format!("plugins/.{name}.tmp"));
        say!("$ cp {name} plugins/.{name}.tmp && mv plugins/.{name}.tmp plugins/{name}");
        fs::copy(file, &hidden).with_context(|| format!("failed to copy {}", file.display()))?;
        fs::rename(hidden, self.dir.join("plugins").join(name))?;
        Ok(())
    }

    /// Streams tasks into `enqueue --bulk -` while the plugin is replaced; how many, and the id of the last.
    fn feed_while_swapping(&mut self, newer: &Path) -> Result<(usize, String)> {
        say!("$ while …; do echo '{{\"task\":\"add\",\"args\":[1,1]}}'; done | taskhost enqueue --bulk - > ids &");
        let ids = self.dir.join("ids");
        let mut command = self.command(&["enqueue", "--bulk", "-"]);
        let mut bulk = command.stdin(Stdio::piped()).stdout(fs::File::create(&ids)?).spawn().context("failed to start taskhost")?;
        let mut lines = bulk.stdin.take().context("no pipe")?;
        let (mut tasks, mut dropped) = (0, false);
        self.until("version 0.2.0 serves", |stage| {
            let serves = dropped && stage.ask(&["plugin", "list"]).is_ok_and(|text| text.contains("0.2.0"));
            if lines.write_all("{\"task\":\"add\",\"args\":[1,1]}\n".repeat(200).as_bytes()).is_ok() {
                tasks += 200;
            }
            dropped = dropped || stage.drop_in(newer, "math.wasm").is_ok();
            serves
        })?;
        drop(lines);
        ensure!(bulk.wait()?.success(), "enqueue --bulk failed");
        let ids = fs::read_to_string(ids)?;
        ensure!(ids.lines().count() == tasks, "{tasks} lines gave {} ids", ids.lines().count());
        Ok((tasks, ids.lines().last().unwrap_or_default().to_owned()))
    }

    /// Prints a command and what it prints; its stdout. Another exit code than `code` ends the demo.
    fn show(&self, arguments: &[&str], code: i32) -> Result<String> {
        say!("$ taskhost {}", arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        std::io::stdout().flush()?;
        let output = self.command(arguments).stdin(Stdio::null()).output()?;
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        crate::say::print(&format!("{text}{error}"));
        if code != 0 {
            say!("[exit {}]", output.status.code().unwrap_or(-1));
        }
        ensure!(output.status.code() == Some(code), "it ended with {}, not with exit code {code}", output.status);
        Ok(text.into_owned())
    }

    /// A command's stdout, unprinted.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "`taskhost {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !holds(self) {
            if let Some(status) = self.worker.as_mut().and_then(|worker| worker.try_wait().ok().flatten()) {
                bail!("the worker ended with {status}:\n{}", fs::read_to_string(self.dir.join("worker.log")).unwrap_or_default());
            }
            if began.elapsed() > LIMIT {
                let log = fs::read_to_string(self.dir.join("worker.log")).unwrap_or_default();
                bail!("{what}: not within {} s; the worker said:\n{log}", LIMIT.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

fn tell(text: &str) {
    say!("\n# {text}");
}

/// As one would type it in a shell.
fn quoted(word: &str) -> String {
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=,".contains(&b));
    if plain && !word.is_empty() { word.to_owned() } else { format!("'{word}'") }
}

/// A fresh directory that only we use.
fn scratch() -> Result<PathBuf> {
    let base = std::env::temp_dir();
    for n in 0..1_000 {
        let dir = base.join(format!("taskhost-demo-{}-{n}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("failed to make a directory in {}", base.display())),
        }
    }
    bail!("failed to find a free name in {}: remove taskhost-demo-*", base.display())
}
