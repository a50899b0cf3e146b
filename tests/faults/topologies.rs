//! Every shape of Redis, with real servers on loopback: an ACL user, a Sentinel failover and a Cluster that loses a master,
//! each under load with real workers.
//!
//! Replication is asynchronous. A master that dies may lose acknowledged tasks that it had not sent. The tests print their number. They assert that all
//! surviving tasks end, and all tasks that were acknowledged afterwards.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::Value;
use taskhost_broker::{Broker, BrokerSettings, redis::RedisBroker};
use taskhost_core::task::{NewTask, QueueName, State, TaskId};

use super::fleet::{END, Fleet, account, notes, turn, until};
use crate::support::{RedisServer, free_port, named, queue};

pub(super) async fn ask(server: &RedisServer, words: &[&str]) -> Value {
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connect");
    redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

pub(super) async fn text(server: &RedisServer, words: &[&str]) -> String {
    match ask(server, words).await {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_user_with_the_rights_we_ask_for_is_enough() {
    let _turn = turn().await;
    let server = RedisServer::start();
    let rights = ["ACL", "SETUSER", "worker", "on", ">a:b@c", "~th:*", "&th:*", "+@all", "-@dangerous", "+info"];
    ask(&server, &rights).await;
    ask(&server, &["ACL", "SETUSER", "default", "off"]).await;
    let url = format!("redis://worker:a%3Ab%40c@127.0.0.1:{}", server.port());
    let broker: Arc<dyn Broker> = Arc::new(RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect"));
    let mut fleet = Fleet::new(Duration::from_secs(5));
    let worker = fleet.worker(&url, &[]).await;
    let ids = notes(&*broker, 100, 1).await;
    account("as an ACL user", &broker, &ids).await.all_succeeded();
    assert!(!worker.log().contains("does not permit") && !worker.log().contains("a:b@c"), "{}", worker.log());
}

/// The files beside this one are certificates of an authority for these tests. They expire in a hundred years.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tls_with_an_own_authority_and_a_client_certificate() {
    let _turn = turn().await;
    let file = |name: &str| format!("{}/../tests/faults/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let port = free_port();
    let (tls_port, key, cert, ca) = (port.to_string(), file("server.key"), file("server.pem"), file("ca.pem"));
    let options = [
        ["--tls-port", &tls_port],
        ["--tls-cert-file", &cert],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &ca],
        ["--tls-auth-clients", "yes"],
    ];
    let _server = RedisServer::start_with(&options.concat());
    let bare = format!("rediss://127.0.0.1:{port}");
    let url = format!("{bare}?ca={ca}&cert={}&key={}", file("client.pem"), file("client.key"));
    for poor in [bare.clone(), format!("{bare}?ca={ca}")] {
        let refused = RedisBroker::connect(&poor, BrokerSettings::default()).await.expect_err("refused");
        assert!(refused.to_string().contains("TLS failed") || refused.is_transient(), "{refused:?}");
    }
    let missing = RedisBroker::connect(&format!("{bare}?ca=/nowhere.pem"), BrokerSettings::default()).await.expect_err("refused");
    assert!(missing.to_string().contains("failed to read the PEM file that `ca`"), "{missing:?}");
    let broker: Arc<dyn Broker> = Arc::new(RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect"));
    let mut fleet = Fleet::new(Duration::from_secs(5));
    let _worker = fleet.worker(&url, &[]).await;
    let ids = notes(&*broker, 100, 1).await;
    account("over TLS", &broker, &ids).await.all_succeeded();
}

/// A master, its replica, and three sentinels that agree by two.
pub(super) struct Watched {
    pub(super) master: RedisServer,
    pub(super) replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Watched {
    pub(super) async fn start() -> Self {
        let master = RedisServer::start();
        let port = master.port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        until("the replica follows", async || text(&replica, &["INFO", "replication"]).await.contains("master_link_status:up")).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(&port));
        }
        for sentinel in &sentinels {
            until("the sentinels know each other", async || {
                let known = text(sentinel, &["INFO", "sentinel"]).await;
                known.contains("slaves=1") && known.contains("sentinels=3")
            })
            .await;
        }
        Self { master, replica, sentinels }
    }

    pub(super) fn url(&self) -> String {
        let places: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis+sentinel://{}/mymaster", places.join(","))
    }
}

/// A sentinel is a Redis with a file that it rewrites.
fn sentinel(master: &str) -> RedisServer {
    RedisServer::start_configured(|port| {
        format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor mymaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 4000\n"
        )
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sentinel_failover_under_load_goes_on_with_the_new_master() {
    let _turn = turn().await;
    let mut watched = Watched::start().await;
    let url = watched.url();
    let broker = super::ground::connect(&url, BrokerSettings::default()).await;
    let mut fleet = Fleet::new(Duration::from_secs(10));
    let _crew = [fleet.worker(&url, &[]).await, fleet.worker(&url, &[]).await];
    let before = notes(&*broker, 1_000, 20).await;
    until("tasks end", async || super::fleet::succeeded(&*broker).await > 20).await;
    watched.master.kill();
    let after = patient_notes(&*broker, &queue("default"), 300).await;
    let _counted = report("Sentinel failover", &broker, &QueueName::default(), &before).await;
    account("enqueued after the failover", &broker, &after).await.all_succeeded();
}

/// Enqueues when the broker takes it.
pub(super) async fn patient_notes(broker: &dyn Broker, queue: &QueueName, count: usize) -> Vec<TaskId> {
    let tasks: Vec<_> = (0..count).map(|_| NewTask { queue: queue.clone(), ..named("note", "[1]") }).collect();
    until("the broker takes tasks again", async || broker.enqueue(&tasks).await.is_ok()).await;
    tasks.into_iter().map(|task| task.id).collect()
}

/// The fate of the tasks that were acknowledged before: survivors must end. Returns how many are lost.
pub(super) async fn report(what: &str, broker: &Arc<dyn Broker>, queue: &QueueName, ids: &[TaskId]) -> usize {
    let begun = Instant::now();
    until("what survived has ended", async || super::fleet::try_open(&**broker).await == Some(0)).await;
    let (mut lost, mut succeeded) = (0, 0);
    for id in ids {
        match broker.find(Some(queue), id).await.expect("find") {
            None => lost += 1,
            Some(view) => {
                assert_eq!(view.state, State::Succeeded, "{view:#?}");
                succeeded += 1;
            }
        }
    }
    eprintln!("{what}: {succeeded} succeeded, {lost} acknowledged but not replicated; settled in {:.1?}", begun.elapsed());
    lost
}

/// Three masters with a replica each.
struct Cluster {
    nodes: Vec<RedisServer>,
}

impl Cluster {
    async fn start() -> Self {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..6 {
            let bus = free_port().to_string();
            let options = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1500",
                "--cluster-port",
                &bus,
                "--repl-diskless-sync-delay",
                "0",
                "--cluster-replica-validity-factor",
                "0",
            ];
            nodes.push(RedisServer::start_with(&options));
            buses.push(bus);
        }
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (index, (from, to)) in slots.into_iter().enumerate() {
            ask(&nodes[index], &["CLUSTER", "ADDSLOTSRANGE", from, to]).await;
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            ask(&nodes[0], &["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus]).await;
        }
        for index in 3..6 {
            let master = text(&nodes[index - 3], &["CLUSTER", "MYID"]).await;
            until("the nodes know each other", async || text(&nodes[index], &["CLUSTER", "NODES"]).await.contains(&master)).await;
            ask(&nodes[index], &["CLUSTER", "REPLICATE", &master]).await;
        }
        for node in &nodes {
            until("the cluster is up", async || {
                let info = text(node, &["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6")
            })
            .await;
        }
        for replica in &nodes[3..] {
            until("the replicas follow", async || text(replica, &["INFO", "replication"]).await.contains("master_link_status:up")).await;
        }
        Self { nodes }
    }

    fn url(&self) -> String {
        let places: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", places.join(","))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cluster_moves_children_between_slots_and_outlives_a_master() {
    let _turn = turn().await;
    let mut cluster = Cluster::start().await;
    let url = cluster.url();
    let broker = super::ground::connect(&url, BrokerSettings::default()).await;
    let mut fleet = Fleet::new(Duration::from_secs(10));
    let queues = ["default", "mail", "image", "report"];
    let settings = [("queues", "default,mail,image,report")];
    let _crew = [fleet.worker(&url, &settings).await, fleet.worker(&url, &settings).await];
    // Each queue is a slot of its own; the children go to others.
    let mut parents = Vec::new();
    for (index, name) in queues.iter().enumerate() {
        let child = format!("[2,\"{}\"]", queues[(index + 1) % 4]);
        let tasks: Vec<_> = (0..50).map(|_| NewTask { queue: queue(name), ..named("note_with_child", &child) }).collect();
        broker.enqueue(&tasks).await.expect("enqueue");
        parents.extend(tasks.into_iter().map(|task| task.id));
    }
    until("all have ended", async || super::fleet::try_open(&*broker).await == Some(0)).await;
    for parent in &parents {
        let child = TaskId::new(format!("{parent}.child")).expect("an id");
        until(&format!("`{child}` has come to be and ended"), async || {
            broker.find(None, &child).await.expect("find").is_some_and(|view| view.state.is_ended())
        })
        .await;
        let view = broker.find(None, &child).await.expect("find").expect("it has ended");
        assert_eq!((view.state, view.tries), (State::Succeeded, 1));
    }
    let before: Vec<NewTask> = (0..600).map(|_| named("note", "[20]")).collect();
    broker.enqueue(&before).await.expect("enqueue");
    until("tasks end", async || super::fleet::succeeded(&*broker).await > 420).await;
    // The master of the default queue's slot.
    let slot = ask(&cluster.nodes[0], &["CLUSTER", "KEYSLOT", "th:{default}:"]).await;
    let Value::Int(slot) = slot else { panic!("a slot: {slot:?}") };
    cluster.nodes[usize::try_from(slot / 5461).expect("small").min(2)].kill();
    let begun = Instant::now();
    let mut after = Vec::new();
    for name in queues {
        after.extend(patient_notes(&*broker, &queue(name), 50).await);
    }
    eprintln!("the cluster takes tasks again after {:.1?}", begun.elapsed());
    let ids: Vec<_> = before.into_iter().map(|task| task.id).collect();
    let _counted = report("a cluster's master killed", &broker, &QueueName::default(), &ids).await;
    for id in after {
        let view = broker.find(None, &id).await.expect("find").unwrap_or_else(|| panic!("`{id}` is lost"));
        assert_eq!(view.state, State::Succeeded, "{view:#?}");
    }
    assert!(begun.elapsed() < END);
}

/// Waits until a node has redirected or refused many commands.
async fn come_across(node: &RedisServer) {
    let sent_away = async || -> u64 {
        let told = text(node, &["INFO", "errorstats"]).await;
        let of =
            |kind: &str| told.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{kind}:count="))?.trim().parse::<u64>().ok());
        ["ASK", "MOVED", "TRYAGAIN"].into_iter().filter_map(of).sum()
    };
    let enough = sent_away().await + 20;
    until("commands were sent away", async || sent_away().await >= enough).await;
}

impl Cluster {
    /// The node that serves a slot.
    async fn master_of(&self, slot: &str) -> usize {
        for (index, node) in self.nodes.iter().enumerate() {
            // A node lists the slots that it serves. Slots that are moving are in brackets.
            let told = text(node, &["CLUSTER", "NODES"]).await;
            let mine = told.lines().find(|line| line.contains("myself")).unwrap_or_default();
            let slot: u32 = slot.parse().expect("a slot");
            let serves = mine.split_whitespace().skip(8).filter(|part| !part.starts_with('[')).any(|part| {
                let (from, to) = part.split_once('-').unwrap_or((part, part));
                matches!((from.parse::<u32>(), to.parse::<u32>()), (Ok(from), Ok(to)) if (from..=to).contains(&slot))
            });
            if serves && mine.contains("master") {
                return index;
            }
        }
        panic!("nobody serves slot {slot}");
    }

    /// Moves a slot like `redis-cli --cluster reshard`. Returns the number of moved keys.
    async fn move_slot(&self, slot: &str, to: usize) -> usize {
        let (from, to) = (&self.nodes[self.master_of(slot).await], &self.nodes[to]);
        let (giver, taker) = (text(from, &["CLUSTER", "MYID"]).await, text(to, &["CLUSTER", "MYID"]).await);
        ask(to, &["CLUSTER", "SETSLOT", slot, "IMPORTING", &giver]).await;
        ask(from, &["CLUSTER", "SETSLOT", slot, "MIGRATING", &taker]).await;
        // Workers and the producer meet the move while this side has all keys, and below while it has none.
        come_across(from).await;
        let mut moved = 0;
        loop {
            let Value::Array(keys) = ask(from, &["CLUSTER", "GETKEYSINSLOT", slot, "50"]).await else { panic!("keys") };
            if keys.is_empty() {
                break;
            }
            moved += keys.len();
            let keys: Vec<String> = keys.into_iter().map(|key| redis::from_redis_value(key).expect("text")).collect();
            let port = to.port().to_string();
            // Without REPLACE, a key that was made at the other end meanwhile is an error.
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            ask(from, &words).await;
        }
        come_across(from).await;
        ask(to, &["CLUSTER", "SETSLOT", slot, "NODE", &taker]).await;
        ask(from, &["CLUSTER", "SETSLOT", slot, "NODE", &taker]).await;
        moved
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slot_that_is_moved_under_load_loses_nothing() {
    let _turn = turn().await;
    let cluster = Cluster::start().await;
    let url = cluster.url();
    let broker = super::ground::connect(&url, BrokerSettings::default()).await;
    let mut fleet = Fleet::new(Duration::from_secs(15));
    let settings = [("queues", "default,mail")];
    let _crew = [fleet.worker(&url, &settings).await, fleet.worker(&url, &settings).await];
    let stop = tokio_util::sync::CancellationToken::new();
    let producer = {
        let (broker, stop) = (Arc::clone(&broker), stop.clone());
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            while !stop.is_cancelled() {
                // Tasks go into the moving slot, also children from another slot.
                let mut tasks: Vec<_> = (0..6).map(|_| named("note", "[10]")).collect();
                tasks.push(NewTask { queue: queue("mail"), ..named("note_with_child", r#"[1,"default"]"#) });
                if broker.enqueue(&tasks[..6]).await.is_ok() {
                    acknowledged.extend(tasks[..6].iter().map(|task| task.id.clone()));
                }
                if broker.enqueue(&tasks[6..]).await.is_ok() {
                    acknowledged.push(TaskId::new(format!("{}.child", tasks[6].id)).expect("an id"));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            acknowledged
        })
    };
    let Value::Int(slot) = ask(&cluster.nodes[0], &["CLUSTER", "KEYSLOT", "th:{default}:"]).await else { panic!("a slot") };
    let slot = slot.to_string();
    let home = cluster.master_of(&slot).await;
    let mut moved = Vec::new();
    for to in [(home + 1) % 3, home] {
        let before = super::fleet::succeeded(&*broker).await;
        until("it is under load", async || {
            super::fleet::try_open(&*broker).await.is_some() && super::fleet::succeeded(&*broker).await > before + 100
        })
        .await;
        moved.push(cluster.move_slot(&slot, to).await);
    }
    let before = super::fleet::succeeded(&*broker).await;
    until("it goes on", async || super::fleet::succeeded(&*broker).await > before + 50).await;
    stop.cancel();
    let ids = producer.await.expect("no panic");
    until("children have come", async || {
        let found = broker.find(Some(&QueueName::default()), ids.last().expect("some")).await;
        found.is_ok_and(|view| view.is_some())
    })
    .await;
    until("all has ended", async || super::fleet::try_open(&*broker).await == Some(0)).await;
    let told = account(&format!("a slot moved there and back under load, {moved:?} keys"), &broker, &ids).await;
    told.all_succeeded();
    assert_eq!((told.counted, told.worker_lost), (0, 0), "every worker lived");
    assert!(moved.iter().all(|keys| *keys > 100), "{moved:?}");
}
