//! What an attempt may use, and what its plugin was granted: plain types.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Bounds of one attempt; every one has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes, summed over the attempt's memories and what the host keeps for it: requests, streams, listings, children.
    pub memory: u64,
    /// Elements, summed over its tables.
    pub table_elements: u64,
    /// Handles in the resource table.
    pub resources: usize,
    /// Files, directories and connections that are open at once.
    pub descriptors: usize,
    /// The default, and the ceiling of what hints and enqueuers may ask.
    pub timeout: Duration,
    pub timeout_ceiling: Option<Duration>,
    /// Attempts beyond the first, where the enqueuer names none: the ceiling of a hint, and what holds without one. `None`: the worker's.
    pub retries: Option<u32>,
    /// CPU time; `None`: only the timeout bounds it.
    pub cpu: Option<Duration>,
    /// Bytes of a result, of arguments, of a kv value.
    pub payload: usize,
    /// Bytes of stdout and of stderr that are kept, the newest.
    pub output: usize,
    /// Lines and bytes of log that are kept.
    pub log_bytes: usize,
    /// Times that an attempt may say its progress; the rest is dropped.
    pub progress: u32,
    /// Tasks an attempt may enqueue.
    pub children: usize,
    /// Bytes of them all together.
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

/// What the operator granted a plugin; by default nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grants {
    pub http: Vec<HttpGrant>,
    pub env: BTreeMap<String, String>,
    /// By the environment variable in which the guest finds a placeholder.
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
    /// Lower case. `*.example.com` stands for every host with exactly one label more than `example.com`.
    pub host: String,
    /// The scheme's default when it was left out.
    pub port: u16,
    /// In upper case; empty: all of them.
    pub methods: Vec<String>,
}

/// A value that the guest never holds: it sees a placeholder, which the host swaps for the value in the headers of requests to
/// the origins that the secret names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretGrant {
    pub source: SecretSource,
    pub origins: Vec<HttpGrant>,
}

/// Where the host finds a secret; looked at for each request, so that it may be changed under a running worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the host's environment.
    Variable(String),
    /// A file of the host; line breaks at its end do not belong to the secret.
    File(PathBuf),
}

/// The plugin's own store in the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGrant {
    /// Of all keys and values together.
    pub bytes: u64,
    pub keys: u64,
}

impl Default for KvGrant {
    fn default() -> Self {
        Self { bytes: 64 << 20, keys: 100_000 }
    }
}

/// Which tasks the plugin's attempts may enqueue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EnqueueGrant {
    /// Names; one that ends with `*` stands for all that begin with what is before it.
    pub tasks: Vec<String>,
    /// Empty: only the queue that the attempt itself came from.
    pub queues: Vec<String>,
    /// Of all attempts of the plugin on this worker together.
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

/// So many in a span of time, and that many at once. Clones share what is used up.
#[derive(Debug, Clone)]
pub struct Rate {
    pub count: u32,
    pub span: Duration,
    /// What is left, and when it was counted.
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
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
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
