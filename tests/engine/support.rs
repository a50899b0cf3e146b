//! The vocabulary of the engine's tests: a guest, a call, and its expected end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use taskhost::engine::{
    About, Attempted, Call, Code, Engine, EngineError, EngineSettings, EnqueueGrant, Grants, KvGrant, ServiceError, Services, System, Terms,
};
use taskhost_core::task::{ErrorKind, LogLine, Millis, Outcome, Progress, QueueName, TaskError, TaskId};
use tokio_util::sync::CancellationToken;

/// The timeout of calls that must not time out, also on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) fn settings() -> EngineSettings {
    EngineSettings {
        slots: 56,
        guest_memory: 8 << 30,
        descriptors: None,
        threads: 2,
        cache: None,
        state: Some(state().to_owned()),
        cache_bytes: 1 << 30,
        compiler: None,
        network: Arc::new(System),
    }
}

/// The directory with the key of compiled code. All engines of this process share it.
fn state() -> &'static Path {
    static STATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    STATE.get_or_init(private_dir).path()
}

/// The engine of all tests without special settings.
pub(crate) fn engine() -> &'static Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::start(settings()).expect("the engine starts"))
}

/// The bytes of a plugin that `cargo xtask plugins` has built.
pub(crate) fn plugin(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{error}: {}: run `cargo xtask plugins` first", path.display()))
}

pub(crate) async fn compile(engine: &Arc<Engine>, bytes: &[u8]) -> Result<Arc<Code>, EngineError> {
    let digest = format!("{:x}", Sha256::digest(bytes));
    engine.compile(bytes.into(), &digest).await
}

/// A guest of the shared engine, compiled.
pub(crate) async fn load(bytes: &[u8]) -> Arc<Code> {
    compile(engine(), bytes).await.expect("the guest compiles")
}

pub(crate) fn call(code: &Arc<Code>, body: &str, args: &str) -> Call {
    Call {
        terms: Arc::new(Terms { code: Arc::clone(code), plugin: "probe".into(), limits: Arc::default(), grants: Arc::new(granted()) }),
        body: body.into(),
        args: args.into(),
        about: About {
            task_id: TaskId::new("task-1").unwrap(),
            queue: QueueName::new("mail").unwrap(),
            attempt: 2,
            max_attempts: 4,
            enqueued_at: Millis(1_700_000_000_000),
            headers: vec![("traceparent".into(), "00-1".into())],
            trace: None,
        },
        timeout: LONG,
        cancelled: CancellationToken::new(),
        grace: LONG,
        services: Arc::new(Fake::default()),
    }
}

/// Grants kv, and any child into any queue that these tests name.
pub(crate) fn granted() -> Grants {
    let enqueue = EnqueueGrant { tasks: vec!["*".into()], queues: vec!["mail".into()], rate: None };
    Grants { kv: Some(KvGrant::default()), enqueue: Some(enqueue), ..Grants::default() }
}

pub(crate) async fn run(call: Call) -> Attempted {
    tokio::time::timeout(LONG, engine().invoke(call)).await.expect("the attempt ends")
}

pub(crate) fn result(attempted: Attempted) -> String {
    match attempted.outcome {
        Outcome::Done { result, .. } => result,
        other => panic!("no result but {other:?}"),
    }
}

pub(crate) fn error(attempted: Attempted) -> TaskError {
    match attempted.outcome {
        Outcome::Failed { error, .. } => error,
        other => panic!("no error but {other:?}"),
    }
}

/// The kind and the message of a failure.
pub(crate) fn told(attempted: Attempted) -> (ErrorKind, String) {
    let error = error(attempted);
    (error.kind, error.message)
}

/// The broker's part, in memory.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) kv: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(crate) progress: Mutex<Vec<Progress>>,
    pub(crate) lines: Mutex<Vec<LogLine>>,
    /// Every kv call fails.
    pub(crate) down: bool,
    /// No kv call ends. `asked` reports each.
    pub(crate) hangs: bool,
    pub(crate) asked: tokio::sync::Notify,
}

impl Fake {
    async fn up(&self) -> Result<(), ServiceError> {
        self.asked.notify_one();
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.down { Err(ServiceError::Unavailable("the broker is away".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Services for Fake {
    fn log_so_far(&self, _lines: String) {}

    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        // It is pending once, like the answer of a broker.
        tokio::task::yield_now().await;
        self.up().await?;
        Ok(self.kv.lock().unwrap().get(key).cloned())
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        self.up().await?;
        self.kv.lock().unwrap().insert(key.into(), value);
        Ok(())
    }

    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError> {
        self.up().await?;
        Ok(self.kv.lock().unwrap().remove(key).is_some())
    }

    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError> {
        self.up().await?;
        let mut kv = self.kv.lock().unwrap();
        let old = kv.get(key).map_or(0, |value| String::from_utf8_lossy(value).parse().unwrap());
        kv.insert(key.into(), (old + by).to_string().into_bytes());
        Ok(old + by)
    }

    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError> {
        self.up().await?;
        let kv = self.kv.lock().unwrap();
        Ok(kv.keys().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)).take(limit).cloned().collect())
    }

    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }

    fn log(&self, line: &LogLine) {
        self.lines.lock().unwrap().push(line.clone());
    }
}

/// A directory that only this user may enter.
pub(crate) fn private_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    dir
}

pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
