//! Laws of flows: their steps start once and in their order, nothing that they need is lost, and each ends once.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use taskhost_broker::{Ask, AskReply, Broker, BrokerError, BrokerSettings, CancelReply, FlowView, Leased, NewFlow, RetryReply};
use taskhost_core::{
    task::{QueueName, State, Task, TaskId, Verdict},
    workflow::FlowWord,
};

use crate::support::{LEASE, SOON, Worker, dead, ok, queue, task_id, wait_until};

fn flow(id: &str, steps: serde_json::Value, input: &str) -> NewFlow {
    let mut plan = json!({"flow": 1, "name": "law"});
    plan["steps"] = steps;
    NewFlow {
        id: task_id(id),
        queue: QueueName::default(),
        plan: plan.to_string(),
        input: input.to_owned(),
        headers: Vec::new(),
        parent: None,
    }
}

async fn start(b: &dyn Broker, flow: &NewFlow) {
    assert!(b.start_flow(flow).await.expect("start"), "it is new");
}

async fn view(b: &dyn Broker, id: &str) -> FlowView {
    b.flow(None, &task_id(id)).await.expect("flow").unwrap_or_else(|| panic!("no flow {id}"))
}

fn state(view: &FlowView, step: &str) -> &'static str {
    view.steps.iter().find(|of| of.name == step).unwrap_or_else(|| panic!("no step {step}")).state
}

async fn ask(b: &dyn Broker, id: &str, what: Ask) -> AskReply {
    b.ask_flow(&QueueName::default(), &task_id(id), &what).await.expect("ask")
}

fn signal(name: &str, value: &str) -> Ask {
    Ask::Signal { name: name.into(), value: value.into() }
}

/// What runs is cancelled if that was asked for; else it ends as `fate` says.
async fn finish_all(worker: &Worker<'_>, tasks: Vec<Leased>, fate: &dyn Fn(&Task) -> Verdict, ran: &mut Vec<String>) {
    for leased in tasks {
        ran.push(leased.task.name.to_string());
        worker.finish(&leased.member, fate(&leased.task)).await;
    }
}

/// Works on two queues as a worker does until nothing is left to do at once. Answers the names of what ran, in this order.
async fn work(b: &dyn Broker, fate: impl Fn(&Task) -> Verdict) -> Vec<String> {
    let (home, far) = (QueueName::default(), queue("far"));
    let (worker, other) = (Worker::on(b, &home, LEASE).await, Worker::on(b, &far, LEASE).await);
    let mut ran = Vec::new();
    loop {
        b.relay(&home).await.expect("relay");
        b.relay(&far).await.expect("relay");
        let stepped = b.step_flows(&home).await.expect("step");
        let (tasks, others) = (worker.claim(100).await, other.claim(100).await);
        if stepped == 0 && tasks.is_empty() && others.is_empty() {
            break;
        }
        finish_all(&worker, tasks, &fate, &mut ran).await;
        finish_all(&other, others, &fate, &mut ran).await;
    }
    b.leave(&worker.who).await.expect("leave");
    b.leave(&other.who).await.expect("leave");
    ran
}

/// Each task gives its name and its arguments.
fn echo(task: &Task) -> Verdict {
    ok(&json!([task.name.as_str(), serde_json::from_str::<serde_json::Value>(&task.args).expect("JSON")]).to_string())
}

