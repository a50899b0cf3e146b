//! Which schedules can be stored, and when one fires next.

use taskhost_broker::Schedule;
use taskhost_core::{
    cron::{CronError, Rule},
    task::Millis,
};

/// Why a schedule is refused. Each text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("a schedule's name starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -: `{0}`")]
    Name(String),
    #[error(transparent)]
    Rule(#[from] CronError),
    #[error("a schedule's arguments are a JSON array such as [1, \"x\"]: {0}")]
    Arguments(String),
    #[error("a schedule's tasks have at least 1 attempt, and 1 ms for each")]
    Limits,
}

/// Checks that a schedule can be stored, and answers its rule.
pub fn validate(schedule: &Schedule) -> Result<Rule, ScheduleError> {
    let name = &schedule.name;
    let valid = (1..=64).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !valid {
        return Err(ScheduleError::Name(name.chars().take(80).flat_map(char::escape_debug).collect()));
    }
    if schedule.options.max_attempts == Some(0) || schedule.options.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(ScheduleError::Limits);
    }
    serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&schedule.args).map_err(|why| ScheduleError::Arguments(why.to_string()))?;
    Ok(Rule::parse(&schedule.rule, &schedule.timezone)?)
}

/// The next `count` due times after `now`. A paused schedule has none, nor has one whose rule can't be read.
pub fn upcoming(schedule: &Schedule, now: Millis, count: usize) -> Vec<Millis> {
    match Rule::parse(&schedule.rule, &schedule.timezone) {
        Ok(rule) if !schedule.paused => rule.firings(schedule.created_at, now.max(schedule.last)).take(count).collect(),
        _ => Vec::new(),
    }
}
