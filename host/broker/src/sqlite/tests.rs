//! Tests of this driver alone. `tests/broker/laws.rs` holds the laws of every broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rusqlite::Connection;

use super::{driver::SqliteBroker, kv, listing, looks::Looks, show};
use crate::{
    BrokerError, BrokerSettings, DeleteReply, Enqueued, Finish, Finished, Incarnation, Kv, KvRoom, Lease, LeaseReply, Leased, Produce,
    STUB, TOLD, TaskFilter, Tasks, grace,
};
use taskhost_core::task::{
    Clock, ErrorKind, Follow, Millis, NewTask, QueueName, State, SystemClock, TaskError, TaskId, TaskName, TaskOptions, Verdict,
};

/// A clock that a test sets, also back.
#[derive(Debug)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

struct Place {
    dir: tempfile::TempDir,
    broker: SqliteBroker,
}

fn place(clock: Arc<dyn Clock>) -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = SqliteBroker::open_with_clock(dir.path().join("x.db"), BrokerSettings::default(), clock).expect("opens");
    Place { dir, broker }
}

fn add() -> NewTask {
    NewTask::new(TaskName::new("add").expect("valid"), "[1,1]")
}

fn held<T>(lease: LeaseReply<T>) -> T {
    match lease {
        LeaseReply::Held(value) => value,
        LeaseReply::Lost => panic!("the lease is lost"),
    }
}

const LEASE: Duration = Duration::from_secs(30);

/// Longer than a test waits.
const LONG: Duration = Duration::from_secs(3600);

/// The limit of a wait for an event that should come.
const LIMIT: Duration = Duration::from_secs(60);

/// The handle looks only after events.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_waiting_caller_hears_of_each_commit_of_another_process() {
    let place = place(Arc::new(SystemClock));
    let other = &place.broker;
    let path = place.dir.path().join("x.db");
    let settings = BrokerSettings::default();
    let clock = Arc::new(SystemClock);
    let b = SqliteBroker::open_with_looks(path, settings, clock, Looks::by_events_alone(std::time::Instant::now())).expect("opens");
    let queue = QueueName::default();
    let still = Duration::from_millis(50);
    for round in 0..10 {
        let mut work = Box::pin(b.wait(&queue, LONG));
        assert!(tokio::time::timeout(still, &mut work).await.is_err(), "there is nothing to do in round {round}");
        let task = add();
        other.enqueue(std::slice::from_ref(&task)).await.expect("enqueue");
        tokio::time::timeout(LIMIT, work).await.expect("it hears of the task").expect("wait");
        let mut end = Box::pin(b.await_end(Some(&queue), &task.id, LONG));
        assert!(tokio::time::timeout(still, &mut end).await.is_err(), "the task waits in round {round}");
        other.cancel(&queue, &task.id).await.expect("cancel");
        let view = tokio::time::timeout(LIMIT, end).await.expect("it hears of the end").expect("await").expect("it is known");
        assert_eq!(view.state, State::Cancelled);
    }
}

#[tokio::test]
async fn a_claim_time_is_never_given_twice_by_whatever_clock() {
    let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
    let place = place(clock.clone());
    let b = &place.broker;
    let queue = QueueName::default();
    b.enqueue(&[add()]).await.expect("enqueue");
    let who = b.register(&queue, LEASE).await.expect("register");
    let mut last = 0;
    for now in [1_000_000, 1_000_000, 999_000, 1_000_001, 5] {
        clock.0.store(now, Ordering::Relaxed);
        let leased = held(b.claim(&who, LEASE, 1, &[]).await.expect("claim")).tasks.remove(0);
        assert!(leased.member.claimed_us > last, "{} after {last}", leased.member.claimed_us);
        last = leased.member.claimed_us;
        let verdict = Verdict::HandBack { delay: Duration::ZERO };
        let finish = Finish::new(leased.member, verdict, "w");
        b.finish(&who, &[finish]).await.expect("finish");
    }
}

