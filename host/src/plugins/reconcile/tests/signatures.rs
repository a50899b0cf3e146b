//! Signed plugins, and keys that change.

use super::*;

#[tokio::test]
async fn a_signature_that_can_not_be_read_for_the_moment_unloads_nothing() {
    let place = Place::new();
    let keys = place.root.path().join("trusted.pub");
    let (key, public) = crate::plugins::keygen(None).unwrap();
    fs::write(&keys, &public).unwrap();
    let signature = place.at("math.wasm.minisig");
    fs::write(&signature, crate::plugins::sign(&key, None, b"v1 add", "math").unwrap()).unwrap();
    place.put("math.wasm", "v1 add");
    place.put("text.wasm", "v1 concat");
    // A directory can't be read as a file: as good a trouble as having no descriptor left.
    fs::create_dir(place.at("text.wasm.minisig")).unwrap();
    let mut room = place.start_trusting(Some(keys));
    let registry = room.serves("add", "v1 add").await;
    let about = info(&registry, "text.wasm");
    assert!(about.status == PluginStatus::Loading && about.error.as_ref().unwrap().contains("cannot be read"), "{about:?}");
    fs::remove_file(&signature).unwrap();
    fs::create_dir(&signature).unwrap();
    fs::remove_dir(place.at("text.wasm.minisig")).unwrap();
    let registry = room.until("the other one is refused", |r| has_failed(r, "text.wasm")).await;
    assert_eq!(served(&registry, "add"), "v1 add");
    room.stop().await;
}

#[tokio::test]
async fn with_trust_required_only_signed_bytes_are_compiled_and_served() {
    let place = Place::new();
    let keys = place.root.path().join("trusted.pub");
    let ((old_key, old_public), (new_key, new_public)) = (crate::plugins::keygen(None).unwrap(), crate::plugins::keygen(None).unwrap());
    let sign = |file: &str, key: &str, text: &str| {
        let new = place.at(".sig");
        fs::write(&new, crate::plugins::sign(key, None, text.as_bytes(), file).unwrap()).unwrap();
        fs::rename(new, place.at(&format!("{file}.minisig"))).unwrap();
    };
    fs::write(&keys, &old_public).unwrap();
    place.put("math.wasm", "v1 add");
    let mut room = place.start_trusting(Some(keys.clone()));
    let registry = room.until("it is refused", |registry| has_failed(registry, "math.wasm")).await;
    assert!(info(&registry, "math.wasm").error.as_ref().unwrap().contains("not signed"), "{registry:#?}");
    assert_eq!(place.loads("v1 add"), 0, "it is not even compiled");
    // The signature may come after the file.
    sign("math.wasm", &old_key, "v1 add");
    room.serves("add", "v1 add").await;
    // A replacement with a signature that is not its own: the last good one serves on.
    place.put("math.wasm", "v2 add");
    let registry = room.until("the new one is refused", |registry| has_failed(registry, "math.wasm")).await;
    assert!(info(&registry, "math.wasm").error.as_ref().unwrap().contains("changed after it was signed"), "{registry:#?}");
    assert_eq!((served(&registry, "add"), place.loads("v2 add")), ("v1 add", 0));
    room.stop().await;
    // After a restart too: its signature was kept with it.
    let mut room = place.start_trusting(Some(keys.clone()));
    room.serves("add", "v1 add").await;
    // A key that is not trusted, then is, then is the only one.
    sign("math.wasm", &new_key, "v2 add");
    room.until("the key is foreign", |registry| {
        registry.files.iter().any(|info| info.error.as_ref().is_some_and(|error| error.contains("not trusted here")))
    })
    .await;
    fs::write(&keys, format!("{old_public}{new_public}")).unwrap();
    room.serves("add", "v2 add").await;
    fs::write(&keys, "a slip of the pen").unwrap();
    room.until("the bad edit is shown", |registry| registry.warnings.iter().any(|warning| warning.contains("keys stay in force"))).await;
    fs::write(&keys, format!("# only the old one\n{old_public}")).unwrap();
    let registry = room.serves("add", "").await;
    assert!(has_failed(&registry, "math.wasm"), "nothing that the new key signed serves any more: {registry:#?}");
    room.stop().await;
}