pub(crate) async fn a_flow_runs_its_steps_in_their_order_with_the_results_of_those_before(b: &dyn Broker) {
    let steps = json!({
        "a": {"task": "a", "args": [{"from": "input", "at": "/n"}]},
        "b": {"task": "b", "args": [{"from": "a", "at": "/1/0"}], "queue": "far"},
        "c": {"task": "c", "args": [{"from": "a"}, {"from": "b"}]}});
    let flow = flow("f", steps, r#"{"n": 7}"#);
    start(b, &flow).await;
    assert!(!b.start_flow(&flow).await.expect("again"), "a known id starts nothing");
    let first = b.find(None, &task_id("f.a.1")).await.expect("find").expect("its first task is enqueued with the start");
    assert_eq!((first.state, first.args.get()), (State::Ready, "[7]"));
    let place = first.options.flow.expect("it knows its flow");
    assert_eq!((place.flow.as_str(), &*place.node, place.epoch), ("f", "a", 1));
    assert_eq!(work(b, echo).await, ["a", "b", "c"]);
    let done = view(b, "f").await;
    assert_eq!((done.line.state, done.line.ends, done.progress.succeeded), (FlowWord::Succeeded, 3, 3));
    assert_eq!(done.result.expect("a result").get(), r#"["c",[["a",[7]],["b",[7]]]]"#);
    assert_eq!(b.flows(&QueueName::default(), 10).await.expect("flows").len(), 1);
    assert_eq!(ask(b, "f", Ask::Cancel).await, AskReply::Refused(FlowWord::Succeeded));
    assert_eq!(ask(b, "nobody", Ask::Cancel).await, AskReply::NotFound);
}

/// A chord whose members end on two workers that both take steps.
pub(crate) async fn a_join_starts_once_however_many_take_its_steps(one: &dyn Broker, other: &dyn Broker) {
    let members: Vec<_> = (0..60).map(|n| json!({"task": "m", "args": [n]})).collect();
    start(one, &flow("j", json!({"all": {"group": members, "parallel": 60}, "sum": {"task": "sum", "args": [{"from": "all"}]}}), "null"))
        .await;
    let home = QueueName::default();
    let worker = Worker::new(one).await;
    let members = worker.claim(100).await;
    assert_eq!(members.len(), 60);
    for leased in &members {
        assert_eq!(worker.finish(&leased.member, ok(&leased.task.args)).await, taskhost_broker::Finished::Recorded);
        // A repeated report changes nothing.
        worker.finish(&leased.member, ok("0")).await;
        let (a, b) = tokio::join!(one.step_flows(&home), other.step_flows(&home));
        a.and(b).expect("step");
    }
    let sums = worker.claim(100).await;
    assert_eq!(sums.len(), 1, "the join starts once");
    let expected: Vec<_> = (0..60).map(|n| json!([n])).collect();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&sums[0].task.args).expect("JSON"), json!([expected]));
    worker.finish(&sums[0].member, ok("1")).await;
    wait_until(SOON, "it ends", || async {
        other.step_flows(&home).await.expect("step");
        view(other, "j").await.line.state == FlowWord::Succeeded
    })
    .await;
    assert!(worker.claim(9).await.is_empty());
}

pub(crate) fn no_results() -> BrokerSettings {
    BrokerSettings { result_ttl: Duration::ZERO, ..BrokerSettings::default() }
}

/// The broker keeps no results of tasks here.
pub(crate) async fn no_result_that_a_living_flow_needs_disappears(b: &dyn Broker) {
    let steps = json!({"a": {"task": "a"}, "b": {"task": "b", "after": "a"}, "c": {"task": "c", "args": [{"from": "a"}, {"from": "b"}]}});
    start(b, &flow("long", steps, "null")).await;
    let long = json!("x".repeat(5_000)).to_string();
    let (ran, big) = (work(b, |task| if task.name.as_str() == "a" { ok(&long) } else { echo(task) }).await, view(b, "long").await);
    assert_eq!((ran.len(), big.line.state), (3, FlowWord::Succeeded));
    assert!(big.result.expect("a result").get().contains(&long));
}

