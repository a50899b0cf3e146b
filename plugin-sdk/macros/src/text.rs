//! What the texts in attributes may be: durations, names, rules. Said at compile time, where the author still looks.

/// `30s`, `2m`, `1h30m`, `500ms`: whole numbers with units, largest first or not.
pub(crate) fn check_duration(text: &str) -> Result<(), String> {
    let bad = || Err(format!("not a duration: `{text}`; write `30s`, `2m`, `1h30m`, `500ms` (units: ms, s, m, h, d)"));
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return bad(),
        };
        match number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).and_then(|ms| total.checked_add(ms)) {
            Some(sum) => total = sum,
            None => return bad(),
        }
        rest = after;
    }
    if total == 0 { bad() } else { Ok(()) }
}

/// A task name, as the host takes it.
pub(crate) fn check_task_name(text: &str) -> Result<(), String> {
    let good = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good {
        Ok(())
    } else {
        Err(format!("a task name starts with a letter and has at most 128 characters of A-Z a-z 0-9 _ . -: `{text}`"))
    }
}

/// A queue's name, as the host takes it.
pub(crate) fn check_queue_name(text: &str) -> Result<(), String> {
    let good = text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good {
        Ok(())
    } else {
        Err(format!("a queue name starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -: `{text}`"))
    }
}

/// A cron rule, only as far as its shape: the host reads it whole.
pub(crate) fn check_cron(text: &str) -> Result<(), String> {
    let text = text.trim();
    let rule = match text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rule)| rule.trim()),
        None => text,
    };
    if (rule.starts_with('@') && rule.len() > 1) || matches!(rule.split_whitespace().count(), 5 | 6) {
        Ok(())
    } else {
        Err(format!("not a cron rule: `{text}`; write five fields (`0 9 * * *`), six with seconds first, `@daily` or `@every 90s`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for good in ["30s", "2m", "1h30m", "500ms", "1d"] {
            assert_eq!(check_duration(good), Ok(()), "{good}");
        }
        for bad in ["", "2", "m", "2 m", "2x", "-1s", "1.5s", "0s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(check_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_rules() {
        assert!(check_task_name("transferBU").is_ok());
        assert!(check_task_name("two words").is_err());
        assert!(check_task_name("7up").is_err());
        assert!(check_queue_name("7up").is_ok());
        assert!(check_queue_name("").is_err());
        for good in ["0 9 * * *", "57 9 * * ?", "* * * * * *", "@daily", "@every 90s", "CRON_TZ=Asia/Shanghai 0 9 * * *"] {
            assert_eq!(check_cron(good), Ok(()), "{good}");
        }
        for bad in ["", "9 o'clock", "@", "CRON_TZ=UTC", "* * * * * * *"] {
            assert!(check_cron(bad).is_err(), "{bad}");
        }
    }
}
