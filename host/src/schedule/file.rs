//! The schedules of this host's `taskhost.toml`, and when the broker gets them.
//!
//! A schedule is put when this host starts and the broker has another definition, and whenever it is missing. So a broker that comes back
//! empty gets it again. Between hosts with different files the host that started last wins, so that no two undo each other for ever.
//!
//! Invariant: an operator's change (a pause, a definition by hand) stands until a host starts whose file says something else.

use std::collections::{HashMap, HashSet};

use super::{plans::Plans, valid::validate};
use taskhost_broker as broker;
use taskhost_broker::{Schedule, Schedules, Source};
use taskhost_core::task::Millis;

#[derive(Debug, Default)]
pub(super) struct File {
    defined: Vec<Schedule>,
    /// When this host first looked, by the broker's clock.
    start: Option<Millis>,
    /// By name: when the broker took this host's definition.
    taken: HashMap<String, Millis>,
    /// Schedules that the broker refused, so that the log says it once.
    refused: HashSet<String>,
}

impl File {
    pub(super) fn new(defined: Vec<Schedule>) -> Self {
        let valid = |schedule: &Schedule| {
            let checked = validate(schedule);
            if let Err(why) = &checked {
                tracing::error!(schedule = schedule.name, "schedule of taskhost.toml left out: {why}");
            }
            checked.is_ok()
        };
        Self { defined: defined.into_iter().filter(valid).collect(), ..Self::default() }
    }

    /// Puts the schedules that should replace or join the `stored` ones, and answers whether it put any. `plans` remember how far a missing
    /// one was fired. Repeating it is safe.
    pub(super) async fn put<B: Schedules + ?Sized>(&mut self, broker: &B, stored: &[Schedule], plans: &Plans) -> broker::Result<bool> {
        if self.defined.is_empty() {
            return Ok(false);
        }
        let start = match self.start {
            Some(start) => start,
            None => broker.now().await?,
        };
        let stored: HashMap<_, _> = stored.iter().map(|schedule| (schedule.name.as_str(), schedule)).collect();
        let mut put = false;
        for schedule in &self.defined {
            let (name, old) = (&schedule.name, stored.get(&*schedule.name).copied());
            let taken = self.taken.get(name).copied();
            if !is_wanted(schedule, old, taken) {
                self.taken.entry(name.clone()).or_insert(start);
                continue;
            }
            // Later than the old definition, whatever the clocks said, because this host started later.
            let defined_at = taken.unwrap_or_else(|| start.max(old.map_or(start, |old| Millis(old.defined_at.0.saturating_add(1)))));
            let now = broker.now().await?;
            let new = Schedule { defined_at, created_at: now, last: now, ..schedule.clone() };
            let new = if old.is_none() { plans.remembered(new) } else { new };
            match broker.put_schedule(&new).await {
                Ok(()) => {
                    put = true;
                    self.taken.insert(name.clone(), defined_at);
                    if taken.is_some() && old.is_none() {
                        tracing::warn!(schedule = name, "this schedule of taskhost.toml was missing in the broker: put again");
                    } else {
                        tracing::info!(schedule = name, rule = schedule.rule, "schedule taken from taskhost.toml");
                    }
                }
                Err(error) if error.is_transient() => return Err(error),
                Err(error) if self.refused.insert(name.clone()) => {
                    tracing::error!(schedule = name, "schedule of taskhost.toml left out: {error}");
                }
                Err(error) => tracing::debug!(schedule = name, "schedule of taskhost.toml still left out: {error}"),
            }
        }
        if self.start.replace(start).is_none() {
            self.tell_of_others(&stored);
        }
        Ok(put)
    }

    fn tell_of_others(&self, stored: &HashMap<&str, &Schedule>) {
        let here: HashSet<_> = self.defined.iter().map(|schedule| schedule.name.as_str()).collect();
        for old in stored.values().filter(|old| old.source == Source::Toml && !here.contains(&*old.name)) {
            tracing::info!(
                schedule = old.name,
                "this schedule came from another taskhost.toml, and goes on; `taskhost schedule remove --orphans` removes those that stand in no \
                 live worker's file"
            );
        }
    }
}

/// Whether the broker should get this schedule in place of `old`. `taken`: when the broker took this host's definition, if it did.
fn is_wanted(schedule: &Schedule, old: Option<&Schedule>, taken: Option<Millis>) -> bool {
    let Some(old) = old else { return true };
    match taken {
        Some(defined_at) => !old.is_defined_as(schedule) && old.defined_at < defined_at,
        None => !old.is_defined_as(schedule) || schedule.says_paused.is_some_and(|paused| paused != old.paused),
    }
}
