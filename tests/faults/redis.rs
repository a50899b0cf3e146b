//! What happens between a worker and its Redis: messages lost at every step, connections half open, a server that restarts,
//! is away, or has no memory left.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use redis::Value;
use rustix::process::{Pid, Signal, kill_process};
use taskhost::{
    broker::{Broker, BrokerError, BrokerSettings},
    task::{QueueName, State, TaskId},
};

use super::{
    fleet::{Fleet, Process, account, enqueue_all, notes, open, succeeded, turn, until},
    ground::DURABLE,
    proxy::{Act, Moment, Proxy},
};
use crate::support::{RedisServer, named};

async fn connect(url: &str) -> Arc<dyn Broker> {
    super::ground::connect(url, BrokerSettings::default()).await
}

/// Bodies that ask nothing of the broker: what they cost is the host's doing alone.
async fn sleeps(broker: &dyn Broker, count: usize, seconds: f64) -> Vec<TaskId> {
    enqueue_all(broker, (0..count).map(|_| named("sleep", &format!("[{seconds}]"))).collect()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_verbs_answer_is_lost_once_and_nothing_else() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let (proxy, broker) = (Proxy::before(server.port()).await, connect(&server.url()).await);
    let mut fleet = Fleet::new(Duration::from_secs(3));
    let mut worker = fleet.start(&proxy.url(), &[]);
    worker.says("worker started").await;
    let lost = Arc::new(Mutex::new(HashSet::new()));
    let noted = Arc::clone(&lost);
    proxy.hook(move |verb, moment| {
        let first = moment == Moment::Answered && noted.lock().expect("not poisoned").insert(verb.to_owned());
        if first { Act::Cut } else { Act::Pass }
    });
    let ids = sleeps(&*broker, 400, 0.02).await;
    until("claims, finishes and heartbeats were lost", async || {
        let lost = lost.lock().expect("not poisoned");
        ["claim", "finish", "extend", "held", "BZPOPMIN"].iter().all(|verb| lost.contains(*verb))
    })
    .await;
    let ids = [ids, sleeps(&*broker, 400, 0.02).await].concat();
    let account = account("each answer lost once", &broker, &ids).await;
    account.all_succeeded();
    assert_eq!((account.counted, account.worker_lost), (0, 0), "a lost answer counts as no attempt");
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended(Duration::from_secs(30)).await, Some(0), "{}", worker.log());
    eprintln!("lost once: {:?}", lost.lock().expect("not poisoned"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_falls_silent_loses_no_lease() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(6));
    // Another worker stands by to adopt what looks lost.
    let proxy = Proxy::before(server.port()).await;
    let worker = fleet.worker(&proxy.url(), &[]).await;
    let _other = fleet.worker(&server.url(), &[("concurrency", "1")]).await;
    let ids = sleeps(&*broker, 60, 0.5).await;
    until("tasks run", async || succeeded(&*broker).await > 0).await;
    let muted = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&muted);
    // The heartbeat's connection, then the one for commands, each falls silent once.
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
        ("enqueue", Asked),
        ("enqueue", Answered),
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
            // A claim that brings nothing is no point of interest: the first two may come before the tasks are seen.
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
        // Its first finish is that of what it adopted.
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
async fn a_redis_that_is_away_for_twice_the_lease_costs_no_attempt() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let broker = connect(&server.url()).await;
    let mut fleet = Fleet::new(Duration::from_secs(3));
    let proxy = Proxy::before(server.port()).await;
    let mut crew = Vec::new();
    for _ in 0..3 {
        crew.push(fleet.worker(&proxy.url(), &[]).await);
    }
    let mut ids = Vec::new();
    for away in [Duration::from_millis(1_500), Duration::from_secs(6)] {
        ids.extend(sleeps(&*broker, 60, 1.0).await);
        ids.extend(sleeps(&*broker, 300, 0.02).await);
        until("all work", async || broker.queues().await.expect("queues")[0].counts.get(&State::Running) >= Some(&40)).await;
        proxy.set_up(false);
        tokio::time::sleep(away).await;
        proxy.set_up(true);
        let account = account(&format!("away for {away:?}, lease 3 s"), &broker, &ids).await;
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
    // One that comes only now has to find its way too.
    let _worker = fleet.worker(&server.url(), &[]).await;
    account("out of memory", &broker, &ids).await.all_succeeded();
    let _ok: Value = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async(&mut raw).await.expect("set");
    let ids = enqueue_all(&*broker, vec![named("echo", "[1]")]).await;
    account("with room again", &broker, &ids).await.all_succeeded();
}
