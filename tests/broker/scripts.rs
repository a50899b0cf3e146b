//! An error in the middle of every script, at each of its calls. Scripts do not roll back, so repeating the call must repair everything.
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

use serde_json::json;
use taskhost_broker::{
    Ask, Broker, BrokerSettings, CatchUp, EditReply, Enqueued, Finished, Fired, HistoryStep, Incarnation, KvRoom, Lease, LeaseReply,
    NewFlow, Overlap, Sample, Schedule, Source, TaskFilter, Tasks, redis::RedisBroker,
};
use taskhost_core::task::{
    ErrorKind, Follow, Millis, NewTask, Priority, Progress, QueueName, Start, State, TaskError, TaskId, TaskOptions, Unique, Verdict,
};

use crate::support::{LEASE, RedisServer, finish, named, ok, queue, task_name};
use taskhost_testing::proxy::{Act, Moment, Proxy};

/// The names of all scripts, from their headers.
const VERBS: [&str; 39] = [
    "register",
    "enqueue",
    "claim",
    "enqueue_one",
    "held",
    "running",
    "finish",
    "expire",
    "extend",
    "cancel",
    "retry",
    "leave",
    "relay",
    "sweep",
    "resume",
    "progress",
    "log_so_far",
    "delete",
    "edit",
    "record",
    "history",
    "purge",
    "view",
    "waiting",
    "ended",
    "counts",
    "await",
    "put_schedule",
    "pause_schedule",
    "fire",
    "kv",
    "flow_start",
    "flow_ask",
    "flow_read",
    "flow_more",
    "flow_step",
    "flow_tell",
    "flow_view",
    "flows",
];

#[tokio::test]
async fn an_error_at_any_call_of_any_script_is_mended_by_asking_again() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/redis/lua")).expect("the scripts");
    let files = files.map(|file| file.expect("a file").path()).filter(|path| path.is_file());
    let names = files.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned());
    // `mark` is a single write. The library is broken together with each verb. `unreadable` fails silently and has a test of its own below.
    let apart = ["mark", "careful", "unreadable"];
    let missing: Vec<_> = names.filter(|name| !VERBS.contains(&&**name) && !apart.contains(&&**name)).collect();
    assert!(missing.is_empty(), "not broken here: {missing:?}");
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
            let scene = Scene { broker: &broker, verb, queue: queue(&format!("{verb}-{call}")), failures: AtomicBool::new(false) };
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

#[tokio::test]
async fn an_error_at_any_call_of_ending_what_is_unreadable_is_mended_by_the_next_look() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port()).await;
    let broker = RedisBroker::connect(&proxy.url(), BrokerSettings::default()).await.expect("connect");
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut stranger = client.get_multiplexed_async_connection().await.expect("connect");
    for call in 1.. {
        let place = queue(&format!("unreadable-{call}"));
        for (id, name) in [("a b", "plain"), ("named", "a b")] {
            let key = format!("th:{{{place}}}:t:{id}");
            let hash = redis::cmd("HSET").arg(key).arg(&["task", name, "args", "[]", "at", "1"]).to_owned();
            let ready = redis::cmd("ZADD").arg(format!("th:{{{place}}}:ready")).arg(1).arg(id).to_owned();
            hash.query_async::<redis::Value>(&mut stranger).await.expect("written");
            ready.query_async::<redis::Value>(&mut stranger).await.expect("written");
        }
        let done = AtomicBool::new(false);
        proxy.hook(move |seen, moment| {
            if seen != "unreadable" || done.load(Ordering::SeqCst) {
                return Act::Pass;
            }
            if moment == Moment::Answered {
                done.store(true, Ordering::SeqCst);
                return Act::Pass;
            }
            Act::Break(call)
        });
        let who = broker.register(&place, LEASE).await.expect("register");
        let LeaseReply::Held(claimed) = broker.claim(&who, LEASE, 9, &[]).await.expect("claim") else { panic!("lost") };
        assert!(claimed.tasks.is_empty());
        let LeaseReply::Held(kept) = broker.extend(&who, LEASE).await.expect("extend") else { panic!("lost") };
        assert!(broker.held(&who).await.expect("held").is_empty());
        let dead = broker.list(&TaskFilter { queue: Some(place.clone()), ..TaskFilter::default() }, None, 9).await.expect("list").tasks;
        assert_eq!(dead.len(), 2, "call {call}: {dead:?}");
        assert!(dead.iter().all(|view| view.state == State::Dead), "call {call}: {dead:?}");
        let LeaseReply::Held(after) = broker.extend(&who, LEASE).await.expect("extend") else { panic!("lost") };
        assert_eq!(after.held, 0, "call {call}");
        if kept.held == 0 {
            assert!(call > 10, "it has more calls than {call}");
            break;
        }
    }
}