#[tokio::test]
async fn a_command_that_fails_undoes_itself_and_not_its_neighbours() {
    let place = place(Arc::new(SystemClock));
    let b = &place.broker;
    let write = |key: String, fails: bool| {
        b.write(move |step| {
            let _fits = kv::set(step, "p", &key, b"1", KvRoom::UNBOUNDED)?;
            if fails { Err(BrokerError::Invalid("on purpose".into()).into()) } else { Ok(()) }
        })
    };
    // Together, so that they share transactions.
    let done = join_all((0..100).map(|n| write(format!("{n:02}"), n % 3 == 0))).await;
    for (n, done) in done.into_iter().enumerate() {
        assert_eq!(done.is_err(), n % 3 == 0);
        assert_eq!(b.kv_get("p", &format!("{n:02}")).await, Ok((n % 3 != 0).then(|| b"1".to_vec())), "{n}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_for_now_and_loses_nothing() {
    let place = place(Arc::new(SystemClock));
    let b = &place.broker;
    let pages = |limit: i64| b.write(move |step| Ok(step.connection.pragma_update(None, "max_page_count", limit)?));
    pages(200).await.expect("limit");
    let large = || NewTask { args: format!("[\"{}\"]", "x".repeat(20_000)), ..add() };
    let mut added = Vec::new();
    let error = loop {
        let tasks: Vec<_> = (0..8).map(|_| large()).collect();
        let replies = join_all(tasks.iter().map(|task| b.enqueue(std::slice::from_ref(task)))).await;
        let mut refused = None;
        for (task, reply) in tasks.into_iter().zip(replies) {
            match reply {
                Ok(_) => added.push(task.id),
                Err(error) => refused = Some((task, error)),
            }
        }
        if let Some(refused) = refused {
            break refused;
        }
        assert!(added.len() < 1_000, "the limit holds");
    };
    assert!(!added.is_empty());
    let (task, BrokerError::Refused(text)) = error else { panic!("refused for now: {:?}", error.1) };
    assert!(text.contains("disk") && text.contains("full") && text.contains("free space"), "{text}");
    assert!(b.find(None, &task.id).await.expect("find").is_none(), "what was refused did not happen");
    for id in &added {
        assert_eq!(b.find(None, id).await.expect("find").expect("kept").state, State::Ready);
    }
    pages(100_000).await.expect("limit");
    assert_eq!(b.enqueue(&[task]).await.expect("there is room again"), [Enqueued::Added]);
}

#[tokio::test]
async fn a_database_locked_by_another_or_not_to_be_written_says_what_to_do() {
    let place = place(Arc::new(SystemClock));
    let b = &place.broker;
    b.write(|step| Ok(step.connection.busy_timeout(Duration::from_millis(20))?)).await.expect("patience");
    let other = Connection::open(&**b.path).expect("open");
    other.execute_batch("BEGIN IMMEDIATE").expect("lock");
    let error = b.enqueue(&[add()]).await.expect_err("locked");
    assert!(matches!(&error, BrokerError::Refused(text) if text.contains("busy") && text.contains("end what holds it")), "{error:?}");
    assert!(error.is_transient());
    other.execute_batch("ROLLBACK").expect("unlock");
    b.enqueue(&[add()]).await.expect("unlocked");

    b.write(|step| Ok(step.connection.pragma_update(None, "query_only", true)?)).await.expect("takes hold with the next statement");
    let error = b.enqueue(&[add()]).await.expect_err("read-only");
    assert!(
        matches!(&error, BrokerError::Misconfigured(text) if text.contains("x.db") && text.contains("let this user write")),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_steps_of_another_process_wake_nobody_for_nothing() {
    let place = place(Arc::new(SystemClock));
    let queue = QueueName::default();
    let other = SqliteBroker::open(&**place.broker.path, BrokerSettings::default()).expect("opens");
    let begun = tokio::time::Instant::now();
    let limit = Duration::from_millis(300);
    let busy = async {
        let mut steps = 0_u32;
        while begun.elapsed() < limit {
            other.kv_increment("p", "n", 1, KvRoom::UNBOUNDED).await.expect("increment");
            steps += 1;
        }
        steps
    };
    let (waited, steps) = tokio::join!(async { place.broker.wait(&queue, limit).await.map(|()| begun.elapsed()) }, busy);
    assert!(waited.expect("wait") >= limit);
    assert!(steps > 1, "somebody wrote meanwhile");
}

#[tokio::test]
async fn what_has_ended_leaves_the_file_when_its_time_is_over_and_the_dead_when_they_are_too_old() {
    let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
    let place = place(clock.clone());
    let b = &place.broker;
    let queue = QueueName::default();
    let settings = BrokerSettings::default();
    let who = b.register(&queue, LEASE).await.expect("register");
    let own = settings.result_ttl * 3;
    let (short, long, dead) = (add(), NewTask { options: TaskOptions { result_ttl: Some(own), ..TaskOptions::default() }, ..add() }, add());
    b.enqueue(&[short, long, dead]).await.expect("enqueue");
    let leased = held(b.claim(&who, LEASE, 3, &[]).await.expect("claim")).tasks;
    let succeed = || Verdict::Succeed { result: "2".into() };
    let error = TaskError::new(ErrorKind::Permanent, "no");
    let finishes: Vec<_> = leased
        .iter()
        .zip([succeed(), succeed(), Verdict::Dead { error }])
        .map(|(leased, verdict)| Finish { log: "{}\n".into(), ..Finish::new(leased.member.clone(), verdict, "w") })
        .collect();
    assert_eq!(b.finish(&who, &finishes).await.expect("finish"), [Finished::Recorded; 3]);
    for (over, stand) in [(settings.result_ttl, 3), (own, 2), (settings.dead_age, 1)] {
        // Results with about the same end of their time go together, at most a two-thousandth of the time later.
        for (now, stand) in [(Millis(1_000_000 + ms(over) - 1), stand), (Millis(1_000_000 + ms(over) + ms(over) / 2048), stand - 1)] {
            clock.0.store(now.0, Ordering::Relaxed);
            b.sweep(&queue, &[]).await.expect("sweep");
            let rows = b.write(|step| Ok(step.connection.query_row("SELECT count(*) FROM task", [], |row| row.get::<_, i64>(0))?));
            assert_eq!(rows.await.expect("count"), stand, "{} ms after the end", now.0 - 1_000_000);
        }
    }
}

/// Two handles on one file. The first one's clock is right, and it holds three tasks.
struct Two {
    clock: Arc<Hand>,
    other_clock: Arc<Hand>,
    one: Place,
    other: SqliteBroker,
    who: Incarnation,
    heir: Incarnation,
    leased: Vec<Leased>,
}

const RIGHT: u64 = 1_000_000_000;
const HOUR: u64 = 3_600_000;

impl Two {
    async fn with_the_other_at(now: u64) -> Self {
        let (clock, other_clock) = (Arc::new(Hand(AtomicU64::new(RIGHT))), Arc::new(Hand(AtomicU64::new(now))));
        let one = place(clock.clone());
        let other = SqliteBroker::open_with_clock(&**one.broker.path, BrokerSettings::default(), other_clock.clone()).expect("opens");
        let queue = QueueName::default();
        one.broker.enqueue(&[add(), add(), add()]).await.expect("enqueue");
        let who = one.broker.register(&queue, LEASE).await.expect("register");
        let leased = held(one.broker.claim(&who, LEASE, 3, &[]).await.expect("claim")).tasks;
        let heir = other.register(&queue, LEASE).await.expect("register");
        Self { clock, other_clock, one, other, who, heir, leased }
    }

    fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(ms(time), Ordering::Relaxed);
        self.other_clock.0.fetch_add(ms(time), Ordering::Relaxed);
    }

    /// How many tasks the other handle adopts now.
    async fn taken(&self) -> usize {
        held(self.other.claim(&self.heir, LEASE, 9, &[]).await.expect("claim")).adopted.len()
    }

    async fn kept(&self) -> usize {
        held(self.one.broker.extend(&self.who, LEASE).await.expect("extend")).held
    }

    fn succeeded(&self) -> Vec<Finish> {
        let verdict = || Verdict::Succeed { result: "2".into() };
        let members = self.leased.iter().map(|leased| leased.member.clone());
        members.map(|member| Finish::new(member, verdict(), "w")).collect()
    }
}

#[tokio::test]
async fn who_comes_back_within_a_sixth_of_the_lease_after_the_clock_was_set_keeps_what_it_holds() {
    for now in [RIGHT + HOUR, RIGHT - HOUR] {
        let two = Two::with_the_other_at(RIGHT).await;
        for clock in [&two.clock, &two.other_clock] {
            clock.0.store(now, Ordering::Relaxed);
        }
        assert_eq!(two.taken().await, 0, "everybody looks late or early, nobody is lost");
        two.pass(grace(LEASE).saturating_sub(Duration::from_millis(1)));
        assert_eq!((two.taken().await, two.kept().await, two.taken().await), (0, 3, 0));
        assert_eq!(two.one.broker.finish(&two.who, &two.succeeded()).await.expect("finish"), [Finished::Recorded; 3]);
    }
}

/// One machine has one clock, so this can't happen there. docs/delivery.md describes what it costs.
#[tokio::test]
async fn a_handle_whose_clock_is_an_hour_off_loses_nothing_and_nothing_is_recorded_twice() {
    // An hour ahead, it adopts tasks whose lease was not extended for a sixth of the lease.
    let two = Two::with_the_other_at(RIGHT + HOUR).await;
    assert_eq!((two.taken().await, two.kept().await, two.taken().await), (0, 3, 0));
    two.pass(grace(LEASE));
    assert_eq!(two.taken().await, 3);
    assert_eq!(two.one.broker.finish(&two.who, &two.succeeded()).await.expect("finish"), [Finished::Stale; 3]);
    assert!(matches!(two.one.broker.extend(&two.who, LEASE).await.expect("extend"), LeaseReply::Lost));
    assert_eq!(two.other.finish(&two.heir, &two.succeeded()).await.expect("finish"), [Finished::Recorded; 3]);

    // An hour behind, it adopts nothing for an hour. A handle with the right time adopts in time.
    let two = Two::with_the_other_at(RIGHT - HOUR).await;
    let right = two.one.broker.register(&QueueName::default(), LEASE).await.expect("register");
    two.pass(LEASE.saturating_sub(grace(LEASE)));
    assert_eq!(two.taken().await, 0);
    let look = async || held(two.one.broker.claim(&right, LEASE, 9, &[]).await.expect("claim")).adopted.len();
    assert_eq!(look().await, 0);
    two.pass(grace(LEASE));
    assert_eq!((two.taken().await, look().await, two.taken().await), (0, 3, 0));
    assert_eq!(two.one.broker.finish(&two.who, &two.succeeded()).await.expect("finish"), [Finished::Stale; 3]);
    assert_eq!(two.one.broker.finish(&right, &two.succeeded()).await.expect("finish"), [Finished::Recorded; 3]);
}

/// Adds `ended` tasks of two queues and every end, and `waiting` tasks.
async fn fill(b: &SqliteBroker, ended: u32, waiting: u32) {
    b.write(move |step| {
        let up_to = |most: u32| format!("WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {most})");
        let (ended, waiting) = (up_to(ended), up_to(waiting));
        step.connection.execute_batch(&format!(
            "INSERT INTO queue (name) VALUES ('a'), ('b');
             {ended} INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, ended_at, gone_at)
             SELECT iif(n % 2, 'a', 'b'), 'e' || n, 'add', '[1,1]', 4, 4 + n % 3, n, 1, n, iif(n % 3 = 1, NULL, 9000000000000) FROM n;
             {waiting} INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, due_at)
             SELECT iif(n % 2, 'a', 'b'), 'w' || n, 'add', '[1,1]', 4, n / 2 % 2, n, 1, n FROM n;
             INSERT INTO ended SELECT queue, state, coalesce(gone_at, 9223372036854775807), count(*) FROM task WHERE state > 3 GROUP BY 1, 2, 3;"
        ))?;
        Ok(())
    })
    .await
    .expect("filled");
}

/// How many steps of SQLite's virtual machine these statements took on this connection.
fn steps(db: &Connection, statements: &[String]) -> i64 {
    let taken = |text: &String| {
        let statement = db.prepare_cached(text).expect("a statement");
        i64::from(statement.reset_status(rusqlite::StatementStatus::VmStep))
    };
    statements.iter().map(taken).sum()
}

#[tokio::test]
async fn no_page_and_no_count_of_what_has_ended_costs_more_when_more_has_ended() {
    let mut costs: Vec<Vec<i64>> = Vec::new();
    for (tasks, waiting) in [(600, 600), (60_000, 600), (600, 60_000)] {
        let place = place(Arc::new(SystemClock));
        fill(&place.broker, tasks, waiting).await;
        let cost = place.broker.read(move |db, now| {
            let (pages, counts) = (listing::statements(), vec![show::COUNTS.to_owned()]);
            let mut cost = Vec::new();
            let states = [State::Ready, State::Scheduled, State::Succeeded, State::Dead, State::Cancelled];
            for states in states.map(|state| vec![state]).into_iter().chain([vec![]]) {
                for queue in [Some("a"), None] {
                    let filter = TaskFilter {
                        queue: queue.map(|name| QueueName::new(name).expect("valid")),
                        states: states.clone(),
                        ..TaskFilter::default()
                    };
                    let first = listing::list(db, now, &filter, None, 20, &mut Vec::new())?;
                    steps(db, &pages);
                    let second = listing::list(db, now, &filter, first.next.as_deref(), 20, &mut Vec::new())?;
                    assert_eq!((first.tasks.len(), second.tasks.len()), (20, 20));
                    cost.push(steps(db, &pages));
                }
            }
            let ended = show::queues(db, now)?.0.into_iter().flat_map(|view| view.counts).filter(|(state, _)| state.is_ended());
            assert_eq!(ended.map(|(_, count)| count).sum::<u64>(), u64::from(tasks));
            // Waiting tasks are counted one by one, in their index.
            if waiting == 600 {
                cost.push(steps(db, &counts));
            }
            Ok(cost)
        });
        costs.push(cost.await.expect("read"));
    }
    eprintln!("steps of pages and counts among 600, 60,000 that have ended and 60,000 that wait: {costs:?}");
    for (few, many) in costs[1..].iter().flat_map(|many| costs[0].iter().zip(many)) {
        assert!(*many <= few + few / 5 && *many < 20_000, "{costs:?}");
    }
}

#[tokio::test]
async fn a_database_of_schema_1_counts_what_has_ended_when_it_is_opened() {
    let place = place(Arc::new(SystemClock));
    fill(&place.broker, 300, 1).await;
    let path = (*place.broker.path).clone();
    let Place { dir: _dir, broker } = place;
    drop(broker);
    let old = Connection::open(&path).expect("open");
    super::connection::go_back(&old, 1);
    drop(old);
    let broker = SqliteBroker::open(&path, BrokerSettings::default()).expect("opens");
    let queues = broker.queues().await.expect("queues");
    assert_eq!(queues.iter().map(|view| view.counts[&State::Dead]).sum::<u64>(), 100);
    assert_eq!(broker.delete(&queues[0].queue, &"e1".parse().expect("an id")).await.expect("delete"), DeleteReply::Deleted);
    assert_eq!(broker.queues().await.expect("queues").iter().map(|view| view.counts[&State::Dead]).sum::<u64>(), 99);
}

/// A stub keeps its child from starting again for ten minutes. An awaited end is told for one minute. Then a sweep removes both.
#[tokio::test]
async fn what_is_known_of_a_task_beyond_its_result_goes_by_itself() {
    let clock = Arc::new(Hand(AtomicU64::new(RIGHT)));
    let place = place(clock.clone());
    let b = &place.broker;
    let queue = QueueName::default();
    let who = b.register(&queue, LEASE).await.expect("register");
    let child = NewTask {
        id: TaskId::new("child").expect("valid"),
        awaited: true,
        options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() },
        ..add()
    };
    // Runs a task that asks for the child. Gives how often the child runs.
    let follows = async || {
        b.enqueue(&[add()]).await.expect("enqueue");
        let mut ran = 0;
        loop {
            let who = b.register(&queue, LEASE).await.expect("register");
            let Some(leased) = held(b.claim(&who, LEASE, 1, &[]).await.expect("claim")).tasks.pop() else { return ran - 1 };
            let follows = if leased.task.id == child.id { Vec::new() } else { vec![Follow::Enqueue(child.clone())] };
            let finish = Finish { follows, ..Finish::new(leased.member, Verdict::Succeed { result: "1".into() }, "w") };
            b.finish(&who, &[finish]).await.expect("finish");
            b.leave(&who).await.expect("leave");
            ran += 1;
        }
    };
    let pass = |time: Duration| clock.0.fetch_add(ms(time), Ordering::Relaxed);
    let told = async || b.await_end(None, &child.id, Duration::ZERO).await.expect("await").map(|view| view.state);
    let left = async || -> (i64, i64) {
        b.sweep(&queue, &[]).await.expect("sweep");
        let counts = "SELECT (SELECT count(*) FROM stub), (SELECT count(*) FROM awaited)";
        b.read(move |db, _| Ok(db.query_row(counts, (), |row| Ok((row.get(0)?, row.get(1)?)))?)).await.expect("counts")
    };
    assert_eq!((follows().await, told().await, left().await), (1, Some(State::Succeeded), (1, 1)));
    pass(TOLD);
    assert_eq!((follows().await, told().await, left().await), (0, None, (1, 0)));
    pass(STUB.saturating_sub(TOLD + Duration::from_millis(1)));
    assert_eq!((follows().await, left().await), (0, (1, 0)));
    pass(Duration::from_millis(1));
    assert_eq!((follows().await, told().await), (1, Some(State::Succeeded)));
    pass(STUB);
    assert_eq!(left().await, (0, 0));
    b.leave(&who).await.expect("leave");
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("not that long")
}

