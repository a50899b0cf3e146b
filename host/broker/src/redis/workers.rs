//! What workers ask: register, claim, extend, finish, leave, wait, and what the outbox and the bounds want now and then.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt::Write,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::try_join_all};
use tokio::sync::mpsc;

use super::{
    RedisBroker,
    connection::{ANSWER, Link},
    scripts::{CLAIM, EXPIRE, EXTEND, FINISH, HELD, LEAVE, PROGRESS, REGISTER, RELAY, SWEEP, UNREADABLE},
    values::{
        Odd, Row, Taken, claimed, count, entry, is_yes, json, leased_list, list, millis, names, number, odd_ids, record, short_digest,
        shown_id, word, words,
    },
};
use crate::{
    broker::{
        BrokerError, Claimed, Extended, Finish, FinishReply, Finished, Incarnation, Lease, Leased, Member, Result, grace, unreadable,
    },
    retry::{Next, transition},
    task::{NewTask, Progress, QueueName, TaskId, TaskName, Verdict},
};

/// Attempts of one `finish` call: it keeps the server for some 5 µs each.
const TOGETHER: usize = 500;
/// A busy server may take so long to answer a heartbeat, however short the lease.
const SOONEST: Duration = Duration::from_millis(500);
/// Entries of the outbox that are moved at once.
const RELAY_TOGETHER: usize = 500;

impl RedisBroker {
    pub(super) async fn new_incarnation(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        // Who registers anew may meet an empty broker: whatever was put there once is put again.
        self.agree_on_schema().await?;
        self.met.clear();
        match self.meet(queue).await {
            // Too full for a name: then it is not empty, and knows the name.
            Err(BrokerError::Refused(_)) => {}
            met => met?,
        }
        let lease = millis(lease).max(1);
        let id = format!("{}:{lease}", uuid::Uuid::now_v7());
        self.commands.call(&REGISTER.call(&self.keys.queue(queue)).arg(lease).arg(&*id)).await?;
        Ok(Incarnation { queue: queue.clone(), id: id.into() })
    }

    pub(super) async fn claim_some(
        &self,
        who: &Incarnation,
        lease: Duration,
        limit: usize,
        startable: &[TaskName],
    ) -> Result<Lease<Claimed>> {
        let mut call = CLAIM
            .call(&self.keys.queue(&who.queue))
            .arg(millis(self.settings.result_ttl))
            .arg(limit)
            .arg(millis(lease).max(1))
            .arg(&*who.id);
        for name in startable {
            call.push(name.as_str());
        }
        let mut row = Row::new(self.commands.call(&call).await?)?;
        if !is_yes(&row.next()) {
            return Ok(Lease::Lost);
        }
        let claimed_us = count(&row.next());
        let (paused, more, due) = (is_yes(&row.next()), is_yes(&row.next()), number(&row.next()));
        let parked = names(row.next())?;
        let mut adopted = leased_list(&who.queue, row.next())?;
        let taken = count(&row.next());
        let tasks = claimed(&who.queue, claimed_us, taken, &row.next(), &row.next(), row.next())?;
        let tasks = match tasks {
            Some(tasks) => tasks,
            None => self.claimed_at(who, claimed_us).await?,
        };
        adopted.odd.extend(tasks.odd);
        adopted.odd.extend(odd_ids(claimed_us, row.next())?);
        self.end_unreadable(&self.commands, ANSWER, &who.queue, &who.id, adopted.odd).await;
        let next_due = u64::try_from(due).ok().map(Duration::from_millis);
        Ok(Lease::Held(Claimed { tasks: tasks.tasks, adopted: adopted.tasks, parked, more, next_due, paused }))
    }

