//! Tasks and queues, shown and steered.
//!
//! A listing goes section by section (running, ready, scheduled, parked) and queue by queue, then through what has ended,
//! newest first over all queues. Its cursor names the section, the queue and the place in it.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::try_join_all;

use super::{
    RedisBroker,
    connection::ANSWER,
    scripts::{CANCEL, COUNTS, DELETE, PURGE, RESUME, RETRY, VIEW},
    values::{Odd, Row, bytes, count, is_yes, list, millis, number, shown_id, text, view, word, words},
};
use crate::{
    broker::{BrokerError, CancelReply, DeleteReply, QueueView, Result, RetryReply, TaskFilter, TaskPage, unreadable},
    task::{Millis, QueueName, State, TaskId, TaskView},
};

/// Tasks that are looked at in one call.
const LOOK: usize = 200;
const WAITING: [State; 4] = [State::Running, State::Ready, State::Scheduled, State::Parked];

impl RedisBroker {
    pub(super) async fn find_in(&self, queue: &QueueName, id: &TaskId) -> Result<Option<TaskView>> {
        let found = self.views(queue, &[id.to_string()]).await?.pop().flatten();
        let Some(mut found) = found else { return Ok(None) };
        if found.state == State::Running {
            // A claim writes nothing to the task: who runs it is what the workers say of themselves.
            let running = self.all_workers().await?.into_iter().find(|worker| worker.running.iter().any(|running| running.id == *id));
            found.worker = running.map(|worker| worker.id).or(found.worker);
        }
        Ok(Some(found))
    }

    /// Asks all queues at once.
    pub(super) async fn find_anywhere(&self, id: &TaskId) -> Result<Option<TaskView>> {
        let queues = self.all_queues().await?;
        let asked = queues.iter().map(|queue| async move {
            let is = self.commands.send(redis::cmd("EXISTS").arg(self.keys.task(queue, id))).await?;
            Ok::<_, BrokerError>(is_yes(&is).then_some(queue))
        });
        let mut found: Vec<TaskView> = Vec::new();
        for queue in try_join_all(asked).await?.into_iter().flatten() {
            found.extend(self.find_in(queue, id).await?);
        }
        if found.len() > 1 {
            return Err(unreadable::ambiguous(id, found.iter().map(|view| &view.queue)));
        }
        Ok(found.pop())
    }

    /// In the order given; ids, or held members.
    async fn views(&self, queue: &QueueName, ids: &[String]) -> Result<Vec<Option<TaskView>>> {
        let mut call = VIEW.call(&self.keys.queue(queue));
        for id in ids {
            call.push(&**id);
        }
        let mut views: Vec<_> = list(self.commands.call(&call).await?)?.into_iter().map(|row| view(queue, row)).collect::<Result<_>>()?;
        let mut odd = Vec::new();
        for (id, view) in ids.iter().zip(&mut views).filter(|(id, _)| !id.contains('@')) {
            // Nobody could ask for it by this id: it ends here, and is shown under another.
            if let Err(error) = TaskId::new(id)
                && view.take().is_some_and(|view| !view.state.is_ended())
            {
                odd.push(Odd::waiting(id, error));
            }
        }
        self.end_unreadable(&self.commands, ANSWER, queue, "", odd).await;
        Ok(views)
    }

