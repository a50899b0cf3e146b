//! `/metrics`: what is counted is right, the format is Prometheus's, and the documents name what there is.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    http::Http,
    program::{Taskhost, until},
};

/// The value of one series.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn docs(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)).expect("a document")
}

/// The names of metrics in a text, without what a histogram adds.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("taskhost_"));
    let plain = words.map(|word| ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned());
    plain.collect()
}

#[test]
fn what_happens_is_counted_and_named_as_the_documents_say() {
    let host = Taskhost::new();
    host.write("taskhost.toml", "[schedules.nightly]\nrule = \"* * * * * *\"\ntask = \"add\"\nargs = [1, 1]\nqueue = \"other\"\n");
    let (_worker, http) = Http::worker(&host, &["math", "probe"]);
    for _ in 0..3 {
        http.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1,1]}"#).ok(201);
    }
    http.post("/v1/tasks?wait=30s", r#"{"task":"panic_task","args":["x"],"retries":0}"#).ok(201);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h"}"#).ok(201);
    http.get("/v1/tasks/a%00b");
    let mut text = String::new();
    until("the answers are counted", || {
        text = http.get("/metrics").body;
        value(&text, r#"taskhost_tasks{queue="default",state="dead"}"#) == Some(1.0)
    });
    for (series, expected) in [
        (r#"taskhost_attempts_total{queue="default",task="add",outcome="succeeded"}"#, 3.0),
        (r#"taskhost_attempts_total{queue="default",task="panic_task",outcome="panic"}"#, 1.0),
        (r#"taskhost_attempt_duration_seconds_count{queue="default",task="add"}"#, 3.0),
        (r#"taskhost_attempt_duration_seconds_bucket{queue="default",task="add",le="+Inf"}"#, 3.0),
        (r#"taskhost_wait_seconds_count{queue="default"}"#, 4.0),
        (r#"taskhost_tasks{queue="default",state="succeeded"}"#, 3.0),
        (r#"taskhost_tasks{queue="default",state="scheduled"}"#, 1.0),
        (r#"taskhost_queue_paused{queue="default"}"#, 0.0),
        (r#"taskhost_slots{state="running"}"#, 0.0),
        (r#"taskhost_plugin_swaps_total{result="serves"}"#, 2.0),
        (r#"taskhost_http_request_duration_seconds_count{route="/v1/tasks/{id}",method="GET",code="4xx"}"#, 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in:\n{text}");
    }
    assert!(value(&text, r#"taskhost_attempt_cpu_seconds_total{plugin="math"}"#).is_some_and(|cpu| cpu > 0.0), "{text}");
    assert!(value(&text, r#"taskhost_broker_call_seconds_count{verb="claim"}"#).is_some_and(|calls| calls > 0.0), "{text}");
    until("the schedule fires", || {
        text = http.get("/metrics").body;
        value(&text, r#"taskhost_schedule_last_fired_timestamp_seconds{schedule="nightly"}"#).is_some_and(|at| at > 1.7e9)
    });

    let served: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned).collect();
    let page = names(&docs("metrics.md"));
    assert_eq!(served, page, "docs/metrics.md names what is served");
    for document in ["alerts.yml", "grafana.json"] {
        let unknown: Vec<_> = names(&docs(document)).difference(&served).cloned().collect();
        assert!(unknown.is_empty(), "{document} names {unknown:?}, which is not served");
    }
    let alerts = docs("alerts.yml");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(docs("metrics.md").contains(&format!("`{alert}`")), "docs/metrics.md says what to do about {alert}");
    }
    judged_by_promtool(&text);
}

/// Prometheus's own tool finds nothing to say.
fn judged_by_promtool(text: &str) {
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        return eprintln!("NOT RUN: `promtool check metrics`, promtool is not installed here (Debian: the package prometheus)");
    };
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&output.stderr));
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts.yml");
    let output = Command::new("promtool").args(["check", "rules"]).arg(alerts).output().expect("it ran a moment ago");
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&output.stdout));
}
