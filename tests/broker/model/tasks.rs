//! The verbs of producers, operators and workers, each on the broker and on the model.

use std::{collections::BTreeSet, time::Duration};

use taskhost_broker::{BrokerError, Finish, Finished, LeaseReply, Leased, Member};
use taskhost_core::task::{ErrorKind, TaskError, TaskName, Verdict};

use super::{
    player::{HOUR, Player, too_large},
    queue::Claim,
};
use crate::support::{End, LEASE, finish, ok};

impl Player<'_> {
    pub(super) async fn enqueue(&mut self) {
        let mut tasks: Vec<_> = (0..self.random.usize(1..4)).map(|_| self.new_task()).collect();
        if self.random.u8(0..40) == 0 {
            tasks[0].args = too_large();
            let refused = self.broker.enqueue(&tasks).await;
            assert!(matches!(refused, Err(BrokerError::Invalid(_))), "step {}: {refused:?}", self.step);
            return;
        }
        let expected: Vec<_> = tasks.iter().map(|task| self.world.queue(&task.queue).enqueue(task, false)).collect();
        let told = self.broker.enqueue(&tasks).await.expect("enqueue");
        assert_eq!(told, expected, "step {}: enqueue {tasks:#?}", self.step);
    }

    pub(super) async fn claim(&mut self) {
        let (index, limit, startable) = (self.any_hand(), self.random.usize(0..6), self.some_names());
        let hand = &mut self.crew[index];
        let queue = self.world.queue(&hand.who.queue);
        let expected = queue.claim(hand.number, limit, &startable, self.now);
        let LeaseReply::Held(claimed) = self.broker.claim(&hand.who, LEASE, limit, &startable).await.expect("claim") else {
            panic!("lost")
        };
        let told = Claim {
            ids: claimed.tasks.iter().map(|leased| leased.member.id.clone()).collect(),
            parked: claimed.parked.into_iter().collect::<BTreeSet<TaskName>>(),
            more: claimed.more,
            paused: claimed.paused.is_some(),
        };
        assert_eq!(told, expected, "step {}: {} of {limit} with {startable:?}", self.step, hand.who.queue);
        assert!(claimed.adopted.is_empty(), "nobody is lost");
        hand.held.extend(claimed.tasks);
    }

    pub(super) async fn finish(&mut self) {
        let index = self.any_hand();
        let count = self.random.usize(0..=self.crew[index].held.len().min(5));
        self.random.shuffle(&mut self.crew[index].held);
        let done: Vec<_> = self.crew[index].held.drain(..count).collect();
        let finishes: Vec<_> = done.iter().map(|leased| self.report(&leased.member, count == 1)).collect();
        let hand = &self.crew[index];
        let mut expected = Vec::new();
        for finish in &finishes {
            let (told, elsewhere) = self.world.queue(&hand.who.queue).finish(&hand.who.queue, finish);
            self.world.send(&hand.who.queue, elsewhere);
            expected.push(told);
        }
        let told = self.broker.finish(&hand.who, &finishes).await.expect("finish");
        assert_eq!(told, expected, "step {}: {finishes:#?}", self.step);
        let again = self.broker.finish(&hand.who, &finishes).await.expect("finish");
        assert!(again.iter().all(|reply| *reply == Finished::Stale), "step {}: a repeated finish changes nothing", self.step);
    }

    /// An attempt that runs shows its log, which has one line more each time.
    pub(super) async fn say(&mut self) {
        let index = self.any_hand();
        let (hand, step) = (&self.crew[index], self.step);
        let Some(leased) = hand.held.first() else { return };
        let lines = self.world.queue(&hand.who.queue).say(&leased.member.id, step);
        self.broker.log_so_far(&hand.who, &leased.member, &lines).await.expect("log_so_far");
    }

    /// A report of any kind.
    fn report(&mut self, member: &Member, is_alone: bool) -> Finish {
        let error = |kind| TaskError::new(kind, "no");
        let verdict = match self.random.u8(0..14) {
            0 => Verdict::Retry { error: error(ErrorKind::Retry), delay: Duration::ZERO },
            1 => Verdict::Retry { error: error(ErrorKind::Timeout), delay: HOUR },
            2 => Verdict::HandBack { delay: Duration::ZERO },
            3 => Verdict::HandBack { delay: HOUR },
            4 => Verdict::Park,
            5 => Verdict::Dead { error: error(ErrorKind::Permanent) },
            6 => Verdict::Cancel { error: error(ErrorKind::Cancelled) },
            7 => Verdict::Dead { error: error(ErrorKind::WorkerLost) },
            8 => Verdict::Retry { error: error(ErrorKind::WorkerLost), delay: Duration::ZERO },
            9 if self.random.bool() => ok(&too_large()),
            _ => ok("1"),
        };
        let children = if self.random.u8(0..4) == 0 { self.random.usize(1..4) } else { 0 };
        let children: Vec<_> = (0..children).map(|_| self.new_child(is_alone)).collect();
        finish(member, End::with(verdict, children))
    }

    pub(super) async fn cancel(&mut self) {
        let (line, id) = (self.any_queue(), self.any_id());
        let expected = self.world.queue(&line).cancel(&id);
        assert_eq!(self.broker.cancel(&line, &id).await.expect("cancel"), expected, "step {}: {line} {id}", self.step);
    }

    pub(super) async fn retry(&mut self) {
        let (line, id, now) = (self.any_queue(), self.any_id(), self.now);
        let expected = self.world.queue(&line).retry(&id, now);
        assert_eq!(self.broker.retry(&line, &id).await.expect("retry"), expected, "step {}: {line} {id}", self.step);
    }

    pub(super) async fn edit(&mut self) {
        let (line, id, args) = (self.any_queue(), self.any_id(), format!("[{}]", self.random.u8(..)));
        let expected = self.world.queue(&line).edit(&id, &args);
        assert_eq!(self.broker.edit(&line, &id, &args).await.expect("edit"), expected, "step {}: {line} {id}", self.step);
    }

    pub(super) async fn delete(&mut self) {
        let (line, id) = (self.any_queue(), self.any_id());
        let expected = self.world.queue(&line).delete(&id);
        assert_eq!(self.broker.delete(&line, &id).await.expect("delete"), expected, "step {}: {line} {id}", self.step);
    }

    /// Paused queues are resumed more often than others are paused.
    pub(super) async fn pause(&mut self) {
        let (line, pauses) = (self.any_queue(), self.random.u8(0..3) == 0);
        let queue = self.world.queue(&line);
        queue.paused = !queue.paused && pauses;
        let done = if queue.paused { self.broker.pause(&line).await } else { self.broker.resume(&line).await };
        done.expect("pause or resume");
    }

    pub(super) async fn purge(&mut self) {
        let line = self.any_queue();
        let expected = self.world.queue(&line).purge();
        assert_eq!(self.broker.purge(&line).await.expect("purge"), expected, "step {}: purge {line}", self.step);
    }

    pub(super) async fn relay(&mut self) {
        let line = self.any_queue();
        let expected = self.world.relay(&line);
        assert_eq!(self.broker.relay(&line).await.expect("relay"), expected, "step {}: relay {line}", self.step);
    }

    /// Nothing is parked or dead for long enough to be swept.
    pub(super) async fn sweep(&mut self) {
        let (line, now) = (self.any_queue(), self.now);
        self.world.queue(&line).expire(now);
        self.world.relay(&line);
        self.broker.sweep(&line, &[]).await.expect("sweep");
    }

    pub(super) async fn leave(&mut self) {
        let index = self.any_hand();
        let hand = self.crew.swap_remove(index);
        self.world.queue(&hand.who.queue).leave(hand.number);
        self.broker.leave(&hand.who).await.expect("leave");
    }

    /// One incarnation is gone. The next heartbeat of another adopts all its tasks, and its late report changes nothing.
    pub(super) async fn lose(&mut self) {
        let index = self.any_hand();
        let gone = self.crew.swap_remove(index);
        self.broker.expire(&gone.who).await.expect("expire");
        let heir = self.crew.iter_mut().find(|hand| hand.who.queue == gone.who.queue).expect("two of each queue");
        let LeaseReply::Held(extended) = self.broker.extend(&heir.who, LEASE).await.expect("extend") else { panic!("lost") };
        // The place in a claim is the broker's own matter.
        let members = |held: &[Leased]| held.iter().map(|leased| leased.member.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(members(&extended.adopted), members(&gone.held), "step {}: adopted", self.step);
        assert_eq!(extended.held, heir.held.len() + gone.held.len(), "step {}: held", self.step);
        let queue = self.world.queue(&gone.who.queue);
        let asked: BTreeSet<_> = extended.cancelled.into_iter().collect();
        assert_eq!(asked, queue.asked().into_iter().collect(), "step {}: tasks that are to stop", self.step);
        assert_eq!(extended.outbox, !queue.outbox.is_empty(), "step {}: the outbox", self.step);
        let late: Vec<_> = gone.held.iter().map(|leased| finish(&leased.member, ok("0"))).collect();
        let told = self.broker.finish(&gone.who, &late).await.expect("finish");
        assert!(told.iter().all(|reply| *reply == Finished::Stale), "step {}: a lost lease recorded something", self.step);
        queue.adopt(gone.number, heir.number);
        heir.held.extend(extended.adopted);
    }
}
