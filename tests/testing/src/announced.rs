//! Workers as they announce themselves to a broker.

use taskhost_broker::{RunningInfo, WorkerInfo};
use taskhost_core::{
    catalogue::{Body, Description, Hints, Parameter, PluginInfo, PluginStatus},
    task::{CodeId, Millis, QueueName, TaskId},
};

use crate::task_name;

/// A plugin file as a worker announces it: it serves one body with one parameter.
pub fn plugin(file: &str, version: &str, body: &str) -> PluginInfo {
    let parameter = Parameter { name: "a".into(), schema: serde_json::json!({"type": "integer"}), optional: true };
    PluginInfo {
        file: file.into(),
        status: PluginStatus::Serving,
        serving: Some(CodeId { plugin: "math".into(), version: version.into(), digest: "cd".repeat(32) }),
        error: None,
        warnings: vec!["old".into()],
        description: Some(Description {
            version: version.into(),
            doc: "Numbers.".into(),
            bodies: vec![Body {
                name: task_name(body),
                doc: "Adds.".into(),
                parameters: vec![parameter],
                returns: serde_json::json!({}),
                hints: Hints { timeout_ms: Some(2000), ..Hints::default() },
            }],
        }),
        granted: vec!["kv of 10 bytes and 2 keys".into()],
        lacking: Vec::new(),
    }
}

/// A live worker on the default queue with these plugins, and one task running.
pub fn worker(id: &str, plugins: Vec<PluginInfo>) -> WorkerInfo {
    WorkerInfo {
        id: id.into(),
        host: "box".into(),
        pid: 7,
        started_at: Millis(1_700_000_000_000),
        queues: vec![QueueName::default()],
        concurrency: 128,
        running: vec![RunningInfo { id: TaskId::fresh(), task: task_name("add"), queue: QueueName::default(), since: Millis(5) }],
        draining: false,
        plugins,
        schedules: None,
    }
}

/// A worker that serves one body of one plugin.
pub fn serving(id: &str, file: &str, body: &str) -> WorkerInfo {
    worker(id, vec![plugin(file, "1.0.0", body)])
}
