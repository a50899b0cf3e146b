//! Other programs may have written any value of any type into a broker. The tasks beside such a value go on.
//!
//! odd value into a fresh broker → good tasks in the same queue and in another, with every verb → everything that is shown can be deleted

mod redis;
mod sqlite;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;

use taskhost_broker::{Broker, DeleteReply, Finish, LeaseReply, TaskFilter};
use taskhost_core::task::{Follow, NewTask, Progress, QueueName, State, Unique};

use crate::support::{LEASE, SOON, Worker, add, finish, ok, queue, retry_after, task_id, task_name};

/// The unique key of one of the good tasks, and its SHA-1.
const KEY: &str = "k";
const KEY_SHA1: &str = "13fbd79c3d390e5d6585a21e11ff5ec1970cff0c";

fn good(id: &str) -> NewTask {
    NewTask { id: task_id(id), ..add() }
}

/// The failures beside each odd value. The whole table is played before they are reported.
#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    async fn beside(&mut self, b: &dyn Broker, what: &str) {
        if let Err(panic) = AssertUnwindSafe(life_goes_on(b, what)).catch_unwind().await {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            self.0.push(text.unwrap_or_else(|| what.to_owned()));
        }
    }

    fn read(self) {
        assert!(self.0.is_empty(), "{} odd values stopped good tasks:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Every verb, in the queue that has the odd value and in another one.
async fn life_goes_on(b: &dyn Broker, what: &str) {
    let (here, there) = (QueueName::default(), queue("mail"));
    for queue in [&here, &there] {
        b.resume(queue).await.unwrap_or_else(|error| panic!("resume, {what}: {error}"));
    }
    let unique = Some(Unique { key: KEY.into(), ttl: LEASE });
    let tasks = [
        good("good-1"),
        good("good-2"),
        NewTask { unique, ..good("good-3") },
        NewTask { start: taskhost_core::task::Start::In(Duration::from_millis(1)), ..good("good-4") },
        NewTask { queue: there.clone(), ..good("good-5") },
    ];
    let reply = b.enqueue(&tasks).await.unwrap_or_else(|error| panic!("enqueue, {what}: {error}"));
    assert!(reply.iter().all(|reply| *reply == taskhost_broker::Enqueued::Added), "{what}: {reply:?}");
    b.enqueue(&[good("doomed"), good("gone")]).await.expect(what);
    b.cancel(&here, &task_id("doomed")).await.unwrap_or_else(|error| panic!("cancel, {what}: {error}"));
    assert_eq!(b.delete(&here, &task_id("gone")).await.expect(what), DeleteReply::Deleted, "{what}");
    for queue in [&here, &there] {
        drain(b, queue, what).await;
    }
    b.relay(&here).await.unwrap_or_else(|error| panic!("relay, {what}: {error}"));
    assert!(b.find(Some(&there), &task_id("child")).await.expect(what).is_some(), "{what}: a child is lost");
    for id in ["good-1", "good-2", "good-3", "good-4", "good-5"] {
        let queue = if id == "good-5" { &there } else { &here };
        let ended = b.await_end(Some(queue), &task_id(id), SOON).await.expect(what);
        assert_eq!(ended.map(|view| view.state), Some(State::Succeeded), "{id}, {what}");
    }
    b.log(Some(&here), &task_id("good-1")).await.unwrap_or_else(|error| panic!("log, {what}: {error}"));
    look_around(b, what).await;
    for queue in [&here, &there] {
        b.sweep(queue, &[task_name("add")]).await.unwrap_or_else(|error| panic!("sweep, {what}: {error}"));
    }
    // Everything that is shown can be deleted.
    for round in 0.. {
        let mut shown = all(b, &TaskFilter::default(), what).await;
        // A foreign incarnation counts as alive until its lease ends.
        shown.retain(|view| view.state != State::Running || !what.starts_with("incarnation."));
        if shown.is_empty() {
            break;
        }
        // The next listing has the tasks that end during this one.
        assert!(round < 5, "{what}: something stays: {shown:?}");
        for view in shown {
            let reply = b.delete(&view.queue, &view.id).await.unwrap_or_else(|error| panic!("delete `{}`, {what}: {error}", view.id));
            assert_ne!(reply, DeleteReply::Running, "`{}`, {what}: {view:?}", view.id);
        }
    }
    for queue in [&here, &there] {
        b.purge(queue).await.unwrap_or_else(|error| panic!("purge, {what}: {error}"));
    }
}

/// Runs all tasks, good or odd, as a worker does.
async fn drain(b: &dyn Broker, queue: &QueueName, what: &str) {
    let worker = Worker::on(b, queue, LEASE).await;
    let mut retried = false;
    for round in 0.. {
        assert!(round < 500, "{what}: the drain does not end");
        let claimed = match b.claim(&worker.who, LEASE, 100, &[task_name("add")]).await {
            Ok(LeaseReply::Held(claimed)) => claimed,
            other => panic!("claim, {what}: {other:?}"),
        };
        match b.extend(&worker.who, LEASE).await {
            Ok(LeaseReply::Held(_)) => {}
            other => panic!("extend, {what}: {other:?}"),
        }
        let mut finishes: Vec<Finish> = Vec::new();
        for leased in claimed.tasks.iter().chain(&claimed.adopted) {
            let mut done = finish(&leased.member, ok("2"));
            match leased.task.id.as_str() {
                "good-1" => {
                    done.log = "{\"message\":\"hello\"}\n".into();
                    done.follows = vec![Follow::Enqueue(NewTask { queue: crate::support::queue("mail"), ..good("child") })];
                    let progress = Progress { done: 1, total: None, note: "half".into() };
                    b.progress(queue, &leased.task.id, &progress).await.unwrap_or_else(|error| panic!("progress, {what}: {error}"));
                }
                "good-2" if !retried => {
                    retried = true;
                    done.verdict = retry_after(Duration::ZERO);
                }
                _ => {}
            }
            finishes.push(done);
        }
        b.finish(&worker.who, &finishes).await.unwrap_or_else(|error| panic!("finish, {what}: {error}"));
        let over = match b.find(Some(queue), &task_id("good-4")).await.expect(what) {
            Some(view) => view.state.is_ended(),
            None => true,
        };
        if finishes.is_empty() && !claimed.more && over {
            break;
        }
        if finishes.is_empty() {
            b.wait(queue, Duration::from_millis(2)).await.unwrap_or_else(|error| panic!("wait, {what}: {error}"));
        }
    }
    assert!(b.held(&worker.who).await.unwrap_or_else(|error| panic!("held, {what}: {error}")).is_empty(), "{what}: something stays held");
    b.leave(&worker.who).await.unwrap_or_else(|error| panic!("leave, {what}: {error}"));
}

/// The questions of an operator.
async fn look_around(b: &dyn Broker, what: &str) {
    let listed = all(b, &TaskFilter::default(), what).await;
    for id in ["good-1", "good-2", "good-3", "good-4", "good-5", "doomed"] {
        assert!(listed.iter().any(|view| view.id.as_str() == id), "`{id}` is not listed, {what}: {listed:?}");
    }
    for state in State::ALL {
        all(b, &TaskFilter { states: vec![state], ..TaskFilter::default() }, what).await;
    }
    let queues = b.queues().await.unwrap_or_else(|error| panic!("queues, {what}: {error}"));
    assert!(queues.iter().any(|view| view.queue == queue("mail")), "{what}");
    b.workers().await.unwrap_or_else(|error| panic!("workers, {what}: {error}"));
    b.catalogue().await.unwrap_or_else(|error| panic!("catalogue, {what}: {error}"));
    b.schedules().await.unwrap_or_else(|error| panic!("schedules, {what}: {error}"));
}

async fn all(b: &dyn Broker, filter: &TaskFilter, what: &str) -> Vec<taskhost_core::task::TaskView> {
    let (mut tasks, mut from) = (Vec::new(), None);
    for page in 0.. {
        assert!(page < 50, "{what}: a listing without an end");
        let page = b.list(filter, from.as_deref(), 10).await.unwrap_or_else(|error| panic!("list, {what}: {error}"));
        tasks.extend(page.tasks);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    tasks
}