    /// What one claim took, read from the held set: its answer is in words, and somebody wrote a task that has more of them.
    async fn claimed_at(&self, who: &Incarnation, claimed_us: u64) -> Result<Taken> {
        let mut taken = self.all_held(who).await?;
        let stamp = format!("@{claimed_us}");
        taken.tasks.retain(|leased| leased.member.claimed_us == claimed_us);
        taken.odd.retain(|odd| odd.member.ends_with(stamp.as_bytes()));
        taken.tasks.sort_by(|a, b| (b.task.priority, &a.member.id).cmp(&(a.task.priority, &b.member.id)));
        Ok(taken)
    }

    /// Tasks that no host can read end as dead, each alone. One that could not be ended now stays held, and is met again when this
    /// incarnation, or who adopts from it, looks at what it holds.
    pub(super) async fn end_unreadable(&self, link: &Link, within: Duration, queue: &QueueName, incarnation: &str, odd: Vec<Odd>) {
        for part in odd.chunks(TOGETHER) {
            let mut call = UNREADABLE.call(&self.keys.queue(queue)).arg(millis(self.settings.result_ttl)).arg(incarnation);
            for Odd { member, id, why } in part {
                let own = String::from_utf8_lossy(id);
                let known = shown_id(id);
                let why = if known.as_str() == own { why.clone() } else { format!("{why} (its id was `{}`)", unreadable::shown(&own)) };
                let text = serde_json::Value::from(&*why).to_string();
                call.push(member);
                call.push(known.as_str());
                call.push(&text[1..text.len() - 1]);
                let then =
                    format!("it is dead: `taskhost task show {known} --queue {queue}`, `taskhost task delete {known} --queue {queue}`");
                unreadable::say(&self.at, &format!("task `{known}` of queue `{queue}`"), why, then);
            }
            if let Err(error) = link.call_within(&call, within).await {
                tracing::debug!(%queue, %error, "what can't be read is ended later");
                return;
            }
        }
    }

    /// On a connection of its own: nothing that waits for a slow answer may keep a heartbeat. It waits for half of the grace only:
    /// a connection that fell silent must leave time for a new one.
    pub(super) async fn heartbeat(&self, who: &Incarnation, lease: Duration) -> Result<Lease<Extended>> {
        let call = EXTEND.call(&self.keys.queue(&who.queue)).arg(millis(lease).max(1)).arg(&*who.id);
        let within = (grace(lease) / 2).clamp(SOONEST, ANSWER);
        let mut row = Row::new(self.heartbeats.call_within(&call, within).await?)?;
        if !is_yes(&row.next()) {
            return Ok(Lease::Lost);
        }
        let held = usize::try_from(number(&row.next())).unwrap_or(0);
        let cancelled = names(row.next())?;
        let outbox = is_yes(&row.next());
        let adopted = leased_list(&who.queue, row.next())?;
        self.end_unreadable(&self.heartbeats, within, &who.queue, &who.id, adopted.odd).await;
        Ok(Lease::Held(Extended { held, cancelled, outbox, adopted: adopted.tasks }))
    }

    pub(super) async fn held_by(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        let held = self.all_held(who).await?;
        self.end_unreadable(&self.commands, ANSWER, &who.queue, &who.id, held.odd).await;
        Ok(held.tasks)
    }

    async fn all_held(&self, who: &Incarnation) -> Result<Taken> {
        let (mut held, mut odd): (BTreeMap<Member, Leased>, _) = (BTreeMap::new(), Vec::new());
        let mut cursor = "0".to_owned();
        loop {
            let call = HELD.call(&self.keys.queue(&who.queue)).arg(&*who.id).arg(&*cursor);
            let mut row = Row::new(self.commands.call(&call).await?)?;
            cursor = word(row.next());
            // A scan may give a member twice.
            let page = leased_list(&who.queue, row.next())?;
            held.extend(page.tasks.into_iter().map(|leased| (leased.member.clone(), leased)));
            odd.extend(page.odd);
            if cursor == "0" {
                return Ok(Taken { tasks: held.into_values().collect(), odd });
            }
        }
    }

    pub(super) async fn finish_all(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let mut reply = Vec::with_capacity(finishes.len());
        for part in finishes.chunks(TOGETHER) {
            reply.extend(self.finish_together(who, part).await?);
        }
        Ok(reply)
    }

