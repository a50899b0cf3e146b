//! The whole room on a real directory, with a loader that takes text for components: `VERSION BODY…`.

use std::{fs, os::unix::fs::symlink, path::Path};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::plugins::{PluginsSettings, loads::LoadError};
use taskhost_core::{
    catalogue::{Body, Description, Hints, PluginStatus},
    task::TaskName,
};

mod moments;
mod past;

/// No test comes near it unless what it waits for never happens.
const LIMIT: Duration = Duration::from_secs(60);

/// `bad …` never loads; `slow …` waits for a permit; `busy …` fails twice first; `stuck …` always, and is the machine's fault.
struct TextLoader {
    slow: Arc<Semaphore>,
    loads: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Loader for TextLoader {
    type Code = String;
    async fn load(&self, bytes: Arc<[u8]>, _digest: &str) -> Result<Loaded<String>, LoadError> {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let tries = {
            let mut loads = self.loads.lock();
            loads.push(text.clone());
            loads.iter().filter(|load| **load == text).count()
        };
        let mut words = text.split_whitespace().map(str::to_owned);
        let version = words.next().unwrap_or_default();
        match version.as_str() {
            "slow" => drop(self.slow.acquire().await),
            "stuck" => return Err(LoadError::Busy("no space left on device".into())),
            "busy" if tries < 2 => return Err(LoadError::Busy("describe had no time".into())),
            "crash" => panic!("a fault of the host"),
            v if v.starts_with('v') || v == "busy" => {}
            _ => return Err(LoadError::Bad("not a component: build one".into())),
        }
        let body = |name: String| Body {
            name: TaskName::new(name).unwrap(),
            doc: String::new(),
            parameters: Vec::new(),
            returns: serde_json::Value::Bool(true),
            hints: Hints::default(),
        };
        let description = Description { version, doc: String::new(), bodies: words.map(body).collect() };
        Ok(Loaded { code: Arc::new(text), description, warnings: Vec::new(), memory: 1 << 20 })
    }
}

/// A plugin directory, its state and its policies; the room is started and stopped on it.
struct Place {
    root: tempfile::TempDir,
    slow: Arc<Semaphore>,
    loads: Arc<Mutex<Vec<String>>>,
}

struct Room {
    registry: watch::Receiver<Arc<Registry<String>>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Place {
    fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap(), slow: Arc::new(Semaphore::new(0)), loads: Arc::default() };
        fs::create_dir(place.dir()).unwrap();
        fs::write(place.policy(), "").unwrap();
        place
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("plugins")
    }

    fn policy(&self) -> PathBuf {
        self.root.path().join("taskhost.toml")
    }

    fn at(&self, file: &str) -> PathBuf {
        self.dir().join(file)
    }

    /// As a careful operator does it: written beside, then renamed.
    fn put(&self, file: &str, text: &str) {
        let new = self.at(&format!(".{file}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.at(file)).unwrap();
    }

    fn loads(&self, text: &str) -> usize {
        self.loads.lock().iter().filter(|load| **load == text).count()
    }

    fn start(&self) -> Room {
        self.start_trusting(None)
    }

    fn start_trusting(&self, trust: Option<PathBuf>) -> Room {
        Self::run(self.open(trust))
    }

    fn open(&self, trust: Option<PathBuf>) -> Reconciler<TextLoader> {
        let loader = TextLoader { slow: self.slow.clone(), loads: self.loads.clone() };
        crate::plugins::open(PluginsSettings { trust, ..self.settings() }, loader).unwrap()
    }

    fn settings(&self) -> PluginsSettings {
        PluginsSettings {
            dir: self.dir(),
            state: self.root.path().join("state"),
            policy: Some(self.policy()),
            trust: None,
            writable: Writable::default(),
            limits: Limits::default(),
        }
    }

    fn run(reconciler: Reconciler<TextLoader>) -> Room {
        let registry = reconciler.registry.subscribe();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(reconciler.run(shutdown.clone()));
        Room { registry, shutdown, task }
    }
}

impl Room {
    async fn until(&mut self, what: &str, wanted: impl Fn(&Registry<String>) -> bool) -> Arc<Registry<String>> {
        let found = tokio::time::timeout(LIMIT, self.registry.wait_for(|registry| wanted(registry))).await;
        if let Ok(Ok(registry)) = found {
            return registry.clone();
        }
        drop(found);
        panic!("{what}: still {:#?}", self.registry.borrow())
    }

    /// The first one that is published.
    async fn first(&mut self) -> Arc<Registry<String>> {
        tokio::time::timeout(LIMIT, self.registry.changed()).await.unwrap().unwrap();
        self.registry.borrow().clone()
    }

    /// Until `body` is served by this text; by nobody, if empty.
    async fn serves(&mut self, body: &str, text: &str) -> Arc<Registry<String>> {
        self.until(&format!("`{body}` served by `{text}`"), |registry| served(registry, body) == text).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

fn served<'a>(registry: &'a Registry<String>, body: &str) -> &'a str {
    registry.resolve(&TaskName::new(body).unwrap()).map_or("", |plugin| plugin.code.as_str())
}

fn info<'a>(registry: &'a Registry<String>, file: &str) -> &'a PluginInfo {
    registry.files.iter().find(|info| info.file == file).unwrap_or_else(|| panic!("no {file} in {registry:#?}"))
}