struct Scene<'a> {
    broker: &'a dyn Broker,
    /// The verb that fails.
    verb: &'static str,
    queue: QueueName,
    failures: AtomicBool,
}

impl Scene<'_> {
    /// Repeats a call that failed, as every caller does.
    async fn twice<T, E: std::fmt::Display + std::fmt::Debug>(&self, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
        match ask().await {
            Ok(value) => value,
            Err(error) => {
                assert!(error.to_string().contains("broken on purpose"), "{error}");
                assert!(!self.failures.swap(true, Ordering::SeqCst), "one failure a scene");
                ask().await.expect("the second time nothing is broken")
            }
        }
    }

    async fn enqueue(&self, tasks: &[NewTask]) -> Vec<Enqueued> {
        self.twice(async || self.broker.enqueue(tasks).await).await
    }

    fn task(&self, name: &str, index: usize) -> NewTask {
        let id = TaskId::new(format!("{name}-{index}")).expect("an id");
        NewTask { id, queue: self.queue.clone(), ..named(name, "[1]") }
    }

    async fn claim(&self, who: &Incarnation, limit: usize, names: &[&str]) -> taskhost_broker::Claimed {
        let names: Vec<_> = names.iter().map(|name| task_name(name)).collect();
        match self.twice(async || self.broker.claim(who, LEASE, limit, &names).await).await {
            LeaseReply::Held(claimed) => claimed,
            LeaseReply::Lost => panic!("the lease is lost"),
        }
    }

    async fn play(&self) {
        let b = self.broker;
        let mut tasks: Vec<NewTask> = (0..16).map(|index| self.task("plain", index)).collect();
        tasks.push(NewTask {
            options: TaskOptions { priority: Priority::new(9).expect("in range"), ..TaskOptions::default() },
            ..self.task("first", 0)
        });
        tasks.push(NewTask { unique: Some(Unique { key: "k".into(), ttl: LEASE }), ..self.task("unique", 0) });
        tasks.push(NewTask { start: Start::In(Duration::from_millis(1)), ..self.task("soon", 0) });
        tasks.push(NewTask { expires: Some(taskhost_core::task::Millis(1)), ..self.task("late", 0) });
        self.twice(async || b.enqueue(&tasks).await).await;
        let alone = self.task("plain", 90);
        self.enqueue(std::slice::from_ref(&alone)).await;
        tasks.push(alone);

        // Every kind of end, and children of this queue and of another.
        let who = self.twice(async || b.register(&self.queue, LEASE).await).await;
        let held = self.claim(&who, 6, &[]).await.tasks;
        let other = QueueName::new(format!("{}-other", self.queue)).expect("a name");
        let fleeting = NewTask {
            awaited: true,
            options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() },
            ..self.task("child", 2)
        };
        let children = vec![self.task("child", 0), NewTask { queue: other.clone(), ..self.task("child", 1) }, fleeting];
        let error = || TaskError::new(ErrorKind::Permanent, "no");
        let verdicts = [
            Verdict::Succeed { result: "1".into() },
            Verdict::Retry { error: error(), delay: Duration::ZERO },
            Verdict::Dead { error: error() },
            Verdict::HandBack { delay: Duration::from_millis(1) },
            Verdict::Park,
            Verdict::Cancel { error: error() },
        ];
        let mut finishes: Vec<_> = held.iter().zip(verdicts).map(|(leased, verdict)| finish(&leased.member, verdict)).collect();
        finishes[0].follows = children.into_iter().map(Follow::Enqueue).collect();
        finishes[2].follows = vec![Follow::Enqueue(self.task("child", 3))];
        assert_eq!(finishes.len(), 6);
        self.twice(async || b.finish(&who, &finishes).await).await;
        self.twice(async || b.relay(&self.queue).await).await;
        self.twice(async || b.retry(&self.queue, &held[2].member.id).await).await;

        // One incarnation leaves while it holds tasks. Another dies and is adopted.
        let _held = self.claim(&who, 2, &[]).await;
        self.twice(async || b.leave(&who).await).await;
        let who = self.twice(async || b.register(&self.queue, LEASE).await).await;
        let talking = self.claim(&who, 2, &[]).await.tasks.remove(0).member;
        self.twice(async || b.log_so_far(&who, &talking, "{}\n").await).await;
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
        let log = self.twice(async || b.log(Some(&self.queue), &talking.id).await).await;
        assert_eq!(log.as_deref(), Some("{}\n"), "{}: what a lost attempt has shown", self.queue);
        b.pause(&self.queue).await.expect("pause");
        self.twice(async || b.resume(&self.queue).await).await;
        self.twice(async || b.cancel(&self.queue, &tasks[7].id).await).await;
        self.twice(async || b.sweep(&self.queue, &[task_name("plain")]).await).await;
        self.look_and_steer(&heir, &tasks).await;
        self.schedule().await;
        self.values().await;
        self.drain(&heir, &tasks).await;
        self.flows().await;
        let child = TaskId::new("child-1").expect("an id");
        assert!(self.twice(async || b.find(Some(&other), &child).await).await.is_some(), "a child is lost");
    }

    /// A flow over two queues with a flow within, long results and a signal; and one that is cancelled.
    async fn flows(&self) {
        let b = self.broker;
        let [home, far] = ["flow", "far"].map(|name| QueueName::new(format!("{}-{name}", self.queue)).expect("a name"));
        let inner = json!({"flow": 1, "name": "inner", "steps": {"x": {"task": "x", "args": [{"from": "input"}]}}});
        let steps = json!({
            "a": {"task": "a"},
            "b": {"task": "b", "args": [{"from": "a"}], "queue": far.as_str()},
            "in": {"flow": inner, "input": {"from": "b"}},
            "go": {"wait": {"signal": "go"}, "after": "in"},
            "end": {"task": "end", "args": [{"from": "in"}], "after": "go"}});
        let plan = json!({"flow": 1, "name": "scene", "steps": steps}).to_string();
        let order = |id: &str| NewFlow {
            id: TaskId::new(id).expect("an id"),
            queue: home.clone(),
            plan: plan.clone(),
            input: "null".into(),
            headers: Vec::new(),
            parent: None,
        };
        let (one, two) = (order("one"), order("two"));
        self.twice(async || b.start_flow(&one).await).await;
        let listed = self.twice(async || b.flows(&home, 9).await).await;
        assert_eq!(listed.len(), 1, "{}: it is listed, although its start broke off", self.queue);
        let workers = [b.register(&home, LEASE).await.expect("register"), b.register(&far, LEASE).await.expect("register")];
        let mut ran = Vec::new();
        let begun = std::time::Instant::now();
        let mut is_told = false;
        loop {
            for who in &workers {
                let claimed = self.claim(who, 9, &[]).await;
                let finishes: Vec<_> = claimed
                    .tasks
                    .iter()
                    .map(|leased| finish(&leased.member, ok(&json!([leased.task.name.as_str(), "x".repeat(300)]).to_string())))
                    .collect();
                ran.extend(claimed.tasks.iter().map(|leased| leased.task.name.to_string()));
                self.twice(async || b.finish(who, &finishes).await).await;
                self.twice(async || b.relay(&who.queue).await).await;
            }
            self.twice(async || b.step_flows(&home).await).await;
            let view = self.twice(async || b.flow(Some(&home), &one.id).await).await.expect("it is known");
            if view.line.ended_at.is_some() {
                assert!(view.result.expect("a result").get().starts_with("[\"end\""), "{}", self.queue);
                break;
            }
            if !is_told && view.steps.iter().any(|step| step.name == "go" && step.state == "waiting") {
                let signal = Ask::Signal { name: "go".into(), value: "1".into() };
                self.twice(async || b.ask_flow(&home, &one.id, &signal).await).await;
                is_told = true;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{}: it stands still: {view:?}", self.queue);
        }
        assert_eq!(ran, ["a", "b", "x", "end"], "{}: each runs once", self.queue);

        self.twice(async || b.start_flow(&two).await).await;
        self.twice(async || b.ask_flow(&home, &two.id, &Ask::Pause).await).await;
        self.twice(async || b.ask_flow(&home, &two.id, &Ask::Cancel).await).await;
        let begun = std::time::Instant::now();
        loop {
            self.twice(async || b.step_flows(&home).await).await;
            let lines = self.twice(async || b.flows(&home, 9).await).await;
            if lines.iter().all(|line| line.ended_at.is_some()) {
                assert_eq!(lines.len(), 3, "{}: {lines:?}", self.queue);
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{}: it is not cancelled: {lines:?}", self.queue);
        }
        for who in &workers {
            b.leave(who).await.expect("leave");
        }
    }

    /// The questions of an operator.
    async fn look_and_steer(&self, who: &Incarnation, tasks: &[NewTask]) {
        let b = self.broker;
        let progress = Progress { done: 1, total: None, note: "half".into() };
        self.twice(async || b.progress(&self.queue, &tasks[9].id, &progress).await).await;
        let _held = self.twice(async || b.held(who).await).await;
        let doomed = NewTask {
            awaited: true,
            options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() },
            ..self.task("doomed", 0)
        };
        self.enqueue(std::slice::from_ref(&doomed)).await;
        assert_eq!(self.twice(async || b.edit(&self.queue, &doomed.id, "[2]").await).await, EditReply::Edited);
        self.twice(async || b.delete(&self.queue, &doomed.id).await).await;
        let counts = [("plain".to_owned(), Sample { succeeded: 1, ..Sample::default() })];
        self.twice(async || b.record(&self.queue, "box:1:a", 1, &counts).await).await;
        let now = b.now().await.expect("now");
        let past = self.twice(async || b.history(&self.queue, HistoryStep::Day, now, now).await).await;
        // A record that breaks off midway may be lost. It is never counted twice.
        assert!(past.iter().map(|point| point.sample.succeeded).sum::<u64>() <= 1, "{past:?}");
        assert!(self.twice(async || b.find(Some(&self.queue), &doomed.id).await).await.is_none(), "deleted");
        let purged = QueueName::new(format!("{}-purged", self.queue)).expect("a name");
        let unique = || Some(Unique { key: "u".into(), ttl: LEASE });
        let waiting: Vec<_> = (0..3)
            .map(|index| NewTask {
                queue: purged.clone(),
                unique: unique().filter(|_| index == 1),
                awaited: index == 2,
                ..self.task("waits", index)
            })
            .collect();
        self.enqueue(&waiting).await;
        self.twice(async || b.purge(&purged).await).await;
        for task in &waiting {
            assert!(self.twice(async || b.find(Some(&purged), &task.id).await).await.is_none(), "purged");
        }
        let next = NewTask { queue: purged.clone(), unique: unique(), ..self.task("next", 0) };
        assert_eq!(self.enqueue(std::slice::from_ref(&next)).await, [Enqueued::Added], "its key is free again");
        // These are slow, because they read every queue or wait.
        if self.verb == "counts" {
            let queues = self.twice(async || b.queues().await).await;
            assert!(queues.iter().any(|view| view.queue == self.queue), "{queues:?}");
        }
        if ["waiting", "ended", "running"].contains(&self.verb) {
            let ended = self.all_ended().await;
            assert!(!ended.is_empty());
        }
        if self.verb == "await" {
            let id = &tasks[9].id;
            assert!(self.twice(async || b.await_end(Some(&self.queue), id, Duration::ZERO).await).await.is_some());
        }
    }

    async fn schedule(&self) {
        let b = self.broker;
        let name = format!("{}-schedule", self.queue);
        let schedule = Schedule {
            name: name.clone(),
            rule: "@every 1s".into(),
            timezone: "UTC".into(),
            task: task_name("plain"),
            args: "[1]".into(),
            queue: self.queue.clone(),
            catch_up: CatchUp::Once,
            overlap: Overlap::Allow,
            source: Source::Cli,
            defined_at: Millis(0),
            says_paused: None,
            created_at: Millis(1),
            paused: false,
            last: Millis(0),
            last_task: None,
            options: TaskOptions::default(),
        };
        self.twice(async || b.put_schedule(&schedule).await).await;
        assert!(self.twice(async || b.pause_schedule(&name, true).await).await);
        assert!(self.twice(async || b.pause_schedule(&name, false).await).await);
        let stored = b.schedules().await.expect("schedules").into_iter().find(|one| one.name == name).expect("stored");
        assert!(!stored.paused);
        let due = Millis(stored.last.0 + 1);
        let id = TaskId::new(format!("cron:{name}:{}", due.0)).expect("an id");
        let task = NewTask { id: id.clone(), ..self.task("plain", 99) };
        loop {
            match self.twice(async || b.fire(&schedule, due, &task).await).await {
                Fired::TooEarly(wait) => tokio::time::sleep(wait).await,
                Fired::Enqueued(_) | Fired::NotNow => break,
                Fired::Skipped(other) => panic!("skipped for {other}"),
            }
        }
        assert!(self.twice(async || b.find(Some(&self.queue), &id).await).await.is_some(), "a firing is lost");
        assert!(b.remove_schedule(&name).await.expect("remove"));
    }

    async fn values(&self) {
        const ROOM: KvRoom = KvRoom { bytes: 1 << 20, keys: 1000 };
        let b = self.broker;
        let plugin = format!("p-{}", self.queue);
        self.twice(async || b.kv_set(&plugin, "k", b"v", ROOM).await).await;
        // It is atomic, but a repeated call adds again.
        let sum = self.twice(async || b.kv_increment(&plugin, "n", 2, ROOM).await).await;
        assert!([2, 4].contains(&sum), "{sum}");
        assert_eq!(b.kv_keys(&plugin, "", None, 9).await.expect("keys"), ["k", "n"]);
        let _was_there = self.twice(async || b.kv_remove(&plugin, "k").await).await;
        assert_eq!(b.kv_get(&plugin, "k").await.expect("get"), None);
    }

    /// Runs the remaining tasks. Then every task has ended, and no success was recorded twice.
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
        let ended = self.all_ended().await;
        assert!(recorded.values().all(|times| *times == 1), "{place}: recorded more than once: {recorded:?}");
        for task in tasks.iter().chain([&self.task("child", 0)]) {
            let view = self.twice(async || self.broker.find(Some(place), &task.id).await).await;
            let view = view.unwrap_or_else(|| panic!("{place}: `{}` is lost", task.id));
            assert!(view.state.is_ended(), "{place}: {view:#?}");
            assert!(ended.contains(&task.id), "{place}: in no list: {view:#?}");
        }
    }

    /// The ids of all listed ended tasks.
    async fn all_ended(&self) -> Vec<TaskId> {
        let filter = TaskFilter { queue: Some(self.queue.clone()), ..TaskFilter::default() };
        let (mut ids, mut from) = (Vec::new(), None);
        loop {
            let page = self.twice(async || self.broker.list(&filter, from.as_deref(), 9).await).await;
            ids.extend(page.tasks.into_iter().filter(|view| view.state.is_ended()).map(|view| view.id));
            from = page.next;
            if from.is_none() {
                return ids;
            }
        }
    }
}
