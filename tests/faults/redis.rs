//! Faults between a worker and its Redis: messages lost at every step, connections half open, a server that restarts,
//! is away, or has no memory left.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::Value;
use rustix::process::{Pid, Signal, kill_process};
use taskhost_broker::{
    Broker, BrokerError, BrokerSettings, CancelReply, CatchUp, DeleteReply, Enqueued, Finished, Fired, Overlap, RetryReply, Schedule,
    Source,
};
use taskhost_core::task::{Millis, NewTask, QueueName, State, TaskId, TaskOptions, Verdict};

use super::{
    fleet::{Fleet, Process, account, enqueue_all, notes, open, sleeps, succeeded, turn, until},
    ground::DURABLE,
    proxy::{Act, Moment, Proxy},
};
use crate::support::{End, LEASE, RedisServer, Worker, named, ok, queue, task_name};

async fn connect(url: &str) -> Arc<dyn Broker> {
    super::ground::connect(url, BrokerSettings::default()).await
}

/// A worker with 800 tasks. `fault` disturbs some of its messages, until it has met each verb of `met`.
async fn met_once(what: &str, met: &[(&str, Moment)], fault: impl Fn(Moment) -> Option<Act> + Send + Sync + 'static) {
    let server = RedisServer::start();
    let (proxy, broker) = (Proxy::before(server.port()).await, connect(&server.url()).await);
    let mut fleet = Fleet::new(Duration::from_secs(3));
    let mut worker = fleet.start(&proxy.url(), &[]);
    worker.says("worker started").await;
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let noted = Arc::clone(&seen);
    proxy.hook(move |verb, moment| match fault(moment) {
        Some(act) if noted.lock().expect("not poisoned").insert((verb.to_owned(), moment)) => act,
        _ => Act::Pass,
    });
    let ids = sleeps(&*broker, 400, 0.02).await;
    until("claims, finishes and heartbeats met it", async || {
        let seen = seen.lock().expect("not poisoned");
        met.iter().all(|(verb, moment)| seen.contains(&((*verb).to_owned(), *moment)))
    })
    .await;
    let ids = [ids, sleeps(&*broker, 400, 0.02).await].concat();
    let account = account(what, &broker, &ids).await;
    account.all_succeeded();
    assert_eq!((account.counted, account.worker_lost), (0, 0), "a lost message counts as no attempt");
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended(Duration::from_secs(30)).await, Some(0), "{}", worker.log());
    eprintln!("{what}: {:?}", seen.lock().expect("not poisoned"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_verbs_answer_is_lost_once_and_nothing_else() {
    let _turn = turn().await;
    let met = ["claim", "finish", "extend", "held", "BZPOPMIN"].map(|verb| (verb, Moment::Answered));
    met_once("each answer lost once", &met, |moment| (moment == Moment::Answered).then_some(Act::Cut)).await;
}

/// Only one end of a half-closed connection knows that it is closed. Commands on it are executed without an answer, or get no answer at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_verb_meets_a_connection_closed_in_one_direction() {
    let _turn = turn().await;
    let met = ["claim", "finish", "extend", "BZPOPMIN"].map(|verb| [(verb, Moment::Asked), (verb, Moment::Answered)]);
    met_once("each connection half-closed once at each step", met.as_flattened(), |_| Some(Act::Half)).await;
}

/// Loses the first answer to `verb`. The caller asks again if it gets an error.
async fn lost_once<T: std::fmt::Debug>(proxy: &Proxy, verb: &'static str, mut ask: impl AsyncFnMut() -> Result<T, BrokerError>) -> T {
    let cut = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&cut);
    proxy.hook(move |seen, moment| {
        let hit = seen == verb && moment == Moment::Answered && !done.swap(true, Ordering::SeqCst);
        if hit { Act::Cut } else { Act::Pass }
    });
    let answer = match ask().await {
        Err(error) => {
            assert!(error.is_transient() && error.is_fate_unknown(), "{verb}: {error:?}");
            ask().await
        }
        answer => answer,
    };
    assert!(cut.load(Ordering::SeqCst), "{verb} was never asked");
    answer.unwrap_or_else(|error| panic!("{verb}, asked again: {error:?}"))
}

