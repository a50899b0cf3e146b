//! Listings: section by section (running, ready, scheduled, parked) and queue by queue, then the ended tasks of all queues, newest first.
//!
//! the next candidates of one section → their views → those that match the filter
//!
//! Invariant: a cursor names the last task that was looked at by its place in the order, never by a count. So tasks that come and go
//! meanwhile shift nothing, and the cost of a page does not grow with the number of tasks.

use std::{cmp::Reverse, collections::VecDeque};

use futures_util::future::try_join_all;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

use super::{
    driver::RedisBroker,
    scripts::{ENDED, RUNNING, WAITING},
    values::{self, bytes, word, words},
};
use crate::{
    error::Result,
    listing::{TaskFilter, TaskPage, Walk, place},
    schedule::Schedules,
    tasks,
};
use taskhost_core::task::{Millis, QueueName, State, TaskId};

/// Bytes that a cursor must escape.
const NO_TEXT: &AsciiSet = &CONTROLS.add(b'%');

const SECTIONS: [State; 4] = [State::Running, State::Ready, State::Scheduled, State::Parked];
const ENDS: [State; 3] = [State::Succeeded, State::Dead, State::Cancelled];

/// Where a listing continues.
#[derive(Debug, Serialize, Deserialize)]
enum Cursor {
    Waiting {
        section: usize,
        /// `None`: the first queue.
        queue: Option<QueueName>,
        after: Mark,
    },
    Ended(Option<Last>),
}

/// A place in one section of one queue. All fields are empty at its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Mark {
    /// The task name; of parked tasks only.
    name: String,
    score: String,
    /// The id, with each byte that no id has written as `%` and hex. Of running tasks, the held member.
    id: String,
}

/// The last ended task that was looked at, as `ended.lua` gives it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Last {
    queue: QueueName,
    at: u64,
    told: String,
}

pub(super) async fn list(broker: &RedisBroker, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
    let mut cursor = match from {
        Some(from) => place(from)?,
        None => Cursor::Waiting { section: 0, queue: None, after: Mark::default() },
    };
    let queues = match &filter.queue {
        Some(queue) => vec![queue.clone()],
        None => broker.all_queues().await?,
    };
    let mut walk = Walk::new(filter, broker.now().await?, limit);
    while !walk.is_over() {
        cursor = match cursor {
            Cursor::Waiting { section, queue, after } => broker.walk_waiting(&mut walk, &queues, section, queue, after).await?,
            Cursor::Ended(last) => {
                let is_end = broker.walk_ended(&mut walk, &queues, last.as_ref()).await?;
                return walk.page(is_end);
            }
        };
    }
    walk.page(false)
}

/// The newest ends of a queue since a time. All that ended before `until` are listed by then.
pub(super) async fn feed(broker: &RedisBroker, queue: &QueueName, since: Millis, limit: usize) -> Result<tasks::Feed> {
    let until = broker.now().await?;
    let newest = until.0.saturating_sub(1);
    if limit == 0 || newest < since.0 {
        return Ok(tasks::Feed { ends: Vec::new(), until, is_cut: false });
    }
    let mut feed = Feed { newest: Some(newest), ..Feed::new(queue, None, Some(since)) };
    broker.fill(&mut feed, &ENDS, limit.saturating_add(1)).await?;
    let is_cut = feed.next.len() > limit;
    let mut ends: Vec<_> = feed.next.into_iter().take(limit).filter_map(|ended| ended.end()).collect();
    ends.reverse();
    Ok(tasks::Feed { ends, until, is_cut })
}

