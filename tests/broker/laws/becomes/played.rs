//! The rows of the table, played on a broker in batches.
//!
//! enqueue → the earlier attempt → claim → cancel → report, lose or leave → look → sweep, and claim everything → look again

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use taskhost_broker::{Broker, CancelReply, DeleteReply, Enqueued, Finish, Finished, Leased};
use taskhost_core::task::{Millis, NewTask, QueueName, Start, Task, TaskView};

use super::{
    expected::{Seen, View},
    rows::{Expires, HOUR, Row},
};
use crate::support::{LEASE, SOON, Worker, queue, retry_after, wait_until};

/// A row as a broker has it.
pub(super) struct Played {
    pub(super) row: Row,
    /// The task as its last worker got it.
    pub(super) task: Task,
    pub(super) seen: Seen,
    /// The whole view right after the end of the attempt, as JSON without its times.
    pub(super) view: serde_json::Value,
}

pub(super) async fn play(b: &dyn Broker, rows: &[Row]) -> Vec<Played> {
    // Tasks may expire on a slow machine before anybody claims them. They then get more time, in another queue.
    let mut meanwhile = Duration::from_secs(1);
    loop {
        let line = format!("table-{}-{}", rows[0].expires as usize, meanwhile.as_secs());
        if let Some(played) = Table::new(b, rows, line, meanwhile).await.play().await {
            return played;
        }
        meanwhile *= 2;
        assert!(meanwhile < 4 * SOON, "the tasks expire before they are claimed");
    }
}

/// The rows in a queue of their own, and the workers of that queue.
struct Table<'a> {
    b: &'a dyn Broker,
    rows: &'a [Row],
    line: QueueName,
    /// The time to start of the rows that expire meanwhile.
    meanwhile: Duration,
    now: Millis,
    /// By [`Row::holder`]: the worker that reports, the one that is lost, the one that leaves.
    workers: Vec<Worker<'a>>,
}

impl<'a> Table<'a> {
    async fn new(b: &'a dyn Broker, rows: &'a [Row], line: String, meanwhile: Duration) -> Self {
        let line = queue(&line);
        let mut workers = Vec::new();
        for _ in 0..3 {
            workers.push(Worker::on(b, &line, LEASE).await);
        }
        Self { b, rows, line, meanwhile, now: b.now().await.expect("now"), workers }
    }

    /// `None`: some tasks expired before they were claimed.
    async fn play(&self) -> Option<Vec<Played>> {
        let leased = self.claim_all().await?;
        self.cancel().await;
        if self.rows[0].expires == Expires::Meanwhile {
            let expired = self.now.after(self.meanwhile);
            wait_until(SOON, "the time to start is over", || async { self.b.now().await.expect("now") > expired }).await;
            // A sweep meanwhile passes by the running tasks, and must not forget that they expire.
            self.b.sweep(&self.line, &[]).await.expect("sweep");
        }
        let before = self.b.now().await.expect("now");
        let replies = self.finish_all(&leased).await;
        let after = self.b.now().await.expect("now");
        self.b.relay(&self.line).await.expect("relay");

        let views = self.views().await;
        let children = self.children().await;
        let free = self.probe("at once").await;
        // One claim ends only some of the tasks whose time to start is over, a sweep ends all of them.
        self.b.sweep(&self.line, &[]).await.expect("sweep");
        let claimer = Worker::on(self.b, &self.line, LEASE).await;
        claimer.look(self.rows.len(), &["add"]).await;
        let later = self.views().await;
        let free_later = self.probe("later").await;

        let seen = |view: &TaskView| {
            if let Some(due) = view.due_at {
                assert!(due >= before.after(HOUR) && due <= after.after(HOUR), "due in an hour, not at {due:?}: {}", view.id);
            }
            seen(view)
        };
        Some(
            self.rows
                .iter()
                .enumerate()
                .map(|(n, row)| Played {
                    row: row.clone(),
                    task: leased[n].task.clone(),
                    seen: Seen {
                        instead: replies[n],
                        now: views[n].as_ref().map(seen),
                        is_free: free[n],
                        children: children[n],
                        later: later[n].as_ref().map(seen),
                        is_free_later: free_later[n],
                    },
                    view: timeless(views[n].as_ref()),
                })
                .collect(),
        )
    }

    /// Each row's attempt, held by the row's worker. Rows that were tried before have an attempt that failed.
    async fn claim_all(&self) -> Option<Vec<Leased>> {
        let (fresh, tried): (Vec<_>, Vec<_>) = self.rows.iter().partition(|row| row.tries == 0);
        self.enqueue(&tried).await;
        let first = self.workers[0].claim(tried.len()).await;
        if first.len() < tried.len() {
            return None;
        }
        let failed: Vec<_> = first.iter().map(|leased| crate::support::finish(&leased.member, retry_after(Duration::ZERO))).collect();
        self.finish(&self.workers[0], &failed).await;
        self.enqueue(&fresh).await;
        let mut all = Vec::new();
        for (holder, worker) in self.workers.iter().enumerate() {
            all.extend(worker.claim(self.rows.iter().filter(|row| row.holder() == holder).count()).await);
        }
        let number = |leased: &Leased| leased.task.id.as_str().trim_start_matches("row-").parse::<usize>().expect("a row");
        all.sort_by_key(number);
        (all.len() == self.rows.len()).then_some(all)
    }

