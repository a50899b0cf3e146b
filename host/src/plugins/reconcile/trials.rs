//! The trials of new versions whose plugins have a guard, and what follows from a lost one.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::Notify;

use super::{files::Files, past::Past};
use crate::plugins::{
    digest::Digest,
    guard::{Found, Guard, Tally, Trial},
    history::{Bar, What},
    name::stem,
    policy::Policies,
    registry::Plugin,
    rollback::short,
};

#[derive(Debug, Default)]
pub(super) struct Trials {
    /// By file; only of plugins with a guard.
    by_file: BTreeMap<String, Trial>,
    look: Arc<Notify>,
}

/// The guard in force.
fn guard_of(policies: &Policies, file: &str) -> Option<Guard> {
    policies.plugins.get(stem(file)).and_then(|policy| policy.guard)
}

impl Trials {
    /// Notified when a trial may be lost.
    pub(super) fn look_wanted(&self) -> Arc<Notify> {
        self.look.clone()
    }

    pub(super) fn tally(&self, file: &str) -> Option<Arc<Tally>> {
        self.by_file.get(file).map(|trial| trial.tally.clone())
    }

    /// Begins the rollbacks that guards demand.
    pub(super) fn look(&mut self, policies: &Policies, files: &Files, past: &mut Past) {
        for (file, trial) in &mut self.by_file {
            // The guard in force decides. A guard that was removed or eased since no longer counts.
            if !guard_of(policies, file).is_some_and(|guard| trial.is_under(&guard)) {
                continue;
            }
            match trial.look() {
                Found::Nothing => {}
                Found::Proven => tracing::debug!("{file}: the new version keeps to its guard"),
                Found::NoBetterBefore(now) => tracing::warn!(
                    "{file}: {} of {} attempts failed, but of the version before as many did: its guard lets it be",
                    now.failed,
                    now.ended
                ),
                Found::Worse { now, before } => {
                    let counts = format!(
                        "{} of its {} attempts failed, of the version before {} of {}",
                        now.failed, now.ended, before.failed, before.ended
                    );
                    roll_back(file, trial, &counts, files, past);
                }
            }
        }
    }

    /// Counts the attempts of a version that serves. It is on trial if it replaced another one, unless that was a rollback. `is_first`: no
    /// version served in this process yet.
    pub(super) fn count(&mut self, file: &str, digest: &Digest, policies: &Policies, files: &Files, past: &Past, is_first: bool) {
        let Some(guard) = guard_of(policies, file) else {
            self.by_file.remove(file);
            return;
        };
        let known = self.by_file.remove(file);
        let trial = match known {
            Some(known) if known.digest == *digest && known.is_under(&guard) => known,
            Some(known) if known.digest == *digest => known.anew(guard, self.look.clone()),
            mut known => {
                // Also a version that was rolled back by hand, or by another worker.
                if let Some(known) = known.as_mut().filter(|known| past.is_rolled_back(file, &known.digest)) {
                    known.leave();
                }
                let tracked = files.by_name.get(file);
                let is_replacing = tracked.and_then(|tracked| tracked.good.as_ref()).is_some_and(|good| good != digest);
                let is_fresh = is_first && past.is_fresh(file, digest, guard.window);
                let is_gone_back_to = tracked.is_some_and(|tracked| past.bar_on(file, tracked).is_some());
                let on_trial = (is_replacing || is_fresh) && !is_gone_back_to;
                Trial::new(digest.clone(), guard, self.look.clone(), known.as_ref(), on_trial)
            }
        };
        self.by_file.insert(file.to_owned(), trial);
    }

    /// Whether a plugin's attempts are counted by the right counter.
    pub(super) fn counts<C>(&self, file: &str, plugin: &Plugin<C>) -> bool {
        match (&plugin.tally, self.by_file.get(file)) {
            (None, None) => true,
            (Some(tally), Some(trial)) => Arc::ptr_eq(tally, &trial.tally),
            _ => false,
        }
    }

    /// Forgets files that serve nothing.
    pub(super) fn retain(&mut self, serves: impl Fn(&str) -> bool) {
        self.by_file.retain(|file, _| serves(file));
    }
}

/// Bars the version that failed. The file may have another version by now, which was never tried.
fn roll_back(file: &str, trial: &mut Trial, counts: &str, files: &Files, past: &mut Past) {
    let from = &trial.digest;
    let Some(to) = past.before(file, from) else {
        tracing::warn!("{file}: {counts}, and there is no version to go back to: mend it, or take it away");
        return;
    };
    let (version, to) = (to.version.clone(), to.digest.clone());
    let why =
        format!("rolled back by its guard to version {version} ({}): {counts}; it holds until other bytes stand in the file", short(&to));
    if files.by_name.get(file).and_then(|tracked| tracked.digest()).is_some_and(|digest| digest != from) {
        tracing::warn!("{file}: version {} was {why}; others stand there already, and serve if they are good", short(from));
    }
    let bar = Bar { digest: from.to_string(), to, why };
    past.happened(file, What::RolledBack { from: from.to_string(), bar });
    trial.leave();
}
