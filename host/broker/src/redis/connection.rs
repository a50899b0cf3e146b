//! Connections: one for commands, one for heartbeats, and those that are opened to wait on.
//!
//! URL → [`Target`] → [`Link::send`]. A link connects when it has no connection and drops a failed one. It repeats nothing.
//!
//! Invariant: every step ends within a time limit, and no error contains a password.

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind,
    Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    sentinel::SentinelClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Mutex,
};

use super::{
    address::Address,
    fault::{NO_MASTER, by_plain_words, fault, no_master},
    scripts::{ASIDE, Call, MARK},
    values::{list, word},
};
use crate::{
    error::{BrokerError, Result},
    unreadable,
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. A server that swaps, or an append-only file on a slow disk, delays it; a dead server never answers.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How long a closer look at an unusable server may take.
const CLOSER: Duration = Duration::from_secs(1);
/// How long a replica may take to acknowledge a batch; less than [`ANSWER`].
const REPLICATED: Duration = Duration::from_secs(3);

/// The servers that a URL leads to.
pub(super) enum Target {
    Single(Client),
    Sentinel(Box<Watched>),
    Cluster { nodes: Vec<Client>, commands: Box<ClusterClient>, blocking: Box<ClusterClient> },
}

/// A master by its name, and the sentinels that know its address.
pub(super) struct Watched {
    client: Mutex<SentinelClient>,
    sentinels: Vec<Client>,
    master: String,
    /// The master's address, if the sentinels answered when they were last asked.
    place: parking_lot::Mutex<Option<String>>,
}

impl Watched {
    async fn master(&self) -> RedisResult<Client> {
        let found = self.ask().await;
        let place = found.as_ref().ok().map(|client| client.get_connection_info().addr().to_string());
        *self.place.lock() = place;
        found
    }

    fn place(&self) -> Option<String> {
        self.place.lock().clone()
    }

    /// Asks the sentinels for the master.
    ///
    /// While the master is down, the client library reports an unknown name or no answer. This tells the two apart: a wrong name needs
    /// another setting, a failover needs patience.
    async fn ask(&self) -> RedisResult<Client> {
        let asked = self.client.lock().await.async_get_client().await;
        let Err(error) = asked else { return asked };
        let may_be_down = error.kind() == ErrorKind::MasterNameNotFoundBySentinel || error.is_io_error();
        match if may_be_down { self.named().await } else { None } {
            Some(place) => {
                let why = format!("`{}` at {place} is down, or a failover is under way", self.master);
                Err((ErrorKind::Io, NO_MASTER, why).into())
            }
            None => Err(error),
        }
    }

    /// The master's address by the sentinels, whether it is up or not.
    async fn named(&self) -> Option<String> {
        let asked = self.sentinels.iter().map(|sentinel| async {
            let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT / 5)).set_response_timeout(Some(CONNECT / 5));
            let mut connection = sentinel.get_multiplexed_async_connection_with_config(&config).await.ok()?;
            let address = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master).to_owned();
            let told = connection.req_packed_command(&address).await.and_then(Value::extract_error).ok()?;
            let told: Vec<String> = redis::from_redis_value(told).ok()?;
            Some(told.join(":"))
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().find(|place| !place.is_empty())
    }
}

