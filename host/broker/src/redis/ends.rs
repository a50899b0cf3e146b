//! Listens for the ends of tasks: one connection for all callers of a handle that wait.
//!
//! a caller enters → its channel is subscribed, together with those of others that came meanwhile → confirmed → messages → it leaves
//!
//! Invariant: a caller hears every message that comes after it was told [`Heard::Ready`], or it is told so again: then messages may have been
//! lost with a connection, and it looks at the task.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{FuturesUnordered, Stream},
};
use parking_lot::Mutex;
use redis::{Msg, RedisResult, aio::PubSubSink};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::connection::{ANSWER, Target};
use crate::error::BrokerError;
use taskhost_core::backoff::Backoff;

/// The delay before the next attempt to connect.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
/// The most channels of one command.
const TOGETHER: usize = 500;
/// How often the server is asked whether it is there while nothing comes from it.
const QUIET: Duration = Duration::from_secs(5);

/// The callers that wait, and the connection that they share.
pub(super) struct Ends {
    target: Arc<Target>,
    at: Arc<str>,
    channels: Arc<Mutex<Channels>>,
    /// The loop that listens. It ends with the handle.
    listening: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Channels {
    /// By name. A channel is here while a caller waits for it.
    of: HashMap<Arc<str>, watch::Sender<Told>>,
    /// Names of channels that came or went. The loop makes it so.
    changed: Option<mpsc::UnboundedSender<Arc<str>>>,
}

/// The news of one channel.
#[derive(Clone, Default)]
struct Told {
    /// How often it was subscribed, and whether it is.
    times: u64,
    is_subscribed: bool,
    /// How often that failed, and why it failed last.
    failures: u64,
    failed: Option<BrokerError>,
    /// The number of messages, and the newest.
    count: u64,
    message: Option<Arc<[u8]>>,
}

impl Told {
    fn fail(&mut self, error: BrokerError) {
        self.failures += 1;
        self.failed = Some(error);
    }
}

/// What a caller hears next.
#[derive(Debug)]
pub(super) enum Heard {
    /// From now on every message is heard.
    Ready,
    Message(Arc<[u8]>),
    /// It can't be listened at present.
    Failed(BrokerError),
}

/// One caller that waits; dropping it is leaving.
pub(super) struct Ear {
    channels: Arc<Mutex<Channels>>,
    channel: Arc<str>,
    told: watch::Receiver<Told>,
    times: u64,
    count: u64,
    failures: u64,
}

impl Ends {
    pub(super) fn new(target: Arc<Target>, at: Arc<str>) -> Self {
        Self { target, at, channels: Arc::default(), listening: Mutex::default() }
    }

    /// Begins to listen to a channel.
    pub(super) fn enter(&self, channel: String) -> Ear {
        let channel: Arc<str> = channel.into();
        let mut channels = self.channels.lock();
        let is_new = !channels.of.contains_key(&channel);
        let sender = channels.of.entry(Arc::clone(&channel)).or_insert_with(|| watch::Sender::new(Told::default()));
        let told = sender.subscribe();
        let count = told.borrow().count;
        if is_new {
            self.order(&mut channels, &channel);
        }
        Ear { channels: Arc::clone(&self.channels), channel, told, times: 0, count, failures: 0 }
    }

    /// How many channels are listened to.
    pub(super) fn len(&self) -> usize {
        self.channels.lock().of.len()
    }

