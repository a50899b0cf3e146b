//! Looks at plugin files, and goes back to earlier versions. Needs no broker.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{engine::foreground_engine, error::OpsError};
use crate::{
    config::Settings,
    plugins::{self, Generation, GenerationState, Inspection, RolledBack},
};

/// How long a worker may take to follow. It looks every two seconds, and may have to compile.
const FOLLOWED: Duration = Duration::from_secs(30);
/// How often the history is read meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// How the workers of this machine followed a rollback.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// No worker runs on this directory now. The version serves from the next start.
    AtNextStart,
    /// The version serves.
    Serves,
    /// The version can't be loaded any more.
    NotLoaded,
    /// This version serves instead, for example because the key of the other one is no longer trusted.
    Otherwise(Generation),
    /// No worker has followed within the time.
    NotYet,
}

/// Loads a file as a worker would, under the policy of its name in `policy` and the trusted keys of the settings.
pub async fn inspect(settings: &Settings, file: &Path, policy: Option<&Path>) -> Result<Inspection, OpsError> {
    let engine = foreground_engine(settings)?;
    let inspected = plugins::inspect(file, &engine, policy, settings.trust.as_deref(), &settings.limits).await;
    engine.stop();
    Ok(inspected?)
}

/// Goes back from the serving version of a plugin to the one before it, and waits for a worker of this machine to follow.
pub async fn roll_back(settings: &Settings, name: &str) -> Result<(RolledBack, Followed), OpsError> {
    let asked = plugins::roll_back(&settings.plugins, &settings.state, name)?;
    if !asked.attended {
        return Ok((asked, Followed::AtNextStart));
    }
    let begun = Instant::now();
    while begun.elapsed() < FOLLOWED {
        let generations = plugins::history(&settings.plugins, &settings.state, name)?;
        if let Some(followed) = followed(&asked, &generations) {
            return Ok((asked, followed));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok((asked, Followed::NotYet))
}

/// How the history says that a rollback was followed; `None`: not yet.
fn followed(asked: &RolledBack, generations: &[Generation]) -> Option<Followed> {
    let current = generations.iter().find(|generation| generation.state == GenerationState::Current)?;
    if current.digest == asked.to.digest {
        return Some(Followed::Serves);
    }
    if generations.iter().any(|other| other.digest == asked.to.digest && other.state == GenerationState::Refused) {
        return Some(Followed::NotLoaded);
    }
    let is_passed_over = asked.from.as_ref().is_some_and(|from| from.digest != current.digest);
    is_passed_over.then(|| Followed::Otherwise(current.clone()))
}

#[cfg(test)]
mod tests {
    use taskhost_core::task::Millis;

    use super::*;

    fn version(digest: &str, state: GenerationState) -> Generation {
        Generation { digest: digest.into(), version: "1".into(), state, at: Millis(0), why: None }
    }

    #[test]
    fn the_history_says_how_a_rollback_was_followed() {
        use GenerationState::{Current, Good, Refused, RolledBack as Left};
        let asked = RolledBack { file: "math.wasm".into(), from: Some(version("new", Current)), to: version("old", Good), attended: true };
        let with = |states: [(&str, GenerationState); 2]| followed(&asked, &states.map(|(digest, state)| version(digest, state)));
        assert_eq!(with([("old", Good), ("new", Current)]), None, "nobody has looked yet");
        assert_eq!(with([("old", Current), ("new", Left)]), Some(Followed::Serves));
        assert_eq!(with([("old", Refused), ("new", Current)]), Some(Followed::NotLoaded));
        assert_eq!(with([("older", Current), ("new", Left)]), Some(Followed::Otherwise(version("older", Current))));
        assert_eq!(with([("old", Good), ("new", Left)]), None, "none serves while it is loaded");
    }
}
