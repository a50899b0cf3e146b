//! From the start of a worker process to the end of its first task: once with nothing compiled, once with everything.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::Command;

use super::{Bench, Failure, Figure, QUEUE};
use crate::config::{ENVIRONMENT_CONFIG, ENVIRONMENT_PREFIX};

const LIMIT: Duration = Duration::from_secs(60);
/// After so long the worker takes a plugin file as settled.
const AGED: Duration = Duration::from_secs(4);

pub(super) async fn cold_and_warm(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let scratch = Scratch::new()?;
    for figure in [Figure::ColdStart, Figure::WarmStart] {
        let took = one(bench, &scratch.0).await?;
        bench.report.add(figure, took.as_secs_f64() * 1e3);
        bench.place.clear().await?;
    }
    Ok(())
}

async fn one(bench: &Bench<'_>, scratch: &Path) -> Result<Duration, Failure> {
    let broken = |what: &str, error: std::io::Error| Failure::Failed(format!("{what}: {error}"));
    let plugins = scratch.join("plugins");
    let state = scratch.join("state");
    let none = scratch.join("none.toml");
    fs::create_dir_all(&plugins).map_err(|error| broken("can't make a plugin directory for the benchmark", error))?;
    fs::write(&none, "").map_err(|error| broken("can't write a settings file for the benchmark", error))?;
    let copy = plugins.join(bench.file.file_name().unwrap_or_default());
    if !copy.exists() {
        fs::copy(&bench.file, &copy).map_err(|error| broken("can't copy the plugin for the benchmark", error))?;
        // A file that has just been written is watched for a moment before it is read: that is no cost of a start.
        tokio::time::sleep(AGED).await;
    }

    let broker = bench.place.broker();
    let task = bench.task(1);
    broker.enqueue(std::slice::from_ref(&task)).await?;
    let program = env::current_exe().map_err(|error| broken("can't find this program to start it again", error))?;
    let mut worker = Command::new(program);
    worker.arg("worker").args(["--queue", QUEUE, "--log", "warn"]).arg("--plugins").arg(&plugins).arg("--state").arg(&state);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX) {
            worker.env_remove(name);
        }
    }
    worker.envs(bench.place.variables()).env(ENVIRONMENT_CONFIG, &none);
    worker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let began = Instant::now();
    let mut worker = worker.spawn().map_err(|error| broken("can't start a worker process", error))?;
    let ended = tokio::select! {
        ended = broker.await_end(Some(&bench.queue), &task.id, LIMIT) => ended?,
        _ = worker.wait() => None,
    };
    let took = began.elapsed();
    let ok = ended.is_some_and(|view| view.state.is_ended());
    // Nothing is left of what it held: the place is cleared after each part.
    let _gone_already = worker.start_kill();
    let told = worker.wait_with_output().await.map_err(|error| broken("can't wait for the worker process", error))?;
    if ok {
        return Ok(took);
    }
    let told = String::from_utf8_lossy(&told.stderr);
    Err(Failure::Failed(format!("a worker process did not run its first task within {} s: {}", LIMIT.as_secs(), told.trim())))
}

/// A directory of its own, gone with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let dir = env::temp_dir().join(format!("taskhost-bench-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&dir)
            .map_err(|error| Failure::Failed(format!("can't make a directory for the benchmark: {error}: `{}`", dir.display())))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "can't remove the benchmark's directory, delete it: `{}`", self.0.display());
        }
    }
}