fn has_failed(registry: &Registry<String>, file: &str) -> bool {
    registry.files.iter().any(|info| info.file == file && info.status == PluginStatus::Failed)
}

#[tokio::test]
async fn a_file_dropped_in_serves_a_replaced_one_is_swapped_and_a_removed_one_unloaded() {
    let place = Place::new();
    let mut room = place.start();
    assert!(room.first().await.bodies.is_empty(), "an empty directory is published too");
    place.put("math.wasm", "v1 add");
    let registry = room.serves("add", "v1 add").await;
    let old = registry.resolve(&TaskName::new("add").unwrap()).unwrap().clone();
    place.put("math.wasm", "v2 add multiply");
    room.serves("multiply", "v2 add multiply").await;
    assert_eq!((*old.code).as_str(), "v1 add", "who runs on the old one keeps it");
    fs::remove_file(place.at("math.wasm")).unwrap();
    let registry = room.serves("add", "").await;
    assert!(registry.files.is_empty());
    room.stop().await;
}

#[tokio::test]
async fn the_first_registry_has_every_file() {
    let place = Place::new();
    for n in 0..20 {
        place.put(&format!("p{n}.wasm"), &format!("v1 body{n}"));
    }
    place.put("q.wasm", "bad");
    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!((registry.bodies.len(), registry.files.len()), (20, 21));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_takes_long_does_not_keep_the_others_from_serving() {
    let place = Place::new();
    place.put("late.wasm", "slow add");
    place.put("text.wasm", "v1 concat");
    let started = Instant::now();
    let mut room = place.start();
    let registry = room.first().await;
    assert!(started.elapsed() >= FIRST_LIMIT && started.elapsed() < EMPTY_LIMIT / 2, "after {:?}", started.elapsed());
    assert_eq!((served(&registry, "concat"), info(&registry, "late.wasm").status), ("v1 concat", PluginStatus::Loading));
    place.slow.add_permits(1);
    room.serves("add", "slow add").await;
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_ready_the_first_registry_does_not_wait_for_ever() {
    let place = Place::new();
    place.put("late.wasm", "slow add");
    let started = Instant::now();
    let mut room = place.start();
    assert!(room.first().await.bodies.is_empty());
    assert!(started.elapsed() >= EMPTY_LIMIT, "after {:?}", started.elapsed());
    room.stop().await;
}

#[tokio::test]
async fn who_is_loaded_first_takes_no_name_by_that() {
    let place = Place::new();
    place.put("alpha.wasm", "slow add");
    place.put("zeta.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.slow.add_permits(1);
    room.serves("add", "slow add").await;
    // From then on a name stays with its owner.
    place.put("aaa.wasm", "v2 add");
    room.until("a refusal", |r| has_failed(r, "aaa.wasm")).await;
    room.stop().await;
}

#[tokio::test]
async fn a_plugin_that_comes_while_the_start_goes_on_takes_no_name() {
    let place = Place::new();
    place.put("late.wasm", "slow concat");
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("aaa.wasm", "v2 add");
    let registry = room.until("a refusal", |r| has_failed(r, "aaa.wasm")).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    room.stop().await;
}

#[tokio::test]
async fn the_machines_trouble_is_shown_and_not_remembered() {
    let place = Place::new();
    place.put("math.wasm", "stuck add");
    place.put("text.wasm", "busy concat");
    let mut room = place.start();
    let registry = room.serves("concat", "busy concat").await;
    let about = info(&registry, "math.wasm");
    assert_eq!(about.status, PluginStatus::Loading);
    let error = about.error.clone().unwrap();
    assert!(error.contains("no space left on device") && error.contains("tried again"), "{error}");
    room.stop().await;
}

#[tokio::test]
async fn last_good_bytes_that_the_disk_would_not_have_are_kept_when_it_has_room() {
    let place = Place::new();
    let mut room = place.start();
    room.first().await;
    let state = fs::read_dir(place.root.path().join("state")).unwrap().next().unwrap().unwrap().path();
    let mine = |mode| fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    // Nothing is written where others may enter: as good a trouble as a full disk, and this user may be root.
    mine(0o750);
    place.put("math.wasm", "v1 add");
    let told = |r: &Registry<String>| info(r, "math.wasm").warnings.iter().any(|warning| warning.contains("cannot keep the last good"));
    room.serves("add", "v1 add").await;
    room.until("it is told", told).await;
    mine(0o700);
    room.until("it is kept", |r| !told(r)).await;
    room.stop().await;
    fs::write(place.at("math.wasm"), "garbage").unwrap();
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_stays_away_is_taken_as_empty() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    let gone = Instant::now();
    fs::remove_dir_all(place.dir()).unwrap();
    let registry = room.serves("add", "").await;
    assert!(gone.elapsed() >= GONE_GRACE, "after {:?}", gone.elapsed());
    assert!(registry.warnings.iter().any(|w| w.contains("the plugin directory is gone")));
    room.stop().await;
}

#[tokio::test]
async fn a_name_stays_with_its_owner_across_a_restart() {
    let place = Place::new();
    place.put("zeta.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("alpha.wasm", "v2 add");
    let registry = room.until("a refusal", |r| has_failed(r, "alpha.wasm")).await;
    let error = info(&registry, "alpha.wasm").error.clone().unwrap();
    assert!(error.contains("`add` of alpha.wasm is offered by zeta.wasm already"), "{error}");
    room.stop().await;
    let mut room = place.start();
    assert_eq!(served(&*room.first().await, "add"), "v1 add", "though alpha comes first by name");
    room.stop().await;
}

#[tokio::test]
async fn two_files_change_places_without_a_gap() {
    let place = Place::new();
    place.put("a.wasm", "v1 add");
    place.put("b.wasm", "v1 concat");
    let mut room = place.start();
    room.first().await;
    let mut watched = room.registry.clone();
    let gap = tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            let registry = watched.borrow_and_update().clone();
            assert_eq!((served(&registry, "add"), served(&registry, "concat")), ("v1 add", "v1 concat"));
        }
    });
    fs::rename(place.at("a.wasm"), place.at("aside")).unwrap();
    fs::rename(place.at("b.wasm"), place.at("a.wasm")).unwrap();
    fs::rename(place.at("aside"), place.at("b.wasm")).unwrap();
    room.until("the exchange", |r| r.resolve(&TaskName::new("add").unwrap()).is_some_and(|p| p.file == "b.wasm")).await;
    room.stop().await;
    gap.await.unwrap();
}

#[tokio::test]
async fn garbage_leaves_the_last_good_version_serving_also_after_a_restart() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::write(place.at("math.wasm"), "garbage").unwrap();
    let registry = room.until("an error", |r| has_failed(r, "math.wasm")).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    assert_eq!(info(&registry, "math.wasm").error.as_deref(), Some("not a component: build one"));
    room.stop().await;

    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!(served(&registry, "add"), "v1 add");
    assert!(has_failed(&registry, "math.wasm"));
    assert_eq!(info(&registry, "math.wasm").serving.as_ref().unwrap().version, "v1");
    room.stop().await;

    fs::remove_file(place.at("math.wasm")).unwrap();
    let mut room = place.start();
    assert!(room.first().await.files.is_empty(), "what is absent at the start is not served");
    room.stop().await;
}