pub(crate) async fn a_cancelled_flow_starts_nothing_more_but_undo_newest_first(b: &dyn Broker) {
    let steps = json!({
        "a": {"task": "a", "undo": {"task": "undo-a", "args": [{"own": ""}]}},
        "b": {"task": "b", "after": "a", "undo": {"task": "undo-b"}},
        "c": {"task": "c", "after": "b", "undo": {"task": "undo-c"}},
        "d": {"task": "d", "after": "c"}});
    start(b, &flow("stop", steps, "null")).await;
    let worker = Worker::new(b).await;
    for name in ["a", "b"] {
        let leased = worker.claim_one().await;
        assert_eq!(leased.task.name.as_str(), name);
        worker.finish(&leased.member, echo(&leased.task)).await;
        b.step_flows(&QueueName::default()).await.expect("step");
    }
    // `c` runs when the flow is cancelled.
    let running = worker.claim_one().await;
    assert_eq!(ask(b, "stop", Ask::Cancel).await, AskReply::Done);
    assert!(worker.extend().await.cancelled.contains(&running.task.id), "its worker is told");
    worker
        .finish(
            &running.member,
            Verdict::Cancel { error: taskhost_core::task::TaskError::new(taskhost_core::task::ErrorKind::Cancelled, "stopped") },
        )
        .await;
    assert_eq!(work(b, echo).await, ["undo-b", "undo-a"], "the newest first, and nothing of what did not succeed");
    let ended = view(b, "stop").await;
    assert_eq!((ended.line.state, state(&ended, "c"), state(&ended, "d")), (FlowWord::Cancelled, "cancelled", "skipped"));
}

pub(crate) async fn one_failed_step_is_retried_alone_with_what_it_blocked(b: &dyn Broker) {
    let steps = json!({
        "a": {"task": "a"}, "b": {"task": "b", "after": "a"}, "c": {"task": "c", "args": [{"from": "b"}]},
        "alert": {"task": "alert", "args": [{"failure": "b"}], "after": "b", "on": "failure"}});
    start(b, &flow("again", steps, "null")).await;
    let fails = |task: &Task| if task.name.as_str() == "b" { dead("no luck") } else { echo(task) };
    assert_eq!(work(b, fails).await, ["a", "b", "alert"]);
    let failed = view(b, "again").await;
    assert_eq!((failed.line.state, state(&failed, "c")), (FlowWord::Failed, "skipped"));
    assert!(failed.line.why.expect("why").contains("no luck"));
    assert_eq!(ask(b, "again", Ask::Retry(Some("c".into()))).await, AskReply::NoSuchStep);
    assert_eq!(ask(b, "again", Ask::Retry(Some("b".into()))).await, AskReply::Done);
    assert_eq!(work(b, echo).await, ["b", "c"], "nothing that succeeded runs again");
    assert_eq!(view(b, "again").await.line.state, FlowWord::Succeeded);
}

pub(crate) async fn a_dead_task_of_a_flow_that_is_retried_lets_the_flow_go_on(b: &dyn Broker) {
    start(b, &flow("re", json!({"a": {"task": "a"}, "b": {"task": "b", "after": "a"}}), "null")).await;
    assert_eq!(work(b, |_| dead("no")).await, ["a"]);
    assert_eq!(view(b, "re").await.line.state, FlowWord::Failed);
    assert_eq!(b.retry(&QueueName::default(), &task_id("re.a.1")).await.expect("retry"), RetryReply::Ready);
    assert_eq!(work(b, echo).await, ["a", "b"]);
    let done = view(b, "re").await;
    assert_eq!((done.line.state, done.line.ended_at.is_some()), (FlowWord::Succeeded, true));
}

