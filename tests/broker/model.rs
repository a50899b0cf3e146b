//! The model check: the same random verbs on a driver and on a small model of DESIGN §5; equal answers, equal views.
//!
//! Time stands still in the model: delays are none or an hour, leases end by `expire` only. Seeds are printed, and one can be
//! given: `MODEL_SEED=7 cargo test --test main faults::model`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use taskhost_broker::{
    Broker, BrokerSettings, CancelReply, DeleteReply, Enqueued, Finished, Incarnation, LeaseReply, Leased, Member, RetryReply, TaskFilter,
};
use taskhost_core::retry::transition;
use taskhost_core::task::{ErrorKind, Follow, NewTask, Priority, QueueName, Start, State, TaskError, TaskId, TaskOptions, Unique, Verdict};

use crate::support::{End, LEASE, Place, RedisServer, SqlitePlace, finish, named, task_name};

const STEPS: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3600);
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Ids of children.
const CHILDREN: u32 = 300;

#[tokio::test]
async fn sqlite_does_what_the_model_does() {
    check(&SqlitePlace::make().await).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does() {
    check(&RedisServer::make().await).await;
}

async fn check(place: &dyn Place) {
    let seed = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MODEL_SEED={seed}");
    let broker = place.open(BrokerSettings::default()).await;
    Run {
        broker: &*broker,
        random: fastrand::Rng::with_seed(seed),
        model: Model::default(),
        crew: Vec::new(),
        queue: QueueName::default(),
    }
    .play()
    .await;
}

/// What the model knows of a task.
#[derive(Debug, Clone)]
struct Known {
    name: &'static str,
    priority: u8,
    unique: Option<String>,
    keeps_result: bool,
    is_child: bool,
    state: State,
    turn: u64,
    tries: u32,
    cancel_asked: bool,
    holder: Option<usize>,
}

#[derive(Debug, Default)]
struct Model {
    tasks: BTreeMap<TaskId, Known>,
    keys: BTreeMap<String, TaskId>,
    /// Children that are no longer kept.
    stubs: BTreeSet<TaskId>,
    turn: u64,
    paused: bool,
}

impl Model {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn end(&mut self, id: &TaskId, state: State) {
        let task = self.tasks.get_mut(id).expect("known");
        task.state = state;
        task.cancel_asked = false;
        task.holder = None;
        let (unique, gone) = (task.unique.clone(), !task.keeps_result && state != State::Dead);
        self.release(id, unique.as_ref());
        if gone {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: &TaskId) {
        if self.tasks.remove(id).is_some_and(|task| task.is_child) {
            self.stubs.insert(id.clone());
        }
    }

    fn release(&mut self, id: &TaskId, key: Option<&String>) {
        if let Some(key) = key.filter(|key| self.keys.get(*key) == Some(id)) {
            self.keys.remove(key);
        }
    }

    fn enqueue(&mut self, task: &NewTask, name: &'static str, is_child: bool) -> Enqueued {
        if self.tasks.contains_key(&task.id) || (is_child && self.stubs.contains(&task.id)) {
            return Enqueued::Duplicate { holder: task.id.clone() };
        }
        let unique = task.unique.as_ref().map(|unique| unique.key.clone());
        if let Some(holder) = unique.as_ref().and_then(|key| self.keys.get(key)) {
            return Enqueued::Duplicate { holder: holder.clone() };
        }
        if let Some(key) = &unique {
            self.keys.insert(key.clone(), task.id.clone());
        }
        let known = Known {
            name,
            priority: task.options.priority.get(),
            unique,
            keeps_result: task.options.result_ttl != Some(Duration::ZERO),
            is_child,
            state: if task.start == Start::Now { State::Ready } else { State::Scheduled },
            turn: self.next_turn(),
            tries: 0,
            cancel_asked: false,
            holder: None,
        };
        self.tasks.insert(task.id.clone(), known);
        Enqueued::Added
    }

    /// Best first.
    fn claim(&mut self, holder: usize, limit: usize, startable: &[&str]) -> Vec<TaskId> {
        if self.paused {
            return Vec::new();
        }
        let can = |task: &Known| task.state == State::Ready || (task.state == State::Parked && startable.contains(&task.name));
        let mut found: Vec<_> =
            self.tasks.iter().filter(|(_, task)| can(task)).map(|(id, task)| (9 - task.priority, task.turn, id.clone())).collect();
        found.sort();
        let ids: Vec<_> = found.into_iter().take(limit).map(|(_, _, id)| id).collect();
        for id in &ids {
            let task = self.tasks.get_mut(id).expect("known");
            task.state = State::Running;
            task.holder = Some(holder);
        }
        ids
    }

    fn finish(&mut self, id: &TaskId, End { verdict, follows }: &End) -> Finished {
        let task = self.tasks.get(id).expect("known");
        if !(task.cancel_asked && transition(verdict, follows, usize::MAX).instead().is_some()) {
            for Follow::Enqueue(child) in follows {
                self.enqueue(child, NAMES[0], true);
            }
        }
        let turn = self.next_turn();
        let task = self.tasks.get_mut(id).expect("known");
        if matches!(verdict, Verdict::Retry { .. } | Verdict::Dead { .. } | Verdict::Cancel { .. }) {
            task.tries += 1;
        }
        let is_lost = matches!(verdict, Verdict::Dead { error } if error.kind == ErrorKind::WorkerLost);
        let waits = match verdict {
            Verdict::Succeed { .. } => {
                task.tries += 1;
                self.end(id, State::Succeeded);
                return Finished::Recorded;
            }
            Verdict::Dead { .. } if !(is_lost && task.cancel_asked) => {
                self.end(id, State::Dead);
                return Finished::Recorded;
            }
            Verdict::Cancel { .. } => {
                self.end(id, State::Cancelled);
                return Finished::Recorded;
            }
            _ if task.cancel_asked => {
                self.end(id, State::Cancelled);
                return Finished::CancelledInstead;
            }
            Verdict::Retry { delay, .. } if delay.is_zero() => {
                task.turn = turn;
                State::Ready
            }
            Verdict::HandBack { delay } if delay.is_zero() => State::Ready,
            Verdict::Retry { .. } | Verdict::HandBack { .. } => State::Scheduled,
            Verdict::Park => State::Parked,
            Verdict::Dead { .. } => unreachable!("it has ended"),
        };
        task.state = waits;
        task.holder = None;
        Finished::Recorded
    }

    fn cancel(&mut self, id: &TaskId) -> CancelReply {
        match self.tasks.get_mut(id) {
            None => CancelReply::NotFound,
            Some(task) if task.state.is_ended() => CancelReply::AlreadyEnded(task.state),
            Some(task) if task.state == State::Running => {
                task.cancel_asked = true;
                CancelReply::Asked
            }
            Some(_) => {
                self.end(id, State::Cancelled);
                CancelReply::Cancelled
            }
        }
    }

    fn retry(&mut self, id: &TaskId) -> RetryReply {
        let turn = self.next_turn();
        let Some(task) = self.tasks.get_mut(id) else { return RetryReply::NotFound };
        match task.state {
            State::Scheduled => {}
            State::Dead | State::Cancelled => {
                if let Some(key) = &task.unique {
                    if let Some(holder) = self.keys.get(key) {
                        return RetryReply::Duplicate { holder: holder.clone() };
                    }
                    self.keys.insert(key.clone(), id.clone());
                }
                task.tries = 0;
            }
            state => return RetryReply::NotEnded(state),
        }
        task.state = State::Ready;
        task.turn = turn;
        RetryReply::Ready
    }

    fn delete(&mut self, id: &TaskId) -> DeleteReply {
        match self.tasks.get(id) {
            None => DeleteReply::NotFound,
            Some(task) if task.state == State::Running => DeleteReply::Running,
            Some(task) => {
                let unique = task.unique.clone();
                self.release(id, unique.as_ref());
                self.forget(id);
                DeleteReply::Deleted
            }
        }
    }

    fn leave(&mut self, holder: usize) {
        let held: Vec<_> = self.tasks.iter().filter(|(_, task)| task.holder == Some(holder)).map(|(id, _)| id.clone()).collect();
        for id in held {
            let task = self.tasks.get_mut(&id).expect("known");
            if task.cancel_asked {
                self.end(&id, State::Cancelled);
            } else {
                task.state = State::Ready;
                task.holder = None;
            }
        }
    }
}

/// One incarnation, and what it holds.
struct Hand {
    number: usize,
    who: Incarnation,
    held: Vec<Leased>,
}

struct Run<'a> {
    broker: &'a dyn Broker,
    random: fastrand::Rng,
    model: Model,
    crew: Vec<Hand>,
    queue: QueueName,
}

impl Run<'_> {
    async fn play(mut self) {
        let mut number = 0;
        for step in 0..STEPS {
            while self.crew.len() < 3 {
                number += 1;
                let who = self.broker.register(&self.queue, LEASE).await.expect("register");
                self.crew.push(Hand { number, who, held: Vec::new() });
            }
            match self.random.u8(0..100) {
                0..30 => self.enqueue(step).await,
                30..55 => self.claim(step).await,
                55..80 => self.finish(step).await,
                80..86 => self.cancel(step).await,
                86..91 => self.retry(step).await,
                91..94 => self.delete(step).await,
                94..96 => self.pause(step).await,
                96..98 => self.leave().await,
                _ => self.lose(step).await,
            }
            if step % 500 == 499 {
                self.compare(step).await;
            }
        }
        self.compare(STEPS).await;
    }

    /// Of a task, or of a child: nobody enqueues those.
    fn any_id(&mut self) -> TaskId {
        if self.random.u8(0..3) == 0 { self.child_id() } else { self.some_id() }
    }

    fn child_id(&mut self) -> TaskId {
        TaskId::new(format!("c{}", self.random.u32(0..CHILDREN))).expect("an id")
    }

    fn some_id(&mut self) -> TaskId {
        TaskId::new(format!("t{}", self.random.u32(0..400))).expect("an id")
    }

    async fn enqueue(&mut self, step: usize) {
        let mut tasks = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let name = NAMES[self.random.usize(0..3)];
            let mut task = NewTask { id: self.some_id(), ..named(name, "[]") };
            task.options.priority = Priority::new(self.random.u8(4..7)).expect("in range");
            if self.random.u8(0..10) == 0 {
                task.start = Start::In(HOUR);
            }
            if self.random.u8(0..5) == 0 {
                task.unique = Some(Unique { key: format!("k{}", self.random.u8(0..6)), ttl: 24 * HOUR });
            }
            match self.random.u8(0..8) {
                0 => task.options.result_ttl = Some(Duration::ZERO),
                1 => task.options.result_ttl = Some(2 * HOUR),
                _ => {}
            }
            expected.push(self.model.enqueue(&task, name, false));
            tasks.push(task);
        }
        let told = self.broker.enqueue(&tasks).await.expect("enqueue");
        assert_eq!(told, expected, "step {step}: enqueue {tasks:#?}");
    }

    async fn claim(&mut self, step: usize) {
        let index = self.random.usize(0..self.crew.len());
        let limit = self.random.usize(0..6);
        let startable: Vec<&str> = NAMES.into_iter().filter(|_| self.random.bool()).collect();
        let names: Vec<_> = startable.iter().map(|name| task_name(name)).collect();
        let hand = &mut self.crew[index];
        let expected = self.model.claim(hand.number, limit, &startable);
        let LeaseReply::Held(claimed) = self.broker.claim(&hand.who, LEASE, limit, &names).await.expect("claim") else { panic!("lost") };
        let ids: Vec<_> = claimed.tasks.iter().map(|leased| leased.member.id.clone()).collect();
        let known = |ids: &[TaskId]| ids.iter().map(|id| (id.clone(), self.model.tasks.get(id).cloned())).collect::<Vec<_>>();
        assert_eq!(ids, expected, "step {step}: of {limit} with {startable:?}: {:#?} and {:#?}", known(&ids), known(&expected));
        assert!(claimed.adopted.is_empty(), "nobody is lost");
        hand.held.extend(claimed.tasks);
    }

    async fn finish(&mut self, step: usize) {
        let index = self.random.usize(0..self.crew.len());
        let mut children = Vec::new();
        for _ in 0..5 {
            let some: Vec<_> = (0..self.random.usize(1..3))
                .map(|_| {
                    let result_ttl = Some(Duration::ZERO).filter(|_| self.random.bool());
                    NewTask { id: self.child_id(), options: TaskOptions { result_ttl, ..TaskOptions::default() }, ..named(NAMES[0], "[]") }
                })
                .collect();
            children.push(some);
        }
        let mut children = children.into_iter();
        let hand = &mut self.crew[index];
        let count = self.random.usize(0..=hand.held.len().min(5));
        self.random.shuffle(&mut hand.held);
        let done: Vec<_> = hand.held.drain(..count).collect();
        let error = || TaskError::new(ErrorKind::Retry, "no");
        let ends: Vec<_> = done
            .iter()
            .map(|_| {
                let verdict = match self.random.u8(0..10) {
                    0 => Verdict::Retry { error: error(), delay: Duration::ZERO },
                    1 => Verdict::Retry { error: error(), delay: HOUR },
                    2 => Verdict::HandBack { delay: Duration::ZERO },
                    3 => Verdict::Park,
                    4 => Verdict::Dead { error: error() },
                    5 => Verdict::Cancel { error: error() },
                    6 => Verdict::Dead { error: TaskError::new(ErrorKind::WorkerLost, "gone") },
                    _ => Verdict::Succeed { result: "1".into() },
                };
                let has_children = self.random.u8(0..4) == 0;
                End::with(verdict, children.next().into_iter().flatten().filter(|_| has_children))
            })
            .collect();
        let finishes: Vec<_> = done.iter().zip(&ends).map(|(leased, end)| finish(&leased.member, end.clone())).collect();
        let expected: Vec<_> = done.iter().zip(&ends).map(|(leased, end)| self.model.finish(&leased.member.id, end)).collect();
        let told = self.broker.finish(&hand.who, &finishes).await.expect("finish");
        assert_eq!(told, expected, "step {step}: {finishes:#?}");
        let again = self.broker.finish(&hand.who, &finishes).await.expect("finish");
        assert!(again.iter().all(|reply| *reply == Finished::Stale), "step {step}: a repeated finish changes nothing");
    }

    async fn cancel(&mut self, step: usize) {
        let id = self.any_id();
        let expected = self.model.cancel(&id);
        assert_eq!(self.broker.cancel(&self.queue, &id).await.expect("cancel"), expected, "step {step}: {id}");
    }

    async fn retry(&mut self, step: usize) {
        let id = self.any_id();
        let expected = self.model.retry(&id);
        assert_eq!(self.broker.retry(&self.queue, &id).await.expect("retry"), expected, "step {step}: {id}");
    }

    async fn delete(&mut self, step: usize) {
        let id = self.any_id();
        let expected = self.model.delete(&id);
        assert_eq!(self.broker.delete(&self.queue, &id).await.expect("delete"), expected, "step {step}: {id}");
    }

    async fn pause(&mut self, step: usize) {
        self.model.paused = !self.model.paused && step.is_multiple_of(3);
        let done = if self.model.paused { self.broker.pause(&self.queue).await } else { self.broker.resume(&self.queue).await };
        done.expect("pause or resume");
    }

    async fn leave(&mut self) {
        let hand = self.crew.swap_remove(self.random.usize(0..self.crew.len()));
        self.model.leave(hand.number);
        self.broker.leave(&hand.who).await.expect("leave");
    }

    /// One incarnation is gone; the next heartbeat of another adopts all of it, and judges it as lost.
    async fn lose(&mut self, step: usize) {
        let gone = self.crew.swap_remove(self.random.usize(0..self.crew.len()));
        self.broker.expire(&gone.who).await.expect("expire");
        let heir = &mut self.crew[0];
        let LeaseReply::Held(extended) = self.broker.extend(&heir.who, LEASE).await.expect("extend") else { panic!("lost") };
        let set = |held: &[Leased]| held.iter().map(|leased| leased.member.clone()).collect::<BTreeSet<Member>>();
        assert_eq!(set(&extended.adopted), set(&gone.held), "step {step}: adopted");
        assert_eq!(extended.held, heir.held.len() + gone.held.len(), "step {step}: held");
        let late: Vec<_> = gone.held.iter().map(|leased| finish(&leased.member, Verdict::Succeed { result: "0".into() })).collect();
        let told = self.broker.finish(&gone.who, &late).await.expect("finish");
        assert!(told.iter().all(|reply| *reply == Finished::Stale), "step {step}: a lost lease recorded something");
        for leased in &extended.adopted {
            let task = self.model.tasks.get_mut(&leased.member.id).expect("known");
            task.holder = Some(heir.number);
        }
        heir.held.extend(extended.adopted);
    }

    async fn compare(&self, step: usize) {
        let ids = (0..400).map(|number| format!("t{number}")).chain((0..CHILDREN).map(|number| format!("c{number}")));
        for id in ids {
            let id = TaskId::new(id).expect("an id");
            let view = self.broker.find(Some(&self.queue), &id).await.expect("find");
            let shown = view.map(|view| (view.state, view.tries, view.cancel_asked));
            let known = self.model.tasks.get(&id).map(|task| (task.state, task.tries, task.cancel_asked));
            assert_eq!(shown, known, "step {step}: {id}");
        }
        // What is listed and counted is what there is.
        let filter = TaskFilter { queue: Some(self.queue.clone()), ..TaskFilter::default() };
        let (mut listed, mut from) = (Vec::new(), None);
        loop {
            let page = self.broker.list(&filter, from.as_deref(), 60).await.expect("list");
            listed.extend(page.tasks.into_iter().map(|view| (view.id, view.state)));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        listed.sort();
        let known: Vec<_> = self.model.tasks.iter().map(|(id, task)| (id.clone(), task.state)).collect();
        assert_eq!(listed, known, "step {step}: listed");
        let queues = self.broker.queues().await.expect("queues");
        for state in State::ALL {
            let known = known.iter().filter(|(_, known)| *known == state).count() as u64;
            assert_eq!(queues[0].counts.get(&state), Some(&known), "step {step}: {state} tasks counted");
        }
        for hand in &self.crew {
            let held: BTreeSet<_> = self.broker.held(&hand.who).await.expect("held").into_iter().map(|leased| leased.member).collect();
            assert_eq!(held, hand.held.iter().map(|leased| leased.member.clone()).collect(), "step {step}: held");
        }
    }
}
