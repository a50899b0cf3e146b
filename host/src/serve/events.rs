//! Changes as they happen, as server-sent events (the HTML standard, section 9.2): of one task until its end, or of all queues.
//!
//! a task: wait for the end, a second at most → new lines of its log, and the view, if it is another one than before → …until the end
//! all: what ended since `Last-Event-ID` → a beat of the pulse → the queues and the ends that this caller may see → …
//!
//! Invariant: a stream costs the broker one look a second at most, and one at the log, and nothing after its reader has gone.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures_util::stream;
use serde_json::json;
use taskhost_core::task::{LogLine, Millis, QueueName, TaskId};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::timeout,
};

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    pulse::{Beat, ENDS, Pulse},
    query::Query,
    segment::Segment,
    shown, tasks,
};
use crate::{config::Scope, ops::End};

/// How often the task is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A silent stream says so often that it lives: proxies cut those that say nothing.
const ALIVE: Duration = Duration::from_secs(15);

/// What one stream remembers.
struct Watch {
    app: Arc<App>,
    caller: Caller,
    queue: QueueName,
    id: TaskId,
    last: String,
    /// The log that was told so far; `None`: this caller may not see it.
    log: Option<String>,
    said: Instant,
    number: u64,
    is_over: bool,
}

/// `GET /v1/tasks/{id}/events`
pub(super) async fn of_task(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    let id = tasks::task_id(&id)?;
    let view = tasks::seen(&app, &caller, query.queue()?.as_ref(), &id).await?;
    let log = caller.has(Scope::Payload).then(String::new);
    let watch = Watch { app, caller, queue: view.queue, id, last: String::new(), log, said: Instant::now(), number: 0, is_over: false };
    let events = stream::unfold(watch, |mut watch| async move { Some((Ok::<_, Infallible>(watch.next().await?), watch)) });
    Ok(events_of(Body::from_stream(events)))
}

fn events_of(body: Body) -> Response {
    let mut response = answer::of_type("text/event-stream", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The state of one stream of all queues.
struct WatchAll {
    app: Arc<App>,
    caller: Caller,
    /// Only this queue.
    queue: Option<QueueName>,
    beats: broadcast::Receiver<Arc<Beat>>,
    /// The reader has all ends before this time: it comes from its `Last-Event-ID`.
    since: Option<Millis>,
    begun: bool,
}

/// `GET /v1/events`
pub(super) async fn of_all(State(app): State<Arc<App>>, caller: Caller, query: Query, headers: HeaderMap) -> Answer {
    let queue = query.queue()?;
    if let Some(queue) = &queue {
        caller.needs_queue(queue)?;
    }
    app.ops()?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok().map(Millis));
    let beats = Pulse::subscribe(&app);
    let watch = WatchAll { app, caller, queue, beats, since: last, begun: false };
    let events = stream::unfold(watch, |mut watch| async move { Some((Ok::<_, Infallible>(watch.next().await?), watch)) });
    Ok(events_of(Body::from_stream(events)))
}

impl WatchAll {
    /// The next events, or the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(since) = self.since.take() {
            return Some(self.missed(since).await.unwrap_or_else(|| Bytes::from_static(b"event: gap\ndata: {}\n\n")));
        }
        loop {
            let beat = tokio::select! {
                beat = timeout(ALIVE, self.beats.recv()) => beat,
                () = self.app.drain.cancelled() => return None,
            };
            match beat {
                Err(_silent) => return Some(Bytes::from_static(b": still there\n\n")),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(_))) => return Some(Bytes::from_static(b"event: gap\ndata: {}\n\n")),
                Ok(Ok(beat)) if beat.is_news || !std::mem::replace(&mut self.begun, true) => return Some(self.say(&beat)),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn sees(&self, queue: &QueueName) -> bool {
        self.caller.sees_queue(queue) && self.queue.as_ref().is_none_or(|only| only == queue)
    }

    fn say(&self, beat: &Beat) -> Bytes {
        let queues: Vec<_> = beat.queues.iter().filter(|view| self.sees(&view.queue)).collect();
        let mut text = format!("id: {}\nevent: queues\ndata: {}\n\n", beat.until.0, json!({ "queues": queues }));
        text.push_str(&self.ends(beat.until, &beat.ends, beat.is_cut));
        text.into()
    }

    /// An end does not name its body. So a caller that may see some bodies only gets no ends.
    fn ends(&self, until: Millis, ends: &[(QueueName, Vec<End>)], is_cut: bool) -> String {
        let seen = ends.iter().filter(|(queue, _)| self.caller.sees_all_tasks() && self.sees(queue));
        let ends: Vec<_> = seen
            .flat_map(|(queue, ends)| {
                ends.iter().map(move |End { id, state, at }| json!({ "queue": queue, "id": id, "state": state, "at": at }))
            })
            .collect();
        if ends.is_empty() {
            return String::new();
        }
        format!("id: {}\nevent: ends\ndata: {}\n\n", until.0, json!({ "ends": ends, "cut": is_cut }))
    }

    /// The ends while the reader was away.
    async fn missed(&self, since: Millis) -> Option<Bytes> {
        let ops = self.app.ops().ok()?;
        let mut until = ops.now().await.ok()?;
        let (mut ends, mut is_cut) = (Vec::new(), false);
        for view in self.app.queues(Instant::now()).await.ok()?.iter().filter(|view| self.sees(&view.queue)) {
            let feed = ops.feed(&view.queue, since, ENDS).await.ok()?;
            until = until.min(feed.until);
            is_cut |= feed.is_cut;
            ends.push((view.queue.clone(), feed.ends));
        }
        let text = self.ends(until, &ends, is_cut);
        Some(if text.is_empty() { Bytes::from_static(b": nothing was missed\n\n") } else { text.into() })
    }
}

impl Watch {
    /// The next event, or the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            // The first event comes at once.
            let limit = if self.last.is_empty() { Duration::ZERO } else { LOOK };
            let ops = self.app.ops().ok()?;
            let looked = tokio::select! {
                looked = ops.await_end(Some(&self.queue), &self.id, limit) => looked,
                () = self.app.drain.cancelled() => return None,
            };
            let Ok(view) = looked else {
                self.is_over = true;
                return Some(Bytes::from_static(b"event: gone\ndata: {}\n\n"));
            };
            self.is_over = view.state.is_ended();
            let mut news = String::new();
            if let Some(told) = &mut self.log {
                let lines = ops.log_since(Some(&self.queue), &self.id, told).await.unwrap_or_default();
                let lines: Vec<LogLine> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
                if !lines.is_empty() {
                    news.push_str(&self.say("log", &json!({ "lines": lines }).to_string()));
                }
            }
            let now = serde_json::to_string(&shown::task(view, &self.caller)).ok()?;
            if now != self.last {
                news.push_str(&self.say("task", &now));
                self.last = now;
            }
            if !news.is_empty() {
                return Some(news.into());
            }
            if self.said.elapsed() >= ALIVE {
                self.said = Instant::now();
                return Some(Bytes::from_static(b": still there\n\n"));
            }
        }
        None
    }

    fn say(&mut self, event: &str, data: &str) -> String {
        self.said = Instant::now();
        self.number += 1;
        format!("id: {}\nevent: {event}\ndata: {data}\n\n", self.number)
    }
}
