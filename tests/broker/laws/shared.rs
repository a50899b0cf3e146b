//! Laws of the things that workers share: the list of workers, the catalogue, and the plugins' kv.

use std::time::Duration;

use futures_util::future::join_all;
use taskhost_broker::{Broker, KvError, KvRoom, WorkerInfo};
use taskhost_core::{
    catalogue::{PluginInfo, PluginStatus},
    task::TaskName,
};

use crate::support::{
    SOON,
    announced::{plugin, worker},
    task_name, wait_until,
};

const LONG: Duration = Duration::from_secs(600);

pub(crate) async fn workers_stand_until_they_retire(one: &dyn Broker, other: &dyn Broker) {
    let (a, b) = (worker("box:1:a", vec![plugin("math.wasm", "1.0.0", "add")]), worker("box:2:b", Vec::new()));
    one.announce(&a, LONG).await.expect("announce");
    one.announce(&b, LONG).await.expect("announce");
    let mut listed = other.workers().await.expect("workers");
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(listed, [a.clone(), b.clone()]);
    let draining = WorkerInfo { draining: true, ..b };
    one.announce(&draining, LONG).await.expect("announce");
    one.retire(&a.id).await.expect("retire");
    assert_eq!(other.workers().await.expect("workers"), [draining]);
}

pub(crate) async fn a_silent_worker_is_gone_and_its_catalogue_stays(b: &dyn Broker) {
    b.announce(&worker("box:1:a", vec![plugin("math.wasm", "1.0.0", "add")]), Duration::from_millis(200)).await.expect("announce");
    assert_eq!(b.workers().await.expect("workers").len(), 1);
    wait_until(SOON, "it is gone", || async { b.workers().await.expect("workers").is_empty() }).await;
    let catalogue = b.catalogue().await.expect("catalogue");
    let offer = &catalogue.offers[&task_name("add")];
    assert_eq!((&*offer.code.version, &*offer.body.doc, offer.body.hints.timeout_ms), ("1.0.0", "Adds.", Some(2000)));
    assert_eq!((&*offer.body.parameters[0].name, offer.body.parameters[0].optional), ("a", true));
}

pub(crate) async fn the_newest_announcement_of_a_body_is_served(b: &dyn Broker) {
    b.announce(&worker("box:1:a", vec![plugin("math.wasm", "1.0.0", "add")]), LONG).await.expect("announce");
    let more = vec![plugin("math.wasm", "2.0.0", "add"), plugin("text.wasm", "1.0.0", "concat")];
    b.announce(&worker("box:1:a", more), LONG).await.expect("announce");
    let catalogue = b.catalogue().await.expect("catalogue");
    assert_eq!(catalogue.offers.keys().map(TaskName::as_str).collect::<Vec<_>>(), ["add", "concat"]);
    assert_eq!(catalogue.offers[&task_name("add")].code.version, "2.0.0");
    let bad = PluginInfo { serving: None, status: PluginStatus::Failed, ..plugin("new.wasm", "1.0.0", "broken") };
    b.announce(&worker("box:1:a", vec![bad]), LONG).await.expect("announce");
    assert_eq!(b.catalogue().await.expect("catalogue"), catalogue, "what does not serve is not offered, what served stays");
}

pub(crate) async fn kv_keeps_bytes_of_each_plugin(one: &dyn Broker, other: &dyn Broker) {
    assert_eq!(one.kv_get("math", "k").await, Ok(None));
    for value in [&b""[..], &[0, 255, 13, 10], "ü".as_bytes()] {
        one.kv_set("math", "k", value, KvRoom::UNBOUNDED).await.expect("set");
        assert_eq!(other.kv_get("math", "k").await, Ok(Some(value.to_vec())));
    }
    assert_eq!(one.kv_get("text", "k").await, Ok(None), "another plugin's");
    assert_eq!(one.kv_remove("math", "k").await, Ok(true));
    assert_eq!(one.kv_remove("math", "k").await, Ok(false));
    assert_eq!(other.kv_get("math", "k").await, Ok(None));
    assert!(other.kv_keys("math", "", None, 10).await.expect("keys").is_empty());
}

