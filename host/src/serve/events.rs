//! `GET /v1/tasks/{id}/events`: a task's changes as they happen, as server-sent events (the HTML standard, section 9.2).
//!
//! wait for the end, a second at most → the view, if it is another one than before → …until the end
//!
//! Invariant: a stream costs the broker one look a second, and nothing after its reader has gone.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
};
use futures_util::stream;
use taskhost_core::task::{QueueName, TaskId};

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    query::Query,
    segment::Segment,
    shown, tasks,
};

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
    said: Instant,
    number: u64,
    is_over: bool,
}

/// `GET /v1/tasks/{id}/events`
pub(super) async fn of_task(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    let id = tasks::task_id(&id)?;
    let view = tasks::seen(&app, &caller, query.queue()?.as_ref(), &id).await?;
    let watch = Watch { app, caller, queue: view.queue, id, last: String::new(), said: Instant::now(), number: 0, is_over: false };
    let events = stream::unfold(watch, |mut watch| async move { Some((Ok::<_, Infallible>(watch.next().await?), watch)) });
    let mut response = answer::of_type("text/event-stream", Body::from_stream(events));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
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
            let now = serde_json::to_string(&shown::task(view, &self.caller)).ok()?;
            if now != self.last {
                self.last.clone_from(&now);
                return Some(self.say(&now));
            }
            if self.said.elapsed() >= ALIVE {
                self.said = Instant::now();
                return Some(Bytes::from_static(b": still there\n\n"));
            }
        }
        None
    }

    fn say(&mut self, data: &str) -> Bytes {
        self.said = Instant::now();
        self.number += 1;
        format!("id: {}\nevent: task\ndata: {data}\n\n", self.number).into()
    }
}
