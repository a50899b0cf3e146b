//! Metrics for Prometheus: of a worker, of the broker's queues and schedules, and of HTTP requests. docs/metrics.md explains each.
//!
//! Invariant: a label is never an id, an argument or the name of a worker, so the number of series is bounded.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};
use taskhost_core::task::{Millis, State};

mod buckets;
mod encode;
mod worker;

pub use worker::{Told, WorkerMetrics};

use buckets::Buckets;
use encode::{counter, family, gauge};
use worker::OTHER;

/// The most queues and schedules with series of their own.
const MOST: usize = 200;

/// What the broker says at one moment.
#[derive(Debug, Default)]
pub struct BrokerSample {
    pub queues: Vec<QueueSample>,
    pub schedules: Vec<ScheduleSample>,
}

#[derive(Debug)]
pub struct QueueSample {
    pub queue: String,
    pub counts: BTreeMap<State, u64>,
    pub oldest_ready: Option<Duration>,
    pub paused: bool,
    pub enqueued: u64,
    /// Ends by state.
    pub ended: [(&'static str, u64); 3],
}

#[derive(Debug)]
pub struct ScheduleSample {
    pub schedule: String,
    pub last_fired: Option<Millis>,
}

/// The requests that were answered.
#[derive(Debug, Default)]
pub struct HttpMetrics(Mutex<BTreeMap<Answered, Arc<Buckets>>>);

/// Route, method and status.
type Answered = (&'static str, &'static str, &'static str);

impl HttpMetrics {
    /// Counts a request. `route` is a row of the table of resources, never a path that a client chose.
    pub fn answered(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        let class = match status {
            200..300 => "2xx",
            300..400 => "3xx",
            401 => "401",
            403 => "403",
            429 => "429",
            400..500 => "4xx",
            _ => "5xx",
        };
        let buckets = Arc::clone(self.0.lock().entry((route, method, class)).or_default());
        buckets.add(took);
    }
}

/// The text format of Prometheus, version 0.0.4.
pub fn text(worker: Option<Arc<WorkerMetrics>>, broker: Option<BrokerSample>, http: &Arc<HttpMetrics>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    if let Some(worker) = worker {
        registry.register_collector(Box::new(worker));
    }
    if let Some(broker) = broker {
        registry.register_collector(Box::new(broker));
    }
    registry.register_collector(Box::new(Arc::clone(http)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for BrokerSample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        #[expect(clippy::cast_precision_loss, reason = "Prometheus has 64-bit floats")]
        let number = |count: u64| gauge(count as f64);
        let shown = || self.queues.iter().take(MOST);
        let others = self.queues.iter().skip(MOST);
        let mut rest: BTreeMap<State, u64> = BTreeMap::new();
        others.flat_map(|queue| &queue.counts).for_each(|(state, count)| *rest.entry(*state).or_default() += count);
        let tasks = shown().flat_map(|queue| {
            queue.counts.iter().map(|(state, count)| ([("queue", &*queue.queue), ("state", state.as_str())], number(*count)))
        });
        let rest = rest.iter().map(|(state, count)| ([("queue", OTHER), ("state", state.as_str())], number(*count)));
        let about = ("taskhost_tasks", "Tasks in each state; ended ones while they are kept");
        family(encoder, about, MetricType::Gauge, tasks.chain(rest))?;
        let enqueued = shown().map(|queue| ([("queue", &*queue.queue)], counter(queue.enqueued)));
        family(encoder, ("taskhost_enqueued", "Tasks that were ever added"), MetricType::Counter, enqueued)?;
        let ended = shown()
            .flat_map(|queue| queue.ended.iter().map(|(state, count)| ([("queue", &*queue.queue), ("state", *state)], counter(*count))));
        family(encoder, ("taskhost_ended", "Tasks that ever ended in each state"), MetricType::Counter, ended)?;
        let oldest = shown().map(|queue| ([("queue", &*queue.queue)], gauge(queue.oldest_ready.unwrap_or_default().as_secs_f64())));
        family(encoder, ("taskhost_oldest_ready_seconds", "How long the oldest ready task has waited"), MetricType::Gauge, oldest)?;
        let paused = shown().map(|queue| ([("queue", &*queue.queue)], gauge(if queue.paused { 1.0 } else { 0.0 })));
        family(encoder, ("taskhost_queue_paused", "1 while nothing starts from the queue"), MetricType::Gauge, paused)?;
        let fired = self.schedules.iter().take(MOST).filter_map(|schedule| {
            let at = Duration::from_millis(schedule.last_fired?.0).as_secs_f64();
            Some(([("schedule", &*schedule.schedule)], gauge(at)))
        });
        let about = ("taskhost_schedule_last_fired_timestamp_seconds", "The due time of the last firing, in seconds since 1970");
        family(encoder, about, MetricType::Gauge, fired)
    }
}

impl Collector for HttpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let answered = self.0.lock().clone();
        let series = answered
            .iter()
            .map(|((route, method, code), took)| ([("route", *route), ("method", *method), ("code", *code)], took.histogram()));
        let about = ("taskhost_http_request_duration_seconds", "How long requests took; those that wait for an end wait");
        family(&mut encoder, about, MetricType::Histogram, series)
    }
}
