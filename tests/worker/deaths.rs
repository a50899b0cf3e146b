//! A loop of a worker that dies, by a panic in its call of the broker. A worker that is half dead must not keep its tasks.

use std::{sync::Arc, time::Duration};

use taskhost::worker::{Summary, WorkerError, WorkerSettings};
use taskhost_broker::{Broker, BrokerSettings};
use taskhost_core::task::{State, TaskId};

use super::{
    flaky::Flaky,
    place,
    script::{Started, offering, settings, start},
};
use crate::support::{Place, SOON, add, enqueue, named, view, wait_until};

/// The lease is long, so that only the worker itself can hand back its tasks.
fn patient() -> WorkerSettings {
    WorkerSettings { lease: Duration::from_secs(3600), ..settings() }
}

fn died(ended: Result<Summary, WorkerError>, part: &str) {
    let error = ended.expect_err("it ends with an error").to_string();
    let wanted = format!("a loop of this worker died (`{part}`: it panicked: injected into ");
    assert!(error.starts_with(&wanted) && error.contains("please report it"), "{error}");
}

/// A worker that runs one `gate`, and the id of the gate's task.
async fn busy(flaky: &Arc<Flaky>, broker: &dyn Broker, settings: WorkerSettings) -> (Started, TaskId) {
    let worker = start(flaky.clone(), settings, &["gate", "add", "kv", "parent"]);
    let id = enqueue(broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    (worker, id)
}

async fn is_handed_back(broker: &dyn Broker, id: &TaskId) {
    let view = view(broker, id).await;
    assert_eq!((view.state, view.tries, view.errors.len()), (State::Ready, 0, 0), "it is handed back, uncounted");
}

async fn a_worker_with_a_dead_loop_is_no_ghost<P: Place>() {
    for (verb, part) in [
        ("extend", "heartbeat"),
        ("claim", "dispatcher"),
        ("finish", "finisher"),
        ("relay", "follow-up"),
        ("announce", "announcement"),
        ("wait", "wait"),
        ("progress", "news"),
        ("sweep", "sweep"),
    ] {
        let (_place, broker) = place::<P>().await;
        let flaky = Flaky::new(broker.clone());
        // Only the heartbeat needs a lease short enough to beat soon.
        let lease = if verb == "extend" { Duration::from_secs(3) } else { Duration::from_secs(3600) };
        let (worker, id) = busy(&flaky, &*broker, WorkerSettings { lease, ..settings() }).await;
        *flaky.panics.lock().expect("not poisoned") = Some(verb);
        match verb {
            "claim" | "finish" | "wait" => _ = enqueue(&*broker, add()).await,
            "relay" => _ = enqueue(&*broker, named("parent", "[]")).await,
            "progress" => _ = enqueue(&*broker, named("kv", "[]")).await,
            "announce" => _ = worker.offers.send_replace(Arc::new(offering(&["gate"]))),
            _ => {}
        }
        died(worker.ended().await, part);
        is_handed_back(&*broker, &id).await;
        let workers = async || broker.workers().await.expect("workers");
        assert!(verb == "announce" || workers().await.is_empty(), "it is gone from the lists: {part}");
    }
}

async fn a_worker_that_can_not_hear_of_cancels_any_more_ends<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    *flaky.panics.lock().expect("not poisoned") = Some("cancellations");
    died(start(flaky, patient(), &["add"]).ended().await, "cancellations");
}

async fn a_worker_that_can_not_register_for_a_panic_ends<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    *flaky.panics.lock().expect("not poisoned") = Some("register");
    died(start(flaky, patient(), &["add"]).ended().await, "heartbeat");
}

async fn a_worker_that_panics_while_it_leaves_ends_with_an_error<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let (worker, _id) = busy(&flaky, &*broker, patient()).await;
    *flaky.panics.lock().expect("not poisoned") = Some("leave");
    worker.stop.now.cancel();
    worker.stop.drain.cancel();
    died(worker.ended().await, "drain");
}

async fn a_worker_that_panics_over_a_dead_neighbour_ends_with_an_error<P: Place>() {
    let (place, broker) = place::<P>().await;
    let state = tempfile::tempdir().expect("a temporary directory");
    let lasting = WorkerSettings { state: Some(state.path().to_owned()), ..patient() };
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dies = {
        let _in = doomed.enter();
        start(place.open(BrokerSettings::default()).await, lasting.clone(), &["gate"])
    };
    enqueue(&*broker, named("gate", "[]")).await;
    dies.script.until_running("gate", 1).await;
    doomed.shutdown_background();

    let flaky = Flaky::new(broker.clone());
    *flaky.panics.lock().expect("not poisoned") = Some("expire");
    died(start(flaky, WorkerSettings { id: "heir".into(), ..lasting }, &["add"]).ended().await, "proof");
}

/// The worker ends at once with the loop's error, without waiting for the drain time.
async fn a_dead_loop_waits_for_no_attempt<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let worker = start(flaky.clone(), WorkerSettings { drain: Duration::from_secs(3600), ..patient() }, &["deaf", "add"]);
    let id = enqueue(&*broker, named("deaf", "[]")).await;
    worker.script.until_running("deaf", 1).await;
    *flaky.panics.lock().expect("not poisoned") = Some("claim");
    enqueue(&*broker, add()).await;
    let script = worker.script.clone();
    died(worker.ended().await, "dispatcher");
    wait_until(SOON, "the attempt is gone", async || script.running("deaf") == 0).await;
    is_handed_back(&*broker, &id).await;
}

on_each_broker! {
    a_worker_with_a_dead_loop_is_no_ghost,
    a_worker_that_can_not_hear_of_cancels_any_more_ends,
    a_worker_that_can_not_register_for_a_panic_ends,
    a_worker_that_panics_while_it_leaves_ends_with_an_error,
    a_worker_that_panics_over_a_dead_neighbour_ends_with_an_error,
    a_dead_loop_waits_for_no_attempt,
}
