//! The dialect against a table worked out beside it, and against a walk through every minute.

use std::collections::BTreeSet;

use chrono::{Datelike, Timelike};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Millis {
    let full = if text.len() > 22 { text.to_owned() } else { format!("{}:00{}", &text[..16], &text[16..]) };
    Millis(u64::try_from(DateTime::parse_from_rfc3339(&full).unwrap().timestamp_millis()).unwrap())
}

fn shown(rule: &Rule, zone: &str, at: Millis) -> String {
    let zone: Tz = zone.parse().unwrap();
    let at = instant(at).unwrap_or_else(|| panic!("{rule:?}")).with_timezone(&zone);
    at.format(if at.second() == 0 { "%Y-%m-%dT%H:%M%:z" } else { "%Y-%m-%dT%H:%M:%S%:z" }).to_string()
}

fn refused(text: &str) -> String {
    Rule::parse(text, "UTC").expect_err(text).to_string()
}

#[test]
fn the_table_holds() {
    let (mut rule, mut rules, mut wrong) = ("", 0, Vec::new());
    for line in include_str!("table.txt").lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(text) = line.strip_prefix("= ") {
            (rule, rules) = (text, rules + 1);
            continue;
        }
        let (asked, expected) = line.split_once(" -> ").unwrap();
        let (zone, after) = asked.split_once(' ').unwrap();
        let after = at(after.trim());
        let parsed = Rule::parse(rule, zone).unwrap_or_else(|why| panic!("{rule}: {why}"));
        let got: Vec<_> = parsed.firings(after, after).take(5).map(|at| shown(&parsed, zone, at)).collect();
        if got.join(" ") != expected {
            wrong.push(format!("{rule} after {asked}\n  expected {expected}\n  got      {}", got.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rules >= 60, "{rules}");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        ("61 * * * *", "can't read minute `61`: minute is 0 to 59"),
        ("* 24 * * *", "can't read hour `24`: hour is 0 to 23"),
        ("* * 0 * *", "can't read day-of-month `0`: day-of-month is 1 to 31"),
        ("* * 32 * *", "can't read day-of-month `32`: day-of-month is 1 to 31"),
        ("* * * 13 *", "can't read month `13`: month is 1 to 12 or JAN to DEC"),
        ("* * * foo *", "can't read month `foo`: month is 1 to 12 or JAN to DEC"),
        ("* * * * 8", "can't read day-of-week `8`: day-of-week is 0 to 7 (0 and 7 are Sunday) or SUN to SAT"),
        ("* * * * mo", "can't read day-of-week `mo`: day-of-week is 0 to 7 (0 and 7 are Sunday) or SUN to SAT"),
        ("60 * * * * *", "can't read second `60`: second is 0 to 59"),
        ("-1 * * * *", "can't read minute `-1`: minute is 0 to 59"),
        ("+1 * * * *", "can't read minute `+1`: minute is 0 to 59"),
        ("1, * * * *", "can't read minute ``: minute is 0 to 59"),
        ("1-2-3 * * * *", "can't read minute `1-2-3`: minute is 0 to 59"),
        ("99999999999 * * * *", "can't read minute `99999999999`: minute is 0 to 59"),
        ("? * * * *", "can't read minute `?`: `?` stands in day-of-month and day-of-week only: write `*`"),
        ("*/0 * * * *", "can't read minute `*/0`: a step is 1 to 60 here; for longer periods there is `@every 90m`"),
        ("*/90 * * * *", "can't read minute `*/90`: a step is 1 to 60 here; for longer periods there is `@every 90m`"),
        ("*/x * * * *", "can't read minute `*/x`: a step is 1 to 60 here; for longer periods there is `@every 90m`"),
        ("*/1/2 * * * *", "can't read minute `*/1/2`: a step is 1 to 60 here; for longer periods there is `@every 90m`"),
        ("0 22-2 * * *", "can't read hour `22-2`: a range does not run backwards: write `22-23,0-2`"),
        ("0 0 * * fri-mon", "can't read day-of-week `fri-mon`: a range does not run backwards: write `fri-6,0-mon`"),
        ("0 0 * 11-1 *", "can't read month `11-1`: a range does not run backwards: write `11-12,1`"),
        ("0 0 L * *", "can't read day-of-month `L`: day-of-month is 1 to 31; `L`, `W` and `#` are not part of this dialect"),
        ("0 0 15W * *", "can't read day-of-month `15W`: day-of-month is 1 to 31; `L`, `W` and `#` are not part of this dialect"),
        (
            "0 0 * * 1#2",
            "can't read day-of-week `1#2`: day-of-week is 0 to 7 (0 and 7 are Sunday) or SUN to SAT; `L`, `W` and `#` are not part of this dialect",
        ),
        ("0 0 30 2 *", "`0 0 30 2 *` never fires: no day of the calendar fits its day-of-month, month and day-of-week"),
        ("0 0 31 4,6,9,11 ?", "`0 0 31 4,6,9,11 ?` never fires: no day of the calendar fits its day-of-month, month and day-of-week"),
        ("@often", "unknown nickname `@often`; there are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every 90s"),
        ("@reboot", "`@reboot` is not for schedules: they belong to the broker, which no host starts"),
        ("@daily 5", "nothing follows `@daily`; got `5`"),
        ("@every", "`@every `: a period is a time such as `90s` or `1h30m`"),
        ("@every soon", "`@every soon`: a period is a time such as `90s` or `1h30m`"),
        ("@every 0s", "`@every 0s`: a period is at least 1s, in whole seconds"),
        ("@every 1500ms", "`@every 1500ms`: a period is at least 1s, in whole seconds"),
        ("@every 99999y", "`@every 99999y`: a period is at most a year (366 days)"),
        ("CRON_TZ=Asia/Shangai 0 9 * * *", "unknown time zone `Asia/Shangai`; did you mean `Asia/Shanghai`?"),
        ("TZ=shanghai 0 9 * * *", "unknown time zone `shanghai`; did you mean `Asia/Shanghai`?"),
        ("CRON_TZ= 0 9 * * *", "unknown time zone ``; zones have IANA names such as `UTC` or `Asia/Shanghai`"),
        ("TZ=Middle/Earth 0 9 * * *", "unknown time zone `Middle/Earth`; zones have IANA names such as `UTC` or `Asia/Shanghai`"),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
    for text in ["", " ", "@", "*", "* * * *", "* * * * * * 2026", "CRON_TZ=UTC", "a b c d e"] {
        assert!(!refused(text).is_empty(), "{text}");
    }
    assert!(refused("0 9 * *").starts_with("a rule has 5 or 6 fields, `0 9 * *` has 4; write `minute hour"), "{}", refused("0 9 * *"));
}

#[test]
fn the_calendar_has_leap_days_and_an_end() {
    let leap = Rule::parse("0 0 29 2 *", "UTC").unwrap();
    let years: Vec<_> = leap.firings(Millis(0), at("2087-01-01T00:00+00:00")).map(|at| instant(at).unwrap().year()).collect();
    assert_eq!(years, [2088, 2092, 2096], "2100 is no leap year, and nothing fires after it");
    let last = Rule::parse("59 23 31 12 *", "UTC").unwrap().firings(Millis(0), at("2099-12-31T23:58+00:00")).last();
    assert_eq!(last, Some(at("2100-12-31T23:59+00:00")));
    for (rule, after) in [("* * * * *", u64::MAX), ("* * * * *", i64::MAX as u64), ("@every 1s", u64::MAX), ("@every 1s", u64::MAX - 1)] {
        assert_eq!(Rule::parse(rule, "UTC").unwrap().next_after(Millis(0), Millis(after)), None, "{rule} {after}");
    }
}

#[test]
fn every_counts_from_its_anchor() {
    let rule = Rule::parse("@every 90s", "UTC").unwrap();
    for (anchor, after, expected) in
        [(0, 0, 90_000), (0, 89_999, 90_000), (0, 90_000, 180_000), (250, 90_250, 180_250), (500_000, 3, 590_000)]
    {
        assert_eq!(rule.next_after(Millis(anchor), Millis(after)), Some(Millis(expected)));
    }
}

#[test]
fn odd_changes_of_the_clock_are_no_trouble() {
    for (rule, zone, after, expected) in [
        // Lord Howe moves by half an hour: forward on 4 October at 02:00, back on 5 April at 02:00.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00+10:30", "2026-10-04T02:30+11:00 2026-10-05T02:15+11:00"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00+11:00", "2026-04-05T01:45+11:00 2026-04-06T01:45+10:30"),
        (
            "45 * * * *",
            "Australia/Lord_Howe",
            "2026-04-05T01:00+11:00",
            "2026-04-05T01:45+11:00 2026-04-05T01:45+10:30 2026-04-05T02:45+10:30",
        ),
        // Samoa had no 30 December 2011 at all.
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00-10:00", "2011-12-31T00:00+14:00 2011-12-31T12:00+14:00"),
        ("0 * 30 * *", "Pacific/Apia", "2011-12-29T13:00-10:00", "2012-01-30T00:00+14:00"),
        // Havana changes at midnight: 8 March begins at 01:00.
        ("0 0 * * *", "America/Havana", "2026-03-07T12:00-05:00", "2026-03-08T01:00-04:00 2026-03-09T00:00-04:00"),
        // Troll moves by two hours.
        ("30 1 * * *", "Antarctica/Troll", "2026-03-28T12:00+00:00", "2026-03-29T03:00+02:00 2026-03-30T01:30+02:00"),
        // The second turn of an hour has nothing left of a rule that fired in the first.
        ("30 1 * * *", "America/New_York", "2026-11-01T01:15-05:00", "2026-11-02T01:30-05:00"),
    ] {
        let parsed = Rule::parse(rule, zone).unwrap();
        let count = expected.split(' ').count();
        let got: Vec<_> = parsed.firings(Millis(0), at(after)).take(count).map(|at| shown(&parsed, zone, at)).collect();
        assert_eq!(got.join(" "), expected, "{rule} in {zone}");
    }
}

#[test]
fn a_time_is_shown_in_the_rules_zone() {
    let rule = Rule::parse("0 9 * * *", "America/New_York").unwrap();
    assert_eq!(rule.show(at("2026-03-08T07:00+00:00")), "2026-03-08 03:00:00 -04:00");
    assert_eq!(rule.zone().name(), "America/New_York");
}

// -- a walk through every minute --------------------------------------------------------------------------------------

/// A field as a list of items, and the values they stand for.
#[derive(Debug, Clone)]
struct Drawn {
    text: String,
    values: BTreeSet<u32>,
    star: bool,
}

fn field(low: u32, high: u32) -> impl Strategy<Value = Drawn> {
    let point = (low..=high).prop_map(|n| (n.to_string(), BTreeSet::from([n]), false));
    let range = (low..=high, low..=high).prop_map(|(a, b)| (format!("{}-{}", a.min(b), a.max(b)), (a.min(b)..=a.max(b)).collect(), false));
    let step = (low..=high, 1..=high).prop_map(move |(a, s)| (format!("{a}/{s}"), (a..=high).step_by(s as usize).collect(), false));
    let all = (1..=high).prop_map(move |s| (format!("*/{s}"), (low..=high).step_by(s as usize).collect(), true));
    let star = Just(("*".to_owned(), (low..=high).collect(), true));
    let item = prop_oneof![3 => point, 2 => range, 1 => step, 2 => all, 3 => star];
    prop::collection::vec(item, 1..3).prop_map(|items| Drawn {
        text: items.iter().map(|item| item.0.clone()).collect::<Vec<_>>().join(","),
        values: items.iter().flat_map(|item| item.1.clone()).collect(),
        star: items.iter().any(|item| item.2),
    })
}

fn fits([minute, hour, day, month, weekday]: &[Drawn; 5], at: DateTime<Utc>) -> bool {
    let weekdays = [at.weekday().num_days_from_sunday(), at.weekday().num_days_from_sunday() + 7];
    let (by_day, by_weekday) = (day.values.contains(&at.day()), weekdays.iter().any(|day| weekday.values.contains(day)));
    let days = if day.star || weekday.star { by_day && by_weekday } else { by_day || by_weekday };
    days && month.values.contains(&at.month()) && hour.values.contains(&at.hour()) && minute.values.contains(&at.minute())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn next_after_is_what_a_walk_through_every_minute_finds(
        drawn in [field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)], start in 1_700_000_000_u64..1_900_000_000
    ) {
        let text = drawn.iter().map(|field| field.text.clone()).collect::<Vec<_>>().join(" ");
        let Ok(rule) = Rule::parse(&text, "UTC") else {
            prop_assert!(refused(&text).contains("never fires"));
            return Ok(());
        };
        let next = rule.next_after(Millis(0), Millis(start * 1000)).unwrap().0 / 1000;
        prop_assert!(next > start && next % 60 == 0);
        prop_assert!(fits(&drawn, instant(Millis(next * 1000)).unwrap()), "{text}: {next}");
        // At most 40 days of minutes before the firing are walked.
        let walked = (start / 60 + 1) * 60;
        let earlier = (walked.max(next.saturating_sub(40 * 86_400))..next).step_by(60).find(|at| fits(&drawn, instant(Millis(at * 1000)).unwrap()));
        prop_assert_eq!(earlier, None, "{}", text);
    }

    #[test]
    fn firings_only_go_forward_in_any_zone(
        drawn in [field(0, 59), field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)],
        zone in prop::sample::select(chrono_tz::TZ_VARIANTS.as_slice()), start in 0_u64..4_102_444_800_000
    ) {
        let text = drawn.iter().map(|field| field.text.clone()).collect::<Vec<_>>().join(" ");
        if let Ok(rule) = Rule::parse(&text, zone.name()) {
            let mut last = Millis(start);
            for next in rule.firings(Millis(0), last).take(20) {
                prop_assert!(next > last, "{text} in {zone}");
                // Nothing is left out between: asked from any time between, the answer is the same.
                let between = Millis(last.0 + (next.0 - last.0) / 2);
                prop_assert_eq!(rule.next_after(Millis(0), between), Some(next));
                last = next;
            }
        }
    }

    #[test]
    fn no_text_is_a_panic(text in any::<String>(), words in "([0-9*?/,LW#@A-Za-z-]{0,9} ){0,7}") {
        for text in [text, words] {
            if let Ok(rule) = Rule::parse(&text, "Europe/Berlin") {
                prop_assert!(rule.next_after(Millis(0), Millis(0)).is_some());
            }
        }
    }
}
