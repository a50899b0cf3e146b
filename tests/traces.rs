//! Traces: a test plays the collector, and looks at the tree of spans that one request leaves.

use std::collections::HashMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use serde_json::json;

use super::support::{
    http::Http,
    program::{Taskhost, until},
    receiver::Receiver,
};

fn collector() -> Receiver<Span> {
    Receiver::start(|head, body| {
        assert!(head.starts_with("post /v1/traces http/1.1") && head.contains("content-type: application/x-protobuf"), "{head}");
        let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
        for resource in request.resource_spans.iter().filter_map(|spans| spans.resource.as_ref()) {
            assert_eq!(text(&resource.attributes, "service.name").as_deref(), Some("taskhost"));
        }
        request.resource_spans.into_iter().flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
    })
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";

fn a_request_leaves_one_tree(mut host: Taskhost) {
    let collector = collector();
    let origin =
        Receiver::start(|head, _| head.lines().find_map(|line| Some(line.strip_prefix("traceparent: ")?.to_owned())).into_iter().collect());
    host.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.at));
    host.set("OTEL_BSP_SCHEDULE_DELAY", "100");
    host.write(
        "taskhost.toml",
        &format!("[plugins.probe]\nhttp = [\"http://{}\"]\nenqueue = {{ tasks = ['*'], queues = ['default'] }}\n", origin.at),
    );
    let (worker, http) = Http::worker(&host, &["probe"]);
    let traced = http.clone().with("traceparent", &format!("00-{TRACE}-{SENDER}-01")).with("baggage", "batch.id=7");
    let parent = traced.post("/v1/tasks?wait=60s", r#"{"task":"spawn_children","args":[1,"echo"],"id":"parent"}"#).ok(201);
    assert_eq!(parent["state"], "succeeded", "{parent}");
    let child = parent["result"][0].as_str().expect("an id");
    let child_view = http.get(&format!("/v1/tasks/{child}?wait=60s")).ok(200);
    let about = traced.post("/v1/tasks?wait=60s", r#"{"task":"about","id":"about"}"#).ok(201);
    let fetched = json!({"task": "fetch", "args": [format!("http://{}/", origin.at)], "id": "fetch"});
    traced.post("/v1/tasks?wait=60s", &fetched.to_string()).ok(201);
    traced.post("/v1/tasks?wait=60s", r#"{"task":"panic_task","args":["secret words"],"id":"panic","retries":0}"#).ok(201);
    host.set("TRACEPARENT", &format!("00-{TRACE}-{SENDER}-01"));
    host.ok(&["enqueue", "echo", "1", "--id", "by-hand", "--wait=60s"]);
    until("all spans have come", || collector.kept().len() >= 12);

    let spans = collector.kept();
    assert!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE), "{spans:#?}");
    let of = |id: &str, kind: SpanKind| {
        let is_meant = |span: &&Span| text(&span.attributes, "messaging.message.id").as_deref() == Some(id) && span.kind == kind as i32;
        spans.iter().find(is_meant).unwrap_or_else(|| panic!("no {kind:?} span of {id} in {spans:#?}"))
    };
    for id in ["parent", "fetch", "panic", "by-hand"] {
        let (enqueue, attempt) = (of(id, SpanKind::Producer), of(id, SpanKind::Consumer));
        assert_eq!((enqueue.name.as_str(), hex::encode(&enqueue.parent_span_id).as_str()), ("enqueue default", SENDER));
        assert_eq!((attempt.name.as_str(), &attempt.parent_span_id), ("attempt default", &enqueue.span_id));
        assert_eq!(attempt.links.first().map(|link| &link.span_id), Some(&enqueue.span_id), "the creation is linked too");
        assert!(attempt.end_time_unix_nano >= attempt.start_time_unix_nano);
    }
    let attempt = of("parent", SpanKind::Consumer);
    for (key, value) in [("taskhost.task", "spawn_children"), ("taskhost.plugin", "probe"), ("taskhost.attempt", "1")] {
        assert_eq!(text(&attempt.attributes, key).as_deref(), Some(value));
    }
    let child_attempt = of(child, SpanKind::Consumer);
    assert_eq!(child_attempt.parent_span_id, attempt.span_id, "a child's attempt is below the attempt that enqueued it");
    let headers = |list: &serde_json::Value| serde_json::from_value(list.clone()).map(pairs).expect("headers");
    let span_of = |span: &Span| format!("00-{TRACE}-{}-01", hex::encode(&span.span_id));
    let (of_child, of_about) = (headers(&child_view["headers"]), headers(&about["result"]["headers"]));
    assert_eq!((&of_child["baggage"], &of_about["baggage"]), (&"batch.id=7".to_owned(), &"batch.id=7".to_owned()));
    assert_eq!(of_child["traceparent"], span_of(attempt), "a child comes with the span of its parent");
    assert_eq!(of_about["traceparent"], span_of(of("about", SpanKind::Consumer)), "a body sees its own span");

    let client = spans.iter().find(|span| span.kind == SpanKind::Client as i32).expect("the request of a body");
    assert_eq!(client.parent_span_id, of("fetch", SpanKind::Consumer).span_id);
    assert_eq!((text(&client.attributes, "http.response.status_code").as_deref(), client.name.as_str()), (Some("200"), "GET"));
    let seen = origin.kept();
    assert_eq!(seen, [span_of(client)], "the other side learns the span of the request");

    let panicked = of("panic", SpanKind::Consumer);
    assert_eq!(text(&panicked.attributes, "error.type").as_deref(), Some("panic"));
    assert!(!format!("{spans:?}").contains("secret words"), "no span holds what a producer or a body wrote");
    assert!(worker.stop().success());
}