    async fn finish_together(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let ttl = millis(self.settings.result_ttl);
        let mut authors = Authors::default();
        let mut plain = Vec::with_capacity(finishes.len());
        let mut others = Vec::new();
        let mut children = Vec::new();
        let mut said = HashSet::with_capacity(finishes.len());
        for (index, finish) in finishes.iter().enumerate() {
            // Said twice in one call: the second finds nothing, like any repeated finish.
            if !said.insert(&finish.member) {
                continue;
            }
            let told = self.told(finish)?;
            let author = authors.index(finish);
            match &finish.verdict {
                Verdict::Succeed { children: tasks, .. } if told.kind == "S" => {
                    if tasks.is_empty() && finish.log.is_empty() && author == 0 {
                        plain.push((index, told.data));
                        continue;
                    }
                    let before = children.len();
                    if !tasks.is_empty() {
                        self.children(&who.queue, tasks, &mut children).await?;
                    }
                    others.push((index, told, author, children.len() - before));
                }
                _ => others.push((index, told, author, 0)),
            }
        }
        let keep = millis(self.settings.dead_age).max(ttl).saturating_add(86_400_000);
        let mut call = FINISH.call(&self.keys.queue(&who.queue)).arg(ttl).arg(&*who.id).arg(keep).arg(authors.0.len());
        for author in &authors.0 {
            call.push(&author.name);
            call.push(&author.by);
        }
        call.push(plain.len());
        let mut member = String::new();
        for (index, _) in &plain {
            member.clear();
            let _infallible = write!(member, "{}", finishes[*index].member);
            call.push(&member);
        }
        for (_, result) in &plain {
            call.push(&**result);
        }
        call.push(others.len());
        for (index, told, author, children) in &others {
            let finish = &finishes[*index];
            member.clear();
            let _infallible = write!(member, "{}", finish.member);
            for part in [&member, told.kind, &told.data, &told.entry] {
                call.push(part);
            }
            call.push(told.delay);
            call.push(&authors.0[*author].name);
            match &finish.log {
                log if log.is_empty() || log.ends_with('\n') => call.push(log),
                log => call.push(format!("{log}\n")),
            }
            call.push(children);
        }
        for part in &children {
            call.push(part);
        }
        let order = plain.iter().map(|(index, _)| *index).chain(others.iter().map(|(index, ..)| *index));
        let digits = word(self.commit(&call).await?);
        if digits.len() != plain.len() + others.len() {
            return Err(super::values::corrupt("an answer", "not one a finish"));
        }
        let mut reply = vec![Finished::Stale; finishes.len()];
        for (index, digit) in order.zip(digits.bytes()) {
            reply[index] = match digit {
                b'1' => Finished::Recorded,
                b'2' => Finished::CancelledInstead,
                _ => Finished::Stale,
            };
        }
        Ok(reply)
    }

