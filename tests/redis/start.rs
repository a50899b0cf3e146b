//! What is known of a server before the first task: its rights, its port, its clients; and how many connections waiting takes.

use futures_util::StreamExt;
use redis::Value;
use taskhost::{
    broker::{Broker, BrokerSettings, redis::RedisBroker},
    task::NewTask,
};

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
