//! The role of workers: register, claim, extend, finish, leave, sweep. Waiting, cancellations and relaying have files of their own.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    cancellations,
    connection::ANSWER,
    driver::RedisBroker,
    record::record,
    relay,
    scripts::{CLAIM, EXPIRE, EXTEND, FINISH, HELD, LEAVE, LOG_SO_FAR, PROGRESS, REGISTER, SWEEP},
    values::{Row, Taken, claimed, corrupt, count, entry, is_yes, json, leased_list, millis, names, number, odd_ids, short_digest, word},
    wait,
};
use crate::{
    error::{BrokerError, Result},
    lease::{Claimed, Extended, Finish, FinishReply, Finished, Incarnation, Lease, LeaseReply, Leased, Member, grace},
};
use taskhost_core::{
    retry::{Next, Transition, transition},
    task::{Follow, Millis, Progress, QueueName, TaskError, TaskId, TaskName},
};

/// Attempts in one script call: it occupies the server for about 5 µs each.
const TOGETHER: usize = 500;
/// A heartbeat waits at least this long for a busy server, however short the lease is.
const SOONEST: Duration = Duration::from_millis(500);

#[async_trait]
impl Lease for RedisBroker {
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        // The broker may have been emptied, so the schema and the queue's name are written again.
        self.take_over().await?;
        self.met.clear();
        match self.meet(queue).await {
            // The server is full, so it was not emptied and has the name.
            Err(BrokerError::Refused(_)) => {}
            met => met?,
        }
        let lease = millis(lease).max(1);
        let id = format!("{}:{lease}", uuid::Uuid::now_v7());
        self.commands.call(&REGISTER.call(&self.keys.queue(queue)).arg(lease).arg(&*id)).await?;
        Ok(Incarnation { queue: queue.clone(), id: id.into() })
    }

    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<LeaseReply<Claimed>> {
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
            return Ok(LeaseReply::Lost);
        }
        let claimed_us = count(&row.next());
        let (paused, more, due) =
            (Some(count(&row.next())).filter(|since| *since > 0).map(Millis), is_yes(&row.next()), number(&row.next()));
        let parked = names(row.next())?;
        let mut adopted = leased_list(&who.queue, row.next())?;
        let taken = count(&row.next());
        let tasks = claimed(&who.queue, claimed_us, taken, &row.next(), &row.next(), row.next())?;
        let tasks = match tasks {
            Some(tasks) => tasks,
            None => self.claimed_at(who, claimed_us).await?,
        };
        adopted.odd.extend(tasks.odd);
        adopted.odd.extend(odd_ids(claimed_us, taken, row.next())?);
        let flows = is_yes(&row.next());
        self.end_unreadable(&self.commands, ANSWER, &who.queue, &who.id, adopted.odd).await;
        let next_due = u64::try_from(due).ok().map(Duration::from_millis);
        Ok(LeaseReply::Held(Claimed { tasks: tasks.tasks, adopted: adopted.tasks, parked, more, next_due, paused, flows }))
    }

    /// On a connection of its own, so that no slow answer delays a heartbeat. It waits for half of the grace only, to leave time for a new
    /// connection if this one is silent.
    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>> {
        let call = EXTEND.call(&self.keys.queue(&who.queue)).arg(millis(lease).max(1)).arg(&*who.id);
        let within = (grace(lease) / 2).clamp(SOONEST, ANSWER);
        let mut row = Row::new(self.heartbeats.call_within(&call, within).await?)?;
        if !is_yes(&row.next()) {
            return Ok(LeaseReply::Lost);
        }
        let held = usize::try_from(number(&row.next())).unwrap_or(0);
        let cancelled = names(row.next())?;
        let outbox = is_yes(&row.next());
        let adopted = leased_list(&who.queue, row.next())?;
        let flows = is_yes(&row.next());
        self.end_unreadable(&self.heartbeats, within, &who.queue, &who.id, adopted.odd).await;
        Ok(LeaseReply::Held(Extended { held, cancelled, outbox, flows, adopted: adopted.tasks }))
    }

    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        let held = self.all_held(who).await?;
        self.end_unreadable(&self.commands, ANSWER, &who.queue, &who.id, held.odd).await;
        Ok(held.tasks)
    }

    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let mut reply = Vec::with_capacity(finishes.len());
        for part in finishes.chunks(TOGETHER) {
            reply.extend(self.finish_together(who, part).await?);
        }
        Ok(reply)
    }

    async fn leave(&self, who: &Incarnation) -> Result<()> {
        let call = LEAVE.call(&self.keys.queue(&who.queue)).arg(millis(self.settings.result_ttl)).arg(&*who.id);
        while !is_yes(&self.commands.call(&call).await?) {}
        Ok(())
    }

    async fn expire(&self, who: &Incarnation) -> Result<()> {
        self.commands.call(&EXPIRE.call(&self.keys.queue(&who.queue)).arg(&*who.id)).await.map(drop)
    }

    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        wait::wait(self, queue, limit).await
    }

    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        cancellations::cancellations(self, sender).await
    }

    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        let call = PROGRESS.call(&self.keys.queue(queue)).arg(id.as_str()).arg(json(progress)?);
        self.commands.call(&call).await.map(drop)
    }

    async fn log_so_far(&self, who: &Incarnation, member: &Member, log: &str) -> Result<()> {
        let call = LOG_SO_FAR.call(&self.keys.queue(&who.queue)).arg(&*who.id).arg(member.id.as_str());
        self.commands.call(&call.arg(member.claimed_us).arg(member.place).arg(log)).await.map(drop)
    }

    async fn relay(&self, queue: &QueueName) -> Result<usize> {
        relay::relay(self, queue).await
    }

    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        let settings = &self.settings;
        let bounds = serde_json::json!({
            "ttl": millis(settings.result_ttl),
            "dead_count": settings.dead_count,
            "dead_age": millis(settings.dead_age),
            "unknown_ttl": millis(settings.unknown_task_ttl),
            "unknown_for": format!("{} s", settings.unknown_task_ttl.as_secs()),
            "offered": offered,
        });
        let call = SWEEP.call(&self.keys.queue(queue)).arg(bounds.to_string());
        while is_yes(&self.commands.call(&call).await?) {}
        self.relay(queue).await.map(drop)
    }
}

