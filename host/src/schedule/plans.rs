//! The broker's schedules as this host sees them, and how far each was fired.

use std::collections::HashMap;

use super::plan;
use taskhost_broker::Schedule;
use taskhost_core::{cron::Rule, task::Millis};

/// The most due times of one schedule that are fired before the others have their turn.
pub(super) const BATCH: usize = 50;

/// The broker's schedules as this host sees them, by name.
#[derive(Debug, Default)]
pub(super) struct Plans(HashMap<String, Plan>);

/// One schedule of the broker, and how far it was fired.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) schedule: Schedule,
    /// `None`: the rule can't be read, and the log has said so.
    rule: Option<Rule>,
    /// Up to here each due time was fired by a host or given up.
    pub(super) done: Millis,
}

impl Plans {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Plan> {
        self.0.get(name)
    }

    /// Each due time of a schedule up to `done` was fired or given up.
    pub(super) fn done_up_to(&mut self, name: &str, done: Millis) {
        if let Some(plan) = self.0.get_mut(name) {
            plan.done = plan.done.max(done);
        }
    }

    /// Takes over new and changed schedules, keeps what is known of the others, and forgets those that are gone.
    pub(super) fn refresh(&mut self, schedules: Vec<Schedule>) {
        let mut before = std::mem::take(&mut self.0);
        for schedule in schedules {
            let plan = match before.remove(&schedule.name) {
                Some(old) if old.schedule.is_defined_as(&schedule) && old.schedule.created_at == schedule.created_at => {
                    if old.schedule.paused != schedule.paused {
                        let now = if schedule.paused { "is paused" } else { "goes on" };
                        tracing::info!(schedule = schedule.name, "schedule {now}");
                    }
                    Plan { done: old.done.max(schedule.last), schedule, rule: old.rule }
                }
                _ => {
                    let rule = Rule::parse(&schedule.rule, &schedule.timezone);
                    if let Err(why) = &rule {
                        let name = &schedule.name;
                        tracing::error!(
                            schedule = name,
                            "schedule can't be fired: {why}; add it again, or `taskhost schedule remove {name}`"
                        );
                    }
                    Plan { done: schedule.last, rule: rule.ok(), schedule }
                }
            };
            self.0.insert(plan.schedule.name.clone(), plan);
        }
    }

    /// `new` is missing in the broker. Adds what this host remembers of it: how far it was fired, and its pause.
    pub(super) fn remembered(&self, new: Schedule) -> Schedule {
        let alike = |plan: &&Plan| (&plan.schedule.rule, &plan.schedule.timezone) == (&new.rule, &new.timezone);
        match self.0.get(&new.name).filter(alike) {
            Some(plan) => Schedule { created_at: plan.schedule.created_at, last: plan.done, paused: plan.schedule.paused, ..new },
            None => new,
        }
    }

    /// The due times to fire at `now`, by schedule; at most [`BATCH`] of each.
    pub(super) fn due(&self, now: Millis) -> Vec<(String, Vec<Millis>)> {
        let due = |plan: &Plan| {
            let rule = plan.rule.as_ref().filter(|_| !plan.schedule.paused)?;
            let mut dues = plan::due(rule, plan.schedule.created_at, plan.done, now, plan.schedule.catch_up);
            dues.truncate(BATCH);
            (!dues.is_empty()).then_some(dues)
        };
        self.0.iter().filter_map(|(name, plan)| Some((name.clone(), due(plan)?))).collect()
    }

    /// The earliest due time after `now`.
    pub(super) fn next(&self, now: Millis) -> Option<Millis> {
        let running = self.0.values().filter(|plan| !plan.schedule.paused);
        running.filter_map(|plan| plan.rule.as_ref()?.next_after(plan.schedule.created_at, now.max(plan.done))).min()
    }
}