impl Target {
    pub(super) fn new(address: &Address) -> Result<Self> {
        let made = match address {
            Address::Single(info, None) => Client::open(info.clone()).map(Self::Single),
            Address::Single(info, Some(certificates)) => Client::build_with_tls(info.clone(), certificates.clone()).map(Self::Single),
            Address::Sentinel { sentinels, master, node } => {
                let watched = || {
                    Ok(Watched {
                        client: Mutex::new(SentinelClient::build(
                            sentinels.clone(),
                            master,
                            Some(node.clone()),
                            redis::sentinel::SentinelServerType::Master,
                        )?),
                        sentinels: sentinels.iter().cloned().map(Client::open).collect::<RedisResult<_>>()?,
                        master: master.clone(),
                        place: parking_lot::Mutex::default(),
                    })
                };
                watched().map(|watched| Self::Sentinel(Box::new(watched)))
            }
            // The cluster client does repeat, because it follows MOVED and ASK in this way. Every verb may be repeated.
            Address::Cluster(nodes, certificates) => {
                let client = |answer: Duration| -> RedisResult<ClusterClient> {
                    let mut builder =
                        ClusterClientBuilder::new(nodes.clone()).retries(3).connection_timeout(CONNECT).response_timeout(answer);
                    if let Some(certificates) = certificates {
                        builder = builder.certs(certificates.clone());
                    }
                    builder.build()
                };
                let node = |info: ConnectionInfo| match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates.clone()),
                    None => Client::open(info),
                };
                (|| {
                    Ok(Self::Cluster {
                        nodes: nodes.iter().cloned().map(node).collect::<RedisResult<_>>()?,
                        commands: client(ANSWER)?.into(),
                        blocking: client(Duration::from_secs(3600))?.into(),
                    })
                })()
            }
        };
        made.map_err(|error| BrokerError::Misconfigured(format!("the broker's address does not make sense: {error}")))
    }

    async fn connect(&self, answer: Option<Duration>) -> RedisResult<Wire> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(answer);
        let connect = async {
            match self {
                Self::Single(client) => client.get_multiplexed_async_connection_with_config(&config).await.map(Wire::One),
                Self::Sentinel(watched) => {
                    let client = watched.master().await?;
                    client.get_multiplexed_async_connection_with_config(&config).await.map(Wire::One)
                }
                Self::Cluster { commands, blocking, .. } => {
                    let client = if answer.is_some() { commands } else { blocking };
                    client.get_async_connection().await.map(Wire::Cluster)
                }
            }
        };
        tokio::time::timeout(CONNECT * 2, connect).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// A connection for subscriptions. In a cluster any node delivers the messages.
    pub(super) async fn listen(&self) -> RedisResult<redis::aio::PubSub> {
        let connect = async {
            match self {
                Self::Single(client) => client.get_async_pubsub().await,
                Self::Sentinel(watched) => watched.master().await?.get_async_pubsub().await,
                Self::Cluster { nodes, .. } => {
                    let mut failed = timed_out();
                    for node in nodes {
                        match node.get_async_pubsub().await {
                            Ok(connection) => return Ok(connection),
                            Err(error) => failed = error,
                        }
                    }
                    Err(failed)
                }
            }
        };
        tokio::time::timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The meaning of an error. `at` is the address in the URL; with Sentinel that is not the server that failed.
    pub(super) fn fault(&self, at: &str, error: &RedisError) -> BrokerError {
        match self {
            Self::Sentinel(watched) if watched.place().is_none() => no_master(at, error),
            _ => fault(&self.place(at), error),
        }
    }

    /// The server that commands go to, if the URL names `at`.
    pub(super) fn place(&self, at: &str) -> String {
        match self {
            Self::Sentinel(watched) => match watched.place() {
                Some(place) => format!("{place} (the master `{}` of the sentinels at {at})", watched.master),
                None => at.to_owned(),
            },
            _ => at.to_owned(),
        }
    }

    /// The meaning of a plain-text answer of a server that could not be used. Some faults show only there.
    pub(super) async fn look_closer(&self, at: &str) -> Option<BrokerError> {
        let nodes: Vec<&Client> = match self {
            Self::Single(client) => vec![client],
            Self::Sentinel(watched) => watched.sentinels.iter().collect(),
            Self::Cluster { nodes, .. } => nodes.iter().collect(),
        };
        for node in nodes {
            let (host, port, tls) = match node.get_connection_info().addr() {
                ConnectionAddr::Tcp(host, port) => (host, *port, false),
                ConnectionAddr::TcpTls { host, port, .. } => (host, *port, true),
                _ => continue,
            };
            let said = tokio::time::timeout(CLOSER, said_in_plain(host, port)).await;
            if let Ok(Ok(said)) = said
                && let Some(error) = by_plain_words(at, tls, &said)
            {
                return Some(error);
            }
        }
        None
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Single(_) => "standalone",
            Self::Sentinel(_) => "by Sentinel",
            Self::Cluster { .. } => "cluster",
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// A server's answer to a `PING` without TLS: its first piece.
async fn said_in_plain(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    // A server with its maximum of clients sends an error first and closes the connection.
    let _ = stream.write_all(b"PING\r\n").await;
    let mut said = vec![0; 256];
    let count = stream.read(&mut said).await?;
    said.truncate(count);
    Ok(said)
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A living connection; clones share it.
#[derive(Clone)]
enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Wire {
    async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command).await?.extract_error(),
            Self::Cluster(connection) => connection.req_packed_command(command).await?.extract_error(),
        }
    }

    /// Sends all commands in a row on one connection, to the node of `key`. Gives each answer; an error is an answer too.
    async fn send_in_row(&mut self, commands: Vec<Cmd>, key: &str) -> RedisResult<Vec<Value>> {
        let mut row = Pipeline::with_capacity(commands.len());
        let count = commands.len();
        for command in commands {
            row.add_command(command);
        }
        match self {
            Self::One(connection) => connection.req_packed_commands(&row, 0, count).await,
            Self::Cluster(connection) => {
                let node = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
                connection.route_pipeline(row, 0, count, node).await
            }
        }
    }
}