fn what_a_body_tells_of_its_steps_is_below_its_attempt(mut host: Taskhost) {
    let collector = collector();
    let origin = Receiver::start(|head, _| {
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("none").to_owned();
        vec![format!("{} {}", header("traceparent: "), header("baggage: "))]
    });
    let other = Receiver::start(|head, _| vec![head.lines().find(|line| line.starts_with("baggage")).unwrap_or("none").to_owned()]);
    host.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.at));
    host.set("OTEL_BSP_SCHEDULE_DELAY", "100");
    let grants = format!("[{{ origin = \"http://{}\", baggage = true }}, \"http://{}\"]", origin.at, other.at);
    host.write("taskhost.toml", &format!("retries = 0\n[plugins.probe]\nhttp = {grants}\n"));
    let (worker, http) = Http::worker(&host, &["probe"]);
    let traced = http.clone().with("traceparent", &format!("00-{TRACE}-{SENDER}-01")).with("baggage", "batch.id=7");
    let run = |id: &str, args: serde_json::Value, state: &str| {
        let task = json!({"task": "work_in_spans", "args": args, "id": id, "timeout": "3s"});
        assert_eq!(traced.post("/v1/tasks?wait=60s", &task.to_string()).ok(201)["state"], state, "{id}");
    };
    run("well", json!([format!("http://{}/", origin.at)]), "succeeded");
    run("other", json!([format!("http://{}/", other.at)]), "succeeded");
    run("fail", json!([null, "fail"]), "dead");
    run("panic", json!([null, "panic"]), "dead");
    run("spin", json!([null, "spin"]), "dead");
    run("many", json!([null, "many"]), "succeeded");
    // What is not traced tells nothing and goes on as well.
    let untraced = http.clone().with("traceparent", &format!("00-{TRACE}-{SENDER}-00"));
    untraced.post("/v1/tasks?wait=60s", r#"{"task":"work_in_spans","args":[null,"many"],"id":"untraced"}"#).ok(201);
    until("all spans have come", || collector.kept().len() >= 6 * 2 + 2 + 5 * 2 + 128);

    let spans = collector.kept();
    let attempt = |id: &str| {
        let is_meant =
            |span: &&Span| text(&span.attributes, "messaging.message.id").as_deref() == Some(id) && span.kind == SpanKind::Consumer as i32;
        spans.iter().find(is_meant).unwrap_or_else(|| panic!("no attempt of {id}"))
    };
    let below = |parent: &Span| spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect::<Vec<_>>();
    for id in ["well", "other", "fail", "panic", "spin"] {
        let own = below(attempt(id));
        assert_eq!(own.len(), 1, "{id}: {own:?}");
        let read = own[0];
        assert_eq!((read.name.as_str(), text(&read.attributes, "table").as_deref()), ("read", Some("orders")), "{id}");
        let page = below(read)[0];
        assert_eq!((page.name.as_str(), text(&page.attributes, "number").as_deref()), ("page", Some("3")), "{id}");
        assert_eq!(page.status.as_ref().map(|status| status.message.as_str()), Some("cut short"), "{id}");
        let event = &page.events[0];
        assert_eq!((event.name.as_str(), text(&event.attributes, "times").as_deref()), ("retried", Some("2")), "{id}");
        assert!(read.start_time_unix_nano <= page.start_time_unix_nano && page.end_time_unix_nano <= read.end_time_unix_nano + 1_000_000);
        let requests = below(page);
        assert_eq!(requests.len(), usize::from(["well", "other"].contains(&id)), "{id}: {requests:?}");
    }
    let spun = below(attempt("spin"))[0];
    assert!(spun.end_time_unix_nano - spun.start_time_unix_nano > 2_000_000_000, "a span that is left open ends with the attempt");
    let request = below(below(below(attempt("well"))[0])[0])[0];
    assert_eq!(origin.kept(), [format!("00-{TRACE}-{}-01 batch.id=7", hex::encode(&request.span_id))]);
    assert_eq!(other.kept(), ["none"], "only who is granted the baggage gets it");
    let many = attempt("many");
    assert_eq!(text(&many.attributes, "taskhost.spans.dropped").as_deref(), Some("74"), "202 spans are 74 more than 128");
    assert_eq!(below(below(many)[0]).len(), 127, "the 129th is left out");
    let metrics = http.get("/metrics").body;
    assert!(metrics.contains(r#"taskhost_guest_http_requests_total{plugin="probe",class="2xx"} 2"#), "{metrics}");
    assert!(worker.stop().success());
}

fn pairs(list: Vec<(String, String)>) -> HashMap<String, String> {
    list.into_iter().collect()
}

fn what_is_not_sampled_is_handed_on_as_it_is(mut host: Taskhost) {
    let collector = collector();
    host.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.at));
    host.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    host.set("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let (worker, http) = Http::worker(&host, &["probe"]);
    let given = format!("00-{TRACE}-{SENDER}-00");
    let about = http.clone().with("traceparent", &given).post("/v1/tasks?wait=60s", r#"{"task":"about"}"#).ok(201);
    let headers: HashMap<String, String> = serde_json::from_value(about["result"]["headers"].clone()).map(pairs).expect("headers");
    assert_eq!(headers["traceparent"], given);
    let odd = http.clone().with("traceparent", "00-odd").post("/v1/tasks?wait=60s", r#"{"task":"about"}"#).ok(201);
    assert_eq!(odd["result"]["headers"], json!([]), "what is no trace is left out");
    http.post("/v1/tasks?wait=60s", r#"{"task":"about"}"#).ok(201);
    assert!(worker.stop().success());
    assert_eq!(collector.kept().len(), 0);
}

#[test]
fn a_collector_that_is_away_costs_spans_only() {
    let mut host = Taskhost::new();
    host.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    host.set("OTEL_BSP_SCHEDULE_DELAY", "50");
    host.drop_in("math");
    let worker = host.worker(&[]);
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait=60s"]), "2\n");
    worker.until("it says so", |worker| worker.log().contains("spans do not reach the collector"));
    assert!(worker.stop().success());
    for (name, value) in [("OTEL_TRACES_SAMPLER", "sometimes"), ("OTEL_TRACES_EXPORTER", "zipkin")] {
        let mut host = Taskhost::new();
        host.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        host.set(name, value);
        let refused = host.run(&["worker"]);
        assert!(refused.code == 2 && refused.stderr.contains(name), "{refused:?}");
    }
}

mod sqlite {
    use super::Taskhost;

    #[test]
    fn a_request_leaves_one_tree() {
        super::a_request_leaves_one_tree(Taskhost::new());
    }

    #[test]
    fn what_is_not_sampled_is_handed_on_as_it_is() {
        super::what_is_not_sampled_is_handed_on_as_it_is(Taskhost::new());
    }

    #[test]
    fn what_a_body_tells_of_its_steps_is_below_its_attempt() {
        super::what_a_body_tells_of_its_steps_is_below_its_attempt(Taskhost::new());
    }
}

mod redis {
    use super::Taskhost;

    #[test]
    fn a_request_leaves_one_tree() {
        super::a_request_leaves_one_tree(Taskhost::on_redis());
    }

    #[test]
    fn what_is_not_sampled_is_handed_on_as_it_is() {
        super::what_is_not_sampled_is_handed_on_as_it_is(Taskhost::on_redis());
    }

    #[test]
    fn what_a_body_tells_of_its_steps_is_below_its_attempt() {
        super::what_a_body_tells_of_its_steps_is_below_its_attempt(Taskhost::on_redis());
    }
}
