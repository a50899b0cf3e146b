//! Backpressure by finishes that wait to be recorded: claims succeed, finishes do not.

use std::{sync::atomic::Ordering, time::Duration};

use taskhost_core::task::State;

use super::{
    ended, enqueue_many,
    flaky::{Ends, Flaky},
    place,
    script::{settings, start},
};
use crate::support::{Place, SOON, add, enqueue, state, wait_until};

const SLOTS: usize = 16;
const TASKS: usize = 200;

/// Nothing has been recorded yet when the trouble begins.
async fn never_more_than_its_slots<P: Place>(trouble: Ends) {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    *flaky.ends.lock().expect("not poisoned") = trouble;
    let ids = enqueue_many(&*broker, (0..TASKS).map(|_| add()).collect()).await;
    let mut quick = settings();
    // After each heartbeat the connection is up again, and claims go on.
    quick.lease = Duration::from_millis(900);
    let worker = start(flaky.clone(), quick, &["add"]);
    wait_until(SOON, "ends are not recorded again and again", async || flaky.unrecorded.load(Ordering::SeqCst) >= 5).await;
    assert!(worker.script.begun("add") <= SLOTS, "{} bodies ran", worker.script.begun("add"));
    assert!(flaky.most_held.load(Ordering::SeqCst) <= SLOTS, "it held {}", flaky.most_held.load(Ordering::SeqCst));
    *flaky.ends.lock().expect("not poisoned") = Ends::Recorded;
    for id in &ids {
        assert_eq!(ended(&*broker, id).await.state, State::Succeeded, "{trouble:?}");
    }
    assert_eq!(worker.script.begun("add"), TASKS, "nothing is run again");
    worker.drain().await;
}

async fn ends_that_no_replica_acknowledges_take_their_slots<P: Place>() {
    never_more_than_its_slots::<P>(Ends::Unacknowledged).await;
}

async fn ends_that_a_full_broker_refuses_take_their_slots<P: Place>() {
    never_more_than_its_slots::<P>(Ends::Refused).await;
}

async fn ends_that_can_not_be_written_take_their_slots<P: Place>() {
    never_more_than_its_slots::<P>(Ends::Unwritable).await;
}

async fn ends_that_are_recorded_slowly_take_their_slots<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    *flaky.ends.lock().expect("not poisoned") = Ends::Slow(Duration::from_millis(1100));
    let ids = enqueue_many(&*broker, (0..3 * SLOTS).map(|_| add()).collect()).await;
    let worker = start(flaky.clone(), settings(), &["add"]);
    for id in &ids {
        assert_eq!(ended(&*broker, id).await.state, State::Succeeded);
    }
    assert!(flaky.most_held.load(Ordering::SeqCst) <= SLOTS, "it held {}", flaky.most_held.load(Ordering::SeqCst));
    worker.drain().await;
}

/// As many finishes as slots may wait without delaying claims. So the worker holds at most twice as many tasks as slots.
async fn ends_that_fail_in_the_middle_of_a_bulk_take_their_slots_too<P: Place>() {
    for trouble in [Ends::Unacknowledged, Ends::Refused, Ends::Unwritable] {
        let (_place, broker) = place::<P>().await;
        let flaky = Flaky::new(broker.clone());
        let ids = enqueue_many(&*broker, (0..4 * TASKS).map(|_| add()).collect()).await;
        let worker = start(flaky.clone(), settings(), &["add"]);
        wait_until(SOON, "some are recorded", async || state(&*broker, &ids[SLOTS]).await == State::Succeeded).await;
        *flaky.ends.lock().expect("not poisoned") = trouble;
        wait_until(SOON, "ends are not recorded again and again", async || flaky.unrecorded.load(Ordering::SeqCst) >= 5).await;
        *flaky.ends.lock().expect("not poisoned") = Ends::Recorded;
        for id in &ids {
            assert_eq!(ended(&*broker, id).await.state, State::Succeeded, "{trouble:?}");
        }
        assert!(flaky.most_held.load(Ordering::SeqCst) <= 2 * SLOTS, "{trouble:?}: it held {}", flaky.most_held.load(Ordering::SeqCst));
        worker.drain().await;
    }
}

async fn a_worker_that_was_told_to_keep_quiet_claims_nothing_until_it_is_told_to_go_on<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let worker = start(flaky.clone(), settings(), &["add"]);
    let first = enqueue(&*broker, add()).await;
    ended(&*broker, &first).await;
    worker.stop.keep_quiet(true);
    let later = enqueue(&*broker, add()).await;
    let claims = flaky.claims.load(Ordering::SeqCst);
    wait_until(SOON, "it looks again, and claims nothing", async || flaky.claims.load(Ordering::SeqCst) > claims + 1).await;
    assert_eq!((state(&*broker, &later).await, worker.script.begun("add")), (State::Ready, 1));
    worker.stop.keep_quiet(false);
    assert_eq!(ended(&*broker, &later).await.state, State::Succeeded);
    worker.drain().await;
}

on_each_broker! {
    ends_that_no_replica_acknowledges_take_their_slots,
    ends_that_a_full_broker_refuses_take_their_slots,
    ends_that_can_not_be_written_take_their_slots,
    ends_that_are_recorded_slowly_take_their_slots,
    ends_that_fail_in_the_middle_of_a_bulk_take_their_slots_too,
    a_worker_that_was_told_to_keep_quiet_claims_nothing_until_it_is_told_to_go_on,
}