impl RedisBroker {
    /// The tasks of one claim, read again from what the incarnation holds. The claim's own answer is split at spaces, and could not be read because of a
    /// foreign id or name with a space.
    async fn claimed_at(&self, who: &Incarnation, claimed_us: u64) -> Result<Taken> {
        let mut taken = self.all_held(who).await?;
        taken.tasks.retain(|leased| leased.member.claimed_us == claimed_us);
        taken.odd.retain(|odd| odd.held.is_some_and(|(claimed, _)| claimed == claimed_us));
        Ok(taken)
    }

    async fn all_held(&self, who: &Incarnation) -> Result<Taken> {
        let mut held = Taken::default();
        let mut from = String::new();
        loop {
            let call = HELD.call(&self.keys.queue(&who.queue)).arg(&*who.id).arg(&*from);
            let mut row = Row::new(self.commands.call(&call).await?)?;
            from = word(row.next());
            let page = leased_list(&who.queue, row.next())?;
            held.tasks.extend(page.tasks);
            held.odd.extend(page.odd);
            if from.is_empty() {
                return Ok(held);
            }
        }
    }

    async fn finish_together(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let ttl = millis(self.settings.result_ttl);
        let mut authors = Authors::default();
        let mut plain = Vec::with_capacity(finishes.len());
        let mut others = Vec::new();
        for (index, finish) in finishes.iter().enumerate() {
            let becomes = transition(&finish.verdict, &finish.follows, self.settings.payload_limit);
            let author = authors.index(finish);
            match becomes.next {
                Next::Succeeded { result } if becomes.follows.is_empty() && finish.log.is_empty() && author == 0 => {
                    plain.push((index, result));
                }
                _ => {
                    let follows = self.follows(&who.queue, becomes.follows).await?;
                    others.push((index, json(&told(finish, &becomes, &authors.0[author].name, follows)?)?));
                }
            }
        }
        let keep = millis(self.settings.dead_age).max(ttl).saturating_add(86_400_000);
        let mut call = FINISH.call(&self.keys.queue(&who.queue)).arg(ttl).arg(&*who.id).arg(keep).arg(authors.0.len());
        for author in &authors.0 {
            call.push(&author.name);
            call.push(&author.by);
        }
        let parts = parts(finishes, &mut plain);
        call.push(parts.len());
        for Part { claimed_us, places, count } in &parts {
            call.push(*claimed_us);
            call.push(places);
            call.push(*count);
        }
        for (index, _) in &plain {
            call.push(finishes[*index].member.id.as_str());
        }
        for (_, result) in &plain {
            call.push(result);
        }
        call.push(others.len());
        for (_, told) in &others {
            call.push(told);
        }
        let order = plain.iter().map(|(index, _)| *index).chain(others.iter().map(|(index, _)| *index));
        let digits = word(self.commit(&call).await?);
        if digits.len() != plain.len() + others.len() {
            return Err(corrupt("an answer", "not one digit for each finish"));
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

    /// Splits what follows: records of this queue, and entries of the outbox for other queues.
    async fn follows(&self, queue: &QueueName, follows: &[Follow]) -> Result<Follows> {
        let mut split = Follows::default();
        for Follow::Enqueue(task) in follows {
            if task.queue == *queue {
                let here = split.here.get_or_insert_default();
                here.count += 1;
                here.records.extend(record(task)?);
            } else {
                self.meet(&task.queue).await?;
                split.out.extend([task.queue.to_string(), json(&record(task)?)?]);
            }
        }
        Ok(split)
    }
}

/// The plain successes of one claim.
struct Part {
    claimed_us: u64,
    /// Their places in the claim as bits, in words of 32 bits, the lowest byte first.
    places: Vec<u8>,
    count: usize,
}

/// Sorts plain successes by claim and place. A member that is given twice is left out the second time, so that it is stale, like any
/// repeated finish.
fn parts(finishes: &[Finish], plain: &mut Vec<(usize, &str)>) -> Vec<Part> {
    let key = |index: usize| (finishes[index].member.claimed_us, finishes[index].member.place);
    if !plain.is_sorted_by_key(|(index, _)| key(*index)) {
        plain.sort_by_key(|(index, _)| key(*index));
    }
    plain.dedup_by_key(|(index, _)| key(*index));
    let mut parts: Vec<Part> = Vec::new();
    for (index, _) in &*plain {
        let (claimed_us, place) = key(*index);
        if parts.last().is_none_or(|part| part.claimed_us != claimed_us) {
            parts.push(Part { claimed_us, places: Vec::new(), count: 0 });
        }
        let Some(part) = parts.last_mut() else { continue };
        let byte = place as usize / 8;
        if part.places.len() <= byte {
            part.places.resize((byte / 4 + 1) * 4, 0);
        }
        part.places[byte] |= 1 << (place % 8);
        part.count += 1;
    }
    parts
}

/// One finish that is no plain success, as `finish.lua` reads it.
#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    claim: String,
    place: u32,
    next: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
    counted: bool,
    lost: bool,
    delay: u64,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Cow<'a, str>>,
    #[serde(flatten)]
    follows: Follows,
}

#[derive(Default, Serialize)]
struct Follows {
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<Here>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    out: Vec<String>,
}

#[derive(Default, Serialize)]
struct Here {
    count: usize,
    records: Vec<String>,
}

fn told<'a>(finish: &'a Finish, becomes: &Transition<'a>, by: &'a str, follows: Follows) -> Result<Told<'a>> {
    let text = |error: &TaskError| json(error);
    let (next, result, delay) = match becomes.next {
        Next::Succeeded { result } => ("succeeded", Some(result), Duration::ZERO),
        Next::Dead => ("dead", None, Duration::ZERO),
        Next::Cancelled => ("cancelled", None, Duration::ZERO),
        Next::Waiting(delay) => ("waiting", None, delay),
        Next::Parked => ("parked", None, Duration::ZERO),
    };
    Ok(Told {
        id: finish.member.id.as_str(),
        claim: finish.member.claimed_us.to_string(),
        place: finish.member.place,
        next,
        result,
        error: becomes.error.as_deref().map(text).transpose()?,
        instead: becomes.instead().and_then(|instead| instead.error).as_deref().map(text).transpose()?,
        entry: becomes.noted.as_deref().map(|error| entry(&finish.worker, finish.code.as_deref(), error)).transpose()?,
        counted: becomes.is_counted,
        lost: becomes.is_loss(),
        delay: millis(delay),
        by,
        log: match &*finish.log {
            "" => None,
            log if log.ends_with('\n') => Some(log.into()),
            log => Some(format!("{log}\n").into()),
        },
        follows,
    })
}

/// The workers and codes of a batch. Each pair is stored once for all tasks that share it, under a short name.
#[derive(Default)]
struct Authors<'a>(Vec<Author<'a>>);

struct Author<'a> {
    of: &'a Finish,
    name: String,
    by: String,
}

impl<'a> Authors<'a> {
    /// The index of the author of `finish`. The finishes of a worker share the same `Arc`s of worker and code, so addresses are compared.
    /// Equal values in different `Arc`s are listed and written twice.
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
