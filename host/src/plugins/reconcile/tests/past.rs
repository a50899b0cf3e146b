//! Going back to an earlier version: by a guard, by hand, and what may be in the way; and directories that others may write to.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::plugins::{Generation, GenerationState, history, roll_back};
use taskhost_core::task::{ErrorKind, Outcome, TaskError};

pub(super) const GUARDED: &str = "[plugins.math]\nguard = { min_attempts = 5 }\n";

/// So many attempts of what serves `add` end, well or not.
pub(super) fn attempts(registry: &Registry<String>, times: u64, well: bool) {
    let plugin = registry.resolve(&TaskName::new("add").unwrap()).unwrap().clone();
    let outcome = if well {
        Outcome::Done { result: "2".into(), children: Vec::new() }
    } else {
        Outcome::Failed { error: TaskError::new(ErrorKind::Panic, "as asked"), after: None }
    };
    for _ in 0..times {
        plugin.tally.as_ref().unwrap().count(&outcome);
    }
}

pub(super) fn is_rolled_back(registry: &Registry<String>) -> bool {
    registry.files.iter().any(|info| info.status == PluginStatus::RolledBack)
}

impl Place {
    pub(super) fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// `version state` of each version, newest first, once it is as wanted.
    pub(super) async fn history(&self, wanted: &[&str]) {
        let shown = |known: &[Generation]| known.iter().map(|g| format!("{} {:?}", g.version, g.state)).collect::<Vec<_>>();
        self.until_history(|known| shown(known) == wanted).await;
    }