pub(crate) async fn a_signal_counts_once_before_or_after_the_wait(b: &dyn Broker) {
    let steps =
        || json!({"a": {"task": "a"}, "ok": {"wait": {"signal": "go"}, "after": "a"}, "b": {"task": "b", "args": [{"from": "ok"}]}});
    start(b, &flow("early", steps(), "null")).await;
    assert_eq!(ask(b, "early", signal("go", "1")).await, AskReply::Done);
    assert_eq!(ask(b, "early", signal("go", "2")).await, AskReply::Already);
    assert_eq!(work(b, echo).await, ["a", "b"]);
    assert_eq!(view(b, "early").await.result.expect("a result").get(), r#"["b",[1]]"#);
    start(b, &flow("late", steps(), "null")).await;
    assert_eq!(work(b, echo).await, ["a"]);
    assert_eq!(state(&view(b, "late").await, "ok"), "waiting");
    assert_eq!(ask(b, "late", signal("go", "3")).await, AskReply::Done);
    assert_eq!(ask(b, "late", signal("go", "4")).await, AskReply::Already);
    assert_eq!(work(b, echo).await, ["b"]);
    assert_eq!(view(b, "late").await.result.expect("a result").get(), r#"["b",[3]]"#);
}

pub(crate) async fn a_paused_flow_starts_nothing_and_keeps_what_it_is_told(b: &dyn Broker) {
    start(b, &flow("p", json!({"a": {"task": "a"}, "b": {"task": "b", "after": "a"}}), "null")).await;
    assert_eq!(ask(b, "p", Ask::Resume).await, AskReply::Already);
    assert_eq!(ask(b, "p", Ask::Pause).await, AskReply::Done);
    assert_eq!(ask(b, "p", Ask::Pause).await, AskReply::Already);
    assert_eq!(work(b, echo).await, ["a"], "what was enqueued runs");
    assert!(view(b, "p").await.line.paused.is_some());
    assert_eq!(ask(b, "p", Ask::Resume).await, AskReply::Done);
    assert_eq!(work(b, echo).await, ["b"]);
    assert_eq!(view(b, "p").await.line.state, FlowWord::Succeeded);
}

pub(crate) async fn a_task_of_a_flow_that_is_cancelled_or_deleted_while_it_waits_is_a_cancelled_step(b: &dyn Broker) {
    let home = QueueName::default();
    for (id, way) in [("c1", "cancel"), ("c2", "delete"), ("c3", "purge")] {
        start(b, &flow(id, json!({"a": {"task": "a"}, "b": {"task": "b", "after": "a"}}), "null")).await;
        let task = task_id(&format!("{id}.a.1"));
        match way {
            "cancel" => assert_eq!(b.cancel(&home, &task).await.expect("cancel"), CancelReply::Cancelled),
            "delete" => _ = b.delete(&home, &task).await.expect("delete"),
            _ => assert_eq!(b.purge(&home).await.expect("purge"), 1),
        }
        assert!(work(b, echo).await.is_empty());
        let ended = view(b, id).await;
        assert_eq!((ended.line.state, state(&ended, "a"), state(&ended, "b")), (FlowWord::Failed, "cancelled", "skipped"), "{way}");
    }
}

pub(crate) async fn a_flow_within_a_flow_ends_its_step_and_is_stopped_with_it(b: &dyn Broker) {
    let inner = |task: &str| json!({"flow": 1, "name": "inner", "steps": {"x": {"task": task, "args": [{"from": "input"}]}}});
    let steps = json!({"in": {"flow": inner("x"), "input": 5}, "out": {"task": "out", "args": [{"from": "in"}]}});
    start(b, &flow("outer", steps, "null")).await;
    assert_eq!(work(b, echo).await, ["x", "out"]);
    assert_eq!(view(b, "outer").await.result.expect("a result").get(), r#"["out",[["x",[5]]]]"#);
    assert_eq!(view(b, "outer.in.1").await.line.parent.expect("its parent").flow.as_str(), "outer");

    start(b, &flow("stopped", json!({"in": {"flow": inner("x")}, "out": {"task": "out", "after": "in"}}), "null")).await;
    assert_eq!(ask(b, "stopped", Ask::Cancel).await, AskReply::Done);
    assert!(work(b, echo).await.is_empty());
    assert_eq!(view(b, "stopped.in.1").await.line.state, FlowWord::Cancelled);
    assert_eq!(view(b, "stopped").await.line.state, FlowWord::Cancelled);
}

pub(crate) async fn a_claim_and_a_heartbeat_say_that_a_flow_wants_a_step_and_when(b: &dyn Broker) {
    let home = QueueName::default();
    let worker = Worker::new(b).await;
    let steps = json!({"wait": {"wait": {"for": "400ms"}}, "a": {"task": "a", "after": "wait"}});
    start(b, &flow("timer", steps, "null")).await;
    let claimed = worker.look(9, &[]).await;
    assert!(!claimed.flows && claimed.tasks.is_empty());
    assert!(claimed.next_due.expect("it says when") <= Duration::from_millis(400), "{claimed:?}");
    wait_until(SOON, "it is due", || async { worker.look(9, &[]).await.flows }).await;
    assert!(worker.extend().await.flows);
    assert_eq!(b.step_flows(&home).await.expect("step"), 1);
    let leased = worker.claim_one().await;
    assert!(!worker.look(9, &[]).await.flows, "what runs wants no step");
    worker.finish(&leased.member, ok("1")).await;
    assert!(worker.look(9, &[]).await.flows, "its end does");
    b.step_flows(&home).await.expect("step");
    assert_eq!(view(b, "timer").await.line.state, FlowWord::Succeeded);
}

pub(crate) async fn a_list_of_a_thousand_items_runs_so_many_at_once(b: &dyn Broker) {
    let steps = json!({"all": {"task": "m", "map": {"from": "input"}, "args": [{"item": ""}], "parallel": 700}, "sum": {"task": "sum", "args": [{"from": "all"}]}});
    let list: Vec<u32> = (0..1_000).collect();
    start(b, &flow("map", steps, &json!(list).to_string())).await;
    assert_eq!(view(b, "map").await.progress.running, 700);
    let ran = work(b, |task| if task.name.as_str() == "m" { ok(&task.args[1..task.args.len() - 1]) } else { ok("1") }).await;
    assert_eq!((ran.len(), ran.last().map(String::as_str)), (1_001, Some("sum")));
    let sum = b.find(None, &task_id("map.sum.1")).await.expect("find").expect("kept");
    assert_eq!(sum.args.get(), json!([list]).to_string());
}

pub(crate) async fn a_flow_that_can_t_run_is_refused_and_nothing_is_written(b: &dyn Broker) {
    for (plan, input, why) in [
        ("{", "null", "not JSON"),
        (r#"{"flow": 1, "name": "f", "steps": {"a": {"task": "a", "after": "b"}}}"#, "null", "no step `b`"),
        (r#"{"flow": 1, "name": "f", "steps": {"a": {"task": "a"}}}"#, "nul", "is JSON"),
    ] {
        let new = NewFlow { plan: plan.to_owned(), ..flow("bad", json!({}), input) };
        match b.start_flow(&new).await {
            Err(BrokerError::Invalid(said)) => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
        assert!(b.flow(None, &task_id("bad")).await.expect("flow").is_none());
    }
}

/// The flows of one queue: those that go on first, the newest first.
pub(crate) async fn flows_are_listed_with_those_that_go_on_first(b: &dyn Broker) {
    for id in ["l1", "l2", "l3"] {
        start(b, &flow(id, json!({"a": {"task": id}}), "null")).await;
    }
    let worker = Worker::new(b).await;
    let tasks: BTreeMap<String, Leased> = worker.claim(9).await.into_iter().map(|leased| (leased.task.name.to_string(), leased)).collect();
    worker.finish(&tasks["l3"].member, ok("1")).await;
    b.step_flows(&QueueName::default()).await.expect("step");
    let listed = b.flows(&QueueName::default(), 10).await.expect("flows");
    let ids: Vec<&TaskId> = listed.iter().map(|line| &line.id).collect();
    assert_eq!((ids.len(), ids[2].as_str(), listed[2].state), (3, "l3", FlowWord::Succeeded));
    assert_eq!(b.flows(&QueueName::default(), 2).await.expect("flows").len(), 2);
}