    /// Tells the loop of a channel. The loop begins with the first one, and again if the runtime that it was on is gone.
    fn order(&self, channels: &mut Channels, channel: &Arc<str>) {
        let told = channels.changed.as_ref().is_some_and(|changed| changed.send(Arc::clone(channel)).is_ok());
        if !told {
            let (sender, changed) = mpsc::unbounded_channel();
            channels.changed = Some(sender);
            let listener = Listener { target: Arc::clone(&self.target), at: Arc::clone(&self.at), channels: Arc::clone(&self.channels) };
            let mut listening = self.listening.lock();
            listening.abort_all();
            listening.spawn(listener.run(changed));
        }
    }
}

impl Ear {
    /// Waits for news.
    pub(super) async fn heard(&mut self) -> Heard {
        loop {
            {
                let told = self.told.borrow_and_update();
                if told.is_subscribed && told.times != self.times {
                    self.times = told.times;
                    return Heard::Ready;
                }
                if told.count != self.count {
                    self.count = told.count;
                    if let Some(message) = told.message.clone() {
                        return Heard::Message(message);
                    }
                }
                if told.failures != self.failures {
                    self.failures = told.failures;
                    if let Some(failed) = told.failed.clone() {
                        return Heard::Failed(failed);
                    }
                }
            }
            // The sender stays while this caller does.
            if self.told.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut channels = self.channels.lock();
        // This receiver is still there.
        if channels.of.get(&self.channel).is_some_and(|sender| sender.receiver_count() == 1) {
            channels.of.remove(&self.channel);
            if let Some(changed) = &channels.changed {
                _ = changed.send(Arc::clone(&self.channel));
            }
        }
    }
}

/// The loop that listens.
struct Listener {
    target: Arc<Target>,
    at: Arc<str>,
    channels: Arc<Mutex<Channels>>,
}

impl Listener {
    async fn run(self, mut changed: mpsc::UnboundedReceiver<Arc<str>>) {
        let mut failures = 0;
        loop {
            match self.target.listen().await {
                Ok(connection) => {
                    failures = 0;
                    let (sink, messages) = connection.split();
                    self.listen(sink, messages, &mut changed).await;
                    self.tell_all(|told| told.is_subscribed = false);
                }
                Err(error) => {
                    let error = self.target.fault(&self.at, &error);
                    self.tell_all(|told| told.fail(error.clone()));
                }
            }
            if self.channels.lock().of.is_empty() {
                // Nobody waits, so there is no hurry.
                while self.channels.lock().of.is_empty() {
                    if changed.recv().await.is_none() {
                        return;
                    }
                }
            } else {
                sleep(AGAIN.delay(failures, fastrand::f64())).await;
                failures = failures.saturating_add(1);
            }
        }
    }

    fn tell_all(&self, tell: impl Fn(&mut Told)) {
        self.channels.lock().of.values().for_each(|sender| sender.send_modify(&tell));
    }

    /// Listens on one connection until it is lost.
    async fn listen(
        &self,
        mut sink: PubSubSink,
        mut messages: impl Stream<Item = Msg> + Unpin,
        changed: &mut mpsc::UnboundedReceiver<Arc<str>>,
    ) {
        let mut subscribed = HashSet::new();
        // The channels themselves say what came and went before.
        while changed.try_recv().is_ok() {}
        let mut some: Vec<Arc<str>> = self.channels.lock().of.keys().cloned().collect();
        let mut heard = Instant::now();
        loop {
            if self.follow(&mut sink, &mut subscribed, &some).await.is_err() {
                return;
            }
            some.clear();
            let quiet =
                async { if subscribed.is_empty() { std::future::pending().await } else { tokio::time::sleep_until(heard + QUIET).await } };
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return };
                    heard = Instant::now();
                    self.tell(&message);
                }
                taken = changed.recv_many(&mut some, TOGETHER) => {
                    if taken == 0 {
                        return;
                    }
                }
                () = quiet => {
                    // A server that refuses the command is there.
                    if within(sink.ping::<redis::Value>()).await.is_err_and(|error| is_lost(&error)) {
                        return;
                    }
                    heard = Instant::now();
                }
            }
        }
    }

    fn tell(&self, message: &Msg) {
        let channels = self.channels.lock();
        if let Some(sender) = channels.of.get(message.get_channel_name()) {
            sender.send_modify(|told| {
                told.count += 1;
                told.message = Some(message.get_payload_bytes().into());
            });
        }
    }

    /// Subscribes to those of the channels for which a caller waits, and leaves the others. An error means that the connection is lost.
    async fn follow(&self, sink: &mut PubSubSink, subscribed: &mut HashSet<Arc<str>>, some: &[Arc<str>]) -> RedisResult<()> {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        {
            let channels = self.channels.lock();
            for channel in some.iter().collect::<HashSet<_>>() {
                match channels.of.get(channel) {
                    Some(sender) if subscribed.contains(channel) => ready(sender),
                    Some(_) => come.push(channel),
                    None if subscribed.contains(channel) => gone.push(channel),
                    None => {}
                }
            }
        }
        for part in come.chunks(TOGETHER) {
            match within(sink.subscribe(part.iter().map(|channel| &***channel).collect::<Vec<&str>>())).await {
                Ok(()) => self.confirm(subscribed, part.iter().copied()),
                Err(error) if is_lost(&error) => return Err(error),
                // The server refuses one of them, perhaps by a rule about names. The others shall not suffer.
                Err(_refused) => self.follow_one_by_one(sink, subscribed, part).await?,
            }
        }
        for part in gone.chunks(TOGETHER) {
            match within(sink.unsubscribe(part.iter().map(|channel| &***channel).collect::<Vec<&str>>())).await {
                Ok(()) => part.iter().for_each(|channel| _ = subscribed.remove(*channel)),
                // A user without the right to leave: the connection is given up when nobody waits any more.
                Err(error) if is_lost(&error) || self.channels.lock().of.is_empty() => return Err(error),
                Err(_refused) => {}
            }
        }
        Ok(())
    }

    async fn follow_one_by_one(&self, sink: &PubSubSink, subscribed: &mut HashSet<Arc<str>>, part: &[&Arc<str>]) -> RedisResult<()> {
        let ask = |channel: &Arc<str>| {
            let (mut sink, channel) = (sink.clone(), Arc::clone(channel));
            async move { (within(sink.subscribe(&*channel)).await, channel) }
        };
        let mut asked: FuturesUnordered<_> = part.iter().map(|channel| ask(channel)).collect();
        while let Some((answer, channel)) = asked.next().await {
            match answer {
                Ok(()) => self.confirm(subscribed, std::iter::once(&channel)),
                Err(error) if is_lost(&error) => return Err(error),
                Err(error) => {
                    let error = self.target.fault(&self.at, &error);
                    if let Some(sender) = self.channels.lock().of.get(&channel) {
                        sender.send_modify(|told| told.fail(error));
                    }
                }
            }
        }
        Ok(())
    }

    fn confirm<'a>(&self, subscribed: &mut HashSet<Arc<str>>, some: impl Iterator<Item = &'a Arc<str>>) {
        let channels = self.channels.lock();
        for channel in some {
            subscribed.insert(Arc::clone(channel));
            if let Some(sender) = channels.of.get(channel) {
                ready(sender);
            }
        }
    }
}