#[tokio::test]
async fn a_changed_last_good_version_is_not_served_after_a_restart() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::write(place.at("math.wasm"), "garbage").unwrap();
    room.until("an error", |r| has_failed(r, "math.wasm")).await;
    room.stop().await;
    let kept = fs::read_dir(place.root.path().join("state")).unwrap().next().unwrap().unwrap().path();
    for entry in fs::read_dir(kept).unwrap().map(Result::unwrap).filter(|e| e.file_name().to_string_lossy().ends_with(".wasm")) {
        fs::write(entry.path(), "v6 add").unwrap();
    }
    let mut room = place.start();
    let registry = room.first().await;
    assert!(registry.bodies.is_empty() && has_failed(&registry, "math.wasm"));
    room.stop().await;
}

#[tokio::test]
async fn a_rename_never_leaves_a_body_unserved() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    let mut watched = room.registry.clone();
    let gap = tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            let registry = watched.borrow_and_update().clone();
            assert_eq!(served(&registry, "add"), "v1 add");
        }
    });
    fs::rename(place.at("math.wasm"), place.at("arith.wasm")).unwrap();
    let registry = room.until("the new name", |r| r.files.iter().any(|i| i.file == "arith.wasm" && i.serving.is_some())).await;
    assert_eq!(registry.resolve(&TaskName::new("add").unwrap()).unwrap().id.plugin, "arith");
    assert_eq!(registry.files.len(), 1, "the old name is gone at once: {registry:?}");
    assert_eq!(place.loads("v1 add"), 1, "the same bytes are compiled once");
    room.stop().await;
    gap.await.unwrap();
}

