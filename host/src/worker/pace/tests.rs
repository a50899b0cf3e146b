//! The pace by itself: each rule of thumb as a property, without a worker and without time.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn pace(slots: usize, cores: usize, usual: Option<Duration>) -> Pace {
    Pace { slots, cores, usual: usual.map(|usual| average(None, usual)) }
}

const SHORT: Option<Duration> = Some(Duration::from_micros(10));
const LONG: Option<Duration> = Some(Duration::from_secs(2));

#[test]
fn a_claim_brings_a_batch_while_the_cores_have_work() {
    let short = pace(128, 2, SHORT);
    assert!(!short.is_worth(41, 87) && short.is_worth(42, 86));
    assert!(short.is_worth(1, 3), "they are about to run dry");
    assert!(!short.is_worth(0, 0));
    let long = pace(128, 2, LONG);
    assert!(long.is_worth(10, 22) && !long.is_worth(9, 23), "batches are smaller then");
    assert!(short.is_too_early(Duration::ZERO, 41, 87) && !short.is_too_early(BATCHING, 41, 87));
}

#[test]
fn short_attempts_are_started_together_and_long_ones_are_not() {
    assert_eq!(pace(8, 2, None).together(), 1, "nothing is known yet");
    assert_eq!(pace(8, 2, SHORT).together(), 10);
    assert_eq!(pace(8, 2, Some(Duration::from_millis(2))).together(), 1);
}

#[test]
fn short_attempts_are_claimed_ahead_and_long_ones_are_not() {
    assert_eq!(pace(8, 2, None).ceiling(), 32);
    assert_eq!(pace(8, 2, SHORT).ceiling(), 1000);
    let usual = average(Some(10_000), Duration::from_secs(2));
    assert_eq!(Pace { slots: 8, cores: 2, usual: Some(usual) }.ceiling(), 32, "one long body is enough to be careful");
}

#[test]
fn a_machine_of_very_many_cores_has_its_16_for_each() {
    assert_eq!(pace(100_000, 1000, SHORT).ceiling(), 16_000);
}

#[test]
fn ends_that_are_not_recorded_take_slots_and_bytes() {
    let all = Unrecorded { count: 6, bytes: 6, aside: 0, is_prompt: true };
    assert_eq!(Unrecorded { is_prompt: false, ..all }.burden(4), 6, "each takes a slot while the broker is slow");
    assert_eq!(all.burden(4), 2, "as many as there are slots are on their way");
    assert_eq!(Unrecorded { aside: 1, ..all }.burden(8), 1, "one that can't be recorded takes its slot");
    assert_eq!(Unrecorded { bytes: KEPT_BYTES + 1, ..all }.burden(4), 4, "its bytes take all of them");
}

#[test]
fn a_queue_is_looked_at_when_something_is_due_and_not_too_often() {
    let due = Duration::from_millis(1);
    assert_eq!((look_again(None, false), look_again(Some(due), false), look_again(Some(due), true)), (LOOK, DUE, LOOK_FULL));
    assert_eq!(look_again(Some(LOOK * 2), true), LOOK);
    assert_eq!((wait_limit(Duration::ZERO), wait_limit(LOOK * 2)), (DUE, LOOK));
    assert_eq!(next_look([], true), None, "no queue can be claimed from");
    assert_eq!(next_look([(false, LOOK), (true, DUE)], false), Some(DUE));
    assert_eq!(next_look([(true, LOOK), (false, LOOK)], true), Some(CATCH_UP), "slots are free, and the cores may catch up");
    assert_eq!(next_look([(false, LOOK)], true), Some(LOOK));
}

/// Tasks that wait in one queue; `true` is one that must run alone.
#[derive(Debug, Default)]
struct Played {
    waiting: VecDeque<bool>,
    running: Vec<bool>,
}

impl Played {
    /// One turn of the dispatcher. `ended` attempts end while the claim is under way.
    fn claim(&mut self, alone: &mut Alone, slots: usize, ended: usize) {
        let most = alone.most(self.running.len(), slots - self.running.len());
        let claimed: Vec<bool> = self.waiting.drain(..most.min(self.waiting.len())).collect();
        self.end(ended);
        let (lone, others): (Vec<bool>, Vec<bool>) = claimed.iter().partition(|lone| **lone);
        if alone.is_turn(lone.len(), others.len(), self.running.len()) {
            self.running.push(true);
            alone.turned(true);
            self.waiting.extend(&lone[1..]);
        } else {
            self.running.extend(others);
            self.waiting.extend(lone);
        }
    }

    fn end(&mut self, count: usize) {
        self.running.drain(..count.min(self.running.len()));
    }
}

/// Sends batches until nothing is left, as the finisher does. `bad` are refused, and set aside when they are found.
fn send(items: usize, bad: &[usize], fits: usize) -> (Vec<usize>, Vec<usize>, usize) {
    let mut queue: VecDeque<usize> = (0..items).collect();
    let (mut singly, mut recorded, mut aside, mut calls) = (Singly::default(), Vec::new(), Vec::new(), 0);
    while !queue.is_empty() {
        let sent: Vec<usize> = queue.drain(..singly.size(fits).min(queue.len())).collect();
        calls += 1;
        if !sent.iter().any(|item| bad.contains(item)) {
            singly.recorded(sent.len());
            recorded.extend(sent);
            continue;
        }
        singly.refused(sent.len());
        if sent.len() == 1 {
            aside.extend(sent);
        } else {
            sent.into_iter().rev().for_each(|item| queue.push_front(item));
        }
    }
    assert!(singly.is_over(), "the next one is a batch again");
    (recorded, aside, calls)
}