    fn told<'a>(&self, finish: &'a Finish) -> Result<Told<'a>> {
        let becomes = transition(&finish.verdict, self.settings.payload_limit);
        let is_loss = becomes.is_loss();
        let (kind, delay) = match becomes.next {
            Next::Succeeded { result, .. } => return Ok(Told { kind: "S", data: Cow::Borrowed(result), entry: String::new(), delay: 0 }),
            Next::Dead => (if is_loss { "W" } else { "D" }, Duration::ZERO),
            Next::Cancelled => ("C", Duration::ZERO),
            Next::Waiting(delay) if !becomes.is_counted => ("H", delay),
            Next::Waiting(delay) => (if is_loss { "L" } else { "R" }, delay),
            Next::Parked => ("P", Duration::ZERO),
        };
        let (data, entry) = match &becomes.error {
            Some(error) => (json(&**error)?, entry(&finish.worker, finish.code.as_deref(), error)?),
            None => (String::new(), String::new()),
        };
        Ok(Told { kind, data: data.into(), entry, delay: millis(delay) })
    }

    /// Children of this queue as records, those of others as they stand in the outbox.
    async fn children(&self, queue: &QueueName, tasks: &[NewTask], out: &mut Vec<String>) -> Result<()> {
        let (here, there): (Vec<_>, Vec<_>) = tasks.iter().partition(|task| task.queue == *queue);
        out.push(here.len().to_string());
        for task in here {
            out.extend(record(task)?);
        }
        for task in there {
            self.meet(&task.queue).await?;
            out.push(task.queue.to_string());
            out.push(json(&record(task)?)?);
        }
        Ok(())
    }

    pub(super) async fn leave_for_good(&self, who: &Incarnation) -> Result<()> {
        let call = LEAVE.call(&self.keys.queue(&who.queue)).arg(millis(self.settings.result_ttl)).arg(&*who.id);
        while !is_yes(&self.commands.call(&call).await?) {}
        Ok(())
    }

    pub(super) async fn expire_now(&self, who: &Incarnation) -> Result<()> {
        self.commands.call(&EXPIRE.call(&self.keys.queue(&who.queue)).arg(&*who.id)).await.map(drop)
    }

    pub(super) async fn tell_cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        let mut backoff = Duration::from_millis(100);
        while !sender.is_closed() {
            let listening = async {
                let mut connection = self.target.listen().await?;
                connection.subscribe(self.keys.control()).await?;
                Ok::<_, redis::RedisError>(connection)
            };
            if let Ok(mut connection) = listening.await {
                backoff = Duration::from_millis(100);
                // What was asked for while nobody listened.
                for told in self.all_cancelled().await.unwrap_or_default() {
                    if sender.send(told).await.is_err() {
                        return Ok(());
                    }
                }
                let mut messages = connection.on_message();
                loop {
                    let message = tokio::select! {
                        message = messages.next() => message,
                        () = sender.closed() => return Ok(()),
                    };
                    let Some(message) = message else { break };
                    let told = std::str::from_utf8(message.get_payload_bytes()).ok().and_then(|told| told.split_once(' '));
                    if let Some((queue, id)) = told
                        && let (Ok(queue), Ok(id)) = (QueueName::new(queue), TaskId::new(id))
                        && sender.send((queue, id)).await.is_err()
                    {
                        return Ok(());
                    }
                }
            }
            // The heartbeat tells meanwhile.
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(Duration::from_secs(5)),
                () = sender.closed() => {}
            }
        }
        Ok(())
    }

    async fn all_cancelled(&self) -> Result<Vec<(QueueName, TaskId)>> {
        let asked = self.all_queues().await?.into_iter().map(|queue| async move {
            let ids = self.commands.send(redis::cmd("SRANDMEMBER").arg(self.keys.of(&queue, "cancelled")).arg(1000)).await?;
            Ok::<_, BrokerError>(names(ids)?.into_iter().map(|id| (queue.clone(), id)).collect::<Vec<_>>())
        });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    pub(super) async fn note_progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        let call = PROGRESS.call(&self.keys.queue(queue)).arg(id.as_str()).arg(json(progress)?);
        self.commands.call(&call).await.map(drop)
    }

    /// Enqueue there first, remove here last: an entry that is relayed twice finds its id known, or its stub.
    pub(super) async fn relay_all(&self, queue: &QueueName) -> Result<usize> {
        let out = self.keys.of(queue, "out");
        let mut moved = 0;
        loop {
            let command = redis::cmd("XRANGE").arg(&out).arg("-").arg("+").arg("COUNT").arg(RELAY_TOGETHER).to_owned();
            let entries = list(self.commands.send(&command).await?)?;
            if entries.is_empty() {
                return Ok(moved);
            }
            let (mut ids, mut odd) = (Vec::new(), Vec::new());
            let mut queues: BTreeMap<QueueName, Vec<Vec<String>>> = BTreeMap::new();
            for entry in entries {
                let mut row = Row::new(entry)?;
                ids.push(word(row.next()));
                let fields = words(row.next())?;
                let to = fields.get(1).and_then(|to| QueueName::new(to).ok());
                match (to, fields.get(3).and_then(|record| serde_json::from_str(record).ok())) {
                    (Some(to), Some(record)) => queues.entry(to).or_default().push(record),
                    _ => odd.push((format!("{fields:?}"), "it is no queue and record".to_owned())),
                }
            }
            for (to, records) in queues {
                match self.relay_to(&to, &records).await {
                    Err(BrokerError::Invalid(_)) => {
                        for record in records {
                            if let Err(error) = self.relay_to(&to, std::slice::from_ref(&record)).await {
                                match error {
                                    BrokerError::Invalid(why) => odd.push((format!("{to} {record:?}"), why)),
                                    error => return Err(error),
                                }
                            }
                        }
                    }
                    relayed => relayed?,
                }
            }
            for (entry, why) in odd {
                // Beside the keys that were set aside, see careful.lua.
                let aside = self.keys.of(queue, "aside:out");
                let then = format!("it was moved to `{aside}`; `taskhost queue purge {queue}` deletes it");
                unreadable::say(&self.at, &format!("an entry of `{out}`, {entry},"), why, then);
                self.commands
                    .send(redis::cmd("XADD").arg(&aside).arg("MAXLEN").arg("~").arg(1000).arg("*").arg("entry").arg(entry))
                    .await?;
                self.commands.send(redis::cmd("SADD").arg(self.keys.of(queue, "aside")).arg("out")).await?;
            }
            self.commands.send(redis::cmd("XDEL").arg(&out).arg(&ids)).await?;
            moved += ids.len();
        }
    }

    async fn relay_to(&self, to: &QueueName, records: &[Vec<String>]) -> Result<()> {
        self.meet(to).await?;
        let mut call = RELAY.call(&self.keys.queue(to)).arg(records.len());
        for part in records.iter().flatten() {
            call.push(part);
        }
        self.commit(&call).await.map(drop)
    }

    pub(super) async fn sweep_bounds(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        let settings = &self.settings;
        let mut call = SWEEP
            .call(&self.keys.queue(queue))
            .arg(millis(settings.result_ttl))
            .arg(settings.dead_count)
            .arg(millis(settings.dead_age))
            .arg(millis(settings.unknown_task_ttl))
            .arg(format!("{} s", settings.unknown_task_ttl.as_secs()));
        for name in offered {
            call.push(name.as_str());
        }
        while is_yes(&self.commands.call(&call).await?) {}
        self.relay_all(queue).await.map(drop)
    }
}

