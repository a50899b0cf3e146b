//! Checks the texts in attributes (durations, names, rules) at compile time, so that the author sees the mistake.

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

/// A task name that the host accepts.
pub(crate) fn check_task_name(text: &str) -> Result<(), String> {
    let good = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b));
    if good {
        Ok(())
    } else {
        Err(format!("a task name starts with a letter and has at most 128 characters of A-Z a-z 0-9 _ . : / -: `{text}`"))
    }
}

/// A queue's name that the host accepts.
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

/// The form of a cron rule. The host reads its values.
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

/// The keys of a body's wishes for its policy. Each may be given more than once.
pub(crate) fn is_wish(key: &str) -> bool {
    matches!(key, "http" | "env" | "enqueue")
}

pub(crate) fn check_origin(text: &str) -> Result<(), String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    if host.is_empty() || host.contains(['/', '?', '#', '@']) || host.contains(char::is_whitespace) {
        Err(format!("not an origin: `{text}`; write `https://host` or `http://host:port`, without a path"))
    } else {
        Ok(())
    }
}

/// `NAME`, or `NAME=example`.
pub(crate) fn check_variable(text: &str) -> Result<(), String> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Err(format!("not a variable: `{text}`; write `CENTER_URL`, or with an example `CENTER_URL=https://hr.example.com`"))
    } else {
        Ok(())
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
        assert!(check_task_name("email:send").is_ok() && check_task_name("reports/daily").is_ok());
        assert!(check_task_name("two words").is_err());
        assert!(check_task_name("7up").is_err());
        assert!(check_queue_name("7up").is_ok());
        assert!(check_queue_name("").is_err());
        for good in ["0 9 * * *", "57 9 * * ?", "* * * * * *", "@daily", "@every 90s", "CRON_TZ=Asia/Shanghai 0 9 * * *"] {
            assert_eq!(check_cron(good), Ok(()), "{good}");
        }
        assert!(check_origin("https://hr.example.com:8443").is_ok() && check_variable("A=http://x/y").is_ok());
        assert!(check_origin("https://hr.example.com/api").is_err() && check_origin("hr").is_err() && check_variable("=x").is_err());
        for bad in ["", "9 o'clock", "@", "CRON_TZ=UTC", "* * * * * * *"] {
            assert!(check_cron(bad).is_err(), "{bad}");
        }
    }
}
