//! Laws of the lease: who may finish a task, and what becomes of the tasks of a lost worker.

use std::{pin::pin, sync::Arc, time::Duration};

use taskhost_broker::{Broker, Finished, Incarnation, LeaseReply, Member};
use taskhost_core::task::{ErrorKind, QueueName, State, TaskError, Verdict};

use crate::support::{LEASE, SHORT_LEASE, SOON, Worker, add, enqueue, ok, queue, retry_after, state, still_waits, view, wait_until};

pub(crate) async fn only_registering_makes_an_incarnation(b: &dyn Broker) {
    enqueue(b, add()).await;
    let real = Worker::new(b).await;
    b.leave(&real.who).await.expect("leave");
    let invented = Incarnation { queue: QueueName::default(), id: Arc::from("4711") };
    let elsewhere = Worker::new(b).await;
    let elsewhere = Incarnation { queue: queue("mail"), id: elsewhere.who.id.clone() };
    for who in [real.who, invented, elsewhere] {
        assert!(matches!(b.claim(&who, LEASE, 9, &[]).await.expect("claim"), LeaseReply::Lost), "{who:?}");
        assert!(matches!(b.extend(&who, LEASE).await.expect("extend"), LeaseReply::Lost), "{who:?}");
        assert!(b.held(&who).await.expect("held").is_empty());
    }
    assert_eq!(Worker::new(b).await.claim(9).await.len(), 1);
}

