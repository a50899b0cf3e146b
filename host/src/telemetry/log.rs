//! The log as an observer: what happens in a worker becomes a line. Metrics and traces are observers beside it.
//!
//! A line's target is the room where the fact became true, so that a filter such as `taskhost::worker=debug` finds it.

use taskhost_core::{
    observe::{Event, Observer},
    task::Outcome,
};
use tracing::Level;

const ATTEMPT: &str = "taskhost::worker::attempt";
const BROKER: &str = "taskhost::broker";
const PLUGINS: &str = "taskhost::plugins";
const SCHEDULE: &str = "taskhost::schedule";
const WORKER: &str = "taskhost::worker";

/// Writes events into the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log;

impl Observer for Log {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::WorkerJoined { worker, queues, concurrency } => {
                let queues: Vec<_> = queues.iter().map(|(queue, _)| queue.as_str()).collect();
                tracing::info!(target: WORKER, %worker, queues = queues.join(","), concurrency, "worker started");
            }
            Event::WorkerDrained { worker, succeeded, failed, handed_back, .. } => {
                tracing::info!(target: WORKER, %worker, succeeded, failed, handed_back, "worker stopped");
            }
            Event::Adopted { worker, queue, tasks } => {
                tracing::info!(target: WORKER, %queue, %worker, count = tasks, "adopted tasks of a lost worker");
            }
            // The span of the attempt has its fields.
            Event::AttemptStarted(_) => tracing::debug!(target: ATTEMPT, "started"),
            Event::AttemptEnded { attempt, outcome, used, .. } => match outcome {
                Some(Outcome::Done { .. }) => tracing::debug!(target: ATTEMPT, ran = ?used.wall, "succeeded"),
                Some(Outcome::Failed { error, .. }) => tracing::debug!(target: ATTEMPT, ran = ?used.wall, %error, "failed"),
                Some(Outcome::HostFault { reason, delay }) => {
                    tracing::warn!(
                        target: ATTEMPT,
                        id = %attempt.id, task = %attempt.task, %reason, ?delay, "handed back: the host could not run it"
                    );
                }
                None => {}
            },
            Event::CallEnded { verb, queue, took, error } => {
                let queue = queue.map(tracing::field::display);
                // The caller chooses the level at which it reports the failure.
                match error {
                    None => tracing::trace!(target: BROKER, queue, ?took, "{verb}"),
                    Some(error) => tracing::trace!(target: BROKER, queue, ?took, %error, "{verb} failed"),
                }
            }
            Event::PluginServes { file, code, bodies, .. } => {
                let digest = code.digest.get(..12).unwrap_or_default();
                tracing::info!(target: PLUGINS, plugin = code.plugin, version = code.version, digest, bodies, "{file} serves");
            }
            Event::PluginStopped { file, code } => {
                tracing::warn!(target: PLUGINS, plugin = code.plugin, "{file} does not serve any more");
            }
            Event::PluginUnloaded { file, .. } => tracing::info!(target: PLUGINS, "{file} is unloaded"),
            Event::PluginRefused { file, error: why, serving } | Event::PluginRolledBack { file, why, serving } => {
                let serving = serving.map_or("nothing serves in its place", |_| "its last good version serves");
                tracing::warn!(target: PLUGINS, "{file}: {why}; {serving}");
            }
            Event::ScheduleFired { schedule, due, task, id } => {
                tracing::info!(target: SCHEDULE, schedule, due = due.0, %task, %id, "schedule fired");
            }
            Event::ScheduleSkipped { schedule, due, id } => {
                tracing::info!(target: SCHEDULE, schedule, due = due.0, %id, "schedule skipped: the task of its last firing has not ended");
            }
            _ => {}
        }
    }

    fn wants_calls(&self) -> bool {
        tracing::enabled!(target: BROKER, Level::TRACE)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::*;
    use taskhost_core::{
        observe::{Attempt, Used},
        task::{CodeId, ErrorKind, Millis, QueueName, TaskError, TaskId, TaskName},
        trace::Within,
    };

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines of these events at a level, without the time.
    fn lines(level: Level, events: &[Event<'_>]) -> Vec<String> {
        let page = Page::default();
        let out = page.clone();
        let log = tracing_subscriber::fmt().with_writer(move || out.clone()).with_ansi(false).without_time().with_max_level(level).finish();
        tracing::subscriber::with_default(log, || events.iter().for_each(|event| Log.on(event)));
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim_start().to_owned()).collect()
    }

    #[test]
    fn each_fact_has_its_line_where_operators_look_for_it() {
        let (queue, task, id) = (QueueName::default(), TaskName::new("add").unwrap(), TaskId::new("t1").unwrap());
        let code = CodeId { plugin: "math".into(), version: "1.2.0".into(), digest: "ab".repeat(32) };
        let attempt = Attempt { worker: "w", queue: &queue, id: &id, task: &task, number: 1, code: &code, waited: None, span: None };
        let used = Used { wall: Duration::from_millis(3), ..Used::default() };
        let fault = Outcome::HostFault { reason: "no memory".into(), delay: Duration::from_secs(1) };
        let failed = Outcome::Failed { error: TaskError::new(ErrorKind::Trap, "no"), after: None };
        let away = io::Error::other("away");
        let events = [
            Event::WorkerJoined { worker: "w", queues: &[(queue.clone(), 1), (QueueName::new("mail").unwrap(), 3)], concurrency: 8 },
            Event::AttemptStarted(attempt),
            Event::AttemptEnded { attempt, outcome: Some(&failed), used, within: &Within::default() },
            Event::AttemptEnded { attempt, outcome: Some(&fault), used, within: &Within::default() },
            Event::CallEnded { verb: "claim", queue: Some(&queue), took: Duration::from_micros(80), error: None },
            Event::CallEnded { verb: "check", queue: None, took: Duration::from_micros(80), error: Some(&away) },
            Event::PluginServes { file: "math.wasm", code: &code, old: None, bodies: 2 },
            Event::PluginRefused { file: "math.wasm", error: "no component", serving: Some(&code) },
            Event::ScheduleFired { schedule: "nightly", due: Millis(5), task: &task, id: &id },
            Event::WorkerDrained { worker: "w", succeeded: 1, failed: 2, handed_back: 3, left_behind: 4 },
        ];
        let usual = [
            r#"INFO taskhost::worker: worker started worker=w queues="default,mail" concurrency=8"#,
            "WARN taskhost::worker::attempt: handed back: the host could not run it id=t1 task=add reason=no memory delay=1s",
            r#"INFO taskhost::plugins: math.wasm serves plugin="math" version="1.2.0" digest="abababababab" bodies=2"#,
            "WARN taskhost::plugins: math.wasm: no component; its last good version serves",
            r#"INFO taskhost::schedule: schedule fired schedule="nightly" due=5 task=add id=t1"#,
            "INFO taskhost::worker: worker stopped worker=w succeeded=1 failed=2 handed_back=3",
        ];
        assert_eq!(lines(Level::INFO, &events), usual);
        let all = lines(Level::TRACE, &events);
        for line in [
            "DEBUG taskhost::worker::attempt: started",
            "DEBUG taskhost::worker::attempt: failed ran=3ms error=trap: no",
            "TRACE taskhost::broker: claim queue=default took=80µs",
            "TRACE taskhost::broker: check failed took=80µs error=away",
        ] {
            assert!(all.iter().any(|said| said == line), "{line} is not among {all:#?}");
        }
    }
}