    pub(super) async fn until_history(&self, wanted: impl Fn(&[Generation]) -> bool) {
        let begun = Instant::now();
        loop {
            let known = history(&self.dir(), &self.state(), "math").unwrap_or_default();
            if wanted(&known) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{known:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn spoil_kept(&self, text: &str) {
        let digest = directory::digest(text.as_bytes());
        let kept = fs::read_dir(self.state()).unwrap().next().unwrap().unwrap().path();
        fs::write(kept.join(format!("{digest}.wasm")), "spoilt").unwrap();
    }
}

#[tokio::test]
async fn a_guard_goes_back_by_itself_and_stays_until_the_file_changes_also_after_a_restart() {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    attempts(&*room.serves("add", "v1 add").await, 10, true);
    place.put("math.wasm", "v2 add");
    let registry = room.serves("add", "v2 add").await;
    attempts(&registry, 5, false);
    let registry = room.serves("add", "v1 add").await;
    let about = info(&registry, "math.wasm");
    assert_eq!(about.status, PluginStatus::RolledBack);
    let error = about.error.clone().unwrap();
    assert!(
        error.contains("by its guard to version v1") && error.contains("5 of its 5 attempts failed, of the version before 0 of 10"),
        "{error}"
    );
    place.history(&["v1 Current", "v2 RolledBack"]).await;
    room.stop().await;

    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!((served(&registry, "add"), is_rolled_back(&registry), place.loads("v2 add")), ("v1 add", true, 1));
    place.put("math.wasm", "v3 add");
    let registry = room.serves("add", "v3 add").await;
    assert!(!is_rolled_back(&registry));
    place.put("math.wasm", "v2 add");
    room.serves("add", "v2 add").await;
    place.history(&["v2 Current", "v3 Good", "v1 Good"]).await;
    room.stop().await;
}

#[tokio::test]
async fn a_guard_lets_be_what_is_not_worse_than_before_and_what_was_there_first() {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    // There is nothing to go back to, so nothing is on trial.
    attempts(&*room.serves("add", "v1 add").await, 50, false);
    place.put("math.wasm", "v2 add");
    attempts(&*room.serves("add", "v2 add").await, 50, false);
    place.put("other.wasm", "v1 concat");
    let registry = room.serves("concat", "v1 concat").await;
    assert_eq!((served(&registry, "add"), is_rolled_back(&registry)), ("v2 add", false), "v1 failed as often");
    room.stop().await;
}

#[tokio::test]
async fn workers_of_one_directory_go_back_together() {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let (mut one, mut two) = (place.start(), place.start());
    one.serves("add", "v1 add").await;
    two.serves("add", "v1 add").await;
    place.put("math.wasm", "v2 add");
    two.serves("add", "v2 add").await;
    attempts(&*one.serves("add", "v2 add").await, 5, false);
    one.serves("add", "v1 add").await;
    let registry = two.serves("add", "v1 add").await;
    assert!(is_rolled_back(&registry), "{registry:#?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn by_hand_it_goes_back_one_version_each_time_and_says_when_there_is_none() {
    let place = Place::new();
    let refused = |what: &str| {
        let error = roll_back(&place.dir(), &place.state(), what).unwrap_err().to_string();
        assert!(!error.is_empty());
        error
    };
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    for version in ["v1 add", "v2 add", "v3 add"] {
        place.put("math.wasm", version);
        room.serves("add", version).await;
    }
    place.history(&["v3 Current", "v2 Good", "v1 Good"]).await;
    let asked = roll_back(&place.dir(), &place.state(), "math").unwrap();
    assert_eq!((asked.to.version.as_str(), asked.attended), ("v2", true));
    let registry = room.serves("add", "v2 add").await;
    assert!(info(&registry, "math.wasm").error.as_ref().unwrap().contains("rolled back by hand to version v2"), "{registry:#?}");
    place.history(&["v2 Current", "v3 RolledBack", "v1 Good"]).await;
    roll_back(&place.dir(), &place.state(), "math.wasm").unwrap();
    room.serves("add", "v1 add").await;
    place.history(&["v1 Current", "v2 RolledBack", "v3 RolledBack"]).await;
    assert!(refused("math").contains("no version of math.wasm to go back to"));
    assert!(refused("mat").contains("did you mean `math`?"));
    assert!(refused("../math").contains("a plugin's name"));
    fs::remove_file(place.at("math.wasm")).unwrap();
    assert!(refused("math").contains("not in the plugin directory"));
    room.serves("add", "").await;
    room.stop().await;
}

#[tokio::test]
async fn without_a_worker_a_rollback_holds_from_the_next_start() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("math.wasm", "v2 add");
    room.serves("add", "v2 add").await;
    place.history(&["v2 Current", "v1 Good"]).await;
    room.stop().await;
    let asked = roll_back(&place.dir(), &place.state(), "math").unwrap();
    assert_eq!((asked.to.version.as_str(), asked.attended), ("v1", false));
    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!((served(&registry, "add"), is_rolled_back(&registry), place.loads("v2 add")), ("v1 add", true, 1));
    place.history(&["v1 Current", "v2 RolledBack"]).await;
    room.stop().await;
    // Bytes that no worker has seen: what served last stays.
    place.put("math.wasm", "v3 add");
    assert_eq!(roll_back(&place.dir(), &place.state(), "math").unwrap().to.version, "v1");
    let mut room = place.start();
    assert_eq!((served(&*room.first().await, "add"), place.loads("v3 add")), ("v1 add", 0));
    room.stop().await;
}

#[tokio::test]
async fn a_version_that_is_spoilt_is_passed_over_and_without_any_the_present_one_stays() {
    let place = Place::new();
    let mut room = place.start();
    for version in ["v1 add", "v2 add", "v3 add"] {
        place.put("math.wasm", version);
        room.serves("add", version).await;
    }
    place.history(&["v3 Current", "v2 Good", "v1 Good"]).await;
    place.spoil_kept("v2 add");
    // What is still in memory would do.
    room.stop().await;
    let mut room = place.start();
    room.first().await;
    roll_back(&place.dir(), &place.state(), "math").unwrap();
    room.serves("add", "v1 add").await;
    place.history(&["v1 Current", "v3 RolledBack", "v2 Refused"]).await;
    place.put("math.wasm", "v4 add");
    room.serves("add", "v4 add").await;
    place.history(&["v4 Current", "v1 Good", "v3 RolledBack", "v2 Refused"]).await;
    place.spoil_kept("v1 add");
    room.stop().await;
    let mut room = place.start();
    room.first().await;
    roll_back(&place.dir(), &place.state(), "math").unwrap();
    let begun = Instant::now();
    while history(&place.dir(), &place.state(), "math").unwrap().iter().filter(|g| g.state == GenerationState::Refused).count() < 2 {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    place.put("text.wasm", "v1 concat");
    let registry = room.serves("concat", "v1 concat").await;
    assert_eq!((served(&registry, "add"), is_rolled_back(&registry)), ("v4 add", false));
    room.stop().await;
}

#[tokio::test]
async fn a_history_that_is_garbage_begins_anew() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.history(&["v1 Current"]).await;
    room.stop().await;
    let kept = fs::read_dir(place.state()).unwrap().next().unwrap().unwrap().path();
    fs::write(kept.join("history.json"), "garbage").unwrap();
    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!(served(&registry, "add"), "v1 add");
    assert!(registry.warnings.iter().any(|warning| warning.contains("history of the plugins is unreadable")), "{:?}", registry.warnings);
    place.history(&["v1 Current"]).await;
    room.stop().await;
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn where_others_may_write_is_told_and_refused_if_so_set() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    chmod(&place.dir(), 0o777);
    let mut room = place.start();
    let registry = room.serves("add", "v1 add").await;
    assert!(registry.warnings.iter().any(|warning| warning.contains("chmod go-w")), "{:?}", registry.warnings);
    room.stop().await;

    let open = |writable| {
        let loader = TextLoader { slow: place.slow.clone(), loads: place.loads.clone() };
        crate::plugins::open(PluginsSettings { writable, ..place.settings() }, loader)
    };
    let error = open(Writable::Refuse).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("others may write to it") && error.contains("chmod go-w"), "{error}");
    chmod(&place.dir(), 0o755);
    let mut room = Place::run(open(Writable::Refuse).unwrap());
    room.serves("add", "v1 add").await;

    chmod(&place.dir(), 0o775);
    room.until("the directory is refused", |registry| registry.warnings.iter().any(|warning| warning.contains("chmod go-w"))).await;
    place.put("math.wasm", "v2 add");
    chmod(&place.at("math.wasm"), 0o666);
    chmod(&place.dir(), 0o755);
    let registry = room.until("the file is refused", |registry| has_failed(registry, "math.wasm")).await;
    let about = info(&registry, "math.wasm");
    assert!(about.error.as_ref().unwrap().contains("math.wasm: others may write to it"), "{about:?}");
    assert_eq!(served(&registry, "add"), "v1 add", "what served goes on");
    chmod(&place.at("math.wasm"), 0o644);
    room.serves("add", "v2 add").await;
    room.stop().await;
}