/// Tells the callers that the channel is subscribed.
fn ready(sender: &watch::Sender<Told>) {
    sender.send_modify(|told| {
        told.times += 1;
        told.is_subscribed = true;
        told.failed = None;
    });
}

async fn within<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

fn is_lost(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state without a server: the loop is played by hand.
    fn entered(channels: &Arc<Mutex<Channels>>, channel: &str) -> Ear {
        let name: Arc<str> = channel.into();
        let mut all = channels.lock();
        let sender = all.of.entry(Arc::clone(&name)).or_insert_with(|| watch::Sender::new(Told::default()));
        let told = sender.subscribe();
        let count = told.borrow().count;
        Ear { channels: Arc::clone(channels), channel: name, told, times: 0, count, failures: 0 }
    }

    fn say(channels: &Mutex<Channels>, text: &str) {
        channels.lock().of["a"].send_modify(|told| {
            told.count += 1;
            told.message = Some(text.as_bytes().into());
        });
    }

    #[tokio::test]
    async fn a_caller_hears_what_comes_after_it_entered_and_is_told_of_each_new_connection() {
        let channels = Arc::new(Mutex::new(Channels::default()));
        let mut first = entered(&channels, "a");
        ready(&channels.lock().of["a"]);
        assert!(matches!(first.heard().await, Heard::Ready));
        say(&channels, "one");
        let mut late = entered(&channels, "a");
        assert!(matches!(late.heard().await, Heard::Ready), "it was subscribed already");
        assert!(matches!(first.heard().await, Heard::Message(text) if &*text == b"one"));
        say(&channels, "two");
        assert!(matches!(late.heard().await, Heard::Message(text) if &*text == b"two"), "the first message was before its time");
        assert!(matches!(first.heard().await, Heard::Message(_)));
        channels.lock().of["a"].send_modify(|told| told.is_subscribed = false);
        ready(&channels.lock().of["a"]);
        assert!(matches!(first.heard().await, Heard::Ready), "messages may have been lost");
        drop(first);
        assert_eq!(channels.lock().of.len(), 1, "another caller waits there");
        drop(late);
        assert!(channels.lock().of.is_empty());
    }
}
