//! Versions that change at every point of a pass: what is decided of one is never written to another.

use std::sync::{
    Arc as Shared,
    atomic::{AtomicUsize, Ordering},
};

use super::{past::*, *};
use crate::plugins::{GenerationState, history, roll_back};

const POINTS: [&str; 8] = ["listed", "noted", "captured", "trials looked at", "bars followed", "judged", "adopted", "recorded"];

/// A room whose passes call `at`, with the registry that is in force.
fn room(place: &Place, mut at: impl FnMut(&str, &Registry<String>) + Send + 'static) -> Room {
    let mut reconciler = place.open(None);
    let registry = reconciler.subscribe();
    reconciler.at = Some(Box::new(move |point| at(point, &registry.borrow())));
    Place::run(reconciler)
}

fn put(place: &Path, text: &str) {
    let new = place.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, place).unwrap();
}

/// The second version fails at one point of a pass, and the third is renamed into place at the same or a later one.
async fn fails_and_is_replaced(fails: usize, replaced: usize) {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let (file, armed) = (place.at("math.wasm"), Shared::new(AtomicUsize::new(0)));
    let step = armed.clone();
    let mut room = room(&place, move |point, registry| {
        let now = POINTS.iter().position(|known| *known == point).unwrap();
        if step.load(Ordering::Relaxed) == 1 && now == fails {
            attempts(registry, 5, false);
            step.store(2, Ordering::Relaxed);
        }
        if step.load(Ordering::Relaxed) == 2 && now == replaced {
            put(&file, "v3 add");
            step.store(3, Ordering::Relaxed);
        }
    });
    attempts(&*room.serves("add", "v1 add").await, 10, true);
    place.put("math.wasm", "v2 add");
    room.serves("add", "v2 add").await;
    armed.store(1, Ordering::Relaxed);
    let about = format!("fails when {}, replaced when {}", POINTS[fails], POINTS[replaced]);
    let good = |r: &Registry<String>| served(r, "add") == "v3 add" && info(r, "math.wasm").status == PluginStatus::Serving;
    room.until(&about, good).await;
    // It stays, and an operator can go back from it.
    place.until_history(|known| known.first().is_some_and(|g| g.version == "v3" && g.state == GenerationState::Current)).await;
    let known = history(&place.dir(), &place.state(), "math").unwrap();
    assert!(known.iter().all(|g| g.version != "v3" || g.state == GenerationState::Current), "{about}: {known:?}");
    let asked = roll_back(&place.dir(), &place.state(), "math").unwrap_or_else(|error| panic!("{about}: {error}"));
    assert_eq!(asked.from.as_ref().map(|from| from.version.as_str()), Some("v3"), "{about}");
    room.serves("add", &format!("{} add", asked.to.version)).await;
    room.stop().await;
}

#[tokio::test]
async fn a_guard_bars_the_version_that_failed_whatever_stands_in_the_file_by_then() {
    let pairs = (0..POINTS.len()).flat_map(|fails| [(fails, fails), (fails, POINTS.len() - 1), (fails, 2)]);
    let mut pairs: Vec<_> = pairs.collect();
    pairs.dedup();
    for some in pairs.chunks(6) {
        futures_util::future::join_all(some.iter().map(|(fails, replaced)| fails_and_is_replaced(*fails, *replaced))).await;
    }
}

#[tokio::test]
async fn a_version_that_failed_does_not_serve_on_because_garbage_takes_its_place() {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    attempts(&*room.serves("add", "v1 add").await, 10, true);
    place.put("math.wasm", "v2 add");
    let registry = room.serves("add", "v2 add").await;
    // In one moment, for a pass: it fails, and something else stands there.
    attempts(&registry, 5, false);
    place.put("math.wasm", "garbage");
    let registry = room.serves("add", "v1 add").await;
    assert!(!is_rolled_back(&registry), "what stands there never served: {registry:#?}");
    room.until("garbage is refused", |r| has_failed(r, "math.wasm")).await;
    room.stop().await;
    let mut room = place.start();
    assert_eq!(served(&*room.first().await, "add"), "v1 add", "also after a restart");
    place.put("math.wasm", "v3 add");
    room.serves("add", "v3 add").await;
    room.stop().await;
}