#[tokio::test]
async fn a_file_being_compiled_shows_as_loading_while_its_last_good_version_serves() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("math.wasm", "slow add");
    let loading = |r: &Registry<String>| r.files.iter().any(|i| i.status == PluginStatus::Loading);
    let registry = room.until("loading", loading).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    place.slow.add_permits(1);
    let registry = room.serves("add", "slow add").await;
    assert_eq!(info(&registry, "math.wasm").status, PluginStatus::Serving);
    room.stop().await;
}

#[tokio::test]
async fn a_slow_copy_over_a_file_ends_with_the_whole_of_it() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    let path = place.at("math.wasm");
    let copy = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut file = fs::File::create(path).unwrap();
        for piece in ["v2", " add", " sub", "tract", " mul", "tiply"] {
            file.write_all(piece.as_bytes()).unwrap();
            file.sync_all().unwrap();
            // The copy is slow by itself; nothing waits for this.
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    room.serves("multiply", "v2 add subtract multiply").await;
    copy.await.unwrap();
    room.stop().await;
}

#[tokio::test]
async fn many_quick_replacements_end_with_the_newest() {
    let place = Place::new();
    let mut room = place.start();
    for n in 1..=50 {
        place.put("math.wasm", &format!("v{n} add"));
        tokio::task::yield_now().await;
    }
    room.serves("add", "v50 add").await;
    room.stop().await;
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_through_its_links() {
    let place = Place::new();
    let volume = |name: &str, text: &str| {
        fs::create_dir(place.at(name)).unwrap();
        fs::write(place.at(name).join("math.wasm"), text).unwrap();
    };
    volume("..one", "v1 add");
    symlink("..one", place.at("..data")).unwrap();
    symlink("..data/math.wasm", place.at("math.wasm")).unwrap();
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    volume("..two", "v2 add");
    symlink("..two", place.at("..data_tmp")).unwrap();
    fs::rename(place.at("..data_tmp"), place.at("..data")).unwrap();
    fs::remove_dir_all(place.at("..one")).unwrap();
    room.serves("add", "v2 add").await;
    room.stop().await;
}

#[tokio::test]
async fn a_directory_made_anew_is_followed_without_a_gap() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::remove_dir_all(place.dir()).unwrap();
    let gone = |r: &Registry<String>| r.warnings.iter().any(|w| w.contains("the plugin directory is gone"));
    let registry = room.until("the directory to be missed", gone).await;
    assert_eq!(served(&registry, "add"), "v1 add", "it may come back");
    assert!(info(&registry, "math.wasm").warnings.iter().any(|w| w.contains("is gone")), "`plugin list` shows it");
    fs::create_dir(place.dir()).unwrap();
    place.put("math.wasm", "v2 add");
    let registry = room.serves("add", "v2 add").await;
    assert!(!gone(&registry));
    place.put("text.wasm", "v1 concat");
    room.serves("concat", "v1 concat").await;
    room.stop().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_unloads_nothing() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::rename(place.dir(), place.root.path().join("aside")).unwrap();
    fs::write(place.dir(), "not a directory").unwrap();
    let registry = room.until("an error", |r| r.warnings.iter().any(|w| w.contains("cannot be read"))).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    room.stop().await;
}

