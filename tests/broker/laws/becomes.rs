//! One table: what becomes of a task by what was reported of it. Both brokers keep to it, so they never disagree about an end.

use std::time::Duration;

use taskhost_broker::{Broker, BrokerSettings, CancelReply, DeleteReply, Enqueued, Finished};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, State, TaskError, Unique, Verdict};

use crate::support::{SOON, Worker, add, enqueue, finish, named, ok, queue, retry_after, state, view, wait_until};

const HOUR: Duration = Duration::from_secs(3600);
const LIMIT: usize = 1_000;

pub(crate) fn kilobyte_payloads() -> BrokerSettings {
    BrokerSettings { payload_limit: LIMIT, ..BrokerSettings::default() }
}

/// How an attempt is over.
#[derive(Debug, Clone)]
enum Over {
    Reported(Verdict),
    /// A success with these children.
    WithChildren(Vec<NewTask>),
    /// Its worker is gone, another adopts the task and reports this.
    Lost(Verdict),
    /// Its worker leaves.
    Left,
}

/// What then holds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Then {
    state: State,
    kind: Option<ErrorKind>,
    counted: u32,
    /// Entries of its history that were added.
    noted: usize,
}

const fn then(state: State, kind: Option<ErrorKind>, counted: u32, noted: usize) -> Then {
    Then { state, kind, counted, noted }
}

fn error(kind: ErrorKind) -> TaskError {
    TaskError::new(kind, "no")
}

fn large(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes))
}

/// How it is over, what holds then, and what holds when it had been cancelled.
fn table() -> Vec<(Over, Then, Then)> {
    use ErrorKind::{Cancelled, Panic, Permanent, ResultTooLarge, Retry, WorkerLost};
    let again = |kind, delay| Verdict::Retry { error: error(kind), delay };
    let dead = |kind| Verdict::Dead { error: error(kind) };
    let child = NewTask { queue: queue("children"), ..named("child", &format!("[{}]", large(LIMIT))) };
    let by_headers = NewTask { headers: vec![("h".into(), "x".repeat(LIMIT))], ..named("child", "[1]") };

    // What a body or a limit decided stands, cancelled or not.
    let stands = |over: Verdict, state, kind: Option<ErrorKind>, noted| {
        let end = then(state, kind, 1, noted);
        (Over::Reported(over), end, end)
    };
    let refused = |children| {
        let end = then(State::Dead, Some(Permanent), 1, 1);
        (Over::WithChildren(children), end, end)
    };
    let cancelled = |counted, noted| then(State::Cancelled, Some(Cancelled), counted, noted);
    vec![
        stands(ok("1"), State::Succeeded, None, 0),
        stands(ok(&large(LIMIT)), State::Dead, Some(ResultTooLarge), 1),
        refused(vec![child]),
        refused(vec![add(), by_headers]),
        stands(dead(Permanent), State::Dead, Some(Permanent), 1),
        stands(dead(Panic), State::Dead, Some(Panic), 1),
        stands(Verdict::Cancel { error: error(Cancelled) }, State::Cancelled, Some(Cancelled), 1),
        (Over::Reported(again(Retry, Duration::ZERO)), then(State::Ready, Some(Retry), 1, 1), cancelled(1, 1)),
        (Over::Reported(again(Retry, HOUR)), then(State::Scheduled, Some(Retry), 1, 1), cancelled(1, 1)),
        (Over::Reported(Verdict::HandBack { delay: Duration::ZERO }), then(State::Ready, None, 0, 0), cancelled(0, 0)),
        (Over::Reported(Verdict::HandBack { delay: HOUR }), then(State::Scheduled, None, 0, 0), cancelled(0, 0)),
        (Over::Reported(Verdict::Park), then(State::Parked, None, 0, 0), cancelled(0, 0)),
        // A lost worker decided nothing, whether attempts are left or not.
        (Over::Lost(again(WorkerLost, Duration::ZERO)), then(State::Ready, Some(WorkerLost), 1, 1), cancelled(1, 1)),
        (Over::Lost(again(WorkerLost, HOUR)), then(State::Scheduled, Some(WorkerLost), 1, 1), cancelled(1, 1)),
        (Over::Lost(dead(WorkerLost)), then(State::Dead, Some(WorkerLost), 1, 1), cancelled(1, 1)),
        (Over::Lost(Verdict::HandBack { delay: Duration::ZERO }), then(State::Ready, None, 0, 0), cancelled(0, 0)),
        (Over::Left, then(State::Ready, None, 0, 0), cancelled(0, 0)),
    ]
}