    pub(super) async fn read_log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        let queue = match queue {
            Some(queue) => queue.clone(),
            None => match self.find_anywhere(id).await? {
                Some(view) => view.queue,
                None => return Ok(None),
            },
        };
        if let Some(log) = text(self.commands.send(redis::cmd("GET").arg(self.keys.log(&queue, id))).await?) {
            return Ok(Some(log));
        }
        let is = self.commands.send(redis::cmd("EXISTS").arg(self.keys.task(&queue, id))).await?;
        Ok(is_yes(&is).then(String::new))
    }

    pub(super) async fn all_queues(&self) -> Result<Vec<QueueName>> {
        let (key, mut queues, mut odd) = (self.keys.shared("queues"), Vec::new(), Vec::new());
        for name in list(self.commands.send(redis::cmd("SMEMBERS").arg(&key)).await?)?.into_iter().map(bytes) {
            match QueueName::new(String::from_utf8_lossy(&name)) {
                Ok(queue) => queues.push(queue),
                Err(why) => {
                    unreadable::say(&self.at, &format!("a name in `{key}`"), why, "it is taken from there");
                    odd.push(name);
                }
            }
        }
        if !odd.is_empty() {
            self.commands.send(redis::cmd("SREM").arg(&key).arg(&odd)).await?;
        }
        queues.sort_unstable();
        Ok(queues)
    }

    pub(super) async fn all_queue_views(&self) -> Result<Vec<QueueView>> {
        let views = self.all_queues().await?.into_iter().map(|queue| async move {
            let call = COUNTS.call(&self.keys.queue(&queue)).arg(millis(self.settings.result_ttl));
            let mut row = Row::new(self.commands.call(&call).await?)?;
            // In the order of `State::ALL`.
            let counts = State::ALL.into_iter().map(|state| (state, count(&row.next()))).collect();
            let oldest_ready_ms = u64::try_from(number(&row.next())).ok();
            Ok(QueueView { queue, counts, oldest_ready_ms, paused: is_yes(&row.next()) })
        });
        try_join_all(views).await
    }

    pub(super) async fn cancel_one(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        let call = CANCEL
            .call(&self.keys.queue(queue))
            .arg(millis(self.settings.result_ttl))
            .arg(id.as_str())
            .arg(self.keys.control())
            .arg(queue.as_str());
        let said = word(self.commands.call(&call).await?);
        Ok(match &*said {
            "unknown" => CancelReply::NotFound,
            "cancelled" => CancelReply::Cancelled,
            "asked" => CancelReply::Asked,
            ended => CancelReply::AlreadyEnded(state(ended.trim_start_matches("ended "))),
        })
    }

    pub(super) async fn retry_one(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        let mut row = Row::new(self.commands.call(&RETRY.call(&self.keys.queue(queue)).arg(id.as_str())).await?)?;
        Ok(match &*word(row.next()) {
            "unknown" => RetryReply::NotFound,
            "ready" => RetryReply::Ready,
            "duplicate" => RetryReply::Duplicate { holder: shown_id(&bytes(row.next())) },
            _ => RetryReply::NotEnded(state(&word(row.next()))),
        })
    }

    pub(super) async fn delete_one(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        let said = word(self.commands.call(&DELETE.call(&self.keys.queue(queue)).arg(id.as_str())).await?);
        Ok(match &*said {
            "deleted" => DeleteReply::Deleted,
            "running" => DeleteReply::Running,
            _ => DeleteReply::NotFound,
        })
    }

    pub(super) async fn pause_queue(&self, queue: &QueueName) -> Result<()> {
        self.meet(queue).await?;
        self.commands.send(redis::cmd("HSET").arg(self.keys.of(queue, "control")).arg("paused").arg(1)).await.map(drop)
    }

    pub(super) async fn resume_queue(&self, queue: &QueueName) -> Result<()> {
        self.commands.call(&RESUME.call(&self.keys.queue(queue))).await.map(drop)
    }

    pub(super) async fn purge_queue(&self, queue: &QueueName) -> Result<u64> {
        let mut purged = 0;
        loop {
            let mut row = Row::new(self.commands.call(&PURGE.call(&self.keys.queue(queue))).await?)?;
            purged += count(&row.next());
            if is_yes(&row.next()) {
                continue;
            }
            if !is_yes(&row.next()) {
                self.met.forget(queue);
                self.commands.send(redis::cmd("SREM").arg(self.keys.shared("queues")).arg(queue.as_str())).await?;
            }
            return Ok(purged);
        }
    }

    pub(super) async fn list_page(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        let mut page = TaskPage::default();
        let mut cursor = Cursor::parse(from)?;
        if limit == 0 {
            return Ok(page);
        }
        let now = self.server_time().await?;
        let queues = match &filter.queue {
            Some(queue) => vec![queue.clone()],
            None => self.all_queues().await?,
        };
        let wanted = |state: State| filter.states.is_empty() || filter.states.contains(&state);
        while let Cursor::Waiting { section, queue, offset } = cursor {
            let next = queues.iter().find(|candidate| queue.as_ref().is_none_or(|queue| *candidate >= queue));
            let (Some(state), Some(at)) = (WAITING.get(section), next) else {
                cursor = if section < WAITING.len() {
                    Cursor::Waiting { section: section + 1, queue: None, offset: 0 }
                } else {
                    Cursor::Ended { before: None }
                };
                continue;
            };
            let offset = if queue.as_ref() == Some(at) { offset } else { 0 };
            let candidates = if wanted(*state) { self.waiting_in(at, *state, offset).await? } else { Vec::new() };
            if candidates.is_empty() {
                let after = queues.iter().find(|candidate| *candidate > at).cloned();
                let section = if after.is_some() { section } else { section + 1 };
                cursor = Cursor::Waiting { section, queue: after, offset: 0 };
                continue;
            }
            for (n, view) in self.views(at, &candidates).await?.into_iter().enumerate() {
                // One that has gone on since is met again where it is now.
                if let Some(view) = view.filter(|view| view.state == *state && fits(filter, view, now)) {
                    page.tasks.push(view);
                    if page.tasks.len() == limit {
                        page.next = Some(format!("{section}/{at}/{}", offset + n + 1));
                        return Ok(page);
                    }
                }
            }
            cursor = Cursor::Waiting { section, queue: Some(at.clone()), offset: offset + candidates.len() };
        }
        if let Cursor::Ended { before } = cursor
            && [State::Succeeded, State::Dead, State::Cancelled].into_iter().any(wanted)
        {
            self.list_ended(filter, &queues, before, limit, now, &mut page).await?;
        }
        Ok(page)
    }

    async fn waiting_in(&self, queue: &QueueName, state: State, offset: usize) -> Result<Vec<String>> {
        let range = async |key: &str, from: usize| {
            let mut command = redis::cmd("ZRANGE");
            command.arg(self.keys.of(queue, key)).arg(from).arg(from + LOOK - 1);
            words(self.commands.send(&command).await?)
        };
        match state {
            State::Ready => range("ready", offset).await,
            State::Scheduled => range("scheduled", offset).await,
            State::Parked => {
                let mut names = words(self.commands.send(redis::cmd("SMEMBERS").arg(self.keys.of(queue, "parked"))).await?)?;
                names.sort_unstable();
                let mut skip = offset;
                for name in names {
                    let key = format!("parked:{name}");
                    let size = count(&self.commands.send(redis::cmd("ZCARD").arg(self.keys.of(queue, &key))).await?);
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    if skip < size {
                        return range(&key, skip).await;
                    }
                    skip -= size;
                }
                Ok(Vec::new())
            }
            _ => {
                let mut held = Vec::new();
                for inc in words(self.commands.send(redis::cmd("ZRANGE").arg(self.keys.of(queue, "workers")).arg(0).arg(-1)).await?)? {
                    held.extend(words(self.commands.send(redis::cmd("SMEMBERS").arg(self.keys.of(queue, &format!("held:{inc}")))).await?)?);
                }
                held.sort_unstable();
                Ok(held.into_iter().skip(offset).take(LOOK).collect())
            }
        }
    }

    /// What the feed of endings and the dead set know of; the feed is bounded.
    async fn list_ended(
        &self,
        filter: &TaskFilter,
        queues: &[QueueName],
        before: Option<(u64, TaskId)>,
        limit: usize,
        now: Millis,
        page: &mut TaskPage,
    ) -> Result<()> {
        let mut ended: BTreeMap<(u64, String), usize> = BTreeMap::new();
        for (n, queue) in queues.iter().enumerate() {
            let mut newest: HashMap<String, u64> = HashMap::new();
            for entry in list(self.commands.send(redis::cmd("XRANGE").arg(self.keys.of(queue, "events")).arg("-").arg("+")).await?)? {
                let mut row = Row::new(entry)?;
                row.next();
                let fields = words(row.next())?;
                let at = fields.get(1).and_then(|at| at.parse().ok()).unwrap_or_default();
                for ids in fields.iter().skip(3).step_by(2) {
                    newest.extend(ids.split(' ').map(|id| (id.to_owned(), at)));
                }
            }
            let mut dead = redis::cmd("ZRANGE");
            dead.arg(self.keys.of(queue, "dead")).arg(0).arg(-1).arg("WITHSCORES");
            for pair in words(self.commands.send(&dead).await?)?.chunks_exact(2) {
                newest.insert(pair[0].clone(), pair[1].parse().unwrap_or_default());
            }
            ended.extend(newest.into_iter().map(|(id, at)| ((at, id), n)));
        }
        let before = before.map(|(at, id)| (at, id.to_string()));
        let candidates: Vec<_> = ended.into_iter().rev().filter(|(key, _)| before.as_ref().is_none_or(|before| key < before)).collect();
        for part in candidates.chunks(LOOK) {
            let mut found: HashMap<&String, TaskView> = HashMap::new();
            for (n, queue) in queues.iter().enumerate() {
                let ids: Vec<_> = part.iter().filter(|(_, of)| *of == n).map(|((_, id), _)| id.clone()).collect();
                if ids.is_empty() {
                    continue;
                }
                let views = self.views(queue, &ids).await?;
                found.extend(
                    part.iter().filter(|(_, of)| *of == n).map(|((_, id), _)| id).zip(views).filter_map(|(id, view)| Some((id, view?))),
                );
            }
            for ((at, id), _) in part {
                let view = found.remove(id).filter(|view| view.state.is_ended() && fits(filter, view, now));
                // An ending that was followed by another stands in the feed twice.
                if let Some(view) = view.filter(|view| view.ended_at == Some(Millis(*at))) {
                    page.tasks.push(view);
                    if page.tasks.len() == limit {
                        page.next = Some(format!("ended/{at}/{id}"));
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where a listing goes on.
enum Cursor {
    Waiting { section: usize, queue: Option<QueueName>, offset: usize },
    Ended { before: Option<(u64, TaskId)> },
}

impl Cursor {
    fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::Waiting { section: 0, queue: None, offset: 0 }) };
        let read = || {
            let mut parts = text.splitn(3, '/');
            let (first, second, third) = (parts.next()?, parts.next()?, parts.next()?);
            if first == "ended" {
                return Some(Self::Ended { before: Some((second.parse().ok()?, third.parse().ok()?)) });
            }
            Some(Self::Waiting { section: first.parse().ok()?, queue: Some(second.parse().ok()?), offset: third.parse().ok()? })
        };
        read().ok_or_else(|| BrokerError::Invalid(format!("a listing goes on from what the page before gave: `{text}`")))
    }
}

fn fits(filter: &TaskFilter, view: &TaskView, now: Millis) -> bool {
    let changed = view.ended_at.or(view.due_at).unwrap_or(view.enqueued_at);
    (filter.states.is_empty() || filter.states.contains(&view.state))
        && filter.task.as_ref().is_none_or(|name| *name == view.task)
        && filter.older.is_none_or(|older| changed.after(older) <= now)
        && filter.error.as_ref().is_none_or(|part| {
            view.error.as_ref().is_some_and(|error| {
                error.kind.as_str().contains(part)
                    || error.message.contains(part)
                    || error.code.as_ref().is_some_and(|code| code.contains(part))
            })
        })
}

/// A state that is none is shown as dead.
fn state(word: &str) -> State {
    word.parse().unwrap_or(State::Dead)
}