/// What serves `transfer`.
fn plugin(registry: &Registry<String>) -> Arc<Plugin<String>> {
    registry.resolve(&TaskName::new("transfer").unwrap()).unwrap().clone()
}

#[tokio::test]
async fn a_new_policy_makes_a_new_plugin_of_the_same_code_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    place.put("org-transfer.wasm", "v1 transfer");
    let mut room = place.start();
    let before = plugin(&*room.serves("transfer", "v1 transfer").await);
    assert_eq!(before.concurrency, None);

    fs::write(place.policy(), "[plugins.org-transfer]\nconcurrency = 4\ntimeout = \"5m\"\n").unwrap();
    let after = plugin(&*room.until("the policy", |r| plugin(r).concurrency == Some(4)).await);
    assert!(Arc::ptr_eq(&before.code, &after.code) && before.id == after.id);
    assert_eq!(after.limits.timeout_ceiling, Some(Duration::from_secs(300)));

    fs::write(place.policy(), "[plugins.org-transfer]\nconcurrency = 4\nfiles = [{ host = \"gone\", guest = \"/in\" }]").unwrap();
    let registry =
        room.until("a warning", |r| info(r, "org-transfer.wasm").warnings.iter().any(|w| w.contains("is not a directory"))).await;
    let after = plugin(&registry);

    fs::write(place.policy(), "[plugins.org-transfer]\nconcurrency = 4\n\nmemroy = \"1GiB\"\n").unwrap();
    let registry = room.until("a warning", |r| r.warnings.iter().any(|w| w.contains("line 4, `plugins.org-transfer.memroy`"))).await;
    assert!(Arc::ptr_eq(&plugin(&registry), &after), "the last good policy stays in force");

    fs::write(place.policy(), "[plugins.org_transfer]\nconcurrency = 9\n").unwrap();
    let registry = room.until("a hint", |r| r.warnings.iter().any(|w| w.contains("write [plugins.org-transfer]"))).await;
    assert_eq!(plugin(&registry).concurrency, None);
    room.stop().await;
}

#[tokio::test]
async fn a_busy_machine_is_tried_again_and_a_crash_is_only_a_bad_plugin() {
    let place = Place::new();
    place.put("crash.wasm", "crash");
    place.put("math.wasm", "busy add");
    let mut room = place.start();
    let registry = room.serves("add", "busy add").await;
    assert!(info(&registry, "crash.wasm").error.as_ref().unwrap().contains("crashed"));
    assert_eq!(place.loads("crash"), 1, "what is bad is remembered");
    room.stop().await;
}

#[tokio::test]
async fn a_bad_name_or_an_unreadable_file_is_a_sentence() {
    let place = Place::new();
    place.put("Math v1.wasm", "v1 add");
    symlink("nothing", place.at("link.wasm")).unwrap();
    fs::create_dir(place.at("dir.wasm")).unwrap();
    let mut room = place.start();
    let registry = room.first().await;
    let errors: Vec<_> = registry.files.iter().map(|info| info.error.clone().unwrap_or_default()).collect();
    assert_eq!(
        errors,
        [
            "a plugin's name starts with a-z or 0-9 and has at most 64 characters of a-z 0-9 _ -: `Math v1`; rename the file",
            "dir.wasm is a directory, not a file: put the component itself there",
            "link.wasm is a symbolic link that leads nowhere: point it at the plugin, or remove it",
        ]
    );
    room.stop().await;
}

#[tokio::test]
async fn a_state_directory_that_fails_keeps_nothing_from_serving() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    fs::write(place.root.path().join("state"), "in the way").unwrap();
    let mut room = place.start();
    let registry = room.serves("add", "v1 add").await;
    assert!(registry.warnings.iter().any(|w| w.contains("cannot use the state directory")), "{:?}", registry.warnings);
    room.stop().await;
}

