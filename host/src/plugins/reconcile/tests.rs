//! The whole room on a real directory, with a loader that takes text for components: `VERSION BODY…`.

use std::{fs, os::unix::fs::symlink, path::Path};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::plugins::{
    PluginsSettings,
    loads::{LoadError, Loaded},
};
use taskhost_core::{
    catalogue::{Body, Description, Hints, PluginInfo, PluginStatus},
    task::TaskName,
};

mod files;
mod machine;
mod moments;
mod past;
mod policies;
mod signatures;
mod start;

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
    registry: channel::Receiver<Arc<Registry<String>>>,
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
        let registry = reconciler.subscribe();
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
