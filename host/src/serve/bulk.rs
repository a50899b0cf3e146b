//! `POST /v1/tasks/bulk`: a task a line, and an answer a line, in the same order, while the lines still come.
//!
//! body → lines → batches → the broker → answers
//!
//! Invariant: memory holds a few batches and the answers that the client has not read, at most [`ANSWERS`] batches of them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::State,
    http::HeaderMap,
};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use taskhost_core::task::NewTask;
use tokio::sync::mpsc;

use super::{
    access::Caller,
    answer::{self, Answer},
    app::{App, Connected},
    body,
    problem::{self, Problem},
};
use crate::ops::{Enqueued, enqueue_each};

/// The most tasks in one call of the broker.
const TOGETHER: usize = 500;
/// The answers to so many batches wait for a client that sends without reading.
const ANSWERS: usize = 1_000;
/// How long the next part of the body may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `POST /v1/tasks/bulk`
pub(super) async fn enqueue(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answer {
    body::is_of_type(&headers, &["application/x-ndjson", "application/jsonl", "application/json"])?;
    app.connected()?;
    let (answers, told) = mpsc::channel::<Bytes>(ANSWERS);
    let line_limit = app.settings.bounds.payload_limit.saturating_add(64 << 10);
    let bulk = Bulk { app: Arc::clone(&app), caller, answers, line_limit, number: 0 };
    app.tasks.spawn(bulk.run(body.into_data_stream()));
    let told = stream::unfold(told, |mut told| async move { Some((Ok::<_, Infallible>(told.recv().await?), told)) });
    Ok(answer::of_type("application/x-ndjson", Body::from_stream(told)))
}

struct Bulk {
    app: Arc<App>,
    caller: Caller,
    answers: mpsc::Sender<Bytes>,
    line_limit: usize,
    /// Of the last line that was read; counts from 1.
    number: u64,
}

/// A line, read.
enum Line {
    Task(Box<NewTask>),
    Refused(Problem),
}

/// The client has gone, or all further lines are lost.
struct Over;

impl Bulk {
    async fn run(mut self, mut body: BodyDataStream) {
        let mut rest: Vec<u8> = Vec::new();
        let mut batch: Vec<(u64, Line)> = Vec::new();
        loop {
            // What is at hand is sent before the next part is waited for.
            let part = if let Some(part) = body.next().now_or_never() {
                part
            } else {
                if self.send(&mut batch).await.is_err() {
                    return;
                }
                let Ok(part) = tokio::time::timeout(PATIENCE, body.next()).await else {
                    let problem = Problem::new(&problem::TOO_SLOW, format!("no further line came for {} s", PATIENCE.as_secs()));
                    return self.end(&problem).await;
                };
                part
            };
            let is_end = part.is_none();
            match part {
                Some(Ok(bytes)) => rest.extend_from_slice(&bytes),
                Some(Err(error)) => return self.end(&Problem::new(&problem::BAD_REQUEST, format!("the body broke off: {error}"))).await,
                None => {
                    if !rest.is_empty() {
                        rest.push(b'\n');
                    }
                }
            }
            let mut begin = 0;
            while let Some(length) = rest[begin..].iter().position(|byte| *byte == b'\n') {
                let line = rest[begin..begin + length].trim_ascii();
                begin += length + 1;
                self.number += 1;
                if line.is_empty() {
                    continue;
                }
                let read = self.read(line).await;
                batch.push((self.number, read));
                if batch.len() >= TOGETHER && self.send(&mut batch).await.is_err() {
                    return;
                }
            }
            rest.drain(..begin);
            if rest.len() > self.line_limit {
                let detail = format!("line {} is longer than {} bytes", self.number + 1, self.line_limit);
                _ = self.send(&mut batch).await;
                return self.end(&Problem::new(&problem::TOO_LARGE, detail)).await;
            }
            if is_end {
                _ = self.send(&mut batch).await;
                return;
            }
        }
    }

    async fn read(&self, line: &[u8]) -> Line {
        let read = async {
            let task = self.connected()?.producer.read(line).await?;
            self.caller.needs_queue(&task.queue)?;
            self.caller.needs_task(&task.name)?;
            Ok::<_, Problem>(task)
        };
        read.await.map_or_else(Line::Refused, |task| Line::Task(Box::new(task)))
    }

    fn connected(&self) -> Result<&Connected, Problem> {
        self.app.connected()
    }

    /// Enqueues the batch, and answers its lines.
    async fn send(&self, batch: &mut Vec<(u64, Line)>) -> Result<(), Over> {
        if batch.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(batch);
        let tasks: Vec<NewTask> =
            lines.iter().filter_map(|(_, line)| if let Line::Task(task) = line { Some((**task).clone()) } else { None }).collect();
        let enqueued = match self.connected() {
            Ok(connected) if !tasks.is_empty() => enqueue_each(&**connected.ops.broker(), &tasks).await,
            _ => Vec::new(),
        };
        let mut answers = String::new();
        let mut fates = enqueued.into_iter();
        for (number, line) in lines {
            let answer = match line {
                Line::Refused(problem) => refused(number, &problem),
                Line::Task(task) => match fates.next() {
                    Some(Ok(Enqueued::Added)) => json!({ "line": number, "id": task.id, "queue": task.queue }),
                    Some(Ok(Enqueued::Duplicate { holder })) => {
                        json!({ "line": number, "id": holder, "queue": task.queue, "duplicate": true })
                    }
                    Some(Err(error)) => refused(number, &error.into()),
                    None => refused(number, &Problem::new(&problem::INTERNAL, "the broker gave no answer for this line")),
                },
            };
            answers.push_str(&answer.to_string());
            answers.push('\n');
        }
        self.answers.send(answers.into()).await.map_err(|_gone| Over)
    }

    /// The last answer: no further line is read.
    async fn end(&self, problem: &Problem) {
        let line = format!("{}\n", refused(self.number + 1, problem));
        _ = self.answers.send(line.into()).await;
    }
}

fn refused(number: u64, problem: &Problem) -> Value {
    json!({ "line": number, "problem": problem.to_json() })
}
