//! The plugin directory with the real engine and the real `math` and `text`: files that are dropped in serve, and go on serving.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use taskhost::{
    engine::{About, Call, Engine, EngineSettings, Limits, ServiceError, Services, System},
    plugins::{Plugin, Plugins, PluginsError, PluginsSettings, Registry, Writable, inspect},
};
use taskhost_core::{
    catalogue::{PluginInfo, PluginStatus},
    task::{LogLine, Millis, Outcome, Progress, QueueName, TaskId, TaskName},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The limit of each wait. A test reaches it only if the event never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// The bytes of a plugin that `cargo xtask plugins` has built.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(format!("{name}.wasm"));
    fs::read(&path).unwrap_or_else(|e| panic!("{e}: run `cargo xtask plugins` to build {}", path.display()))
}

/// The same plugin with other bytes: a custom section at its end.
pub(crate) fn variant(bytes: &[u8], n: u8) -> Vec<u8> {
    [bytes, &[0, 3, 1, b'n', n]].concat()
}

/// A worker's directories, and the engine that serves them.
pub(crate) struct Place {
    pub(crate) root: tempfile::TempDir,
    engine: Arc<Engine>,
}

pub(crate) struct Room {
    pub(crate) engine: Arc<Engine>,
    pub(crate) registry: watch::Receiver<Arc<Registry>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("plugins")).unwrap();
        let settings = EngineSettings {
            slots: 8,
            guest_memory: 1 << 30,
            descriptors: None,
            threads: 2,
            cache: Some(root.path().join("cache")),
            state: Some(root.path().join("state")),
            cache_bytes: 1 << 30,
            compiler: None,
            network: Arc::new(System),
        };
        Self { engine: Engine::start(settings).unwrap(), root }
    }

    pub(crate) fn at(&self, file: &str) -> PathBuf {
        self.root.path().join("plugins").join(file)
    }

    pub(crate) fn put(&self, file: &str, bytes: &[u8]) {
        let new = self.at(&format!(".{file}.new"));
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.at(file)).unwrap();
    }

    pub(crate) fn start(&self) -> Room {
        let settings = PluginsSettings {
            dir: self.root.path().join("plugins"),
            state: self.root.path().join("state"),
            policy: None,
            trust: None,
            writable: Writable::default(),
            limits: Limits::default(),
        };
        let plugins = Plugins::open(settings, self.engine.clone()).unwrap();
        let (registry, shutdown) = (plugins.registry(), CancellationToken::new());
        let task = tokio::spawn(plugins.run(shutdown.clone()));
        Room { engine: self.engine.clone(), registry, shutdown, task }
    }
}

impl Room {
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Registry) -> bool) -> Arc<Registry> {
        let found = tokio::time::timeout(LIMIT, self.registry.wait_for(|registry| wanted(registry))).await;
        if let Ok(Ok(registry)) = found {
            return registry.clone();
        }
        drop(found);
        panic!("{what}: still {:#?}", self.registry.borrow())
    }

    async fn first(&mut self) -> Arc<Registry> {
        tokio::time::timeout(LIMIT, self.registry.changed()).await.unwrap().unwrap();
        self.registry.borrow().clone()
    }

    /// Calls `body` on the plugin that serves it now, like a worker.
    async fn call(&self, body: &str, args: &str) -> Outcome {
        let plugin = self.registry.borrow().resolve(&TaskName::new(body).unwrap()).cloned();
        run(&self.engine, &plugin.unwrap_or_else(|| panic!("nobody offers {body}")), body, args).await
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

pub(crate) async fn run(engine: &Arc<Engine>, plugin: &Plugin, body: &str, args: &str) -> Outcome {
    let about = About {
        task_id: TaskId::fresh(),
        queue: QueueName::default(),
        attempt: 1,
        max_attempts: 1,
        enqueued_at: Millis(0),
        headers: Vec::new(),
        trace: None,
    };
    let call = Call {
        terms: plugin.terms().into(),
        body: body.to_owned(),
        args: args.to_owned(),
        about,
        timeout: Duration::from_secs(60),
        cancelled: CancellationToken::new(),
        grace: Duration::from_secs(1),
        services: Arc::new(NoServices),
    };
    engine.invoke(call).await.outcome
}

/// No body here calls the broker.
struct NoServices;

#[async_trait::async_trait]
impl Services for NoServices {
    fn log_so_far(&self, _lines: String) {}

    async fn kv_get(&self, _: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        Ok(None)
    }
    async fn kv_set(&self, _: &str, _: Vec<u8>) -> Result<(), ServiceError> {
        Ok(())
    }
    async fn kv_remove(&self, _: &str) -> Result<bool, ServiceError> {
        Ok(false)
    }
    async fn kv_increment(&self, _: &str, by: i64) -> Result<i64, ServiceError> {
        Ok(by)
    }
    async fn kv_keys(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<String>, ServiceError> {
        Ok(Vec::new())
    }
    fn progress(&self, _: Progress) {}
    fn log(&self, _: &LogLine) {}
}

pub(crate) fn done(result: &str) -> Outcome {
    Outcome::Done { result: result.into(), children: Vec::new() }
}

fn has(registry: &Registry, body: &str) -> bool {
    registry.resolve(&TaskName::new(body).unwrap()).is_some()
}

fn info<'a>(registry: &'a Registry, file: &str) -> Option<&'a PluginInfo> {
    registry.files.iter().find(|info| info.file == file)
}

