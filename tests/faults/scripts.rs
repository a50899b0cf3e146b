//! An error in the middle of every script, at each of its calls: they do not roll back, so what they leave must be mended by
//! asking again.
//!
//! One scene plays every verb. It is played again and again, each time with one verb failing once, one call later.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use taskhost::{
    broker::{Broker, BrokerError, BrokerSettings, Finished, Incarnation, Lease, redis::RedisBroker},
    task::{ErrorKind, NewTask, Priority, QueueName, Start, TaskError, TaskId, Unique, Verdict},
};

use super::proxy::{Act, Moment, Proxy};
use crate::support::{LEASE, RedisServer, finish, named, ok, queue, task_name};

const VERBS: [&str; 11] = ["register", "enqueue", "claim", "finish", "expire", "extend", "cancel", "retry", "leave", "sweep", "resume"];

#[tokio::test]
async fn an_error_at_any_call_of_any_script_is_mended_by_asking_again() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let broker = RedisBroker::connect(&proxy.url(), BrokerSettings::default()).await.expect("connect");
    let mut played = BTreeMap::new();
    for verb in VERBS {
        for call in 1.. {
            let failed = Arc::new(AtomicBool::new(false));
            let done = Arc::clone(&failed);
            proxy.hook(move |seen, moment| {
                if seen != verb || done.load(Ordering::SeqCst) {
                    return Act::Pass;
                }
                if moment == Moment::Answered {
                    done.store(true, Ordering::SeqCst);
                    return Act::Pass;
                }
                Act::Break(call)
            });
            let scene = Scene { broker: &broker, queue: queue(&format!("{verb}-{call}")), failures: AtomicBool::new(false) };
            scene.play().await;
            if !scene.failures.load(Ordering::SeqCst) {
                played.insert(verb, call - 1);
                break;
            }
        }
    }
    eprintln!("calls broken one by one: {played:?}");
    assert!(played.values().all(|calls| *calls > 0), "a verb was never broken: {played:?}");
}

struct Scene<'a> {
    broker: &'a dyn Broker,
    queue: QueueName,
    failures: AtomicBool,
}