/// A verdict in the script's words.
struct Told<'a> {
    kind: &'static str,
    data: Cow<'a, str>,
    entry: String,
    delay: u64,
}

/// Who ran what of a batch with which code: stored once for all tasks that share it, under a short name.
#[derive(Default)]
struct Authors<'a>(Vec<Author<'a>>);

struct Author<'a> {
    of: &'a Finish,
    name: String,
    by: String,
}

impl<'a> Authors<'a> {
    /// Where the author of `finish` stands. A worker's finishes share worker and code, so that looking at addresses is enough; what
    /// is only equal stands here twice, and is written twice.
    fn index(&mut self, finish: &'a Finish) -> usize {
        let same = |author: &Author<'_>| {
            let code = match (&author.of.code, &finish.code) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            };
            code && Arc::ptr_eq(&author.of.worker, &finish.worker)
        };
        self.0.iter().rposition(same).unwrap_or_else(|| {
            let by = by(finish);
            self.0.push(Author { of: finish, name: short_digest(by.as_bytes()), by });
            self.0.len() - 1
        })
    }
}

fn by(finish: &Finish) -> String {
    let (plugin, version, digest) =
        finish.code.as_ref().map_or(("", "", ""), |code| (code.plugin.as_str(), code.version.as_str(), code.digest.as_str()));
    format!("{}\n{plugin}\n{version}\n{digest}", finish.worker)
}
