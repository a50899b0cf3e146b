//! Failpoints between every two steps of a worker: each step fails once before it happens, and once when only its reply is lost.
//!
//! claimed | not yet run | run | not finished | finished | its reply lost | the outbox written | not relayed. Whichever step fails, nothing
//! runs twice, because every attempt and the worker live on. `faults/` kills the process at the same points.

use std::{sync::Arc, time::Duration};

use taskhost_broker::{Broker, BrokerSettings, NewFlow};
use taskhost_core::{
    task::{NewTask, QueueName, State, TaskId},
    workflow::FlowWord,
};

use super::{
    flaky::{
        Flaky,
        Moment::{After, Before},
    },
    script::{settings, start},
};
use crate::support::{Place, RedisServer, SqlitePlace, named, queue, task_id, wait_until};

/// The limit of every wait here.
const END: Duration = Duration::from_secs(60);
const TASKS: usize = 40;

#[tokio::test]
async fn a_step_that_fails_costs_no_attempt_on_sqlite() {
    each_point(&SqlitePlace::make().await).await;
}

#[tokio::test]
async fn a_step_that_fails_costs_no_attempt_on_redis() {
    each_point(&RedisServer::make().await).await;
}

async fn each_point(place: &dyn Place) {
    let broker = place.open(BrokerSettings::default()).await;
    let points: [&[(&'static str, super::flaky::Moment)]; 15] = [
        &[("register", Before)],
        &[("register", After)],
        &[("claim", Before)],
        &[("claim", After)],
        &[("claim", After), ("held", Before)],
        &[("claim", After), ("held", After)],
        &[("finish", Before)],
        &[("finish", After)],
        &[("finish", After), ("finish", After), ("finish", Before)],
        &[("relay", Before)],
        &[("relay", After)],
        &[("extend", Before)],
        &[("extend", After)],
        &[("leave", Before)],
        &[("leave", After)],
    ];
    for (round, points) in points.into_iter().enumerate() {
        let what = format!("{points:?}");
        let flaky = Flaky::new(Arc::clone(&broker));
        flaky.points.lock().expect("not poisoned").extend(points);
        let is_passed = || flaky.points.lock().expect("not poisoned").is_empty();
        let mut patient = settings();
        patient.lease = Duration::from_secs(9);
        patient.queues = vec![(queue("default"), 1), (queue("other"), 1)];
        let tasks: Vec<_> = (0..TASKS).map(|n| NewTask { id: task_id(&format!("{round}-{n}")), ..named("parent", "[]") }).collect();
        broker.enqueue(&tasks).await.expect("enqueue");
        let worker = start(flaky.clone(), patient, &["parent", "add"]);
        for task in &tasks {
            ended_at_first(&*broker, &QueueName::default(), &task.id, &what).await;
            ended_at_first(&*broker, &queue("other"), &task_id(&format!("{}.child", task.id)), &what).await;
        }
        if points[0].0 != "leave" {
            wait_until(END, &format!("the points are passed: {what}"), async || is_passed()).await;
        }
        assert_eq!((worker.script.begun("parent"), worker.script.begun("add")), (TASKS, TASKS), "run once each: {what}");
        worker.drain().await;
        assert!(is_passed(), "never passed: {what}");
    }
}

#[tokio::test]
async fn a_step_that_fails_starts_nothing_of_a_flow_twice_on_sqlite() {
    each_point_of_flows(&SqlitePlace::make().await).await;
}

#[tokio::test]
async fn a_step_that_fails_starts_nothing_of_a_flow_twice_on_redis() {
    each_point_of_flows(&RedisServer::make().await).await;
}

/// A chord in two queues, and a task after it.
async fn each_point_of_flows(place: &dyn Place) {
    const MEMBERS: usize = 12;
    let broker = place.open(BrokerSettings::default()).await;
    let points: [&[(&'static str, super::flaky::Moment)]; 10] = [
        &[("claim", After)],
        &[("finish", Before)],
        &[("finish", After)],
        &[("relay", Before)],
        &[("relay", After)],
        &[("step_flows", Before)],
        &[("step_flows", After)],
        &[("step_flows", Before), ("step_flows", After), ("step_flows", Before)],
        &[("finish", After), ("step_flows", After)],
        &[("extend", Before)],
    ];
    for (round, points) in points.into_iter().enumerate() {
        let what = format!("{points:?}");
        let flaky = Flaky::new(Arc::clone(&broker));
        flaky.points.lock().expect("not poisoned").extend(points);
        let mut patient = settings();
        patient.lease = Duration::from_secs(9);
        patient.queues = vec![(queue("default"), 1), (queue("other"), 1)];
        let member = |n| serde_json::json!({"task": "add", "args": [n], "queue": if n % 2 == 0 { "other" } else { "default" }});
        let members: Vec<_> = (0..MEMBERS).map(member).collect();
        let steps = serde_json::json!({"all": {"group": members, "parallel": 5}, "then": {"task": "add", "after": "all"}});
        let plan = serde_json::json!({"flow": 1, "name": "points", "steps": steps}).to_string();
        let id = task_id(&format!("flow-{round}"));
        let flow = NewFlow { id: id.clone(), queue: QueueName::default(), plan, input: "null".into(), headers: Vec::new(), parent: None };
        let worker = start(flaky.clone(), patient, &["add"]);
        assert!(broker.start_flow(&flow).await.expect("start"));
        wait_until(END, &format!("the flow has ended: {what}"), async || {
            broker.flow(None, &id).await.expect("flow").is_some_and(|view| view.line.ended_at.is_some())
        })
        .await;
        let view = broker.flow(None, &id).await.expect("flow").expect("it is kept");
        assert_eq!((view.line.state, view.line.ends), (FlowWord::Succeeded, u32::try_from(MEMBERS).expect("few") + 2), "{what}: {view:?}");
        assert_eq!(worker.script.begun("add"), MEMBERS + 1, "run once each: {what}");
        wait_until(END, &format!("the points are passed: {what}"), async || flaky.points.lock().expect("not poisoned").is_empty()).await;
        worker.drain().await;
    }
}

async fn ended_at_first(broker: &dyn Broker, place: &QueueName, id: &TaskId, what: &str) {
    wait_until(END, &format!("`{id}` has ended: {what}"), async || {
        broker.find(Some(place), id).await.expect("find").is_some_and(|view| view.state.is_ended())
    })
    .await;
    let view = broker.find(Some(place), id).await.expect("find").expect("it has ended");
    assert_eq!((view.state, view.tries), (State::Succeeded, 1), "{what}: {view:?}");
}

/// A key of another type is in the place of the task. That is not the attempt's fault, so its end waits until somebody repairs it.
#[tokio::test]
async fn an_end_that_can_not_be_written_is_kept_until_it_can() {
    let server = RedisServer::make().await;
    let broker = server.open(BrokerSettings::default()).await;
    let ids: Vec<_> = (0..5).map(|n| task_id(&format!("gate-{n}"))).collect();
    let tasks: Vec<_> = ids.iter().map(|id| NewTask { id: id.clone(), ..named("gate", "[]") }).collect();
    broker.enqueue(&tasks).await.expect("enqueue");
    let worker = start(Arc::clone(&broker), settings(), &["gate"]);
    worker.script.until_running("gate", 5).await;
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut raw = client.get_multiplexed_async_connection().await.expect("connect");
    let mut ask = async |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).query_async::<redis::Value>(&mut raw).await.expect("done");
    ask(&["RENAME", "th:{default}:t:gate-2", "th:{default}:hidden"]).await;
    ask(&["SET", "th:{default}:t:gate-2", "not a task"]).await;
    worker.script.gate.open(5);
    for id in ids.iter().filter(|id| id.as_str() != "gate-2") {
        ended_at_first(&*broker, &QueueName::default(), id, "beside one that can't be written").await;
    }
    ask(&["RENAME", "th:{default}:hidden", "th:{default}:t:gate-2"]).await;
    ended_at_first(&*broker, &QueueName::default(), &ids[2], "mended").await;
    assert_eq!(worker.script.begun("gate"), 5, "nothing is run again");
    worker.drain().await;
}
