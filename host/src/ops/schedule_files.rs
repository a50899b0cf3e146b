//! Compares stored schedules with the `taskhost.toml` files of live workers.
//!
//! A worker announces the schedules of its file. If files differ, that of the worker that started last counts, as in the broker.

use taskhost_broker::{Directory, FileSchedule, Schedule, Source, WorkerInfo};
use taskhost_core::text::clean;

use super::error::OpsError;

/// The workers that fire schedules now.
pub(super) struct Files(Vec<WorkerInfo>);

impl Files {
    pub(super) async fn read(broker: &(impl Directory + ?Sized)) -> Result<Self, OpsError> {
        let mut workers = broker.workers().await?;
        // A draining worker puts no schedule back.
        workers.retain(|worker| !worker.draining);
        workers.sort_by_key(|worker| worker.started_at);
        Ok(Self(workers))
    }

    /// The newest worker whose file has it, and the definition in that file.
    pub(super) fn named(&self, name: &str) -> Option<(&WorkerInfo, &FileSchedule)> {
        self.0.iter().rev().find_map(|worker| {
            let said = worker.schedules.iter().flatten().find(|schedule| schedule.name == name)?;
            Some((worker, said))
        })
    }

    /// The keys in which a stored schedule differs from the file.
    pub(super) fn differences(&self, schedule: &Schedule) -> Vec<String> {
        self.named(&schedule.name).map_or_else(Vec::new, |(_, file)| file.differs(schedule))
    }

    /// Whether it came from a file, and no live worker's file has it now.
    pub(super) fn is_orphan(&self, schedule: &Schedule) -> bool {
        schedule.source == Source::Toml && self.named(&schedule.name).is_none() && self.are_known().is_ok()
    }

    /// Whether all files are known; else why not.
    pub(super) fn are_known(&self) -> Result<(), OpsError> {
        if self.0.is_empty() {
            return Err(OpsError::FilesUnknown("there is no live worker to say what its taskhost.toml names; start one".to_owned()));
        }
        match self.0.iter().find(|worker| worker.schedules.is_none()) {
            None => Ok(()),
            Some(worker) => Err(OpsError::FilesUnknown(format!(
                "worker `{}` is of an older taskhost and does not say what its taskhost.toml names; stop it",
                clean(&worker.id)
            ))),
        }
    }
}
