//! What a worker does, counted: an observer of attempts, broker calls and plugins.
//!
//! event → the counters of its queue and task → read when somebody asks for the metrics
//!
//! Invariant: counting an attempt takes no lock that another attempt may hold for long, and allocates nothing. The number of series is
//! bounded, whatever names there are.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicI64, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use taskhost_broker::Sample;
use taskhost_core::{
    observe::{Event, Finished, Observer, Requests, Used},
    task::{CodeId, ErrorKind, Outcome, QueueName, TaskName, Verdict},
};

use super::{
    buckets::{Buckets, Held, seconds},
    encode::{counter, counter_of_seconds, family, gauge},
};

/// The most queues and bodies with series of their own. Others count as [`OTHER`].
const QUEUES: usize = 200;
const BODIES: usize = 500;
pub(super) const OTHER: &str = "_other";

/// How attempts end, in the order of their counters: succeeded, an error of each kind, handed back, dropped.
const SUCCEEDED: usize = 0;
const HANDED_BACK: usize = ErrorKind::ALL.len() + 1;
const DROPPED: usize = HANDED_BACK + 1;
const OUTCOMES: usize = DROPPED + 1;

/// The counters of a worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    bodies: RwLock<Bodies>,
    plugins: RwLock<HashMap<Arc<str>, Arc<PluginCounts>>>,
    running: AtomicI64,
    concurrency: AtomicUsize,
    calls: RwLock<HashMap<&'static str, Arc<CallCounts>>>,
    /// The plugins that serve, by file.
    serving: Mutex<BTreeMap<String, CodeId>>,
    swaps: [AtomicU64; SWAPS.len()],
    /// By schedule and result.
    firings: Mutex<BTreeMap<(String, &'static str), u64>>,
    /// By hook and result.
    deliveries: Mutex<BTreeMap<(String, &'static str), u64>>,
}

/// By queue and task.
type Bodies = HashMap<(Arc<str>, Arc<str>), Arc<BodyCounts>>;

/// What became of plugin files.
const SWAPS: [&str; 4] = ["serves", "refused", "rolled-back", "unloaded"];

/// The attempts of one body in one queue.
#[derive(Debug, Default)]
struct BodyCounts {
    outcomes: [AtomicU64; OUTCOMES],
    /// The counts that go to the broker: see [`Sample`].
    succeeded: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    cancelled: AtomicU64,
    ran: Buckets,
    waited: Buckets,
    cpu_us: AtomicU64,
    plugin: Arc<PluginCounts>,
}

#[derive(Debug, Default)]
struct PluginCounts {
    cpu_us: AtomicU64,
    /// The largest memory of one attempt, in bytes.
    memory: AtomicU64,
    /// HTTP requests by class.
    requests: [AtomicU64; Requests::CLASSES.len()],
}

/// The counts at the last call of [`WorkerMetrics::since`], by queue and body.
#[derive(Debug, Default)]
pub struct Told(HashMap<(Arc<str>, Arc<str>), ToldBody>);

#[derive(Debug, Default)]
struct ToldBody {
    sums: [u64; 5],
    ran: Held,
    waited: Held,
}

#[derive(Debug, Default)]
struct CallCounts {
    took: Buckets,
    errors: AtomicU64,
}

thread_local! {
    /// The counters that this thread used last. Attempts of one body mostly follow each other.
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

struct Last {
    /// Which [`WorkerMetrics`] they belong to.
    of: usize,
    queue: Arc<str>,
    task: Arc<str>,
    plugin: Arc<str>,
    counts: Arc<BodyCounts>,
}

impl Observer for WorkerMetrics {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::WorkerJoined { concurrency, .. } => self.concurrency.store(concurrency, Release),
            Event::AttemptStarted(attempt) => {
                self.running.fetch_add(1, Relaxed);
                if let Some(waited) = attempt.waited {
                    self.with_counts(attempt.queue, attempt.task, attempt.code, |counts| counts.waited.add(waited));
                }
            }
            Event::AttemptEnded { attempt, outcome, used, .. } => {
                self.running.fetch_sub(1, Relaxed);
                self.with_counts(attempt.queue, attempt.task, attempt.code, |counts| counts.ended(outcome, used));
            }
            Event::Finished(Finished { queue, task, code: Some(code), verdict, is_cancelled_instead, .. }) => {
                self.with_counts(queue, task, code, |counts| counts.finished(verdict, is_cancelled_instead));
            }
            Event::CallEnded { verb, took, error, .. } => {
                let counts = of(&self.calls, &verb, || verb, usize::MAX);
                counts.took.add(took);
                if error.is_some() {
                    counts.errors.fetch_add(1, Relaxed);
                }
            }
            Event::PluginServes { file, code, .. } => {
                self.serving.lock().insert(file.to_owned(), code.clone());
                self.swaps[0].fetch_add(1, Relaxed);
            }
            Event::PluginRefused { .. } => _ = self.swaps[1].fetch_add(1, Relaxed),
            Event::PluginRolledBack { file, serving, .. } => {
                if let Some(code) = serving {
                    self.serving.lock().insert(file.to_owned(), code.clone());
                }
                self.swaps[2].fetch_add(1, Relaxed);
            }
            Event::PluginStopped { file, .. } => _ = self.serving.lock().remove(file),
            Event::PluginUnloaded { file, .. } => {
                self.serving.lock().remove(file);
                self.swaps[3].fetch_add(1, Relaxed);
            }
            Event::ScheduleFired { schedule, .. } => count_named(&self.firings, schedule, "enqueued"),
            Event::ScheduleSkipped { schedule, .. } => count_named(&self.firings, schedule, "skipped"),
            Event::WebhookPosted { hook, status } => {
                let result = match status {
                    Some(200..300) => "delivered",
                    Some(410) => "disabled",
                    Some(_) => "refused",
                    None => "unreachable",
                };
                count_named(&self.deliveries, hook, result);
            }
            _ => {}
        }
    }
}

