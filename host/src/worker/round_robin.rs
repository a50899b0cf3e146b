//! How free slots are split among queues: smooth weighted round robin, pure.
//!
//! Each slot goes to the queue with the highest credit. Every queue gains its weight, and the chosen one pays the sum of the weights. So
//! each queue gets its share over time, and never in one lump. nginx chooses upstream servers by the same rule. Where attempts are short,
//! slots are given away a few at a time: otherwise each of hundreds of queues would be asked for a single task.

/// One queue that wants slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) weight: u32,
    /// The credit from the last round; the caller keeps it.
    pub(super) credit: i64,
    /// How many slots it got; `split` adds to it.
    pub(super) got: usize,
}

/// Gives all `slots` to `wishes`, `together` at a time.
pub(super) fn split(mut slots: usize, together: usize, wishes: &mut [Wish]) {
    let total: i64 = wishes.iter().map(|wish| i64::from(wish.weight)).sum();
    if wishes.len() == 1 {
        wishes[0].got += slots;
        return;
    }
    while slots > 0 {
        let some = slots.min(together.max(1));
        let times = i64::try_from(some).unwrap_or(i64::MAX);
        for wish in wishes.iter_mut() {
            wish.credit += times * i64::from(wish.weight);
        }
        let Some(chosen) = wishes.iter_mut().rev().max_by_key(|wish| wish.credit) else { return };
        chosen.credit -= times * total;
        chosen.got += some;
        slots -= some;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wishes(weights: &[u32]) -> Vec<Wish> {
        weights.iter().map(|&weight| Wish { weight, credit: 0, got: 0 }).collect()
    }

    #[test]
    fn weights_hold_within_one_round_and_across_rounds() {
        let mut round = wishes(&[3, 1]);
        split(8, 1, &mut round);
        assert_eq!((round[0].got, round[1].got), (6, 2));

        let mut single = wishes(&[3, 1]);
        let mut order = String::new();
        for _ in 0..8 {
            for wish in &mut single {
                wish.got = 0;
            }
            split(1, 1, &mut single);
            order.push(if single[0].got == 1 { 'a' } else { 'b' });
        }
        assert_eq!(order, "aabaaaba", "one slot at a time, the light queue is not pushed to the end");
    }

    proptest! {
        #[test]
        fn everything_is_given_away_and_nobody_is_off_by_more_than_one_lot(
            weights in prop::collection::vec(1_u32..20, 1..6),
            slots in 0_usize..500,
            together in 1_usize..12,
        ) {
            let mut given = wishes(&weights);
            split(slots, together, &mut given);
            prop_assert_eq!(given.iter().map(|wish| wish.got).sum::<usize>(), slots);
            let total: u32 = weights.iter().sum();
            for wish in &given {
                // Both sides times the sum of the weights, to stay with integers.
                let (fair, got) = (slots * wish.weight as usize, wish.got * total as usize);
                prop_assert!(got.abs_diff(fair) <= together * weights.len() * total as usize, "{got} of {fair}");
            }
        }
    }
}
