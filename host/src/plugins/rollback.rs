//! An operator's requests to the state directory: list the versions of a plugin, and go back to an earlier one.
//!
//! name → its history → a bar on the bytes in the file. A worker of this machine follows the bar with its next look. Without a worker it
//! holds from the next start.

use std::{io, path::Path};

use super::{
    directory,
    history::{Bar, Event, Generation, Line, What},
    name::{check_name, stem},
    settings::PluginsError,
    state::{OpenError, State},
};
use taskhost_core::{
    catalogue::near,
    task::{Clock, SystemClock},
};

/// A request. It takes effect when a worker has seen it.
#[derive(Debug, Clone, PartialEq)]
pub struct RolledBack {
    /// File name, such as `math.wasm`.
    pub file: String,
    /// The version that served.
    pub from: Option<Generation>,
    /// The version that will serve.
    pub to: Generation,
    /// Whether a worker of this machine serves from this directory now.
    pub attended: bool,
}

/// The versions of the plugin with this name in `dir`, newest first. Blocks on the file system.
pub fn history(dir: &Path, state: &Path, name: &str) -> Result<Vec<Generation>, PluginsError> {
    let (_, line) = line(&open(dir, state)?, dir, name)?;
    Ok(line.generations.into_iter().rev().collect())
}

/// Goes back from the serving version to the one before it, until the file has other bytes. Blocks on the file system.
pub fn roll_back(dir: &Path, state: &Path, name: &str) -> Result<RolledBack, PluginsError> {
    let refused = |text: String| Err(PluginsError::File(text));
    let state = open(dir, state)?;
    let (file, _) = line(&state, dir, name)?;
    let attended = state.is_attended();
    let path = dir.join(&file);
    let changed = || format!("{file} has just changed, and no worker has looked at it yet: see `taskhost plugin list`, then try again");
    let (identity, standing) = match directory::standing(&path) {
        Ok(read) => read,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refused(format!(
                "{file} is not in the plugin directory, so nothing of it serves: put a version there: `{}`",
                path.display()
            ));
        }
        Err(e) => return refused(format!("cannot read what stands in the file now ({e}): `{}`", path.display())),
    };
    let asked = state.change_history(|history| {
        let line = history.files.get(&file).cloned().unwrap_or_default();
        // No worker has judged these bytes yet, and none is there to do so: the version that served last is wanted back.
        let is_new = line.standing.as_ref().map_or_else(|| line.find(&standing).is_none(), |judged| **judged != *standing);
        // Nobody else writes to the history now, but the file may have been replaced since.
        if (is_new && attended) || !directory::is_still(&path, identity) {
            return Err(changed());
        }
        let from = line.current().filter(|_| !is_new).cloned();
        let to = match &from {
            Some(from) => line.before(&from.digest),
            None => line.current().or_else(|| line.before(&standing)),
        };
        let Some(to) = to.cloned() else {
            return Err(format!("there is no version of {file} to go back to: see `taskhost plugin history {}`", stem(&file)));
        };
        let now = SystemClock.now();
        let why =
            format!("rolled back by hand to version {} ({}); it holds until other bytes stand in the file", to.version, short(&to.digest));
        let bar = Bar { digest: standing.to_string(), to: to.digest.clone(), why };
        let from_digest = from.as_ref().map_or_else(|| standing.to_string(), |from| from.digest.clone());
        // This request knows of the bar before it; a worker's late event would not.
        if let Some(line) = history.files.get_mut(&file) {
            line.bar = None;
        }
        history.apply(&Event { file: file.clone(), at: now, what: What::RolledBack { from: from_digest, bar } });
        Ok(RolledBack { file: file.clone(), from, to, attended })
    });
    asked.map_err(PluginsError::State)?.0.map_err(PluginsError::File)
}

/// The first digits of a digest, as they are shown everywhere.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn open(dir: &Path, state: &Path) -> Result<State, PluginsError> {
    if !dir.is_dir() {
        return Err(PluginsError::Directory(format!("there is no plugin directory, name another with --plugins: `{}`", dir.display())));
    }
    State::open(state, dir).map_err(|e| match e {
        OpenError::Refused(e) => e,
        OpenError::Failed(text) => PluginsError::State(text),
    })
}

/// `math` or `math.wasm`.
fn line(state: &State, dir: &Path, name: &str) -> Result<(String, Line), PluginsError> {
    let name = stem(name);
    check_name(name).map_err(PluginsError::File)?;
    let mut history = state.history().map_err(|why| PluginsError::State(why.into_text()))?;
    let file = format!("{name}.wasm");
    if let Some(line) = history.files.remove(&file) {
        return Ok((file, line));
    }
    let known = history.files.keys().map(|file| stem(file));
    let hint = near(name, known).first().map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    Err(PluginsError::File(format!("no worker has seen a plugin `{name}` in `{}`{hint}", dir.display())))
}