#[tokio::test]
async fn a_step_that_panics_does_not_end_the_thread_for_all_others() {
    let place = place(Arc::new(SystemClock));
    let b = &place.broker;
    let died = b.write(|step| {
        step.connection.execute("UPDATE stamp SET last = 7", ()).expect("a write");
        if step.now_ms() > 0 { panic!("injected") } else { Ok(()) }
    });
    let error = died.await.expect_err("no answer");
    assert!(error.is_fate_unknown() && error.to_string().contains("gave no answer"), "{error}");
    b.enqueue(&[add()]).await.expect("the thread goes on");
    let last: i64 = b.read(|db, _| Ok(db.query_row("SELECT last FROM stamp", (), |row| row.get(0))?)).await.expect("read");
    assert_ne!(last, 7, "what it wrote is taken back");
}

/// A time without workers does not count as time in which no worker offered the name.
#[tokio::test]
async fn what_no_sweep_has_looked_at_for_long_begins_its_time_anew() {
    let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
    let place = place(clock.clone());
    let (b, queue) = (&place.broker, QueueName::default());
    let day = BrokerSettings::default().unknown_task_ttl;
    let pass = |time: Duration| clock.0.fetch_add(u64::try_from(time.as_millis()).expect("some days"), Ordering::Relaxed);
    let task = add();
    b.enqueue(std::slice::from_ref(&task)).await.expect("enqueue");
    let who = b.register(&queue, LEASE).await.expect("register");
    let leased = held(b.claim(&who, LEASE, 1, &[]).await.expect("claim")).tasks.remove(0);
    let parked = Finish::new(leased.member, Verdict::Park, "w");
    assert_eq!(b.finish(&who, &[parked]).await.expect("finish"), [Finished::Recorded]);
    let state = async || b.find(None, &task.id).await.expect("find").expect("known").state;
    b.sweep(&queue, &[]).await.expect("sweep");
    // A weekend without workers, then a deploy.
    pass(day * 3);
    b.sweep(&queue, &[]).await.expect("sweep");
    assert_eq!(state().await, State::Parked);
    for _ in 0..23 {
        pass(Duration::from_secs(3600));
        b.sweep(&queue, &[]).await.expect("sweep");
        assert_eq!(state().await, State::Parked);
    }
    pass(Duration::from_secs(3600));
    b.sweep(&queue, &[]).await.expect("sweep");
    assert_eq!(state().await, State::Dead);
}
