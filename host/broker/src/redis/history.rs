//! Counts over time and notes of changes. The counts of one step of time are one hash of the queue, a field for each body.

use std::collections::HashSet;

use async_trait::async_trait;

use super::{
    driver::RedisBroker,
    scripts::{HISTORY, RECORD},
    values::{Row, json, list, number, word, words},
};
use crate::{
    error::{BrokerError, Result},
    history::{History, HistoryStep, NOTES, Note, Noted, Point, Sample},
    unreadable,
};
use taskhost_core::task::{Millis, QueueName};

/// How many steps one call reads.
const TOGETHER: u64 = 60;

#[async_trait]
impl History for RedisBroker {
    async fn record(&self, queue: &QueueName, worker: &str, number: u64, counts: &[(String, Sample)]) -> Result<()> {
        let mut call = RECORD.call(&self.keys.queue(queue)).arg(worker).arg(number).arg(HistoryStep::ALL.len());
        for step in HistoryStep::ALL {
            call = call.arg(step.seconds()).arg(step.kept().as_secs() + step.seconds());
        }
        for (task, sample) in counts.iter().filter(|(_, sample)| !sample.is_empty()) {
            call = call.arg(task).arg(sample.write());
        }
        self.commands.call(&call).await.map(drop)
    }

    async fn history(&self, queue: &QueueName, step: HistoryStep, from: Millis, to: Millis) -> Result<Vec<Point>> {
        let (mut first, mut left) = step.range(from, to)?;
        let mut points = Vec::new();
        while left > 0 {
            let now = left.min(TOGETHER);
            let call = HISTORY.call(&self.keys.queue(queue)).arg(step.seconds()).arg(first).arg(now);
            let mut row = Row::new(self.commands.call(&call).await?)?;
            while !row.is_empty() {
                let start = Millis(u64::try_from(number(&row.next())).unwrap_or(0) * 1000);
                points.push(Point { start, task: word(row.next()), sample: Sample::read(&word(row.next())) });
            }
            first += now * step.seconds();
            left -= now;
        }
        points.sort_by(|one, other| (one.start, &one.task).cmp(&(other.start, &other.task)));
        Ok(points)
    }

    async fn note(&self, note: &Note) -> Result<()> {
        let mut add = redis::cmd("XADD");
        add.arg(self.keys.shared("audit")).arg("MAXLEN").arg("~").arg(NOTES).arg("*").arg("note").arg(json(note)?);
        self.commands.send(&add).await.map(drop)
    }

    async fn notes(&self, before: Option<&str>, limit: usize) -> Result<Vec<Noted>> {
        let is_place = |text: &str| text.split('-').count() == 2 && text.split('-').all(|part| part.parse::<u64>().is_ok());
        let newest = match before {
            None => "+".to_owned(),
            Some(before) if is_place(before) => format!("({before}"),
            Some(before) => return Err(BrokerError::Invalid(format!("not the id of a note: `{}`", unreadable::shown(before)))),
        };
        let mut read = redis::cmd("XREVRANGE");
        read.arg(self.keys.shared("audit")).arg(newest).arg("-").arg("COUNT").arg(limit.max(1));
        let (mut notes, mut said) = (Vec::new(), HashSet::new());
        for entry in list(self.commands.send(&read).await?)? {
            let mut row = Row::new(entry)?;
            let (id, fields) = (word(row.next()), words(row.next())?);
            let at = Millis(id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0));
            match serde_json::from_str::<Note>(fields.get(1).map_or("", String::as_str)) {
                Ok(note) => notes.push(Noted { id, at, note }),
                Err(error) if said.insert(error.to_string()) => {
                    unreadable::say(&self.at, &format!("the note `{id}`"), error, "it is left out");
                }
                Err(_) => {}
            }
        }
        Ok(notes)
    }
}