fn count_named(counts: &Mutex<BTreeMap<(String, &'static str), u64>>, name: &str, result: &'static str) {
    let mut counts = counts.lock();
    let has_room = counts.len() < BODIES || counts.contains_key(&(name.to_owned(), result));
    *counts.entry((if has_room { name } else { OTHER }.to_owned(), result)).or_default() += 1;
}

impl BodyCounts {
    fn ended(&self, outcome: Option<&Outcome>, used: Used) {
        let place = match outcome {
            Some(Outcome::Done { .. }) => SUCCEEDED,
            Some(Outcome::Failed { error, .. }) => 1 + error.kind as usize,
            Some(Outcome::HostFault { .. }) => HANDED_BACK,
            None => DROPPED,
        };
        self.outcomes[place].fetch_add(1, Relaxed);
        self.ran.add(used.wall);
        let cpu = micros(used.cpu);
        self.cpu_us.fetch_add(cpu, Relaxed);
        self.plugin.cpu_us.fetch_add(cpu, Relaxed);
        if used.memory > self.plugin.memory.load(Relaxed) {
            self.plugin.memory.fetch_max(used.memory, Relaxed);
        }
        if used.requests != Requests::default() {
            self.plugin.requests.iter().zip(used.requests.0).for_each(|(sum, more)| _ = sum.fetch_add(more.into(), Relaxed));
        }
    }

    fn finished(&self, verdict: &Verdict, is_cancelled_instead: bool) {
        let sum = match verdict {
            _ if is_cancelled_instead => &self.cancelled,
            Verdict::Succeed { .. } => &self.succeeded,
            Verdict::Retry { .. } => &self.retried,
            Verdict::Dead { .. } => &self.dead,
            Verdict::Cancel { .. } => &self.cancelled,
            Verdict::HandBack { .. } | Verdict::Park => return,
        };
        sum.fetch_add(1, Relaxed);
    }
}

impl WorkerMetrics {
    /// The counts since the last call, by queue and body.
    pub fn since(&self, told: &mut Told) -> BTreeMap<Arc<str>, Vec<(String, Sample)>> {
        let bodies: Vec<_> = self.bodies.read().iter().map(|(key, counts)| (key.clone(), Arc::clone(counts))).collect();
        let mut news: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, counts) in bodies {
            let (queue, task) = (key.0.clone(), key.1.to_string());
            let last = told.0.entry(key).or_default();
            let sums = [&counts.succeeded, &counts.retried, &counts.dead, &counts.cancelled, &counts.cpu_us].map(|sum| sum.load(Relaxed));
            let now = ToldBody { sums, ran: counts.ran.held(), waited: counts.waited.held() };
            let mut more = sums.iter().zip(last.sums).map(|(now, before)| now - before);
            let mut more = || more.next().unwrap_or(0);
            let sample = Sample {
                succeeded: more(),
                retried: more(),
                dead: more(),
                cancelled: more(),
                cpu_us: more(),
                ready: 0,
                ran: now.ran.since(&last.ran),
                waited: now.waited.since(&last.waited),
            };
            *last = now;
            if !sample.is_empty() {
                news.entry(queue).or_default().push((task, sample));
            }
        }
        news
    }

    /// Calls `count` with the counters of this body.
    fn with_counts(&self, queue: &QueueName, task: &TaskName, code: &CodeId, count: impl FnOnce(&BodyCounts)) {
        let own = std::ptr::from_ref(self).addr();
        let (queue, task, plugin) = (queue.as_str(), task.as_str(), &*code.plugin);
        LAST.with_borrow_mut(|last| {
            let is_same = |last: &&mut Last| last.of == own && &*last.task == task && &*last.queue == queue && &*last.plugin == plugin;
            if let Some(last) = last.as_mut().filter(is_same) {
                return count(&last.counts);
            }
            let counts = self.counts(queue, task, plugin);
            count(&counts);
            *last = Some(Last { of: own, queue: queue.into(), task: task.into(), plugin: plugin.into(), counts });
        });
    }

    fn counts(&self, queue: &str, task: &str, plugin: &str) -> Arc<BodyCounts> {
        let key = (Arc::<str>::from(queue), Arc::<str>::from(task));
        if let Some(counts) = self.bodies.read().get(&key) {
            return Arc::clone(counts);
        }
        let plugin = of(&self.plugins, plugin, || plugin.into(), BODIES);
        let mut bodies = self.bodies.write();
        let is_known = |name: &str| bodies.keys().any(|(queue, _)| &**queue == name);
        let queues = || bodies.keys().map(|(queue, _)| queue).collect::<HashSet<_>>().len();
        let has_room = bodies.len() < BODIES && (is_known(queue) || queues() < QUEUES);
        let key = if has_room || bodies.contains_key(&key) { key } else { (OTHER.into(), OTHER.into()) };
        let made = || Arc::new(BodyCounts { plugin, ..BodyCounts::default() });
        Arc::clone(bodies.entry(key).or_insert_with(made))
    }
}

