//! Outcomes of attempts over time, the latest ends, and notes of changes.

use std::collections::BTreeMap;

use taskhost_broker::{Feed, HistoryStep, Note, Noted, QUEUE, Sample};
use taskhost_core::task::{Millis, QueueName, TaskName};

use super::{connection::Ops, error::OpsError};

/// The part of the history that is asked for.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    pub queue: Option<QueueName>,
    pub task: Option<TaskName>,
    pub step: HistoryStep,
    pub from: Millis,
    pub to: Millis,
}

/// The sums of one step.
#[derive(Debug, Clone, Default)]
pub struct HistoryPoint {
    pub start: Millis,
    /// By queue and body.
    pub parts: BTreeMap<(QueueName, String), Sample>,
    /// The most ready tasks of each queue, of which a worker recorded it.
    pub ready: BTreeMap<QueueName, u64>,
}

impl HistoryPoint {
    /// All parts together.
    pub fn sum(&self) -> Sample {
        let mut sum = Sample::default();
        self.parts.values().for_each(|part| sum.add(part));
        sum
    }
}

impl Ops {
    /// The steps of a time in these queues, each once and in order, also those in which nothing was counted.
    pub async fn history(&self, queues: &[QueueName], step: HistoryStep, from: Millis, to: Millis) -> Result<Vec<HistoryPoint>, OpsError> {
        let (first, count) = step.range(from, to)?;
        let starts = (0..count).map(|n| Millis((first + n * step.seconds()) * 1000));
        let mut points: BTreeMap<_, _> = starts.map(|start| (start, HistoryPoint { start, ..HistoryPoint::default() })).collect();
        for queue in queues {
            for point in self.broker.history(queue, step, from, to).await? {
                if point.task == QUEUE {
                    if let Some(of) = points.get_mut(&point.start) {
                        of.ready.insert(queue.clone(), point.sample.ready);
                    }
                    continue;
                }
                if let Some(of) = points.get_mut(&point.start) {
                    of.parts.entry((queue.clone(), point.task)).or_default().add(&point.sample);
                }
            }
        }
        Ok(points.into_values().collect())
    }

    /// The ends in a queue since a time; see `Tasks::feed` of the broker.
    pub async fn feed(&self, queue: &QueueName, since: Millis, limit: usize) -> Result<Feed, OpsError> {
        Ok(self.broker.feed(queue, since, limit).await?)
    }

    /// Keeps a note of a change.
    pub async fn note(&self, note: &Note) -> Result<(), OpsError> {
        Ok(self.broker.note(note).await?)
    }

    /// The newest notes before one of an earlier page.
    pub async fn notes(&self, before: Option<&str>, limit: usize) -> Result<Vec<Noted>, OpsError> {
        Ok(self.broker.notes(before, limit).await?)
    }
}