/// A connection that is opened on demand, and again after it is lost.
pub(super) struct Link {
    target: Arc<Target>,
    /// The address for errors, without a password.
    at: Arc<str>,
    answer: Option<Duration>,
    /// The number of connections so far, and the present one.
    wire: Mutex<(u64, Option<Wire>)>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.at)
    }
}

impl Link {
    pub(super) fn new(target: Arc<Target>, at: Arc<str>) -> Self {
        Self { target, at, answer: Some(ANSWER), wire: Mutex::default() }
    }

    /// A link for blocking commands: it waits for an answer without a limit.
    pub(super) fn blocking(target: Arc<Target>, at: Arc<str>) -> Self {
        Self { target, at, answer: None, wire: Mutex::default() }
    }

    /// Sends one command, once.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value> {
        let sent = match self.try_send(command).await {
            Err(error) if is_foreign(&error) => self.send_carefully(command, error).await,
            sent => sent,
        };
        sent.map_err(|error| self.target.fault(&self.at, &error))
    }

    /// Sends a command again as a script that sets aside a key of the wrong type.
    async fn send_carefully(&self, command: &Cmd, error: RedisError) -> RedisResult<Value> {
        let mut words = command.args_iter().filter_map(|arg| if let redis::Arg::Simple(word) = arg { Some(word) } else { None });
        let key = words.nth(1).and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        // A schema key of the wrong type means that another program uses the prefix.
        let Some(end) = key.find("}:").filter(|_| !key.ends_with("{_}:schema")) else { return Err(error) };
        let mut call = ASIDE.call(&key[..end + 2]);
        for arg in command.args_iter() {
            if let redis::Arg::Simple(word) = arg {
                call.push(word);
            }
        }
        self.told_of(self.try_send(&call.by_text()).await?)
    }

    /// The answer of a careful script. Logs the keys that it set aside.
    fn told_of(&self, answer: Value) -> RedisResult<Value> {
        let Value::Array(mut parts) = answer else { return Ok(answer) };
        let aside = parts.pop().unwrap_or(Value::Nil);
        for key in list(aside).unwrap_or_default().into_iter().map(word) {
            let (base, name) = key.split_at(key.find("}:").map_or(0, |end| end + 2));
            let queue = base.trim_end_matches("}:").rsplit('{').next().unwrap_or_default();
            let then = match queue {
                "_" => format!("it was set aside as `{base}aside:{name}`"),
                _ => format!("it was set aside as `{base}aside:{name}`; `taskhost queue purge {queue}` deletes it"),
            };
            unreadable::say(&self.at, &format!("the key `{key}`"), "it has the wrong type", unreadable::shown(&then));
        }
        parts.pop().unwrap_or(Value::Nil).extract_error()
    }

    /// Sends one command to one node of a cluster. Without a node it works as [`Self::send`].
    pub(super) async fn send_to(&self, node: Option<&str>, command: &Cmd) -> Result<Value> {
        let parted = node.and_then(|node| node.rsplit_once(':')).and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        let Some((host, port)) = parted else { return self.send(command).await };
        let sent = match self.wire().await {
            Ok((_, Wire::Cluster(mut connection))) => {
                let there = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
                connection.route_command(command.clone(), there).await.and_then(Value::extract_error)
            }
            Ok((_, Wire::One(_))) => return self.send(command).await,
            Err(error) => Err(error),
        };
        sent.map_err(|error| self.target.fault(&self.at, &error))
    }

    /// Calls a script by its digest, or by its text if the server does not know the digest.
    pub(super) async fn call(&self, call: &Call) -> Result<Value> {
        let sent = match self.try_send(call.by_digest()).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => self.try_send(&call.by_text()).await,
            sent => sent,
        };
        let sent = match sent {
            // A failed script is not rolled back, but each may be repeated.
            Err(error) if is_foreign(&error) => match self.try_send(&call.carefully()).await {
                Ok(answer) => self.told_of(answer),
                Err(error) => Err(error),
            },
            sent => sent,
        };
        sent.map_err(|error| self.target.fault(&self.at, &error))
    }

    /// The same with a limit. If no answer comes within `limit`, the connection is dropped, because it may be half open.
    pub(super) async fn call_within(&self, call: &Call, limit: Duration) -> Result<Value> {
        match tokio::time::timeout(limit, self.call(call)).await {
            Ok(answer) => answer,
            Err(_silent) => {
                self.wire.lock().await.1 = None;
                Err(self.target.fault(&self.at, &timed_out()))
            }
        }
    }

    /// Calls a script, and answers when a replica has its effect too. It blocks the connection, so the caller must be its only user.
    ///
    /// WAIT counts the writes of its own connection, and some servers ignore calls that wrote nothing. So the script, a mark and WAIT go
    /// out in one row. After an error the connection is dropped, because it may lead to a server that is no longer the master.
    pub(super) async fn call_replicated(&self, call: &Call) -> Result<Value> {
        let mark = MARK.call(call.key());
        let row = |call: Cmd, mark: Cmd| vec![call, mark, redis::cmd("WAIT").arg(1).arg(REPLICATED.as_millis().to_string()).to_owned()];
        let mut answers = self.try_row(row(call.by_digest().clone(), mark.by_digest().clone()), call.key()).await;
        if answers.as_ref().is_ok_and(|answers| answers.iter().any(is_no_script)) {
            answers = self.try_row(row(call.by_text(), mark.by_text()), call.key()).await;
        }
        let careful = answers.as_ref().is_ok_and(|answers| answers.first().is_some_and(is_foreign_answer));
        if careful {
            answers = self.try_row(row(call.carefully(), mark.by_text()), call.key()).await;
        }
        let taken = async {
            let mut answers = answers?.into_iter();
            let mut next = || answers.next().unwrap_or(Value::Nil).extract_error();
            let mut answer = next()?;
            if careful {
                answer = self.told_of(answer)?;
            }
            next()?;
            Ok::<_, RedisError>((answer, next()?))
        };
        match taken.await {
            Ok((answer, Value::Int(1..))) => Ok(answer),
            Ok(_none) => Err(BrokerError::Unavailable(format!(
                "Redis at {} has the change, but no replica acknowledged it within {} s, and durability is `replica`: it may be there, and a failover \
                 may lose it; are its replicas up? it is safe to repeat the call",
                self.target.place(&self.at),
                REPLICATED.as_secs()
            ))),
            Err(error) => {
                self.wire.lock().await.1 = None;
                Err(self.target.fault(&self.at, &error))
            }
        }
    }

    async fn try_row(&self, row: Vec<Cmd>, key: &str) -> RedisResult<Vec<Value>> {
        let (_, mut wire) = self.wire().await?;
        wire.send_in_row(row, key).await
    }

    async fn try_send(&self, command: &Cmd) -> RedisResult<Value> {
        let (generation, mut wire) = self.wire().await?;
        let sent = wire.send(command).await;
        if let Err(error) = &sent
            && is_broken(error)
        {
            let mut kept = self.wire.lock().await;
            if kept.0 == generation {
                kept.1 = None;
            }
        }
        sent
    }

    async fn wire(&self) -> RedisResult<(u64, Wire)> {
        let mut kept = self.wire.lock().await;
        if let (generation, Some(wire)) = &*kept {
            return Ok((*generation, wire.clone()));
        }
        let wire = self.target.connect(self.answer).await?;
        *kept = (kept.0 + 1, Some(wire.clone()));
        Ok((kept.0, wire))
    }
}

/// Whether a command met a key of the wrong type, see careful.lua.
fn is_foreign(error: &RedisError) -> bool {
    const SIGNS: [&str; 5] = ["WRONGTYPE", "not an integer", "would overflow", "specified in XADD", "stream has exhausted"];
    let said = error.detail().unwrap_or_default();
    error.code() == Some("WRONGTYPE") || SIGNS.iter().any(|sign| said.contains(sign))
}

fn is_foreign_answer(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(_)) && answer.clone().extract_error().is_err_and(|error| is_foreign(&error))
}

fn is_no_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// Whether a new connection may help: this one is lost or silent, or its server is no longer the master.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) | ErrorKind::Parse)
}
