//! Policies that change while plugins serve.

use super::*;

/// What serves `transfer`.
fn plugin(registry: &Registry<String>) -> Arc<Plugin<String>> {
    registry.resolve(&TaskName::new("transfer").unwrap()).unwrap().clone()
}

#[tokio::test]
async fn a_new_policy_makes_a_new_plugin_of_the_same_code_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    place.put("org-transfer.wasm", "v1 transfer");
    let mut room = place.start();
    let before = plugin(&*room.serves("transfer", "v1 transfer").await);
    assert_eq!(before.concurrency, None);

    fs::write(place.policy(), "[plugins.org-transfer]\nconcurrency = 4\ntimeout = \"5m\"\n").unwrap();
    let after = plugin(&*room.until("the policy", |r| plugin(r).concurrency == Some(4)).await);
    assert!(Arc::ptr_eq(&before.code, &after.code) && before.id == after.id);
    assert_eq!(after.limits.timeout_ceiling, Some(Duration::from_secs(300)));

    fs::write(place.policy(), "[plugins.org-transfer]\nconcurrency = 4\nfiles = [{ host = \"gone\", guest = \"/in\" }]").unwrap();
    let registry =
        room.until("a warning", |r| info(r, "org-transfer.wasm").warnings.iter().any(|w| w.contains("is not a directory"))).await;
    let after = plugin(&registry);

    fs::write(place.policy(), "[plugins.org-transfer]\nconcurrency = 4\n\nmemroy = \"1GiB\"\n").unwrap();
    let registry = room.until("a warning", |r| r.warnings.iter().any(|w| w.contains("line 4, `plugins.org-transfer.memroy`"))).await;
    assert!(Arc::ptr_eq(&plugin(&registry), &after), "the last good policy stays in force");

    fs::write(place.policy(), "[plugins.org_transfer]\nconcurrency = 9\n").unwrap();
    let registry = room.until("a hint", |r| r.warnings.iter().any(|w| w.contains("write [plugins.org-transfer]"))).await;
    assert_eq!(plugin(&registry).concurrency, None);
    room.stop().await;
}
