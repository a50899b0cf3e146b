//! Observers of a worker: each fact is told once, when it is true, on every broker.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use taskhost::worker::WorkerSettings;
use taskhost_broker::BrokerError;
use taskhost_core::{
    observe::{Event, Observer, Observers, Used},
    task::{Outcome, State, Verdict},
};

use super::{
    ended, enqueue_many,
    flaky::Flaky,
    place,
    script::{MEMORY, settings, start},
};
use crate::support::{Place, SOON, Worker, add, enqueue, named, wait_until};

/// Notes each event as a short line, and calls of the broker apart from the others.
#[derive(Default)]
struct Notes {
    facts: Mutex<Vec<String>>,
    calls: Mutex<Vec<String>>,
}

impl Observer for Notes {
    fn on(&self, event: &Event<'_>) {
        let fact = match *event {
            Event::WorkerJoined { queues, concurrency, .. } => format!("joined {}={} {concurrency}", queues[0].0, queues[0].1),
            Event::WorkerDrained { succeeded, failed, handed_back, left_behind, .. } => {
                format!("drained {succeeded} {failed} {handed_back} {left_behind}")
            }
            Event::Claimed { queue, tasks, .. } => format!("claimed {tasks} of {queue}"),
            Event::Adopted { queue, tasks, .. } => format!("adopted {tasks} of {queue}"),
            Event::AttemptStarted(attempt) => format!("started {} {} {}", attempt.task, attempt.number, attempt.code.plugin),
            Event::AttemptEnded { attempt, outcome, used, .. } => {
                let how = match outcome {
                    Some(Outcome::Done { .. }) => "done",
                    Some(Outcome::Failed { .. }) => "failed",
                    Some(Outcome::HostFault { .. }) => "not run",
                    None => "dropped",
                };
                let whole = Used { wall: Duration::from_millis(1), cpu: Duration::from_micros(10), memory: MEMORY, ..Used::default() };
                assert_eq!(used, if outcome.is_some() { whole } else { Used::default() });
                format!("ended {} {how}", attempt.task)
            }
            Event::Finished(finished) => {
                let verdict = match finished.verdict {
                    Verdict::Succeed { .. } => "succeeded",
                    Verdict::Retry { .. } => "to be retried",
                    Verdict::Dead { .. } => "dead",
                    Verdict::Cancel { .. } => "cancelled",
                    Verdict::HandBack { .. } => "handed back",
                    Verdict::Park => "parked",
                };
                format!("finished {} {verdict}", finished.task)
            }
            Event::CallEnded { verb, error, .. } => {
                let end = error.map_or_else(|| "ok".to_owned(), ToString::to_string);
                return self.calls.lock().expect("not poisoned").push(format!("{verb}: {end}"));
            }
            _ => return,
        };
        self.facts.lock().expect("not poisoned").push(fact);
    }
}

impl Notes {
    fn facts(&self) -> Vec<String> {
        self.facts.lock().expect("not poisoned").clone()
    }

    fn has_call(&self, call: &str) -> bool {
        self.calls.lock().expect("not poisoned").iter().any(|noted| noted == call)
    }
}

/// Settings under which everything is noted.
fn noted() -> (Arc<Notes>, WorkerSettings) {
    let notes = Arc::new(Notes::default());
    (notes.clone(), WorkerSettings { observers: Observers::none().with(notes), ..settings() })
}

async fn each_fact_of_an_attempt_is_told_once_and_in_order<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let (notes, settings) = noted();
    let worker = start(broker.clone(), settings, &["add", "fail"]);
    let id = enqueue(&*broker, add()).await;
    assert_eq!(ended(&*broker, &id).await.state, State::Succeeded);
    let mut twice = named("fail", "[]");
    twice.options.max_attempts = Some(2);
    let id = enqueue(&*broker, twice).await;
    assert_eq!(ended(&*broker, &id).await.state, State::Dead);
    worker.drain().await;
    let facts = notes.facts();
    assert_eq!(facts.first().map(String::as_str), Some("joined default=1 16"), "{facts:?}");
    assert_eq!(facts.last().map(String::as_str), Some("drained 1 2 0 0"), "{facts:?}");
    assert_eq!(facts.iter().filter(|fact| *fact == "claimed 1 of default").count(), 3, "{facts:?}");
    let of = |task: &str| -> Vec<&str> { facts.iter().map(String::as_str).filter(|fact| fact.split(' ').nth(1) == Some(task)).collect() };
    assert_eq!(of("add"), ["started add 1 plugin-add", "ended add done", "finished add succeeded"]);
    // The task is there for the next claim as soon as the broker has recorded the end, so its next attempt may start before that end is told.
    let mut failed = of("fail");
    let retried = failed.iter().position(|fact| *fact == "finished fail to be retried").expect("the first attempt has a finish");
    assert!(retried >= 2, "{failed:?}");
    failed.remove(retried);
    let attempts =
        ["started fail 1 plugin-fail", "ended fail failed", "started fail 2 plugin-fail", "ended fail failed", "finished fail dead"];
    assert_eq!(failed, attempts);
    assert_eq!(facts.len(), 1 + 3 + 3 + 6 + 1, "{facts:?}");
    for verb in ["register", "claim", "finish", "wait", "announce", "leave"] {
        assert!(notes.has_call(&format!("{verb}: ok")), "{verb}");
    }
}

async fn each_attempt_that_starts_ends_also_when_it_is_dropped<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let (notes, settings) = noted();
    let worker = start(broker.clone(), settings, &["deaf", "panic"]);
    enqueue_many(&*broker, vec![named("deaf", "[]"), named("panic", "[]")]).await;
    worker.script.until_running("deaf", 1).await;
    wait_until(SOON, "the other is handed back", async || notes.facts().contains(&"finished panic handed back".to_owned())).await;
    assert_eq!(worker.stop().await.handed_back, 1);
    let facts = notes.facts();
    for body in ["deaf", "panic"] {
        let of = |fact: &str| facts.iter().filter(|told| told.starts_with(&format!("{fact} {body}"))).count();
        assert_eq!((of("started"), of("ended"), of("finished")), (1, 1, 1), "{facts:?}");
        assert!(facts.contains(&format!("ended {body} dropped")) && facts.contains(&format!("finished {body} handed back")), "{facts:?}");
    }
}

async fn tasks_of_a_lost_worker_and_calls_that_fail_are_told<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let id = enqueue(&*broker, add()).await;
    let dying = Worker::new(&*broker).await;
    assert_eq!(dying.claim_one().await.task.id, id);
    broker.expire(&dying.who).await.expect("expire");
    let flaky = Flaky::new(broker.clone());
    flaky.away.store(true, Ordering::SeqCst);
    let (notes, settings) = noted();
    let worker = start(flaky.clone(), settings, &["add"]);
    let away = BrokerError::Unavailable("away".into());
    wait_until(SOON, "a call has failed", async || notes.has_call(&format!("register: {away}"))).await;
    flaky.away.store(false, Ordering::SeqCst);
    assert_eq!(ended(&*broker, &id).await.state, State::Succeeded);
    worker.drain().await;
    assert!(notes.facts().contains(&"adopted 1 of default".to_owned()), "{:?}", notes.facts());
}

on_each_broker! {
    each_fact_of_an_attempt_is_told_once_and_in_order,
    each_attempt_that_starts_ends_also_when_it_is_dropped,
    tasks_of_a_lost_worker_and_calls_that_fail_are_told,
}
