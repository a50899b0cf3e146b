//! Files and directories that come, change, move and go.

use super::*;
use crate::plugins::reconcile::files::GONE_GRACE;

#[tokio::test]
async fn a_file_dropped_in_serves_a_replaced_one_is_swapped_and_a_removed_one_unloaded() {
    let place = Place::new();
    let mut room = place.start();
    assert!(room.first().await.bodies.is_empty(), "an empty directory is published too");
    place.put("math.wasm", "v1 add");
    let registry = room.serves("add", "v1 add").await;
    let old = registry.resolve(&TaskName::new("add").unwrap()).unwrap().clone();
    place.put("math.wasm", "v2 add multiply");
    room.serves("multiply", "v2 add multiply").await;
    assert_eq!((*old.code).as_str(), "v1 add", "who runs on the old one keeps it");
    fs::remove_file(place.at("math.wasm")).unwrap();
    let registry = room.serves("add", "").await;
    assert!(registry.files.is_empty());
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_stays_away_is_taken_as_empty() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    let gone = Instant::now();
    fs::remove_dir_all(place.dir()).unwrap();
    let registry = room.serves("add", "").await;
    assert!(gone.elapsed() >= GONE_GRACE, "after {:?}", gone.elapsed());
    assert!(registry.warnings.iter().any(|w| w.contains("the plugin directory is gone")));
    room.stop().await;
}

#[tokio::test]
async fn two_files_change_places_without_a_gap() {
    let place = Place::new();
    place.put("a.wasm", "v1 add");
    place.put("b.wasm", "v1 concat");
    let mut room = place.start();
    room.first().await;
    let mut watched = room.registry.clone();
    let gap = tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            let registry = watched.borrow_and_update().clone();
            assert_eq!((served(&registry, "add"), served(&registry, "concat")), ("v1 add", "v1 concat"));
        }
    });
    fs::rename(place.at("a.wasm"), place.at("aside")).unwrap();
    fs::rename(place.at("b.wasm"), place.at("a.wasm")).unwrap();
    fs::rename(place.at("aside"), place.at("b.wasm")).unwrap();
    room.until("the exchange", |r| r.resolve(&TaskName::new("add").unwrap()).is_some_and(|p| p.file == "b.wasm")).await;
    room.stop().await;
    gap.await.unwrap();
}

#[tokio::test]
async fn a_rename_never_leaves_a_body_unserved() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    let mut watched = room.registry.clone();
    let gap = tokio::spawn(async move {
        while watched.changed().await.is_ok() {
            let registry = watched.borrow_and_update().clone();
            assert_eq!(served(&registry, "add"), "v1 add");
        }
    });
    fs::rename(place.at("math.wasm"), place.at("arith.wasm")).unwrap();
    let registry = room.until("the new name", |r| r.files.iter().any(|i| i.file == "arith.wasm" && i.serving.is_some())).await;
    assert_eq!(registry.resolve(&TaskName::new("add").unwrap()).unwrap().id.plugin, "arith");
    assert_eq!(registry.files.len(), 1, "the old name is gone at once: {registry:?}");
    assert_eq!(place.loads("v1 add"), 1, "the same bytes are compiled once");
    room.stop().await;
    gap.await.unwrap();
}

#[tokio::test]
async fn a_file_being_compiled_shows_as_loading_while_its_last_good_version_serves() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    place.put("math.wasm", "slow add");
    let loading = |r: &Registry<String>| r.files.iter().any(|i| i.status == PluginStatus::Loading);
    let registry = room.until("loading", loading).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    place.slow.add_permits(1);
    let registry = room.serves("add", "slow add").await;
    assert_eq!(info(&registry, "math.wasm").status, PluginStatus::Serving);
    room.stop().await;
}

#[tokio::test]
async fn a_slow_copy_over_a_file_ends_with_the_whole_of_it() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    let path = place.at("math.wasm");
    let copy = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut file = fs::File::create(path).unwrap();
        for piece in ["v2", " add", " sub", "tract", " mul", "tiply"] {
            file.write_all(piece.as_bytes()).unwrap();
            file.sync_all().unwrap();
            // The copy is slow by itself; nothing waits for this.
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    room.serves("multiply", "v2 add subtract multiply").await;
    copy.await.unwrap();
    room.stop().await;
}

#[tokio::test]
async fn many_quick_replacements_end_with_the_newest() {
    let place = Place::new();
    let mut room = place.start();
    for n in 1..=50 {
        place.put("math.wasm", &format!("v{n} add"));
        tokio::task::yield_now().await;
    }
    room.serves("add", "v50 add").await;
    room.stop().await;
}

#[tokio::test]
async fn a_kubernetes_volume_is_followed_through_its_links() {
    let place = Place::new();
    let volume = |name: &str, text: &str| {
        fs::create_dir(place.at(name)).unwrap();
        fs::write(place.at(name).join("math.wasm"), text).unwrap();
    };
    volume("..one", "v1 add");
    symlink("..one", place.at("..data")).unwrap();
    symlink("..data/math.wasm", place.at("math.wasm")).unwrap();
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    volume("..two", "v2 add");
    symlink("..two", place.at("..data_tmp")).unwrap();
    fs::rename(place.at("..data_tmp"), place.at("..data")).unwrap();
    fs::remove_dir_all(place.at("..one")).unwrap();
    room.serves("add", "v2 add").await;
    room.stop().await;
}

#[tokio::test]
async fn a_directory_made_anew_is_followed_without_a_gap() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::remove_dir_all(place.dir()).unwrap();
    let gone = |r: &Registry<String>| r.warnings.iter().any(|w| w.contains("the plugin directory is gone"));
    let registry = room.until("the directory to be missed", gone).await;
    assert_eq!(served(&registry, "add"), "v1 add", "it may come back");
    assert!(info(&registry, "math.wasm").warnings.iter().any(|w| w.contains("is gone")), "`plugin list` shows it");
    fs::create_dir(place.dir()).unwrap();
    place.put("math.wasm", "v2 add");
    let registry = room.serves("add", "v2 add").await;
    assert!(!gone(&registry));
    place.put("text.wasm", "v1 concat");
    room.serves("concat", "v1 concat").await;
    room.stop().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_unloads_nothing() {
    let place = Place::new();
    place.put("math.wasm", "v1 add");
    let mut room = place.start();
    room.serves("add", "v1 add").await;
    fs::rename(place.dir(), place.root.path().join("aside")).unwrap();
    fs::write(place.dir(), "not a directory").unwrap();
    let registry = room.until("an error", |r| r.warnings.iter().any(|w| w.contains("cannot be read"))).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    room.stop().await;
}

#[tokio::test]
async fn a_bad_name_or_an_unreadable_file_is_a_sentence() {
    let place = Place::new();
    place.put("Math v1.wasm", "v1 add");
    symlink("nothing", place.at("link.wasm")).unwrap();
    fs::create_dir(place.at("dir.wasm")).unwrap();
    let mut room = place.start();
    let registry = room.first().await;
    let errors: Vec<_> = registry.files.iter().map(|info| info.error.clone().unwrap_or_default()).collect();
    assert_eq!(
        errors,
        [
            "a plugin's name starts with a-z or 0-9 and has at most 64 characters of a-z 0-9 _ -: `Math v1`; rename the file",
            "dir.wasm is a directory, not a file: put the component itself there",
            "link.wasm is a symbolic link that leads nowhere: point it at the plugin, or remove it",
        ]
    );
    room.stop().await;
}