    async fn enqueue(&self, rows: &[&Row]) {
        let tasks: Vec<_> = rows.iter().map(|row| row.task(self.line.as_str(), self.now, self.meanwhile)).collect();
        let replies = self.b.enqueue(&tasks).await.expect("enqueue");
        assert!(replies.iter().all(|reply| *reply == Enqueued::Added), "every row is a new task");
    }

    async fn cancel(&self) {
        let cancelled = self.rows.iter().filter(|row| row.is_cancelled);
        let ids: Vec<_> = cancelled.map(|row| row.task(self.line.as_str(), self.now, self.meanwhile).id).collect();
        let replies = join_all(ids.iter().map(|id| self.b.cancel(&self.line, id))).await;
        assert!(replies.into_iter().all(|reply| reply.expect("cancel") == CancelReply::Asked), "every row runs");
    }

    /// Ends all attempts. Gives for each reported row whether it was cancelled instead.
    async fn finish_all(&self, leased: &[Leased]) -> Vec<Option<bool>> {
        let reports = |holder: usize| -> (Vec<usize>, Vec<Finish>) {
            let of = self.rows.iter().filter(|row| row.holder() == holder);
            of.filter_map(|row| Some((row.number, row.report(&leased[row.number].task, &leased[row.number].member)?))).unzip()
        };
        let mut replies = vec![None; self.rows.len()];
        let mut note = |rows: Vec<usize>, told: Vec<Finished>| {
            for (row, told) in rows.into_iter().zip(told) {
                assert_ne!(told, Finished::Stale, "{:?}", self.rows[row]);
                replies[row] = Some(told == Finished::CancelledInstead);
            }
        };
        // A heartbeat adopts and, unlike a claim, ends no task whose time to start is over.
        let heir = Worker::on(self.b, &self.line, LEASE).await;
        self.b.expire(&self.workers[1].who).await.expect("expire");
        let (rows, finishes) = reports(1);
        let mut adopted = Vec::new();
        while adopted.len() < rows.len() {
            let newly = heir.extend().await.adopted;
            assert!(!newly.is_empty(), "every lost row is adopted");
            adopted.extend(newly.into_iter().map(|leased| leased.member));
        }
        assert!(finishes.iter().all(|finish| adopted.contains(&finish.member)), "the lost rows are adopted");
        note(rows, self.finish(&heir, &finishes).await);

        let (rows, finishes) = reports(0);
        note(rows, self.finish(&self.workers[0], &finishes).await);
        self.b.leave(&self.workers[2].who).await.expect("leave");
        replies
    }

    async fn finish(&self, worker: &Worker<'_>, finishes: &[Finish]) -> Vec<Finished> {
        self.b.finish(&worker.who, finishes).await.expect("finish")
    }

    async fn views(&self) -> Vec<Option<TaskView>> {
        let ids: Vec<_> = self.rows.iter().map(|row| row.task(self.line.as_str(), self.now, self.meanwhile).id).collect();
        try_join_all(ids.iter().map(|id| self.b.find(Some(&self.line), id))).await.expect("find")
    }

    async fn children(&self) -> Vec<usize> {
        let mut counts = Vec::new();
        for row in self.rows {
            let mut count = 0;
            for child in row.children(self.line.as_str()) {
                if self.b.find(Some(&child.queue), &child.id).await.expect("find").is_some() {
                    count += 1;
                    assert_eq!(self.b.delete(&child.queue, &child.id).await.expect("delete"), DeleteReply::Deleted);
                }
            }
            counts.push(count);
        }
        counts
    }

    /// Whether each row's unique key is free: another task can take it.
    async fn probe(&self, when: &str) -> Vec<Option<bool>> {
        let probe = |row: &Row| {
            row.is_unique.then(|| NewTask {
                id: crate::support::task_id(&format!("probe-{}", row.number)),
                start: Start::In(HOUR),
                ..row.task(self.line.as_str(), self.now, self.meanwhile)
            })
        };
        let probes: Vec<_> = self.rows.iter().filter_map(|row| Some(NewTask { expires: None, ..probe(row)? })).collect();
        let replies = self.b.enqueue(&probes).await.expect("enqueue");
        let mut free = replies.iter().map(|reply| *reply == Enqueued::Added);
        let added = probes.iter().zip(&replies).filter(|(_, reply)| **reply == Enqueued::Added);
        let deleted = join_all(added.map(|(probe, _)| self.b.delete(&self.line, &probe.id))).await;
        assert!(deleted.into_iter().all(|reply| reply.expect("delete") == DeleteReply::Deleted), "{when}: a probe waits");
        self.rows.iter().map(|row| row.is_unique.then(|| free.next().expect("one reply a probe"))).collect()
    }
}

fn seen(view: &TaskView) -> View {
    View {
        state: view.state,
        error: view.error.as_ref().map(|error| error.kind),
        tries: view.tries,
        errors: view.errors.len(),
        has_result: view.result.is_some(),
        has_ended: view.ended_at.is_some(),
        is_delayed: view.due_at.is_some(),
        cancel_asked: view.cancel_asked,
    }
}

/// The view as JSON. A time only says that there is one.
fn timeless(view: Option<&TaskView>) -> serde_json::Value {
    let mut view = serde_json::to_value(view).expect("JSON");
    if let Some(fields) = view.as_object_mut() {
        for (name, value) in fields.iter_mut().filter(|(name, _)| name.ends_with("_at")) {
            *value = format!("a time, {name}").into();
        }
        for entry in fields["errors"].as_array_mut().expect("a list") {
            entry["at"] = "a time".into();
        }
    }
    view
}
