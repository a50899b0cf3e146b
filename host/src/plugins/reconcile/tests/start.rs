//! The first registry after a start, and what an earlier process left behind.

use super::*;
use crate::plugins::reconcile::published::EMPTY_LIMIT;

#[tokio::test]
async fn the_first_registry_has_every_file() {
    let place = Place::new();
    for n in 0..20 {
        place.put(&format!("p{n}.wasm"), &format!("v1 body{n}"));
    }
    place.put("q.wasm", "bad");
    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!((registry.bodies.len(), registry.files.len()), (20, 21));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_takes_long_does_not_keep_the_others_from_serving() {
    let place = Place::new();
    place.put("late.wasm", "slow add");
    place.put("text.wasm", "v1 concat");
    let started = Instant::now();
    let mut room = place.start();
    let registry = room.first().await;
    assert!(started.elapsed() >= FIRST_LIMIT && started.elapsed() < EMPTY_LIMIT / 2, "after {:?}", started.elapsed());
    assert_eq!((served(&registry, "concat"), info(&registry, "late.wasm").status), ("v1 concat", PluginStatus::Loading));
    place.slow.add_permits(1);
    room.serves("add", "slow add").await;
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_ready_the_first_registry_does_not_wait_for_ever() {
    let place = Place::new();
    place.put("late.wasm", "slow add");
    let started = Instant::now();
    let mut room = place.start();
    assert!(room.first().await.bodies.is_empty());
    assert!(started.elapsed() >= EMPTY_LIMIT, "after {:?}", started.elapsed());
    room.stop().await;
}

#[tokio::test]
async fn who_is_loaded_first_takes_no_name_by_that() {
    let place = Place::new();
    place.put("alpha.wasm", "slow add");
    place.put("zeta.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.slow.add_permits(1);
    room.serves("add", "slow add").await;
    // From then on a name stays with its owner.
    place.put("aaa.wasm", "v2 add");
    room.until("a refusal", |r| has_failed(r, "aaa.wasm")).await;
    room.stop().await;
}

#[tokio::test]
async fn a_plugin_that_comes_while_the_start_goes_on_takes_no_name() {
    let place = Place::new();
    place.put("late.wasm", "slow concat");
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("aaa.wasm", "v2 add");
    let registry = room.until("a refusal", |r| has_failed(r, "aaa.wasm")).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    room.stop().await;
}

#[tokio::test]
async fn a_name_stays_with_its_owner_across_a_restart() {
    let place = Place::new();
    place.put("zeta.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("alpha.wasm", "v2 add");
    let registry = room.until("a refusal", |r| has_failed(r, "alpha.wasm")).await;
    let error = info(&registry, "alpha.wasm").error.clone().unwrap();
    assert!(error.contains("`add` of alpha.wasm is offered by zeta.wasm already"), "{error}");
    room.stop().await;
    let mut room = place.start();
    assert_eq!(served(&*room.first().await, "add"), "v1 add", "though alpha comes first by name");
    room.stop().await;
}

#[tokio::test]
async fn garbage_leaves_the_last_good_version_serving_also_after_a_restart() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::write(place.at("math.wasm"), "garbage").unwrap();
    let registry = room.until("an error", |r| has_failed(r, "math.wasm")).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    assert_eq!(info(&registry, "math.wasm").error.as_deref(), Some("not a component: build one"));
    room.stop().await;

    let mut room = place.start();
    let registry = room.first().await;
    assert_eq!(served(&registry, "add"), "v1 add");
    assert!(has_failed(&registry, "math.wasm"));
    assert_eq!(info(&registry, "math.wasm").serving.as_ref().unwrap().version, "v1");
    room.stop().await;

    fs::remove_file(place.at("math.wasm")).unwrap();
    let mut room = place.start();
    assert!(room.first().await.files.is_empty(), "what is absent at the start is not served");
    room.stop().await;
}

#[tokio::test]
async fn a_changed_last_good_version_is_not_served_after_a_restart() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::write(place.at("math.wasm"), "garbage").unwrap();
    room.until("an error", |r| has_failed(r, "math.wasm")).await;
    room.stop().await;
    let kept = fs::read_dir(place.root.path().join("state")).unwrap().next().unwrap().unwrap().path();
    for entry in fs::read_dir(kept).unwrap().map(Result::unwrap).filter(|e| e.file_name().to_string_lossy().ends_with(".wasm")) {
        fs::write(entry.path(), "v6 add").unwrap();
    }
    let mut room = place.start();
    let registry = room.first().await;
    assert!(registry.bodies.is_empty() && has_failed(&registry, "math.wasm"));
    room.stop().await;
}
