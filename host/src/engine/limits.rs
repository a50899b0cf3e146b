//! The limits of an attempt and the grants of its plugin: plain types.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// What an attempt may have as [`Limits::memory`]: from one page of a guest to all that a wasm32 guest can address.
pub const MEMORY: RangeInclusive<u64> = 64 << 10..=4 << 30;

/// The limits of one attempt. Each has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes: the sum of the attempt's memories and of the memory that the host keeps for it (requests, streams, listings, children).
    pub memory: u64,
    /// Elements: the sum of its tables.
    pub table_elements: u64,
    /// Handles in the resource table.
    pub resources: usize,
    /// Files, directories and connections open at once.
    pub descriptors: usize,
    /// The default, and the ceiling for hints and producers.
    pub timeout: Duration,
    pub timeout_ceiling: Option<Duration>,
    /// Attempts beyond the first, if the producer names no number: the ceiling of a hint, and the value without one. `None`: the worker's.
    pub retries: Option<u32>,
    /// CPU time. `None`: only the timeout limits it.
    pub cpu: Option<Duration>,
    /// Bytes of a result, of arguments, of a kv value.
    pub payload: usize,
    /// How many of the newest bytes of stdout and of stderr are kept.
    pub output: usize,
    /// How many lines and bytes of log are kept.
    pub log_bytes: usize,
    /// How often an attempt may report progress. Further reports are dropped.
    pub progress: u32,
    /// How many tasks an attempt may enqueue.
    pub children: usize,
    /// The bytes of all of them together.
    pub children_bytes: usize,
    /// Bytes of one HTTP response's body.
    pub http_response: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            table_elements: 100_000,
            resources: 10_000,
            descriptors: 128,
            timeout: Duration::from_secs(60),
            timeout_ceiling: None,
            retries: None,
            cpu: None,
            payload: 1 << 20,
            output: 8 << 10,
            log_bytes: 64 << 10,
            progress: 100_000,
            children: 1_000,
            children_bytes: 1 << 20,
            http_response: 64 << 20,
        }
    }
}

/// The operator's grants for a plugin; by default nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grants {
    pub http: Vec<HttpGrant>,
    pub env: BTreeMap<String, String>,
    /// The secrets, by the environment variable in which the guest finds a placeholder.
    pub secrets: BTreeMap<String, SecretGrant>,
    pub files: Vec<FileGrant>,
    pub kv: Option<KvGrant>,
    pub enqueue: Option<EnqueueGrant>,
}

/// Outgoing HTTP to one origin. The address it resolves to must be public unless the host is itself written as an address or as `localhost`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// `http` or `https`.
    pub scheme: String,
    /// Lower case. `*.example.com` means every host with exactly one label more than `example.com`.
    pub host: String,
    /// The scheme's default if the grant names no port.
    pub port: u16,
    /// In upper case. Empty: all methods.
    pub methods: Vec<String>,
    /// Whether requests carry the baggage of the attempt's trace.
    pub baggage: bool,
}

impl HttpGrant {
    /// All methods, without baggage.
    pub fn new(scheme: &str, host: impl Into<String>, port: u16) -> Self {
        Self { scheme: scheme.to_owned(), host: host.into(), port, methods: Vec::new(), baggage: false }
    }
}

/// A value that the guest never holds. It sees a placeholder. In headers of requests to the secret's origins, the host replaces the
/// placeholder by the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretGrant {
    pub source: SecretSource,
    pub origins: Vec<HttpGrant>,
}

/// Where the host finds a secret. It is read for each request, so it may be changed while a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the host's environment.
    Variable(String),
    /// A file of the host. Line breaks at its end are not part of the secret.
    File(PathBuf),
}

/// The plugin's own store in the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGrant {
    /// The bytes of all keys and values together.
    pub bytes: u64,
    pub keys: u64,
}

impl Default for KvGrant {
    fn default() -> Self {
        Self { bytes: 64 << 20, keys: 100_000 }
    }
}

/// The tasks that the plugin's attempts may enqueue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EnqueueGrant {
    /// Names. A name that ends with `*` means all names with that prefix.
    pub tasks: Vec<String>,
    /// Empty: only the attempt's own queue.
    pub queues: Vec<String>,
    /// The rate of all attempts of the plugin on this worker together.
    pub rate: Option<Rate>,
}

impl EnqueueGrant {
    pub(crate) fn allows_task(&self, name: &str) -> bool {
        self.tasks.iter().any(|task| match task.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == task,
        })
    }

    pub(super) fn allows_queue(&self, queue: &str, own: &str) -> bool {
        if self.queues.is_empty() { queue == own } else { self.queues.iter().any(|listed| listed == queue) }
    }
}

/// A number in a span of time, and the same number at once. Clones share one budget.
#[derive(Debug, Clone)]
pub struct Rate {
    pub count: u32,
    pub span: Duration,
    /// The rest of the budget, and when it was counted.
    left: Arc<Mutex<(f64, Instant)>>,
}

impl PartialEq for Rate {
    fn eq(&self, other: &Self) -> bool {
        (self.count, self.span) == (other.count, other.span)
    }
}

impl Rate {
    pub fn new(count: u32, span: Duration) -> Self {
        Self { count, span, left: Arc::new(Mutex::new((f64::from(count), Instant::now()))) }
    }

    pub(super) fn take(&self) -> bool {
        let mut left = self.left.lock();
        let now = Instant::now();
        let back = now.duration_since(left.1).as_secs_f64() / self.span.as_secs_f64().max(0.001) * f64::from(self.count);
        *left = ((left.0 + back).min(f64::from(self.count)), now);
        let taken = left.0 >= 1.0;
        if taken {
            left.0 -= 1.0;
        }
        taken
    }
}

/// One preopened directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGrant {
    pub host: PathBuf,
    /// Absolute, as the guest sees it.
    pub guest: String,
    pub mode: FileMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    ReadOnly,
    ReadWrite,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_allowed_as_they_stand_or_by_their_beginning() {
        let grant = EnqueueGrant { tasks: vec!["echo".into(), "mail.*".into(), "email:*".into()], ..EnqueueGrant::default() };
        assert!(grant.allows_task("email:send") && !grant.allows_task("email"));
        assert!(grant.allows_task("echo") && grant.allows_task("mail.send"));
        assert!(!grant.allows_task("echoes") && !grant.allows_task("mai"));
        assert!(grant.allows_queue("own", "own") && !grant.allows_queue("other", "own"));
        let listed = EnqueueGrant { queues: vec!["other".into()], ..grant };
        assert!(listed.allows_queue("other", "own") && !listed.allows_queue("own", "own"));
    }

    #[test]
    fn a_rate_is_used_up_and_shared_by_its_clones() {
        let rate = Rate::new(2, Duration::from_secs(3600));
        assert!(rate.take() && rate.clone().take() && !rate.take());
        let quick = Rate::new(1000, Duration::from_nanos(1000));
        assert!((0..5000).filter(|_| quick.take()).count() >= 1000);
    }
}
