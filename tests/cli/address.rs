//! No message, log, listing or file name contains a broker's password.

use std::path::Path;

use super::super::support::{RedisServer, program::Taskhost};

#[test]
fn an_address_that_cannot_be_read_is_printed_nowhere() {
    let host = Taskhost::new();
    for url in [
        "redis://:hunter2?x@127.0.0.1:1",
        "redis://me:hunter2/x@127.0.0.1:1",
        "redis://me:hunter2#x@127.0.0.1:1",
        "redis://127.0.0.1:1?password=hunter2",
        "redis://127.0.0.1:1/0?pass=hunter2",
        "rediss://:hunter2?x@127.0.0.1:1",
        "redis+sentinel://:hunter2?x@127.0.0.1:1/m",
        "redis+sentinel://127.0.0.1:1?sentinel_password=hunter2",
        "redis+cluster://:hunter2?x@127.0.0.1:1",
        "redis+unix://:hunter2?x@/r.sock",
        "redsi://:hunter2@127.0.0.1:1",
        "redis//:hunter2@127.0.0.1:1",
        "sqlite:redis://:hunter2@127.0.0.1:1",
    ] {
        let named = format!("--brokr={url}");
        let toml = serde_json::to_string(url).unwrap();
        host.write("broker.toml", &format!("broker = {toml}\n"));
        host.write("unquoted.toml", &format!("broker = {url}\n"));
        host.write("unknown.toml", &format!("brokr = {toml}\n"));
        host.write("open.toml", &format!("broker = \"{url}\n[plugins.math]\n"));
        for words in [
            &["queue", "list", "--broker", url][..],
            &["worker", "--broker", url, "--log", "trace"],
            &["queue", "list", "--config", "broker.toml"],
            &["queue", "list", "--config", "unquoted.toml"],
            &["queue", "list", "--config", "unknown.toml"],
            &["queue", "list", "--config", "open.toml"],
            &["queue", "list", url],
            &["queue", "list", &named],
            &[url],
        ] {
            // A word that is no address is shown.
            if !url.contains("://") && !words.contains(&"--broker") && !words.contains(&"--config") {
                continue;
            }
            let output = host.run(words);
            assert_eq!(output.code, 2, "{words:?}: {output:?}");
            assert!(!format!("{output:?}").contains("hunter2"), "{words:?}: {output:?}");
        }
    }
    let output = host.run(&["queue", "list", "--broker", "redis://:hunter2?x@127.0.0.1:1"]);
    for word in ["--broker", "can't be read", "redis://USER:PASSWORD@HOST:PORT/DB", "`%3F` for `?`"] {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
    }
}

#[test]
fn a_key_of_an_address_that_does_nothing_is_refused() {
    let host = Taskhost::new();
    let output = host.run(&["queue", "list", "--broker", "redis://127.0.0.1:1/0?db=2"]);
    assert!(output.code == 2 && output.stderr.contains("the database stands in the path"), "{output:?}");
    let output = host.run(&["queue", "list", "--broker", "redis://127.0.0.1:1?password=x"]);
    assert!(output.code == 2 && output.stderr.contains("user and password stand before the host"), "{output:?}");
}

#[test]
fn a_worker_shows_its_brokers_password_nowhere() {
    let host = Taskhost::new();
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]);
    for (form, wanted) in [("redis://:hunter2@", "redis://:***@"), ("redis://default:%68unter2@", "redis://default:***@")] {
        let url = format!("{form}127.0.0.1:{}", server.port());
        let worker = host.worker(&["--broker", &url, "--log", "trace", "--log-format", "json"]);
        worker.until("it has announced itself", |_| host.run(&["workers", "--broker", &url]).stdout.contains("live"));
        let listed = host.ok(&["workers", "--broker", &url, "--json"]);
        let log = worker.log();
        assert!(log.contains(wanted), "{log}");
        for text in [&listed, &log] {
            assert!(!text.contains("hunter2") && !text.contains("unter2@"), "{text}");
        }
        worker.stop();
    }
    let mut names = Vec::new();
    walk(&host.dir().join("state"), &mut names);
    assert!(names.iter().all(|name| !name.contains("hunter2")), "{names:?}");
}

fn walk(dir: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        names.push(entry.path().to_string_lossy().into_owned());
        walk(&entry.path(), names);
    }
}
