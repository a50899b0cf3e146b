//! The time from the start of a worker process to the end of its first task, once with an empty cache and once with a full one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    error::BenchError,
    figure::Figure,
    setup::{Bench, QUEUE},
};

const LIMIT: Duration = Duration::from_secs(60);
/// After this time the worker takes a plugin file as settled.
const AGED: Duration = Duration::from_secs(4);

pub(crate) async fn cold_and_warm(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let scratch = Scratch::new()?;
    for figure in [Figure::ColdStart, Figure::WarmStart] {
        let took = one(bench, &scratch.0).await?;
        bench.report.add(figure, took.as_secs_f64() * 1e3);
        bench.place.clear().await?;
    }
    Ok(())
}

async fn one(bench: &Bench<'_>, scratch: &Path) -> Result<Duration, BenchError> {
    let broken = |what: &str, error: std::io::Error| BenchError::Failed(format!("{what}: {error}"));
    let plugins = scratch.join("plugins");
    let state = scratch.join("state");
    fs::create_dir_all(&plugins).map_err(|error| broken("can't make a plugin directory for the benchmark", error))?;
    let copy = plugins.join(bench.options.plugin.file_name().unwrap_or_default());
    if !copy.exists() {
        fs::copy(&bench.options.plugin, &copy).map_err(|error| broken("can't copy the plugin for the benchmark", error))?;
        // A worker waits until a new file has settled. That time is no cost of a start.
        tokio::time::sleep(AGED).await;
    }

    let broker = bench.place.broker();
    let task = bench.task(1);
    broker.enqueue(std::slice::from_ref(&task)).await?;
    let mut worker = bench.subject.process(QUEUE, &plugins, &state, bench.place.variables())?;
    worker.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let began = Instant::now();
    let mut worker = worker.spawn().map_err(|error| broken("can't start a worker process", error))?;
    let ended = tokio::select! {
        ended = broker.await_end(Some(&bench.queue), &task.id, LIMIT) => ended?,
        _ = worker.wait() => None,
    };
    let took = began.elapsed();
    let ok = ended.is_some_and(|view| view.state.is_ended());
    // Its tasks do not matter, because the place is emptied after each part.
    let _gone_already = worker.start_kill();
    let told = worker.wait_with_output().await.map_err(|error| broken("can't wait for the worker process", error))?;
    if ok {
        return Ok(took);
    }
    let told = String::from_utf8_lossy(&told.stderr);
    Err(BenchError::Failed(format!("a worker process did not run its first task within {} s: {}", LIMIT.as_secs(), told.trim())))
}

/// A directory that is deleted with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, BenchError> {
        let dir = env::temp_dir().join(format!("taskhost-bench-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&dir)
            .map_err(|error| BenchError::Failed(format!("can't make a directory for the benchmark: {error}: `{}`", dir.display())))?;
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
