//! Hints: what a body suggests, from the contract's string pairs to [`Hints`].
//!
//! Hints ask, they never grant: an unreadable one is a warning and not an error, and [`Bound`] says how far one that can be read goes.

use std::time::Duration;

use super::Hints;
use crate::{
    task::{MOST_RETRIES, QueueName},
    units,
};

/// Longer than this is taken for a slip of the pen, and would overflow a deadline.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far a hint goes, whichever it is: the operator's policy for the plugin bounds it, else the worker's own setting. A hint may ask for
/// less. More than the setting takes a policy that says so.
#[derive(Debug, Clone, Copy)]
pub struct Bound<T> {
    pub policy: Option<T>,
    pub setting: T,
}

impl<T: Ord + Copy> Bound<T> {
    /// What holds where the enqueuer says nothing.
    pub fn bind(self, hint: Option<T>) -> T {
        let most = self.policy.unwrap_or(self.setting);
        hint.map_or(most, |hint| hint.min(most))
    }
}

impl Hints {
    /// The hints in force: timeout and retries are cut to their bounds.
    pub fn bound(mut self, timeout: Bound<Duration>, retries: Bound<u32>) -> Self {
        let wished = self.timeout_ms.map(Duration::from_millis);
        self.timeout_ms = Some(u64::try_from(timeout.bind(wished).as_millis()).unwrap_or(u64::MAX));
        self.retries = Some(retries.bind(self.retries));
        self
    }

    /// The keys that are understood.
    pub const KEYS: [&str; 7] = ["timeout", "retries", "queue", "cron", "http", "env", "enqueue"];

    /// Reads `timeout`, `retries`, `queue`, `cron`, and the wishes for the policy: `http`, `env`, `enqueue`. Other keys are for later hosts and
    /// are ignored. Of a key that is given twice, the last one counts. Each warning is a sentence that names the hint and its form.
    pub fn parse(pairs: &[(String, String)]) -> (Self, Vec<String>) {
        let (mut hints, mut warnings) = (Self::default(), Vec::new());
        for (key, value) in pairs {
            let value = value.trim();
            let read = match key.as_str() {
                "timeout" => timeout(value).map(|ms| hints.timeout_ms = Some(ms)),
                "retries" => retries(value).map(|retries| hints.retries = Some(retries)),
                "queue" => QueueName::new(value).map(|queue| hints.queue = Some(queue)).map_err(|why| why.to_string()),
                "cron" if value.is_empty() => Err("a cron hint is a rule such as `0 9 * * *`".into()),
                "cron" => {
                    hints.cron = Some(value.to_owned());
                    Ok(())
                }
                "http" => listed(&mut hints.http, value),
                "env" => listed(&mut hints.env, value),
                "enqueue" => listed(&mut hints.enqueue, value),
                _ => Ok(()),
            };
            if let Err(why) = read {
                warnings.push(format!("ignored the hint `{key}={}`: {why}", super::brief(value)));
            }
        }
        (hints, warnings)
    }
}

/// Any number of these may be given.
fn listed(list: &mut Vec<String>, value: &str) -> Result<(), String> {
    if value.is_empty() || value.len() > 256 || value.contains(char::is_control) || list.len() >= 32 {
        return Err("what is wanted of the policy has 1 to 256 characters, at most 32 times".into());
    }
    list.push(value.to_owned());
    Ok(())
}

fn timeout(value: &str) -> Result<u64, String> {
    let read = units::any_duration(value).ok_or("a timeout is a time such as `30s` or `2m`")?;
    if read < Duration::from_millis(1) || read > LONGEST_TIMEOUT {
        return Err("a timeout is between 1ms and 1 year".into());
    }
    u64::try_from(read.as_millis()).map_err(|why| why.to_string())
}

fn retries(value: &str) -> Result<u32, String> {
    value
        .parse()
        .ok()
        .filter(|retries| *retries <= MOST_RETRIES)
        .ok_or_else(|| format!("retries is a whole number from 0 to {MOST_RETRIES}: attempts beyond the first"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> (Hints, Vec<String>) {
        Hints::parse(&pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect::<Vec<_>>())
    }

    #[test]
    fn known_hints_are_read_and_unknown_ones_left_out() {
        let (hints, warnings) =
            parse(&[("timeout", "2m"), ("retries", "5"), ("queue", "mail"), ("cron", "0 9 * * *"), ("colour", "red"), ("retries", "6")]);
        let expected = Hints {
            timeout_ms: Some(120_000),
            retries: Some(6),
            queue: Some(QueueName::new("mail").unwrap()),
            cron: Some("0 9 * * *".into()),
            ..Hints::default()
        };
        assert_eq!((hints, warnings), (expected, vec![]));
    }

    #[test]
    fn a_hint_asks_for_less_than_the_setting_and_a_policy_decides_otherwise() {
        for (policy, hint, bound) in [
            (None, None, 60),
            (None, Some(5), 5),
            (None, Some(600), 60),
            (Some(300), None, 300),
            (Some(300), Some(600), 300),
            (Some(300), Some(5), 5),
        ] {
            assert_eq!(Bound { policy, setting: 60 }.bind(hint), bound, "policy {policy:?}, hint {hint:?}");
        }
        let hints = Hints { timeout_ms: Some(364 * 24 * 3_600_000), retries: Some(1_000_000), ..Hints::default() };
        let (timeout, retries) = (Bound { policy: None, setting: Duration::from_secs(3) }, Bound { policy: None, setting: 0 });
        let bound = hints.clone().bound(timeout, retries);
        assert_eq!((bound.timeout_ms, bound.retries), (Some(3000), Some(0)));
        let allowed = hints.bound(Bound { policy: Some(Duration::from_secs(3600)), ..timeout }, Bound { policy: Some(9), ..retries });
        assert_eq!((allowed.timeout_ms, allowed.retries), (Some(3_600_000), Some(9)));
    }

    #[test]
    fn an_unreadable_hint_is_a_warning_that_says_what_is_allowed() {
        let (hints, warnings) =
            parse(&[("timeout", "soon"), ("timeout", "0s"), ("timeout", "999999y"), ("retries", "-1"), ("queue", "a b"), ("cron", " ")]);
        assert_eq!(hints, Hints::default());
        assert_eq!(
            warnings,
            [
                "ignored the hint `timeout=soon`: a timeout is a time such as `30s` or `2m`",
                "ignored the hint `timeout=0s`: a timeout is between 1ms and 1 year",
                "ignored the hint `timeout=999999y`: a timeout is between 1ms and 1 year",
                "ignored the hint `retries=-1`: retries is a whole number from 0 to 1000000: attempts beyond the first",
                "ignored the hint `queue=a b`: a queue name starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -: `a b`",
                "ignored the hint `cron=`: a cron hint is a rule such as `0 9 * * *`",
            ]
        );
    }
}
