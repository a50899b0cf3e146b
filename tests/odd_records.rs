//! A worker process meets records that it can't read. It names each in its log once, and runs the other tasks.

use redis::Value;

use crate::support::program;

#[test]
fn what_cannot_be_read_is_named_in_the_log_once_and_its_neighbours_run() {
    let host = program::Taskhost::on_redis();
    host.drop_in("math");
    let url = host.redis_url().expect("on Redis");
    let stranger = redis::Client::open(url).and_then(|client| client.get_connection()).expect("our own server");
    let mut write = {
        let mut stranger = stranger;
        move |line: &str| {
            let mut words = line.split(' ').map(|word| word.replace('_', " "));
            let mut command = redis::cmd(&words.next().expect("a command"));
            for word in words {
                command.arg(word);
            }
            let _answer: Value = command.query(&mut stranger).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    };
    write("SET th:{default}:expires x");
    write("HSET th:{default}:t:a_b task add args [1,1] at 1");
    write("ZADD th:{default}:ready 1 a_b");
    write("XADD th:{default}:out * queue a_b record []");
    let worker = host.worker(&["--lease", "2s"]);
    let index = "th:{ }:schedules".replace(' ', "_");
    let mut other = redis::Client::open(host.redis_url().expect("on Redis")).and_then(|client| client.get_connection()).expect("ours");
    let _new: Value = redis::cmd("HSET").arg(index).arg("bad").arg("a b").query(&mut other).expect("written");
    for n in 0..4 {
        assert_eq!(host.ok(&["enqueue", "add", "2", &n.to_string(), "--wait=60s"]).trim(), (2 + n).to_string());
    }
    for name in ["the key `th:{default}:expires`", "task `unreadable:", "an entry of `th:{default}:out`", "schedule `bad`"] {
        worker.until(&format!("{name} is named"), |worker| worker.log().contains(name));
    }
    let listed = host.tasks(&["--state", "dead"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    assert!(host.ok(&["task", "show", &id]).contains("unreadable"));
    host.ok(&["task", "delete", &id]);
    host.ok(&["schedule", "remove", "bad"]);
    host.ok(&["queue", "purge", "default", "--yes"]);
    assert_eq!(host.count_named("aside"), 0, "what was set aside is gone");
    let log = worker.log();
    for name in ["`th:{default}:expires`", "task `unreadable:", "an entry of `th:{default}:out`", "schedule `bad`"] {
        assert_eq!(log.matches(name).count(), 1, "{name}: {log}");
    }
    assert!(worker.stop().success());
}
