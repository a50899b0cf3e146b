//! Which due times of a schedule fire now: a pure decision.

use std::{collections::VecDeque, time::Duration};

use taskhost_broker::CatchUp;
use taskhost_core::{cron::Rule, task::Millis};

/// A due time that is longer ago than this was missed, because no host was there to fire it. A more recent one is merely late, and fires whatever
/// `catch_up` says.
pub(super) const LATE: Duration = Duration::from_secs(10);

/// The most due times that `catch_up = all` makes up for: the newest ones, oldest first.
pub(super) const MOST: usize = 1000;

/// The due times after `last` and up to `now` that fire, in order. `anchor` is where `@every` counts from.
pub(super) fn due(rule: &Rule, anchor: Millis, last: Millis, now: Millis, catch_up: CatchUp) -> Vec<Millis> {
    let Some(oldest) = rule.next_after(anchor, last).filter(|oldest| *oldest <= now) else { return Vec::new() };
    if now.since(oldest) <= LATE || catch_up == CatchUp::All {
        return newest(rule, anchor, last, now, MOST);
    }
    let newest = last_before(rule, anchor, last, now);
    match catch_up {
        CatchUp::Skip => newest.filter(|newest| now.since(*newest) <= LATE).into_iter().collect(),
        _ => newest.into_iter().collect(),
    }
}

/// The newest due time after `last` and up to `now`. The next due time after a later moment is never earlier. So a few dozen halvings find
/// the newest one, however many seconds passed.
fn last_before(rule: &Rule, anchor: Millis, last: Millis, now: Millis) -> Option<Millis> {
    let due = |after: u64| rule.next_after(anchor, Millis(after)).filter(|due| *due <= now);
    let (mut low, mut high) = (last.0, now.0);
    let mut found = due(low)?;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match due(middle) {
            Some(due) => (low, found) = (middle, due),
            None => high = middle,
        }
    }
    Some(found)
}

/// The newest due times, at most `most`, in order. It looks back in growing steps, because a rule of seconds may have missed millions.
fn newest(rule: &Rule, anchor: Millis, last: Millis, now: Millis, most: usize) -> Vec<Millis> {
    let mut back = Duration::from_secs(1024);
    loop {
        let from = last.max(Millis(now.0.saturating_sub(u64::try_from(back.as_millis()).unwrap_or(u64::MAX))));
        let mut found = VecDeque::with_capacity(most + 1);
        for due in rule.firings(anchor, from).take_while(|due| *due <= now) {
            found.push_back(due);
            if found.len() > most {
                found.pop_front();
            }
        }
        if from == last || found.len() == most {
            return found.into();
        }
        back = back.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const START: u64 = 500_000 * HOUR;

    fn at(rule: &str, last: u64, now: u64, catch_up: CatchUp) -> Vec<u64> {
        let rule = Rule::parse(rule, "UTC").unwrap();
        due(&rule, Millis(START), Millis(START + last), Millis(START + now), catch_up).into_iter().map(|due| due.0 - START).collect()
    }

    #[test]
    fn a_late_due_time_fires_whatever_the_policy() {
        for catch_up in [CatchUp::Skip, CatchUp::Once, CatchUp::All] {
            assert_eq!(at("0 * * * *", 0, HOUR - 1, catch_up), [0; 0]);
            assert_eq!(at("0 * * * *", 0, HOUR, catch_up), [HOUR]);
            assert_eq!(at("0 * * * *", 0, HOUR + 9_999, catch_up), [HOUR]);
            assert_eq!(at("* * * * * *", 0, 3_500, catch_up), [1_000, 2_000, 3_000], "a stall of three seconds loses none");
        }
    }

    #[test]
    fn a_missed_due_time_follows_the_policy() {
        let later = 5 * HOUR + 60_000;
        assert_eq!(at("0 * * * *", 0, later, CatchUp::Skip), [0; 0]);
        assert_eq!(at("0 * * * *", 0, 5 * HOUR + 1, CatchUp::Skip), [5 * HOUR]);
        assert_eq!(at("0 * * * *", 0, later, CatchUp::Once), [5 * HOUR]);
        assert_eq!(at("0 * * * *", 0, later, CatchUp::All), [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]);
        assert_eq!(at("@every 90m", 0, later, CatchUp::All), [HOUR * 3 / 2, HOUR * 3, HOUR * 9 / 2]);
    }

    #[test]
    fn a_month_of_seconds_is_made_up_for_in_bounds() {
        let month = 30 * 24 * HOUR;
        assert_eq!(at("* * * * * *", 0, month, CatchUp::Once), [month]);
        let all = at("* * * * * *", 0, month, CatchUp::All);
        assert_eq!((all.len(), all[0], all[MOST - 1]), (MOST, month - 999_000, month));
        assert_eq!(at("0 0 29 2 *", 0, 40 * 366 * 24 * HOUR, CatchUp::All).len(), 10);
    }

    proptest! {
        #[test]
        fn the_newest_is_the_last_of_all(last in 0_u64..HOUR * 48, gap in 0_u64..HOUR * 24 * 20, rule in prop::sample::select(["*/7 * * * *", "0 9 * * MON-FRI", "30 */5 13 * *", "@every 11m"].as_slice())) {
            let parsed = Rule::parse(rule, "America/New_York").unwrap();
            let (last, now) = (Millis(START + last), Millis(START + last + gap));
            let all: Vec<_> = parsed.firings(Millis(START), last).take_while(|due| *due <= now).collect();
            prop_assert_eq!(last_before(&parsed, Millis(START), last, now), all.last().copied());
            let most = newest(&parsed, Millis(START), last, now, 50);
            prop_assert_eq!(&most[..], &all[all.len().saturating_sub(50)..]);
        }
    }
}