pub(crate) async fn a_verdict_has_the_same_end_on_every_broker(b: &dyn Broker) {
    let default = QueueName::default();
    for (over, plain, cancelled) in table() {
        for (is_cancelled, expected) in [(false, plain), (true, cancelled)] {
            for (is_unique, expires, keeps, tried) in [
                (false, false, true, false),
                (true, false, true, false),
                (false, true, true, false),
                (true, true, false, true),
                (false, false, false, true),
                (true, true, true, true),
            ] {
                let what =
                    format!("{over:?}, cancelled {is_cancelled}, unique {is_unique}, expires {expires}, kept {keeps}, tried {tried}");
                let unique = Some(Unique { key: "k".into(), ttl: HOUR });
                let now = b.now().await.expect("now");
                let task = NewTask {
                    unique: unique.clone().filter(|_| is_unique),
                    expires: Some(now.after(HOUR)).filter(|_| expires),
                    result_ttl: Some(Duration::ZERO).filter(|_| !keeps),
                    ..add()
                };
                let id = enqueue(b, task).await;
                let worker = Worker::new(b).await;
                if tried {
                    worker.run_one(retry_after(Duration::ZERO)).await;
                }
                let before = u32::from(tried);
                let leased = worker.claim_one().await;
                if is_cancelled {
                    assert_eq!(b.cancel(&default, &id).await.expect("cancel"), CancelReply::Asked, "{what}");
                }
                let instead = is_cancelled && expected.state == State::Cancelled && plain.state != State::Cancelled;
                let reply = if instead { Finished::CancelledInstead } else { Finished::Recorded };
                match &over {
                    Over::Reported(verdict) => assert_eq!(worker.finish(&leased.member, verdict.clone()).await, reply, "{what}"),
                    Over::WithChildren(children) => {
                        assert_eq!(worker.finish_parent(&leased.member, children.clone()).await, reply, "{what}");
                    }
                    Over::Lost(verdict) => {
                        b.expire(&worker.who).await.expect("expire");
                        let heir = Worker::new(b).await;
                        let adopted = heir.adopt().await;
                        assert_eq!(adopted.len(), 1, "{what}");
                        assert_eq!(heir.finish(&adopted[0].member, verdict.clone()).await, reply, "{what}");
                        b.leave(&heir.who).await.expect("leave");
                    }
                    Over::Left => {}
                }
                b.leave(&worker.who).await.expect("leave");

                let found = b.find(Some(&default), &id).await.expect("find");
                if keeps || !matches!(expected.state, State::Succeeded | State::Cancelled) {
                    let found = found.unwrap_or_else(|| panic!("it is gone: {what}"));
                    let kind = expected.kind.or(Some(ErrorKind::Retry).filter(|_| tried && expected.state != State::Succeeded));
                    assert_eq!((found.state, found.error.map(|error| error.kind)), (expected.state, kind), "{what}");
                    assert_eq!((found.tries, found.errors.len()), (before + expected.counted, before as usize + expected.noted), "{what}");
                    assert_eq!((found.cancel_asked, found.ended_at.is_some()), (false, found.state.is_ended()), "{what}");
                    assert_eq!(found.result.is_some(), found.state == State::Succeeded, "{what}");
                } else {
                    assert!(found.is_none(), "nothing is kept: {what}");
                }
                if is_unique {
                    let probe = NewTask { unique, ..add() };
                    let answer = b.enqueue(std::slice::from_ref(&probe)).await.expect("enqueue");
                    assert_eq!(answer[0] == Enqueued::Added, expected.state.is_ended(), "its key is held until the end: {what}");
                    b.delete(&default, &probe.id).await.expect("delete");
                }
                assert_ne!(b.delete(&default, &id).await.expect("delete"), DeleteReply::Running, "{what}");
                b.purge(&default).await.expect("purge");
                b.relay(&default).await.expect("relay");
                let children = b.queues().await.expect("queues").into_iter().filter(|view| view.queue == queue("children"));
                assert_eq!(children.flat_map(|view| view.counts.into_values()).sum::<u64>(), 0, "no child: {what}");
            }
        }
    }
}

/// It counts as not started, and its time to start is over: on every way back, and wherever it waits.
pub(crate) async fn what_is_handed_back_after_its_time_to_start_expires(b: &dyn Broker) {
    let default = QueueName::default();
    for way in ["handed back", "handed back for later", "parked", "left", "tried"] {
        let now = b.now().await.expect("now");
        let expires = now.after(Duration::from_millis(100));
        let id = enqueue(b, NewTask { expires: Some(expires), ..add() }).await;
        let worker = Worker::new(b).await;
        let Some(leased) = worker.claim(1).await.pop() else { panic!("a task can be claimed") };
        wait_until(SOON, "its time is over", || async { b.now().await.expect("now") > expires }).await;
        // Somebody looks meanwhile.
        b.sweep(&default, &[]).await.expect("sweep");
        assert_eq!(state(b, &id).await, State::Running, "{way}");
        let verdict = match way {
            "handed back" => Verdict::HandBack { delay: Duration::ZERO },
            "handed back for later" => Verdict::HandBack { delay: HOUR },
            "parked" => Verdict::Park,
            _ => retry_after(Duration::ZERO),
        };
        if way != "left" {
            assert_eq!(b.finish(&worker.who, &[finish(&leased.member, verdict)]).await.expect("finish"), [Finished::Recorded]);
        }
        b.leave(&worker.who).await.expect("leave");
        b.sweep(&default, &[]).await.expect("sweep");
        let shown = view(b, &id).await;
        if way == "tried" {
            assert_eq!(shown.state, State::Ready, "what was tried has started");
        } else {
            assert_eq!((shown.state, shown.error.map(|error| error.kind)), (State::Cancelled, Some(ErrorKind::Expired)), "{way}");
        }
        b.purge(&default).await.expect("purge");
    }
}
