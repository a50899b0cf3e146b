//! Checks of a server before the first task: permissions, port and clients. Also the number of connections that waiting needs.

use futures_util::StreamExt;
use redis::Value;
use taskhost_broker::{BrokerSettings, Directory, Lease, Produce, redis::RedisBroker};
use taskhost_core::task::NewTask;

use super::{connect, misconfigured, raw, refusal};
use crate::support::{RedisServer, SOON, add, queue, wait_until};

#[tokio::test]
async fn a_user_without_the_right_to_channels_is_refused_before_an_end_is_awaited() {
    let server = RedisServer::start();
    raw(&server, &["ACL", "SETUSER", "worker", "on", ">secret", "resetchannels", "~th:*", "+@all", "-@dangerous", "+info"]).await;
    let url = format!("redis://worker:secret@127.0.0.1:{}", server.port());
    let broker = RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect");
    let said = misconfigured(broker.check().await.expect_err("refused"));
    assert!(said.contains("does not permit this user") && said.contains("&th:*"), "{said}");
    raw(&server, &["ACL", "SETUSER", "worker", "&th:*"]).await;
    broker.check().await.expect("it will do now");
}

#[tokio::test]
async fn a_server_without_tls_is_not_said_to_be_silent() {
    let server = RedisServer::start();
    let said = misconfigured(refusal(&format!("rediss://127.0.0.1:{}", server.port())).await);
    assert!(said.contains("does not speak TLS") && said.contains("redis://"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_full_of_clients_is_not_said_to_be_down() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut kept = client.get_multiplexed_async_connection().await.expect("connect");
    let mut limit = redis::cmd("CONFIG");
    let _: () = limit.arg("SET").arg("maxclients").arg(1).query_async(&mut kept).await.expect("set");
    let error = refusal(&server.url()).await;
    let said = error.to_string();
    assert!(error.is_transient() && said.contains("has its maximum of clients"), "{said}");
    assert!(!said.contains("is it running") && !said.contains("tried again"), "{said}");
}

#[tokio::test]
async fn five_hundred_queues_are_waited_on_by_few_connections_and_each_is_woken() {
    const QUEUES: usize = 500;
    let server = RedisServer::start();
    let (broker, other) = (connect(&server).await, connect(&server).await);
    let names: Vec<_> = (0..QUEUES).map(|n| queue(&format!("q{n}"))).collect();
    let clients = async || match raw(&server, &["INFO", "clients"]).await {
        Value::BulkString(told) => String::from_utf8_lossy(&told).into_owned(),
        Value::VerbatimString { text, .. } => text,
        other => panic!("{other:?}"),
    };
    let number = async |name: &str| -> usize {
        let told = clients().await;
        let line = told.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::to_owned)).expect("it is told");
        line.trim().parse().expect("a number")
    };
    let chosen: Vec<_> = names.iter().step_by(31).chain(names.last()).cloned().collect();
    let mut woken = std::collections::HashSet::new();
    let mut waits: futures_util::stream::FuturesUnordered<_> = names
        .iter()
        .map(|name| async {
            broker.wait(name, 4 * SOON).await.expect("wait");
            name.clone()
        })
        .collect();
    let all = async {
        wait_until(SOON, "their connections wait", async || number("blocked_clients").await >= 140).await;
        assert!(number("connected_clients").await < 160);
        // Some waiters have a connection of their own and others share one.
        for name in &chosen {
            other.enqueue(&[NewTask { queue: name.clone(), ..add() }]).await.expect("enqueue");
        }
    };
    let told = async {
        while woken.len() < chosen.len() {
            woken.insert(waits.next().await.expect("some wait"));
        }
    };
    tokio::time::timeout(2 * SOON, async { tokio::join!(all, told) }).await.expect("each is woken");
    assert_eq!(woken, chosen.into_iter().collect());
}