#[tokio::test]
async fn every_answer_to_a_producer_is_lost_once_and_asking_again_is_safe() {
    let server = RedisServer::start();
    let (proxy, direct) = (Proxy::before(server.port()).await, connect(&server.url()).await);
    let broker = connect(&proxy.url()).await;
    let place = QueueName::default();
    let now = async |id: &TaskId| direct.find(Some(&place), id).await.expect("find").map(|view| view.state);

    let tasks: Vec<_> = (0..3).map(|_| named("echo", "[1]")).collect();
    let replies = lost_once(&proxy, "enqueue", async || broker.enqueue(&tasks).await).await;
    assert_eq!(replies, [Enqueued::Added, Enqueued::Added, Enqueued::Added], "finding one's own ids is a success");
    let (one, two) = (&tasks[0].id, &tasks[1].id);

    let told = lost_once(&proxy, "cancel", async || broker.cancel(&place, one).await).await;
    assert_eq!((told, now(one).await), (CancelReply::AlreadyEnded(State::Cancelled), Some(State::Cancelled)));
    let told = lost_once(&proxy, "retry", async || broker.retry(&place, one).await).await;
    assert_eq!((told, now(one).await), (RetryReply::NotEnded(State::Ready), Some(State::Ready)));
    let told = lost_once(&proxy, "delete", async || broker.delete(&place, one).await).await;
    assert_eq!((told, now(one).await), (DeleteReply::NotFound, None));
    lost_once(&proxy, "HSETNX", async || broker.pause(&place).await).await;
    assert!(direct.queues().await.expect("queues")[0].paused);
    lost_once(&proxy, "resume", async || broker.resume(&place).await).await;
    assert!(!direct.queues().await.expect("queues")[0].paused);
    let view = lost_once(&proxy, "view", async || broker.find(Some(&place), two).await).await;
    assert_eq!(view.map(|view| view.state), Some(State::Ready));
    let queues = lost_once(&proxy, "counts", async || broker.queues().await).await;
    assert_eq!(queues[0].counts.get(&State::Ready), Some(&2));

    // A caller that waits for the end gets it, although the answer to its question was lost.
    let task = named("echo", "[1]");
    direct.enqueue(std::slice::from_ref(&task)).await.expect("enqueue");
    let asked = AtomicUsize::new(0);
    let waits = lost_once(&proxy, "await", async || {
        asked.fetch_add(1, Ordering::SeqCst);
        broker.await_end(Some(&place), &task.id, Duration::from_secs(60)).await
    });
    let ends = async {
        until("it was asked", async || asked.load(Ordering::SeqCst) > 0).await;
        direct.cancel(&place, &task.id).await.expect("cancel")
    };
    let (view, _) = tokio::join!(waits, ends);
    assert_eq!(view.map(|view| view.state), Some(State::Cancelled));

    let schedule = schedule("hourly");
    lost_once(&proxy, "put_schedule", async || broker.put_schedule(&schedule).await).await;
    assert!(lost_once(&proxy, "pause_schedule", async || broker.pause_schedule("hourly", true).await).await);
    assert!(lost_once(&proxy, "pause_schedule", async || broker.pause_schedule("hourly", false).await).await);
    let stored = direct.schedules().await.expect("schedules").remove(0);
    let due = Millis(stored.last.0 + 1);
    until("it is due", async || direct.now().await.expect("now") >= due).await;
    let firing = NewTask { id: TaskId::new("cron:hourly:1").expect("an id"), ..named("echo", "[1]") };
    let fired = lost_once(&proxy, "fire", async || broker.fire(&schedule, due, &firing).await).await;
    assert_eq!((fired, now(&firing.id).await), (Fired::NotNow, Some(State::Ready)), "it was fired, once");
    let purged = lost_once(&proxy, "purge", async || broker.purge(&place).await).await;
    assert_eq!((purged, direct.queues().await.expect("queues").iter().filter_map(|view| view.counts.get(&State::Ready)).sum()), (0, 0));
}

/// The task has ended and is deleted before its producer asks again.
#[tokio::test]
async fn an_enqueue_whose_answer_was_lost_adds_once_also_what_keeps_no_result() {
    let server = RedisServer::start();
    let (proxy, direct) = (Proxy::before(server.port()).await, connect(&server.url()).await);
    let broker = connect(&proxy.url()).await;
    let worker = Worker::new(&*direct).await;
    for priority in ["5", "7"] {
        let fleeting = || NewTask {
            options: TaskOptions { result_ttl: Some(Duration::ZERO), priority: priority.parse().expect("valid"), ..TaskOptions::default() },
            ..named("echo", "[1]")
        };
        let known = fleeting();
        direct.enqueue(std::slice::from_ref(&known)).await.expect("enqueue");
        worker.claim_one().await;
        let tasks = [fleeting(), known.clone(), fleeting()];
        let runs = async {
            let mut run = Vec::new();
            while run.len() < 2 {
                for leased in worker.claim(9).await {
                    assert_eq!(worker.finish(&leased.member, ok("1")).await, Finished::Recorded);
                    run.push(leased.task.id);
                }
            }
            run
        };
        let (replies, run) = tokio::join!(lost_once(&proxy, "enqueue", async || broker.enqueue(&tasks).await), runs);
        assert_eq!(replies, [Enqueued::Added, Enqueued::Duplicate { holder: known.id }, Enqueued::Added], "the first answer, again");
        assert_eq!(run, [tasks[0].id.clone(), tasks[2].id.clone()]);
        assert!(worker.claim(9).await.is_empty(), "added again");
    }
}