#[test]
fn a_missing_directory_is_refused_with_what_to_do() {
    let place = Place::new();
    fs::remove_dir(place.dir()).unwrap();
    let settings = |dir: &Path| PluginsSettings {
        dir: dir.to_owned(),
        state: place.root.path().join("state"),
        policy: None,
        trust: None,
        writable: Writable::default(),
        limits: Limits::default(),
    };
    let loader = || TextLoader { slow: place.slow.clone(), loads: place.loads.clone() };
    let error = |dir: &Path| crate::plugins::open(settings(dir), loader()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error(&place.dir()).starts_with("there is no plugin directory, make it or name another with --plugins"));
    assert!(error(&place.policy()).starts_with("the plugin directory cannot be read"));
}

#[tokio::test]
async fn a_signature_that_can_not_be_read_for_the_moment_unloads_nothing() {
    let place = Place::new();
    let keys = place.root.path().join("trusted.pub");
    let (key, public) = crate::plugins::keygen(None).unwrap();
    fs::write(&keys, &public).unwrap();
    let signature = place.at("math.wasm.minisig");
    fs::write(&signature, crate::plugins::sign(&key, None, b"v1 add", "math").unwrap()).unwrap();
    place.put("math.wasm", "v1 add");
    place.put("text.wasm", "v1 concat");
    // A directory can't be read as a file: as good a trouble as having no descriptor left.
    fs::create_dir(place.at("text.wasm.minisig")).unwrap();
    let mut room = place.start_trusting(Some(keys));
    let registry = room.serves("add", "v1 add").await;
    let about = info(&registry, "text.wasm");
    assert!(about.status == PluginStatus::Loading && about.error.as_ref().unwrap().contains("cannot be read"), "{about:?}");
    fs::remove_file(&signature).unwrap();
    fs::create_dir(&signature).unwrap();
    fs::remove_dir(place.at("text.wasm.minisig")).unwrap();
    let registry = room.until("the other one is refused", |r| has_failed(r, "text.wasm")).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    room.stop().await;
}

#[tokio::test]
async fn with_trust_required_only_signed_bytes_are_compiled_and_served() {
    let place = Place::new();
    let keys = place.root.path().join("trusted.pub");
    let ((old_key, old_public), (new_key, new_public)) = (crate::plugins::keygen(None).unwrap(), crate::plugins::keygen(None).unwrap());
    let sign = |file: &str, key: &str, text: &str| {
        let new = place.at(".sig");
        fs::write(&new, crate::plugins::sign(key, None, text.as_bytes(), file).unwrap()).unwrap();
        fs::rename(new, place.at(&format!("{file}.minisig"))).unwrap();
    };
    fs::write(&keys, &old_public).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start_trusting(Some(keys.clone()));
    let registry = room.until("it is refused", |registry| has_failed(registry, "math.wasm")).await;
    assert!(info(&registry, "math.wasm").error.as_ref().unwrap().contains("not signed"), "{registry:#?}");
    assert_eq!(place.loads("v1 add"), 0, "it is not even compiled");
    // The signature may come after the file.
    sign("math.wasm", &old_key, "v1 add");
    room.serves("add", "v1 add").await;
    // A replacement with a signature that is not its own: the last good one serves on.
    place.put("math.wasm", "v2 add");
    let registry = room.until("the new one is refused", |registry| has_failed(registry, "math.wasm")).await;
    assert!(info(&registry, "math.wasm").error.as_ref().unwrap().contains("changed after it was signed"), "{registry:#?}");
    assert_eq!((served(&registry, "add"), place.loads("v2 add")), ("v1 add", 0));
    room.stop().await;
    // After a restart too: its signature was kept with it.
    let mut room = place.start_trusting(Some(keys.clone()));
    room.serves("add", "v1 add").await;
    // A key that is not trusted, then is, then is the only one.
    sign("math.wasm", &new_key, "v2 add");
    room.until("the key is foreign", |registry| {
        registry.files.iter().any(|info| info.error.as_ref().is_some_and(|error| error.contains("not trusted here")))
    })
    .await;
    fs::write(&keys, format!("{old_public}{new_public}")).unwrap();
    room.serves("add", "v2 add").await;
    fs::write(&keys, "a slip of the pen").unwrap();
    room.until("the bad edit is shown", |registry| registry.warnings.iter().any(|warning| warning.contains("keys stay in force"))).await;
    fs::write(&keys, format!("# only the old one\n{old_public}")).unwrap();
    let registry = room.serves("add", "").await;
    assert!(has_failed(&registry, "math.wasm"), "nothing that the new key signed serves any more: {registry:#?}");
    room.stop().await;
}