impl RedisBroker {
    /// One step of the first four sections. Gives the cursor behind it.
    async fn walk_waiting(
        &self,
        walk: &mut Walk<'_, Cursor>,
        queues: &[QueueName],
        section: usize,
        queue: Option<QueueName>,
        after: Mark,
    ) -> Result<Cursor> {
        let Some(state) = SECTIONS.get(section) else { return Ok(Cursor::Ended(None)) };
        let of = |section, queue| Cursor::Waiting { section, queue, after: Mark::default() };
        let at = queues.iter().find(|candidate| queue.as_ref().is_none_or(|queue| *candidate >= queue));
        let Some(at) = at.filter(|_| walk.filter.wants(*state)) else { return Ok(of(section + 1, None)) };
        let mut after = if queue.as_ref() == Some(at) { after } else { Mark::default() };
        let marks = self.waiting_in(at, *state, &after, walk.wanted()).await?;
        if marks.is_empty() {
            let next = queues.iter().find(|candidate| *candidate > at).cloned();
            return Ok(if next.is_some() { of(section, next) } else { of(section + 1, None) });
        }
        let ids: Vec<_> = marks.iter().map(|mark| mark.id.clone()).collect();
        let here = |after| Cursor::Waiting { section, queue: Some(at.clone()), after };
        for (mark, view) in marks.into_iter().zip(self.views(at, &ids).await?) {
            after = mark;
            // A task that changed its state meanwhile is listed at its new place.
            walk.look(view.filter(|view| view.state == *state), here(after.clone()));
            if walk.is_over() {
                break;
            }
        }
        Ok(here(after))
    }

    /// The next tasks of one section of one queue, at most `limit`; none at its end.
    async fn waiting_in(&self, queue: &QueueName, state: State, after: &Mark, limit: usize) -> Result<Vec<Mark>> {
        match state {
            State::Ready => self.waiting_at(queue, "ready", "", after, limit).await,
            State::Scheduled => self.waiting_at(queue, "scheduled", "", after, limit).await,
            State::Parked => {
                let mut names = words(self.commands.send(redis::cmd("SMEMBERS").arg(self.keys.of(queue, "parked"))).await?)?;
                names.sort_unstable();
                for name in names.into_iter().filter(|name| *name >= after.name) {
                    let within = if name == after.name { after.clone() } else { Mark::default() };
                    let found = self.waiting_at(queue, &format!("parked:{name}"), &name, &within, limit).await?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
                Ok(Vec::new())
            }
            _ => {
                let mut held = words(self.commands.call(&RUNNING.call(&self.keys.queue(queue))).await?)?;
                held.sort_unstable();
                let members = held.into_iter().filter(|member| *member > after.id).take(limit);
                Ok(members.map(|id| Mark { id, ..Mark::default() }).collect())
            }
        }
    }

    async fn waiting_at(&self, queue: &QueueName, key: &str, name: &str, after: &Mark, limit: usize) -> Result<Vec<Mark>> {
        let before: Vec<u8> = percent_decode_str(&after.id).collect();
        let call = WAITING.call(&self.keys.queue(queue)).arg(key).arg(limit).arg(&after.score).arg(before);
        let mut pairs = values::list(self.commands.call(&call).await?)?.into_iter();
        let mut marks = Vec::new();
        while let (Some(id), Some(score)) = (pairs.next(), pairs.next()) {
            let id = percent_encode(&bytes(id), NO_TEXT).to_string();
            marks.push(Mark { name: name.to_owned(), score: word(score), id });
        }
        Ok(marks)
    }

    /// Ended tasks, from `last` on. Gives whether these were all.
    async fn walk_ended(&self, walk: &mut Walk<'_, Cursor>, queues: &[QueueName], last: Option<&Last>) -> Result<bool> {
        let states: Vec<State> = ENDS.into_iter().filter(|state| walk.filter.wants(*state)).collect();
        if states.is_empty() {
            return Ok(true);
        }
        let mut feeds: Vec<Feed<'_>> = queues.iter().map(|queue| Feed::new(queue, last, walk.filter.from)).collect();
        while !walk.is_over() {
            let wanted = walk.wanted();
            let mut batch: Vec<(usize, Ended)> = Vec::new();
            while batch.len() < wanted {
                let together = (2 * wanted / feeds.len().max(1)).clamp(4, wanted.max(4));
                try_join_all(feeds.iter_mut().filter(|feed| feed.is_thirsty()).map(|feed| self.fill(feed, &states, together))).await?;
                let newest = feeds.iter().enumerate().filter_map(|(n, feed)| Some((feed.next.front()?.at, Reverse(n)))).max();
                let Some((_, Reverse(n))) = newest else { break };
                batch.extend(feeds[n].next.pop_front().map(|ended| (n, ended)));
            }
            if batch.is_empty() {
                return Ok(true);
            }
            let mut views = Vec::new();
            for (n, feed) in feeds.iter().enumerate() {
                let ids: Vec<_> = batch.iter().filter(|(of, _)| *of == n).map(|(_, ended)| ended.id.clone()).collect();
                views.push(if ids.is_empty() { Vec::new() } else { self.views(feed.queue, &ids).await? }.into_iter());
            }
            for (n, ended) in batch {
                // A task that was retried and ended again meanwhile has another place.
                let view = views[n].next().flatten().filter(|view| view.state.is_ended() && view.ended_at == Some(ended.end));
                let last = Last { queue: feeds[n].queue.clone(), at: ended.at, told: ended.told };
                walk.look(view, Cursor::Ended(Some(last)));
                if walk.is_over() {
                    break;
                }
            }
        }
        Ok(false)
    }

    async fn fill(&self, feed: &mut Feed<'_>, states: &[State], limit: usize) -> Result<()> {
        let mut call = ENDED.call(&self.keys.queue(feed.queue)).arg(limit).arg(&feed.from);
        call.push(feed.newest.map_or_else(String::new, |at| at.to_string()));
        call.push(feed.oldest.map_or_else(String::new, |at| at.0.to_string()));
        for state in states {
            call.push(state.as_str());
        }
        let told = words(self.commands.call(&call).await?)?;
        feed.is_over = told.len() < limit;
        if let Some(last) = told.last() {
            feed.from.clone_from(last);
        }
        feed.next.extend(told.into_iter().filter_map(Ended::read));
        Ok(())
    }
}

/// The ended tasks of one queue, newest first, read as far as needed.
struct Feed<'a> {
    queue: &'a QueueName,
    next: VecDeque<Ended>,
    /// The last line of `ended.lua`, or empty.
    from: String,
    /// If `from` is empty: the newest time to start at.
    newest: Option<u64>,
    /// The oldest time to read.
    oldest: Option<Millis>,
    is_over: bool,
}