/// The child was enqueued in the other queue, but not yet removed from the outbox.
#[tokio::test]
async fn a_relay_that_is_repeated_after_the_child_is_gone_adds_nothing() {
    let server = RedisServer::start();
    let (proxy, direct) = (Proxy::before(server.port()).await, connect(&server.url()).await);
    let broker = connect(&proxy.url()).await;
    let (place, mail) = (QueueName::default(), queue("mail"));
    let worker = Worker::new(&*direct).await;
    let child = NewTask {
        queue: mail.clone(),
        options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() },
        ..named("echo", "[1]")
    };
    direct.enqueue(&[named("echo", "[1]")]).await.expect("enqueue");
    worker.run_one(End::with(Verdict::Succeed { result: "1".into() }, vec![child.clone()])).await;
    let cut = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&cut);
    proxy.hook(move |seen, moment| {
        let hit = seen == "relay" && moment == Moment::Answered && !done.swap(true, Ordering::SeqCst);
        if hit { Act::Cut } else { Act::Pass }
    });
    broker.relay(&place).await.expect_err("its answer is lost");
    let there = Worker::on(&*direct, &mail, LEASE).await;
    assert_eq!(there.run_one(ok("1")).await.task.id, child.id);
    assert!(direct.find(Some(&mail), &child.id).await.expect("find").is_none(), "nothing is kept");
    assert_eq!(broker.relay(&place).await.expect("relay"), 1, "the entry is still there");
    assert!(there.claim(9).await.is_empty(), "added again");
    // The stub that keeps it from being added again expires by itself.
    let mut raw = redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("connect");
    let left: i64 = redis::cmd("PTTL").arg(format!("th:{{mail}}:stub:{}", child.id)).query(&mut raw).expect("a time");
    assert!((590_000..=600_000).contains(&left), "ten minutes after its end: {left} ms");
}

fn schedule(name: &str) -> Schedule {
    Schedule {
        name: name.into(),
        rule: "@hourly".into(),
        timezone: "UTC".into(),
        task: task_name("echo"),
        args: "[1]".into(),
        queue: QueueName::default(),
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
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_falls_silent_loses_no_lease() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(6));
    // Another worker would adopt tasks that look lost.
    let proxy = Proxy::before(server.port()).await;
    let worker = fleet.worker(&proxy.url(), &[]).await;
    let _other = fleet.worker(&server.url(), &[("concurrency", "1")]).await;
    let ids = sleeps(&*broker, 60, 0.5).await;
    until("tasks run", async || succeeded(&*broker).await > 0).await;
    let muted = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&muted);
    // First the connection of the heartbeat falls silent, then the one for commands.
    proxy.hook(move |verb, moment| {
        let wanted = ["extend", "claim"].get(count.load(Ordering::SeqCst) as usize);
        if moment == Moment::Asked && wanted == Some(&verb) {
            count.fetch_add(1, Ordering::SeqCst);
            return Act::Mute;
        }
        Act::Pass
    });
    let ids = [ids, sleeps(&*broker, 300, 0.1).await].concat();
    until("both were muted", async || muted.load(Ordering::SeqCst) == 2 || open(&*broker).await == 0).await;
    let account = account("half-open connections", &broker, &ids).await;
    account.all_succeeded();
    assert!(muted.load(Ordering::SeqCst) > 0);
    assert_eq!(account.worker_lost, 0, "{}", worker.log());
}