/// The counters under a key, made at its first use.
fn of<K, Q, V>(map: &RwLock<HashMap<K, Arc<V>>>, key: &Q, own: impl FnOnce() -> K, most: usize) -> Arc<V>
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
    V: Default,
{
    let found = map.read().get(key).map(Arc::clone);
    if let Some(found) = found {
        return found;
    }
    let mut map = map.write();
    if map.len() > most {
        return Arc::default();
    }
    Arc::clone(map.entry(own()).or_default())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

// -- as metrics -------------------------------------------------------------------------------------------------------

impl Collector for WorkerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let bodies: BTreeMap<_, _> = self.bodies.read().iter().map(|(key, counts)| (key.clone(), Arc::clone(counts))).collect();
        let attempts = bodies.iter().flat_map(|((queue, task), counts)| {
            let ended = counts.outcomes.iter().enumerate().map(|(place, count)| (place, count.load(Relaxed)));
            ended
                .filter(|(_, count)| *count > 0)
                .map(|(place, count)| ([("queue", &**queue), ("task", &**task), ("outcome", outcome(place))], counter(count)))
        });
        let about = ("taskhost_attempts", "Attempts that ended, by how they ended");
        family(encoder, about, MetricType::Counter, attempts)?;
        let ran = bodies.iter().map(|((queue, task), counts)| ([("queue", &**queue), ("task", &**task)], counts.ran.histogram()));
        let about = ("taskhost_attempt_duration_seconds", "How long attempts ran");
        family(encoder, about, MetricType::Histogram, ran)?;
        let mut queues: BTreeMap<&str, Held> = BTreeMap::new();
        for ((queue, _), counts) in &bodies {
            queues.entry(queue).or_default().add(&counts.waited.held());
        }
        let waited = queues.iter().map(|(queue, waited)| ([("queue", *queue)], waited.histogram()));
        let about =
            ("taskhost_wait_seconds", "From the enqueue of a task to the claim of its first attempt; delays that were asked for count too");
        family(encoder, about, MetricType::Histogram, waited)?;
        let plugins: BTreeMap<_, _> = self.plugins.read().iter().map(|(plugin, counts)| (plugin.clone(), Arc::clone(counts))).collect();
        let cpu =
            plugins.iter().map(|(plugin, counts)| ([("plugin", &**plugin)], counter_of_seconds(seconds(counts.cpu_us.load(Relaxed)))));
        let about = ("taskhost_attempt_cpu_seconds", "CPU time of attempts");
        family(encoder, about, MetricType::Counter, cpu)?;
        #[expect(clippy::cast_precision_loss, reason = "Prometheus has 64-bit floats")]
        let memory = plugins.iter().map(|(plugin, counts)| ([("plugin", &**plugin)], gauge(counts.memory.load(Relaxed) as f64)));
        let about = ("taskhost_guest_memory_bytes", "The largest memory of one attempt since the start of this worker");
        family(encoder, about, MetricType::Gauge, memory)?;
        let requests = plugins.iter().flat_map(|(plugin, counts)| {
            let counts = Requests::CLASSES.iter().zip(&counts.requests).map(|(class, count)| (class, count.load(Relaxed)));
            let counts = counts.filter(|(_, count)| *count > 0);
            counts.map(|(class, count)| ([("plugin", &**plugin), ("class", *class)], counter(count)))
        });
        let about = ("taskhost_guest_http_requests", "HTTP requests of bodies, by what became of them");
        family(encoder, about, MetricType::Counter, requests)?;
        let running = u32::try_from(self.running.load(Relaxed).max(0)).unwrap_or(u32::MAX);
        let all = u32::try_from(self.concurrency.load(Acquire)).unwrap_or(u32::MAX);
        let slots = [("running", running), ("free", all.saturating_sub(running))];
        let slots = slots.map(|(state, slots)| ([("state", state)], gauge(f64::from(slots))));
        family(encoder, ("taskhost_slots", "Attempts that this worker runs, and could run beside them"), MetricType::Gauge, slots)?;
        let calls: BTreeMap<_, _> = self.calls.read().iter().map(|(verb, counts)| (*verb, Arc::clone(counts))).collect();
        let took = calls.iter().map(|(verb, counts)| ([("verb", *verb)], counts.took.histogram()));
        let about = ("taskhost_broker_call_seconds", "How long calls of the broker took; `wait` and `await_end` wait for something");
        family(encoder, about, MetricType::Histogram, took)?;
        let errors = calls.iter().map(|(verb, counts)| ([("verb", *verb)], counter(counts.errors.load(Relaxed))));
        family(encoder, ("taskhost_broker_errors", "Calls of the broker that failed"), MetricType::Counter, errors)?;
        let serving = self.serving.lock().clone();
        let info = serving.values().map(|code| {
            ([("plugin", &*code.plugin), ("version", &*code.version), ("digest", code.digest.get(..12).unwrap_or_default())], gauge(1.0))
        });
        family(encoder, ("taskhost_plugin_info", "1 for each plugin that serves, with its version"), MetricType::Gauge, info)?;
        let swaps = SWAPS.iter().zip(&self.swaps).map(|(result, count)| ([("result", *result)], counter(count.load(Relaxed))));
        family(encoder, ("taskhost_plugin_swaps", "What became of plugin files"), MetricType::Counter, swaps)?;
        let firings = self.firings.lock().clone();
        let fired = firings.iter().map(|((schedule, result), count)| ([("schedule", &**schedule), ("result", *result)], counter(*count)));
        family(encoder, ("taskhost_schedule_fired", "Due times that this worker settled"), MetricType::Counter, fired)?;
        let deliveries = self.deliveries.lock().clone();
        let delivered = deliveries.iter().map(|((hook, result), count)| ([("hook", &**hook), ("result", *result)], counter(*count)));
        family(encoder, ("taskhost_webhook_deliveries", "Posts of webhooks, by what became of them"), MetricType::Counter, delivered)
    }
}

fn outcome(place: usize) -> &'static str {
    match place {
        SUCCEEDED => "succeeded",
        HANDED_BACK => "handed-back",
        DROPPED => "dropped",
        place => ErrorKind::ALL[place - 1].as_str(),
    }
}