proptest! {
    #[test]
    fn a_claim_never_exceeds_its_slots_nor_more_than_the_ceiling(
        slots in 1_usize..5000, cores in 1_usize..600, usual in prop::option::of(0_u64..10_000_000_000),
        free in 0_usize..5000, wanting in 0_usize..5000,
    ) {
        let pace = Pace { slots, cores, usual };
        let budget = pace.budget(free, wanting);
        prop_assert!(budget <= free && (budget == 0 || budget + wanting <= pace.ceiling()));
        prop_assert!((16 * cores..=(16 * cores).max(MOST_WANTING)).contains(&pace.ceiling()));
        // Idle cores never wait: with nothing to do, one free slot is claimed for at once.
        prop_assert!(free == 0 || pace.is_worth(pace.budget(free, 0), 0));
        prop_assert!((1..=100).contains(&pace.together()));
    }

    #[test]
    fn shorter_attempts_are_never_batched_less(slots in 1_usize..5000, cores in 1_usize..64, a in 1_u64..1_000_000_000, b in 1_u64..1_000_000_000) {
        let of = |usual| Pace { slots, cores, usual: Some(usual) };
        let (short, long) = (of(a.min(b)), of(a.max(b)));
        prop_assert!(short.ceiling() >= long.ceiling() && short.together() >= long.together() && short.batch() >= long.batch());
    }

    #[test]
    fn an_average_lies_between_what_it_was_and_what_came(usual in 1_u64..1 << 40, cpu in 0_u64..1 << 40) {
        let now = average(Some(usual), Duration::from_nanos(cpu));
        // Less what two integer divisions drop.
        prop_assert!(now + 32 > usual.min(cpu) && now <= usual.max(cpu).max(1));
    }

    #[test]
    fn an_unrecorded_end_takes_at_most_one_slot_or_the_worker_is_full(
        count in 0_usize..2000, aside in 0_usize..100, bytes in 0..2 * KEPT_BYTES, is_prompt: bool, slots in 1_usize..500,
    ) {
        let unrecorded = Unrecorded { count: count + aside, bytes, aside, is_prompt };
        let burden = unrecorded.burden(slots);
        prop_assert!(burden <= unrecorded.count.max(slots));
        prop_assert!(bytes > KEPT_BYTES || burden >= aside);
        prop_assert!(Unrecorded { is_prompt: false, ..unrecorded }.burden(slots) >= burden, "trust never costs slots");
    }

    #[test]
    fn a_task_that_must_run_alone_never_has_a_neighbour_and_always_has_its_turn(
        waiting in prop::collection::vec(prop::bool::weighted(0.3), 0..40),
        turns in prop::collection::vec((0_usize..4, 0_usize..4), 0..60),
        slots in 1_usize..8,
    ) {
        let mut alone = Alone::default();
        let mut played = Played { waiting: waiting.into(), running: Vec::new() };
        let check = |played: &Played| !played.running.contains(&true) || played.running.len() == 1;
        for (ended, later) in turns {
            played.claim(&mut alone, slots, ended);
            prop_assert!(check(&played), "{played:?}");
            played.end(later);
        }
        // When every attempt ends, no task is left behind.
        let most = 4 * (played.waiting.len() + played.running.len() + 1);
        for _ in 0..most {
            played.claim(&mut alone, slots, 0);
            prop_assert!(check(&played), "{played:?}");
            played.end(slots);
        }
        prop_assert!(played.waiting.is_empty(), "{played:?}");
    }

    #[test]
    fn one_refused_finish_takes_no_other_along(items in 1_usize..60, bad in prop::collection::vec(0_usize..60, 0..4), fits in 1_usize..20) {
        let (recorded, aside, calls) = send(items, &bad, fits);
        let (good, mut wrong): (Vec<usize>, Vec<usize>) = (0..items).partition(|item| !bad.contains(item));
        wrong.sort_unstable();
        prop_assert_eq!((recorded, aside), (good, wrong));
        // Each bad one costs its batch again, one by one.
        prop_assert!(calls <= items.div_ceil(fits) + bad.len() * (fits + 1) + 1, "{calls} calls");
    }

    #[test]
    fn a_batch_is_bounded_in_count_and_in_bytes(weights in prop::collection::vec(0_usize..BATCH_BYTES, 1..600)) {
        let count = fitting(weights.iter().copied());
        prop_assert!((1..=BATCH.min(weights.len())).contains(&count));
        let bytes = |count: usize| weights[..count].iter().sum::<usize>();
        prop_assert!(count == 1 || bytes(count) <= BATCH_BYTES);
        prop_assert!(count == BATCH || count == weights.len() || bytes(count + 1) > BATCH_BYTES);
    }
}