pub(crate) fn digest_of<'a>(registry: &'a Registry, body: &str) -> &'a str {
    registry.resolve(&TaskName::new(body).unwrap()).map_or("", |plugin| &plugin.id.digest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_file_runs_and_a_removed_one_is_unloaded() {
    let place = Place::new();
    let mut room = place.start();
    assert!(room.first().await.bodies.is_empty());
    place.put("math.wasm", &built("math"));
    let registry = room.until("`add`", |r| has(r, "add")).await;
    assert_eq!(room.call("add", "[1,1]").await, done("2"));
    let info = info(&registry, "math.wasm").unwrap();
    assert_eq!((info.status, &info.error), (PluginStatus::Serving, &None));
    assert_eq!(info.serving.as_ref().unwrap().digest.len(), 64);
    fs::remove_file(place.at("math.wasm")).unwrap();
    room.until("`add` to go", |r| !has(r, "add")).await;
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_a_plugin_is_replaced_copied_over_renamed_and_spoilt() {
    let place = Place::new();
    let math = built("math");
    place.put("math.wasm", &math);
    let mut room = place.start();
    let first = room.until("`add`", |r| has(r, "add")).await;

    let (calls, stop) = (room.registry.clone(), CancellationToken::new());
    let (engine, stopped) = (room.engine.clone(), stop.clone());
    let caller = tokio::spawn(async move {
        let mut made = 0;
        while !stopped.is_cancelled() {
            let plugin = calls.borrow().resolve(&TaskName::new("add").unwrap()).cloned().expect("`add` is served without a gap");
            assert_eq!(run(&engine, &plugin, "add", "[40,2]").await, done("42"));
            made += 1;
        }
        made
    });

    place.put("math.wasm", &variant(&math, 1));
    let second = room.until("the replacement", |r| !["", digest_of(&first, "add")].contains(&digest_of(r, "add"))).await;

    let (path, copy) = (place.at("math.wasm"), variant(&math, 2));
    let copying = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut file = fs::File::create(path).unwrap();
        for piece in copy.chunks(copy.len() / 8) {
            file.write_all(piece).unwrap();
            // A slow copy.
            std::thread::sleep(Duration::from_millis(150));
        }
    });
    let old = [digest_of(&first, "add"), digest_of(&second, "add")];
    let third = room.until("the copy", |r| !old.contains(&digest_of(r, "add"))).await;
    copying.await.unwrap();

    fs::rename(place.at("math.wasm"), place.at("arith.wasm")).unwrap();
    let renamed = room.until("the new name", |r| info(r, "arith.wasm").is_some_and(|i| i.serving.is_some())).await;
    assert_eq!(digest_of(&renamed, "add"), digest_of(&third, "add"));
    assert!(info(&renamed, "math.wasm").is_none());

    fs::write(place.at("arith.wasm"), "garbage").unwrap();
    let spoilt = room.until("an error", |r| info(r, "arith.wasm").is_some_and(|i| i.status == PluginStatus::Failed)).await;
    assert!(info(&spoilt, "arith.wasm").unwrap().error.as_ref().unwrap().contains("not WebAssembly"));
    assert_eq!(digest_of(&spoilt, "add"), digest_of(&third, "add"));

    stop.cancel();
    assert!(caller.await.unwrap() > 0);
    room.stop().await;

    let mut again = place.start();
    let registry = again.first().await;
    assert_eq!(digest_of(&registry, "add"), digest_of(&third, "add"), "the last good version outlives a restart");
    assert_eq!(again.call("add", "[1,1]").await, done("2"));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_module_and_a_cut_off_file_are_refused_with_what_to_do() {
    let place = Place::new();
    place.put("core.wasm", b"\0asm\x01\0\0\0");
    place.put("cut.wasm", &built("math")[..1000]);
    place.put("math.wasm", &built("math"));
    let mut room = place.start();
    let registry = room.first().await;
    let error = |file| info(&registry, file).unwrap().error.clone().unwrap();
    assert!(error("core.wasm").contains("wasm32-wasip2"), "{}", error("core.wasm"));
    assert_eq!(info(&registry, "cut.wasm").unwrap().status, PluginStatus::Failed);
    assert!(!error("cut.wasm").is_empty());
    assert!(has(&registry, "add"), "bad neighbours change nothing");
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_is_inspected_without_a_directory() {
    let place = Place::new();
    place.put("math.wasm", &built("math"));
    let policy = place.root.path().join("taskhost.toml");
    fs::write(&policy, "[plugins.math]\nmemory = \"32MiB\"\n").unwrap();
    let inspection = inspect(&place.at("math.wasm"), &place.engine, Some(&policy), None, &Limits::default()).await.unwrap();
    assert!(inspection.has_policy);
    assert_eq!((inspection.plugin.id.plugin.as_str(), inspection.plugin.limits.memory), ("math", 32 << 20));
    assert!(inspection.plugin.description.bodies.iter().any(|body| body.name.as_str() == "add"));
    assert!(!inspection.imports.iter().any(|import| import.starts_with("wasi:http")), "{:?}", inspection.imports);
    assert_eq!(run(&place.engine, &inspection.plugin, "add", "[1,1]").await, done("2"));
    place.put("bad.wasm", b"garbage");
    let error = inspect(&place.at("bad.wasm"), &place.engine, None, None, &Limits::default()).await.unwrap_err();
    assert!(matches!(&error, PluginsError::File(text) if text.starts_with("bad.wasm: ")), "{error}");
}