pub(crate) async fn incarnations_are_never_the_same(one: &dyn Broker, other: &dyn Broker) {
    let mut ids = Vec::new();
    for broker in [one, other, one, other] {
        let worker = Worker::new(broker).await;
        ids.push(worker.who.id.clone());
        broker.leave(&worker.who).await.expect("leave");
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

pub(crate) async fn a_lost_lease_cannot_finish(one: &dyn Broker, other: &dyn Broker) {
    let id = enqueue(one, add()).await;
    let slow = Worker::on(one, &QueueName::default(), SHORT_LEASE).await;
    let leased = slow.claim_one().await;
    let heir = Worker::new(other).await;
    let adopted = heir.adopt().await;
    assert_eq!(adopted.len(), 1);
    assert_eq!((&adopted[0].task.id, &adopted[0].task.args, adopted[0].task.tries), (&id, &leased.task.args, 0));

    assert_eq!(slow.finish(&leased.member, ok("\"zombie\"")).await, Finished::Stale);
    assert_eq!(state(one, &id).await, State::Running);
    assert!(slow.is_lost().await);
    assert!(matches!(one.claim(&slow.who, LEASE, 1, &[]).await.expect("claim"), LeaseReply::Lost));

    assert_eq!(heir.extend().await.held, 1);
    let lost = TaskError::new(ErrorKind::WorkerLost, "its worker is gone");
    let verdict = Verdict::Retry { error: lost, delay: Duration::ZERO };
    assert_eq!(heir.finish(&adopted[0].member, verdict).await, Finished::Recorded);
    let again = heir.claim_one().await;
    assert_eq!((again.task.tries, again.task.losses), (1, 1));
    assert_eq!(heir.finish(&again.member, ok("2")).await, Finished::Recorded);
    assert_eq!(slow.finish(&leased.member, ok("\"zombie\"")).await, Finished::Stale);
    assert_eq!(view(one, &id).await.result.expect("a result").get(), "2");
}

pub(crate) async fn the_first_look_at_an_expired_lease_only_marks_it(b: &dyn Broker) {
    enqueue(b, add()).await;
    let slow = Worker::on(b, &QueueName::default(), SHORT_LEASE).await;
    let leased = slow.claim_one().await;
    let heir = Worker::new(b).await;
    let begun = b.now().await.expect("now");
    wait_until(SOON, "the lease is over", || async { b.now().await.expect("now") > begun.after(SHORT_LEASE) }).await;
    let claimed = heir.look(0, &[]).await;
    assert!(claimed.adopted.is_empty(), "the first look marks");
    assert!(claimed.next_due.is_some_and(|due| due <= SHORT_LEASE / 6), "and asks for a second one: {:?}", claimed.next_due);
    // Its worker was only slow. Its heartbeat comes within the granted last sixth of the lease.
    let slow = Worker { lease: LEASE, ..slow };
    assert_eq!(slow.extend().await.held, 1);
    let marked = b.now().await.expect("now");
    wait_until(SOON, "the sixth is over", || async { b.now().await.expect("now") > marked.after(SHORT_LEASE / 3) }).await;
    assert!(heir.look(0, &[]).await.adopted.is_empty());
    assert_eq!(slow.finish(&leased.member, ok("2")).await, Finished::Recorded);
}

pub(crate) async fn a_lost_lease_is_taken_over_when_all_of_it_is_over_and_not_before(b: &dyn Broker) {
    let heir = Worker::new(b).await;
    for last_word in ["register", "claim", "extend"] {
        let mut at = b.now().await.expect("now");
        let gone = Worker::on(b, &QueueName::default(), SHORT_LEASE).await;
        if last_word != "register" {
            enqueue(b, add()).await;
            at = b.now().await.expect("now");
            gone.claim_one().await;
        }
        if last_word == "extend" {
            at = b.now().await.expect("now");
            gone.extend().await;
        }
        let due = heir.look(0, &[]).await.next_due.expect("the lease of another wants a look");
        assert!(due <= SHORT_LEASE * 5 / 6, "{last_word}: the first look is due a sixth before the end, and grants that: {due:?}");
        wait_until(SOON, "it is taken over", || async {
            let looked = heir.look(0, &[]).await;
            let after = b.now().await.expect("now").since(at);
            let is_over = looked.next_due.is_none();
            assert!(!is_over || after >= SHORT_LEASE, "{last_word}: taken over {after:?} after the last word");
            assert_eq!(looked.adopted.len(), usize::from(is_over && last_word != "register"), "{last_word}");
            is_over
        })
        .await;
        assert!(gone.is_lost().await, "{last_word}");
    }
}

pub(crate) async fn a_heartbeat_keeps_all_that_is_held(b: &dyn Broker) {
    for _ in 0..3 {
        enqueue(b, add()).await;
    }
    let worker = Worker::on(b, &QueueName::default(), SHORT_LEASE).await;
    let leased = worker.claim(3).await;
    let heir = Worker::new(b).await;
    let begun = b.now().await.expect("now");
    wait_until(SOON, "three leases have passed", || async {
        assert_eq!(worker.extend().await.held, 3);
        assert!(heir.look(0, &[]).await.adopted.is_empty());
        b.now().await.expect("now") > begun.after(3 * SHORT_LEASE)
    })
    .await;
    for leased in leased {
        assert_eq!(worker.finish(&leased.member, ok("2")).await, Finished::Recorded);
    }
    assert_eq!(worker.extend().await.held, 0);
}

pub(crate) async fn a_heartbeat_adopts_too(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let gone = Worker::new(b).await;
    gone.claim_one().await;
    let heir = Worker::new(b).await;
    b.expire(&gone.who).await.expect("expire");
    let extended = heir.extend().await;
    assert_eq!(extended.adopted.into_iter().map(|leased| leased.task.id).collect::<Vec<_>>(), [id]);
    assert_eq!(extended.held, 1, "adopted ones included");
}

pub(crate) async fn an_incarnation_proved_gone_is_adopted_at_once(one: &dyn Broker, other: &dyn Broker) {
    let ids = [enqueue(one, add()).await, enqueue(one, add()).await];
    let gone = Worker::new(one).await;
    gone.claim(2).await;
    other.expire(&gone.who).await.expect("expire");
    let heir = Worker::new(other).await;
    let mut adopted: Vec<_> = heir.look(0, &[]).await.adopted.into_iter().map(|leased| leased.task.id).collect();
    adopted.sort();
    assert_eq!(adopted, ids);
    assert!(gone.is_lost().await);
    // The heir dies as well. A third worker adopts the tasks.
    one.expire(&heir.who).await.expect("expire");
    assert_eq!(Worker::new(one).await.look(0, &[]).await.adopted.len(), 2);
}

pub(crate) async fn an_expired_lease_is_adopted_once(one: &dyn Broker, other: &dyn Broker) {
    for _ in 0..20 {
        enqueue(one, add()).await;
    }
    let gone = Worker::new(one).await;
    assert_eq!(gone.claim(20).await.len(), 20);
    let (a, b) = (Worker::new(one).await, Worker::new(other).await);
    one.expire(&gone.who).await.expect("expire");
    let (by_a, by_b) = tokio::join!(a.look(0, &[]), b.look(0, &[]));
    assert_eq!(by_a.adopted.len() + by_b.adopted.len(), 20);
    assert!(by_a.adopted.is_empty() || by_b.adopted.is_empty(), "whole, by one of them");
}

pub(crate) async fn other_queues_are_not_adopted(b: &dyn Broker) {
    let gone = Worker::new(b).await;
    enqueue(b, add()).await;
    gone.claim_one().await;
    b.expire(&gone.who).await.expect("expire");
    assert!(Worker::on(b, &queue("mail"), LEASE).await.look(0, &[]).await.adopted.is_empty());
    assert_eq!(Worker::new(b).await.look(0, &[]).await.adopted.len(), 1);
}

pub(crate) async fn a_late_finish_of_an_earlier_attempt_changes_nothing(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let worker = Worker::new(b).await;
    let first = worker.run_one(retry_after(Duration::ZERO)).await;
    let second = worker.claim_one().await;
    assert_ne!(first.member, second.member);
    assert_eq!(worker.finish(&first.member, ok("1")).await, Finished::Stale, "of the same incarnation, even");
    assert_eq!(state(b, &id).await, State::Running);
    assert_eq!(worker.finish(&second.member, ok("2")).await, Finished::Recorded);
    assert_eq!(worker.finish(&second.member, ok("3")).await, Finished::Stale, "said twice");
    assert_eq!(view(b, &id).await.result.expect("a result").get(), "2");
}

pub(crate) async fn another_incarnation_cannot_finish_what_it_does_not_hold(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let leased = Worker::new(b).await.claim_one().await;
    assert_eq!(Worker::new(b).await.finish(&leased.member, ok("2")).await, Finished::Stale);
    assert_eq!(state(b, &id).await, State::Running);
}

pub(crate) async fn a_batch_of_finishes_is_answered_one_by_one(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    for _ in 0..3 {
        enqueue(b, add()).await;
    }
    let leased = worker.claim(3).await;
    let unheld = Member { claimed_us: leased[1].member.claimed_us + 1, ..leased[1].member.clone() };
    let finishes = [
        crate::support::finish(&leased[0].member, ok("0")),
        crate::support::finish(&unheld, ok("9")),
        crate::support::finish(&leased[2].member, retry_after(LEASE)),
        crate::support::finish(&leased[0].member, ok("8")),
        crate::support::finish(&leased[1].member, ok("1")),
    ];
    let reply = b.finish(&worker.who, &finishes).await.expect("finish");
    assert_eq!(reply, [Finished::Recorded, Finished::Stale, Finished::Recorded, Finished::Stale, Finished::Recorded]);
    assert_eq!(view(b, &leased[0].task.id).await.result.expect("a result").get(), "0");
    assert_eq!(state(b, &leased[2].task.id).await, State::Scheduled);
    assert!(b.finish(&worker.who, &[]).await.expect("finish").is_empty());
}

pub(crate) async fn leaving_hands_back_uncounted(one: &dyn Broker, other: &dyn Broker) {
    let id = enqueue(one, add()).await;
    let worker = Worker::new(one).await;
    let leased = worker.claim_one().await;
    let heir = Worker::new(other).await;
    assert!(heir.claim(1).await.is_empty());
    let mut next = pin!(heir.claim_soon());
    still_waits(next.as_mut()).await;
    one.leave(&worker.who).await.expect("leave");
    let again = next.await;
    assert_eq!((&again.task.id, again.task.tries, again.task.losses), (&id, 0, 0));
    assert_ne!(again.member, leased.member);
    assert_eq!(worker.finish(&leased.member, ok("2")).await, Finished::Stale);
    one.leave(&worker.who).await.expect("leaving twice is leaving");
}

pub(crate) async fn the_held_set_lists_what_was_claimed(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    for _ in 0..4 {
        enqueue(b, add()).await;
    }
    let mut claimed = worker.claim(3).await;
    let mut held = b.held(&worker.who).await.expect("held");
    claimed.sort_by(|a, b| a.member.cmp(&b.member));
    held.sort_by(|a, b| a.member.cmp(&b.member));
    assert_eq!(held, claimed);
    assert_eq!(worker.extend().await.held, 3);
    worker.finish(&claimed[0].member, ok("2")).await;
    assert_eq!(b.held(&worker.who).await.expect("held").len(), 2);
    assert_eq!(worker.extend().await.held, 2);
}