impl<'a> Feed<'a> {
    /// Ends of the same time are listed in the order of their queues: the queues before the cursor's queue have shown theirs.
    fn new(queue: &'a QueueName, last: Option<&Last>, oldest: Option<Millis>) -> Self {
        let from = last.filter(|last| last.queue == *queue).map(|last| last.told.clone()).unwrap_or_default();
        let newest = last.map(|last| if *queue < last.queue { last.at.saturating_sub(1) } else { last.at });
        Self { queue, next: VecDeque::new(), from, newest, oldest, is_over: false }
    }

    fn is_thirsty(&self) -> bool {
        self.next.is_empty() && !self.is_over
    }
}

/// One line of `ended.lua`.
struct Ended {
    /// The time by which ends are ordered.
    at: u64,
    end: Millis,
    id: String,
    told: String,
}

impl Ended {
    /// The name of its list has the state: `dead`, `kept:cancelled`, `succeeded:3600000`.
    fn end(&self) -> Option<tasks::End> {
        let list = self.told.split(' ').nth(1)?;
        let state = list.trim_start_matches("kept:").split(':').next()?.parse().ok()?;
        Some(tasks::End { id: TaskId::new(&*self.id).ok()?, state, at: self.end })
    }

    fn read(told: String) -> Option<Self> {
        let mut parts = told.splitn(6, ' ');
        let at = parts.next()?.parse().ok()?;
        let end = Millis(parts.nth(3)?.parse().ok()?);
        let id = parts.next()?.to_owned();
        Some(Self { at, end, id, told })
    }
}