#[tokio::test]
async fn while_a_new_version_is_loaded_the_failed_one_gives_way_to_the_one_before() {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    attempts(&*room.serves("add", "v1 add").await, 10, true);
    place.put("math.wasm", "v2 add");
    let registry = room.serves("add", "v2 add").await;
    attempts(&registry, 5, false);
    place.put("math.wasm", "slow add");
    let registry = room.serves("add", "v1 add").await;
    assert_eq!(info(&registry, "math.wasm").status, PluginStatus::Loading);
    place.slow.add_permits(1);
    let registry = room.serves("add", "slow add").await;
    // It is on trial as well, against the version that was good.
    attempts(&registry, 5, false);
    let registry = room.serves("add", "v1 add").await;
    assert!(is_rolled_back(&registry));
    room.stop().await;
}

#[tokio::test]
async fn a_guard_that_was_taken_away_decides_nothing() {
    let place = Place::new();
    fs::write(place.policy(), GUARDED).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    attempts(&*room.serves("add", "v1 add").await, 10, true);
    place.put("math.wasm", "v2 add");
    let registry = room.serves("add", "v2 add").await;
    fs::write(place.policy(), "# no guard\n[plugins.math]\nconcurrency = 3\n").unwrap();
    attempts(&registry, 5, false);
    let registry = room.until("the policy", |r| r.bodies.values().all(|plugin| plugin.concurrency == Some(3))).await;
    assert_eq!((served(&registry, "add"), is_rolled_back(&registry)), ("v2 add", false));
    room.stop().await;
}

#[tokio::test]
async fn a_rollback_by_hand_is_of_what_a_worker_has_judged_and_never_refused_for_ever() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("math.wasm", "v2 add");
    room.serves("add", "v2 add").await;
    place.history(&["v2 Current", "v1 Good"]).await;
    // Another version, which nobody has looked at.
    place.put("math.wasm", "v3 add");
    let early = roll_back(&place.dir(), &place.state(), "math");
    if let Err(error) = early {
        assert!(error.to_string().contains("has just changed"), "{error}");
    } else {
        panic!("{early:?} of what nobody has judged");
    }
    room.serves("add", "v3 add").await;
    place.history(&["v3 Current", "v2 Good", "v1 Good"]).await;
    // The machine can't load this one: that is no reason not to go back from the one that serves.
    place.put("math.wasm", "stuck add");
    room.until("it is tried again", |r| info(r, "math.wasm").error.is_some()).await;
    let begun = Instant::now();
    while let Err(error) = roll_back(&place.dir(), &place.state(), "math") {
        assert!(error.to_string().contains("has just changed") && begun.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    room.serves("add", "v2 add").await;
    room.stop().await;
}

#[tokio::test]
async fn a_version_whose_key_is_trusted_again_can_be_gone_back_to() {
    let place = Place::new();
    let keys = place.root.path().join("trusted.pub");
    let ((old, old_public), (new, new_public)) = (crate::plugins::keygen(None).unwrap(), crate::plugins::keygen(None).unwrap());
    let both = format!("{old_public}{new_public}");
    fs::write(&keys, &both).unwrap();
    let sign = |key: &str, text: &str| {
        put(&place.at("math.wasm.minisig"), &crate::plugins::sign(key, None, text.as_bytes(), "math").unwrap());
        place.put("math.wasm", text);
    };
    let mut room = place.start_trusting(Some(keys.clone()));
    for (key, text) in [(&new, "v1 add"), (&old, "v2 add"), (&new, "v3 add")] {
        sign(key, text);
        room.serves("add", text).await;
    }
    place.history(&["v3 Current", "v2 Good", "v1 Good"]).await;
    put(&keys, &new_public);
    let begun = Instant::now();
    roll_back(&place.dir(), &place.state(), "math").unwrap();
    // The one before is not trusted now, so the one before that serves; it is only passed over.
    room.serves("add", "v1 add").await;
    assert!(begun.elapsed() < LIMIT);
    place.history(&["v1 Current", "v3 RolledBack", "v2 Good"]).await;
    room.stop().await;
}

#[tokio::test]
async fn a_version_that_served_is_the_last_good_one_although_the_worker_stops_at_once() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let shutdown = Shared::new(std::sync::OnceLock::<CancellationToken>::new());
    let told = shutdown.clone();
    let mut room = room(&place, move |point, registry| {
        if point == "adopted" && served(registry, "add") == "v1 add" {
            told.get().expect("set before the first pass has ended").cancel();
        }
    });
    shutdown.set(room.shutdown.clone()).expect("set once");
    room.serves("add", "v1 add").await;
    room.stop().await;
    place.put("math.wasm", "garbage");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    room.stop().await;
}