impl Scene<'_> {
    /// Asks again after a failure, as every caller does.
    async fn twice<T>(&self, mut ask: impl AsyncFnMut() -> Result<T, BrokerError>) -> T {
        match ask().await {
            Ok(value) => value,
            Err(error) => {
                assert!(error.to_string().contains("broken on purpose"), "{error}");
                assert!(!self.failures.swap(true, Ordering::SeqCst), "one failure a scene");
                ask().await.expect("the second time nothing is broken")
            }
        }
    }

    fn task(&self, name: &str, index: usize) -> NewTask {
        let id = TaskId::new(format!("{name}-{index}")).expect("an id");
        NewTask { id, queue: self.queue.clone(), ..named(name, "[1]") }
    }

    async fn claim(&self, who: &Incarnation, limit: usize, names: &[&str]) -> taskhost::broker::Claimed {
        let names: Vec<_> = names.iter().map(|name| task_name(name)).collect();
        match self.twice(async || self.broker.claim(who, LEASE, limit, &names).await).await {
            Lease::Held(claimed) => claimed,
            Lease::Lost => panic!("the lease is lost"),
        }
    }

    async fn play(&self) {
        let b = self.broker;
        let mut tasks: Vec<NewTask> = (0..16).map(|index| self.task("plain", index)).collect();
        tasks.push(NewTask { priority: Priority::new(9).expect("in range"), ..self.task("first", 0) });
        tasks.push(NewTask { unique: Some(Unique { key: "k".into(), ttl: LEASE }), ..self.task("unique", 0) });
        tasks.push(NewTask { start: Start::In(Duration::from_millis(1)), ..self.task("soon", 0) });
        tasks.push(NewTask { expires: Some(taskhost::task::Millis(1)), ..self.task("late", 0) });
        self.twice(async || b.enqueue(&tasks).await).await;

        // Every kind of end, and children here and elsewhere.
        let who = self.twice(async || b.register(&self.queue, LEASE).await).await;
        let held = self.claim(&who, 6, &[]).await.tasks;
        let other = QueueName::new(format!("{}-other", self.queue)).expect("a name");
        let children = vec![self.task("child", 0), NewTask { queue: other.clone(), ..self.task("child", 1) }];
        let error = || TaskError::new(ErrorKind::Permanent, "no");
        let verdicts = [
            Verdict::Succeed { result: "1".into(), children },
            Verdict::Retry { error: error(), delay: Duration::ZERO },
            Verdict::Dead { error: error() },
            Verdict::HandBack { delay: Duration::from_millis(1) },
            Verdict::Park,
            Verdict::Cancel { error: error() },
        ];
        let finishes: Vec<_> = held.iter().zip(verdicts).map(|(leased, verdict)| finish(&leased.member, verdict)).collect();
        assert_eq!(finishes.len(), 6);
        self.twice(async || b.finish(&who, &finishes).await).await;
        b.relay(&self.queue).await.expect("relay");
        self.twice(async || b.retry(&self.queue, &held[2].member.id).await).await;

        // One incarnation leaves with tasks in hand, one dies and is adopted.
        let _held = self.claim(&who, 2, &[]).await;
        self.twice(async || b.leave(&who).await).await;
        let who = self.twice(async || b.register(&self.queue, LEASE).await).await;
        let _held = self.claim(&who, 2, &[]).await;
        self.twice(async || b.expire(&who).await).await;
        let heir = self.twice(async || b.register(&self.queue, LEASE).await).await;
        let _kept = self.twice(async || b.extend(&heir, LEASE).await).await;
        let lost = self.twice(async || b.held(&heir).await).await;
        let lost: Vec<_> = lost
            .iter()
            .map(|leased| {
                finish(&leased.member, Verdict::Retry { error: TaskError::new(ErrorKind::WorkerLost, "gone"), delay: Duration::ZERO })
            })
            .collect();
        self.twice(async || b.finish(&heir, &lost).await).await;
        b.pause(&self.queue).await.expect("pause");
        self.twice(async || b.resume(&self.queue).await).await;
        self.twice(async || b.cancel(&self.queue, &tasks[7].id).await).await;
        self.twice(async || b.sweep(&self.queue, &[task_name("plain")]).await).await;
        self.drain(&heir, &tasks).await;
        assert!(b.find(Some(&other), &TaskId::new("child-1").expect("an id")).await.expect("find").is_some(), "a child is lost");
    }

    /// Runs what is left; then every task has ended, and none was recorded as a success twice.
    async fn drain(&self, heir: &Incarnation, tasks: &[NewTask]) {
        let mut recorded: BTreeMap<TaskId, u32> = BTreeMap::new();
        for _ in 0..1_000 {
            let claimed = self.claim(heir, 100, &["plain", "unique", "first", "soon"]).await;
            let all: Vec<_> = claimed.tasks.iter().chain(&claimed.adopted).map(|leased| finish(&leased.member, ok("1"))).collect();
            let replies = self.twice(async || self.broker.finish(heir, &all).await).await;
            for (finish, reply) in all.iter().zip(replies) {
                if reply == Finished::Recorded {
                    *recorded.entry(finish.member.id.clone()).or_default() += 1;
                }
            }
            if all.is_empty() && !claimed.more && claimed.next_due.is_none() {
                break;
            }
        }
        let place = &self.queue;
        assert!(recorded.values().all(|times| *times == 1), "{place}: recorded more than once: {recorded:?}");
        for task in tasks.iter().chain([&self.task("child", 0)]) {
            let view = self.broker.find(Some(place), &task.id).await.expect("find");
            let view = view.unwrap_or_else(|| panic!("{place}: `{}` is lost", task.id));
            assert!(view.state.is_ended(), "{place}: {view:#?}");
        }
    }
}