/// Each command and each answer takes up to a third of a second. With this short lease some heartbeats are given up and sent again. Bodies
/// without calls of the broker notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_network_costs_nothing_but_time() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(6));
    let proxy = Proxy::before(server.port()).await;
    let late = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&late);
    proxy.hook(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Act::Late(Duration::from_millis(fastrand::u64(0..330)))
    });
    // Another worker without delays would adopt tasks that look lost.
    let _far = fleet.worker(&proxy.url(), &[]).await;
    let ids = [sleeps(&*broker, 60, 0.05).await, sleeps(&*broker, 30, 2.0).await].concat();
    until("tasks run far away", async || succeeded(&*broker).await > 0).await;
    let _near = fleet.worker(&server.url(), &[("concurrency", "2")]).await;
    let account = account("a slow network", &broker, &ids).await;
    account.all_succeeded();
    assert!(late.load(Ordering::Relaxed) > 100);
    assert_eq!((account.counted, account.worker_lost), (0, 0), "late is not lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_dies_between_any_two_steps() {
    use Moment::{Answered, Asked};
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(1));
    let other = QueueName::new("other").expect("a name");
    // XRANGE begins the relay of the outbox, the enqueue of a worker is its middle, XDEL its end.
    let points = [
        ("register", Answered),
        ("claim", Asked),
        ("claim", Answered),
        ("finish", Asked),
        ("finish", Answered),
        ("XRANGE", Asked),
        ("relay", Asked),
        ("relay", Answered),
        ("XDEL", Asked),
        ("XDEL", Answered),
        ("extend", Answered),
        ("leave", Asked),
        ("leave", Answered),
    ];
    for (verb, moment) in points {
        let proxy = Proxy::before(server.port()).await;
        let mut parents = enqueue_all(&*broker, (0..12).map(|_| named("note_with_child", r#"[2,"other"]"#)).collect()).await;
        let mut victim = fleet.start(&proxy.url(), &[]);
        let (pid, killed) = (victim.pid(), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&killed);
        proxy.hook(move |seen, at| {
            // Skip claims that bring nothing. The first two may come before the tasks.
            if seen == verb && at == moment && !done.swap(true, Ordering::SeqCst) {
                die(pid);
                return Act::Cut;
            }
            Act::Pass
        });
        if verb == "leave" {
            until("all have succeeded", async || open_in(&*broker, "default").await == 0).await;
            parents.extend(enqueue_all(&*broker, (0..12).map(|_| named("note_with_child", r#"[2000,"other"]"#)).collect()).await);
            until("they run", async || open_in(&*broker, "default").await == 12).await;
            victim.signal(Signal::TERM);
            victim.signal(Signal::INT);
        }
        until(&format!("the worker dies at {verb}"), async || killed.load(Ordering::SeqCst)).await;
        let _by_signal = victim.ended(Duration::from_secs(10)).await;
        let heir = fleet.worker(&server.url(), &[("queues", "default,other")]).await;
        account(&format!("killed when {verb} was {moment:?}"), &broker, &parents).await.all_succeeded();
        for parent in &parents {
            let child = TaskId::new(format!("{parent}.child")).expect("an id");
            until(&format!("`{child}` has come to be and ended"), async || {
                broker.find(Some(&other), &child).await.expect("find").is_some_and(|view| view.state.is_ended())
            })
            .await;
            let view = broker.find(Some(&other), &child).await.expect("find").expect("it has ended");
            assert_eq!((view.state, view.tries), (State::Succeeded, 1), "{view:?}");
        }
        heir.kill();
    }
}

fn die(pid: Pid) {
    kill_process(pid, Signal::KILL).expect("our own child, not reaped yet");
}

async fn open_in(broker: &dyn Broker, queue: &str) -> u64 {
    let queues = broker.queues().await.expect("queues");
    let counts = queues.iter().filter(|view| view.queue.as_str() == queue).flat_map(|view| &view.counts);
    counts.filter(|(state, _)| !state.is_ended()).map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_adopter_that_dies_while_adopting_is_adopted_itself() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(1));
    fleet.shares_state = true;
    let first = fleet.worker(&server.url(), &[]).await;
    let ids = notes(&*broker, 16, 1_500).await;
    until("they run", async || broker.queues().await.expect("queues")[0].counts.get(&State::Running) == Some(&16)).await;
    first.kill();
    for step in [Moment::Asked, Moment::Answered] {
        let proxy = Proxy::before(server.port()).await;
        let mut adopter = fleet.start(&proxy.url(), &[("concurrency", "1")]);
        let (pid, killed) = (adopter.pid(), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&killed);
        // Its first finish is that of an adopted task.
        proxy.hook(move |verb, at| {
            if verb == "finish" && at == step && !done.swap(true, Ordering::SeqCst) {
                die(pid);
                return Act::Cut;
            }
            Act::Pass
        });
        until("the adopter dies", async || killed.load(Ordering::SeqCst)).await;
        let _by_signal = adopter.ended(Duration::from_secs(10)).await;
    }
    let _last = fleet.worker(&server.url(), &[]).await;
    account("adopters killed while adopting", &broker, &ids).await.all_succeeded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_redis_that_is_away_for_20_s_and_twice_the_lease_costs_no_attempt() {
    const LEASE: Duration = Duration::from_secs(10);
    let _turn = turn().await;
    let mut server = RedisServer::start_with(&DURABLE);
    let mut fleet = Fleet::new(LEASE);
    let proxy = Proxy::before(server.port()).await;
    let mut crew = Vec::new();
    for _ in 0..3 {
        crew.push(fleet.worker(&proxy.url(), &[]).await);
    }
    let mut ids = Vec::new();
    // First the link is cut for a moment. Then the server is gone for 20 s, which is twice the lease. A server that is gone refuses connections; a
    // server behind a dead link does not.
    for away in [Duration::from_millis(1_500), 2 * LEASE] {
        let broker = connect(&server.url()).await;
        ids.extend(sleeps(&*broker, 60, 1.0).await);
        ids.extend(sleeps(&*broker, 300, 0.02).await);
        until("all work", async || broker.queues().await.expect("queues")[0].counts.get(&State::Running) >= Some(&40)).await;
        proxy.set_up(false);
        if away > LEASE {
            server.kill();
        }
        tokio::time::sleep(away).await;
        if away > LEASE {
            server.restart(&DURABLE);
        }
        proxy.set_up(true);
        let broker = connect(&server.url()).await;
        let account = account(&format!("away for {away:?}, lease {LEASE:?}"), &broker, &ids).await;
        account.all_succeeded();
        assert_eq!(account.counted, 0, "every worker lived");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_redis_that_is_killed_and_comes_back_keeps_what_it_acknowledged() {
    let _turn = turn().await;
    let mut server = RedisServer::start_with(&DURABLE);
    let mut fleet = Fleet::new(Duration::from_secs(4));
    let mut crew: Vec<Process> = vec![fleet.worker(&server.url(), &[]).await];
    crew.push(fleet.worker(&server.url(), &[]).await);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let broker = connect(&server.url()).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let producer = {
            let (broker, stop) = (Arc::clone(&broker), stop.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.is_cancelled() {
                    let tasks: Vec<_> = (0..10).map(|_| named("sleep", "[0.02]")).collect();
                    if broker.enqueue(&tasks).await.is_ok() {
                        acknowledged.extend(tasks.into_iter().map(|task| task.id));
                    }
                }
                acknowledged
            })
        };
        let before = succeeded(&*broker).await;
        until("it is under load", async || succeeded(&*broker).await > before + 50).await;
        server.restart(&DURABLE);
        let back = connect(&server.url()).await;
        let before = succeeded(&*back).await;
        until("it goes on", async || succeeded(&*back).await > before).await;
        stop.cancel();
        ids.extend(producer.await.expect("no panic"));
    }
    let broker = connect(&server.url()).await;
    let account = account("Redis killed three times, appendfsync always", &broker, &ids).await;
    account.all_succeeded();
    assert_eq!(account.worker_lost, 0, "every worker lived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_redis_without_memory_refuses_to_enqueue_and_lets_workers_finish() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(3));
    let text = format!("[\"{}\"]", "x".repeat(20_000));
    let raw = redis::Client::open(server.url()).expect("a URL");
    let mut raw = raw.get_multiplexed_async_connection().await.expect("connect");
    let _ok: Value = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("24mb").query_async(&mut raw).await.expect("set");
    let mut ids = Vec::new();
    let refused = loop {
        let tasks: Vec<_> = (0..20).map(|_| named("echo", &text)).collect();
        match broker.enqueue(&tasks).await {
            Ok(_) => ids.extend(tasks.into_iter().map(|task| task.id)),
            Err(error) => break error,
        }
        assert!(ids.len() < 5_000, "it never refused");
    };
    assert!(matches!(&refused, BrokerError::Refused(text) if text.contains("out of memory")), "{refused:?}");
    // A worker that starts now must connect too.
    let _worker = fleet.worker(&server.url(), &[]).await;
    account("out of memory", &broker, &ids).await.all_succeeded();
    let _ok: Value = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async(&mut raw).await.expect("set");
    let ids = enqueue_all(&*broker, vec![named("echo", "[1]")]).await;
    account("with room again", &broker, &ids).await.all_succeeded();
}