pub(crate) async fn kv_increments_add_up(one: &dyn Broker, other: &dyn Broker) {
    let sums = join_all((0..20).map(|n| {
        if n % 2 == 0 { one.kv_increment("p", "n", 3, KvRoom::UNBOUNDED) } else { other.kv_increment("p", "n", 3, KvRoom::UNBOUNDED) }
    }))
    .await;
    let mut sums: Vec<_> = sums.into_iter().map(|sum| sum.expect("increment")).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=20).map(|n| 3 * n).collect::<Vec<_>>());
    assert_eq!(one.kv_get("p", "n").await, Ok(Some(b"60".to_vec())));
    assert_eq!(one.kv_increment("p", "n", -100, KvRoom::UNBOUNDED).await, Ok(-40));
    assert_eq!(one.kv_keys("p", "", None, 10).await, Ok(vec!["n".into()]), "a counter is a key like any");
    one.kv_set("p", "big", i64::MAX.to_string().as_bytes(), KvRoom::UNBOUNDED).await.expect("set");
    assert_eq!(one.kv_increment("p", "big", 0, KvRoom::UNBOUNDED).await, Ok(i64::MAX), "all 64 bits");
}

pub(crate) async fn what_is_no_number_is_not_incremented(b: &dyn Broker) {
    for value in ["x", "", "1.5", "+5", "007", "-0", " 5", "99999999999999999999", "9223372036854775807"] {
        b.kv_set("p", "k", value.as_bytes(), KvRoom::UNBOUNDED).await.expect("set");
        let sum = b.kv_increment("p", "k", 1, KvRoom::UNBOUNDED).await;
        assert!(matches!(sum, Err(KvError::Invalid(_))), "{value}: {sum:?}");
        assert_eq!(b.kv_get("p", "k").await, Ok(Some(value.into())), "it stays");
    }
}

pub(crate) async fn kv_keys_are_listed_in_byte_order_page_by_page(b: &dyn Broker) {
    for key in ["b", "a", "a/2", "a/10", "a/ü", "B", "a/1", "%", "a_1"] {
        b.kv_set("p", key, b"1", KvRoom::UNBOUNDED).await.expect("set");
    }
    b.kv_set("q", "a/3", b"1", KvRoom::UNBOUNDED).await.expect("set");
    let keys = async |prefix: &str, after: Option<&str>, limit| b.kv_keys("p", prefix, after, limit).await.expect("keys");
    assert_eq!(keys("", None, 100).await, ["%", "B", "a", "a/1", "a/10", "a/2", "a/ü", "a_1", "b"]);
    assert_eq!(keys("a/", None, 100).await, ["a/1", "a/10", "a/2", "a/ü"]);
    assert_eq!(keys("a/", None, 2).await, ["a/1", "a/10"]);
    assert_eq!(keys("a/", Some("a/10"), 2).await, ["a/2", "a/ü"]);
    assert_eq!(keys("a/", Some("a/15"), 1).await, ["a/2"], "beyond a key that is not there");
    assert!(keys("a/", Some("b"), 9).await.is_empty());
    assert!(keys("c", None, 9).await.is_empty());
    assert!(keys("", None, 0).await.is_empty());
}

pub(crate) async fn a_full_kv_takes_no_more_and_says_so(one: &dyn Broker, other: &dyn Broker) {
    let room = KvRoom { bytes: 100, keys: 3 };
    let full = |answer: Result<(), KvError>, word: &str| match answer {
        Err(KvError::Full(why)) => assert!(why.contains(word), "{why}"),
        answer => panic!("not full: {answer:?}"),
    };
    one.kv_set("p", "a", &[1; 40], room).await.expect("it fits");
    other.kv_set("p", "b", &[1; 40], room).await.expect("it fits");
    full(other.kv_set("p", "c", &[1; 40], room).await, "bytes");
    assert_eq!(one.kv_get("p", "c").await, Ok(None));
    full(one.kv_set("p", "a", &[1; 60], room).await, "100");
    one.kv_set("p", "a", &[1; 57], room).await.expect("it fits in place of the old one");
    assert!(matches!(one.kv_increment("p", "n", 1, room).await, Err(KvError::Full(_))));
    assert_eq!(one.kv_remove("p", "b").await, Ok(true));
    assert_eq!(one.kv_increment("p", "n", 1, room).await, Ok(1));
    assert_eq!(one.kv_increment("p", "n", 1, room).await, Ok(2));
    one.kv_set("p", "m", b"1", room).await.expect("it fits");
    full(one.kv_set("p", "o", b"", room).await, "3 keys");
    one.kv_set("p", "m", b"22", room).await.expect("no new key");
    one.kv_set("q", "o", b"", room).await.expect("another plugin's has room of its own");
    // The room is smaller than the store. The store may shrink but not grow.
    let less = KvRoom { bytes: 10, keys: 1 };
    one.kv_set("p", "a", &[1; 30], less).await.expect("it shrinks");
    full(one.kv_set("p", "a", &[1; 31], less).await, "10");
}
