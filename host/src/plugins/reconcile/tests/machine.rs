//! A machine, a disk or a state directory that fails.

use super::*;

#[tokio::test]
async fn the_machines_trouble_is_shown_and_not_remembered() {
    let place = Place::new();
    place.put("math.wasm", "stuck add");
    place.put("text.wasm", "busy concat");
    let mut room = place.start();
    let registry = room.serves("concat", "busy concat").await;
    let about = info(&registry, "math.wasm");
    assert_eq!(about.status, PluginStatus::Loading);
    let error = about.error.clone().unwrap();
    assert!(error.contains("no space left on device") && error.contains("tried again"), "{error}");
    room.stop().await;
}

#[tokio::test]
async fn last_good_bytes_that_the_disk_would_not_have_are_kept_when_it_has_room() {
    let place = Place::new();
    let mut room = place.start();
    room.first().await;
    let state = fs::read_dir(place.root.path().join("state")).unwrap().next().unwrap().unwrap().path();
    let mine = |mode| fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    // Nothing is written where others may enter: as good a trouble as a full disk, and this user may be root.
    mine(0o750);
    place.put("math.wasm", "v1 add");
    let told = |r: &Registry<String>| info(r, "math.wasm").warnings.iter().any(|warning| warning.contains("cannot keep the last good"));
    room.serves("add", "v1 add").await;
    room.until("it is told", told).await;
    mine(0o700);
    room.until("it is kept", |r| !told(r)).await;
    room.stop().await;
    fs::write(place.at("math.wasm"), "garbage").unwrap();
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    room.stop().await;
}

#[tokio::test]
async fn a_busy_machine_is_tried_again_and_a_crash_is_only_a_bad_plugin() {
    let place = Place::new();
    place.put("crash.wasm", "crash");
    place.put("math.wasm", "busy add");
    let mut room = place.start();
    let registry = room.serves("add", "busy add").await;
    assert!(info(&registry, "crash.wasm").error.as_ref().unwrap().contains("crashed"));
    assert_eq!(place.loads("crash"), 1, "what is bad is remembered");
    room.stop().await;
}

#[tokio::test]
async fn a_state_directory_that_fails_keeps_nothing_from_serving() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    fs::write(place.root.path().join("state"), "in the way").unwrap();
    let mut room = place.start();
    let registry = room.serves("add", "v1 add").await;
    assert!(registry.warnings.iter().any(|w| w.contains("cannot use the state directory")), "{:?}", registry.warnings);
    room.stop().await;
}

#[test]
fn a_missing_directory_is_refused_with_what_to_do() {
    let place = Place::new();
    fs::remove_dir(place.dir()).unwrap();
    let settings = |dir: &Path| PluginsSettings {
        dir: dir.to_owned(),
        state: place.root.path().join("state"),
        policy: None,
        trust: None,
        writable: Writable::default(),
        limits: Limits::default(),
    };
    let loader = || TextLoader { slow: place.slow.clone(), loads: place.loads.clone() };
    let error = |dir: &Path| crate::plugins::open(settings(dir), loader()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error(&place.dir()).starts_with("there is no plugin directory, make it or name another with --plugins"));
    assert!(error(&place.policy()).starts_with("the plugin directory cannot be read"));
}
