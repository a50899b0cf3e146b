//! The record for the next start: the serving versions, the owners of names, and the events in the life of each file.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{files::Files, past::Past};
use crate::plugins::{
    digest::Digest,
    judge::Owners,
    state::{Index, State},
};

pub(super) struct Record {
    pub(super) state: Option<Arc<State>>,
    /// The index in the state directory, so that it is written only when it changes.
    index: Index,
    /// Why the state directory did not take the last record.
    pub(super) trouble: Option<String>,
}

impl Record {
    pub(super) fn new(state: Option<Arc<State>>, index: Index, trouble: Option<String>) -> Self {
        Self { state, index, trouble }
    }

    /// The version that a file served when the index was written.
    pub(super) fn served(&self, file: &str) -> Option<Digest> {
        self.index.files.get(file).map(|digest| digest.as_str().into())
    }

    /// Writes what is new. A failing state directory keeps nothing from serving.
    pub(super) async fn write(&mut self, past: &mut Past, files: &Files, owners: &Owners) {
        let Some(state) = self.state.clone() else {
            past.forget(|file| files.by_name.contains_key(file));
            return;
        };
        let mut tried = past.has_events();
        let mut trouble = self.write_history(&state, past, files).await.err();
        if let Some(written) = self.write_served(files, owners).await {
            tried = true;
            trouble = written.err().or(trouble);
        }
        if !tried {
            return;
        }
        if let Some(text) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::warn!("{text}");
        }
        self.trouble = trouble;
    }

    /// Writes the serving versions, if they are new. `None`: nothing is new, or there is no state directory.
    pub(super) async fn write_served(&mut self, files: &Files, owners: &Owners) -> Option<Result<(), String>> {
        let state = self.state.clone()?;
        let files = files.by_name.iter();
        let files: BTreeMap<String, String> = files.filter_map(|(file, t)| Some((file.clone(), t.good.as_ref()?.to_string()))).collect();
        if files == self.index.files && *owners == self.index.owners {
            return None;
        }
        let (new_files, new_owners) = (files.clone(), owners.clone());
        let written = tokio::task::spawn_blocking(move || state.record(new_files, new_owners)).await;
        let written = written.unwrap_or_else(|error| Err(error.to_string()));
        if written.is_ok() {
            self.index = Index { directory: String::new(), files, owners: owners.clone() };
        }
        Some(written)
    }

    async fn write_history(&self, state: &Arc<State>, past: &mut Past, files: &Files) -> Result<(), String> {
        if !past.has_events() {
            return Ok(());
        }
        let (state, events) = (state.clone(), past.events().to_vec());
        let present: BTreeSet<String> = files.by_name.keys().cloned().collect();
        let written = tokio::task::spawn_blocking(move || {
            state.change_history(|history| {
                for event in &events {
                    history.apply(event);
                }
                history.trim(|file| present.contains(file));
                history.clone()
            })
        });
        let (history, identity) = written.await.map_err(|e| e.to_string())??;
        past.written(history, identity);
        Ok(())
    }
}
