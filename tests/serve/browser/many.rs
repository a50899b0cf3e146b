//! The dashboard in a real browser, with 100,000 dead tasks: find one of them, and run 10,000 again.

use taskhost_broker::{Broker, BrokerSettings, Leased, redis::RedisBroker};
use taskhost_core::task::NewTask;

use super::{ENTER, QUIET, open_at};
use crate::support::{
    Worker,
    browser::Browser,
    dead, finish,
    http::Http,
    named,
    program::{Taskhost, until},
};

const MANY: usize = 100_000;
/// Each of these has the tag `batch-7`.
const TAGGED: std::ops::Range<usize> = 30_000..40_000;
/// The only one of its kind.
const SOUGHT: usize = 51_234;
/// Enough to keep all of them.
const SETTINGS: &str = "dead_count = 200000\n";

/// Tasks that have died in one attempt each.
async fn many_dead(broker: &dyn Broker) {
    let worker = Worker::new(broker).await;
    for begin in (0..MANY).step_by(1_000) {
        let tasks: Vec<NewTask> = (begin..begin + 1_000)
            .map(|n| {
                let mut task = named("send_mail", &format!("[{n}]"));
                if TAGGED.contains(&n) {
                    task.options.carried.tags.add("batch-7".parse().expect("a tag")).expect("one tag");
                }
                task
            })
            .collect();
        broker.enqueue(&tasks).await.expect("enqueue");
        let end = |(n, leased): (usize, Leased)| {
            let why = if n == SOUGHT { "the ledger is locked by Ægir" } else { "the mail server does not answer" };
            finish(&leased.member, dead(why))
        };
        let ends: Vec<_> = (begin..).zip(worker.claim(1_000).await).map(end).collect();
        assert_eq!(ends.len(), 1_000);
        broker.finish(&worker.who, &ends).await.expect("finish");
    }
}

#[test]
fn one_is_found_and_ten_thousand_run_again_although_the_server_is_killed() {
    let host = Taskhost::on_redis();
    host.write("taskhost.toml", SETTINGS);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let settings = BrokerSettings { dead_count: 200_000, ..BrokerSettings::default() };
        let broker = RedisBroker::connect(&host.redis_url().expect("it is on Redis"), settings).await.expect("our own server");
        many_dead(&broker).await;
    });
    let (at, serve) = open_at(&host);
    let server = serve();
    let http = Http::at(&at);
    let Some(browser) = Browser::open(&http) else { return };

    browser.go("/");
    browser.press("/");
    browser.press("ledger is locked");
    browser.press(ENTER);
    browser.until("the list of dead tasks", || browser.place().starts_with("/tasks?"));
    // A page looks for a bounded time, and a link goes on from there.
    while !browser.text("#tasks").contains("Ægir") {
        let before = browser.place();
        browser.click("a.next");
        browser.until("the search goes on", || browser.place() != before);
    }
    assert_eq!(browser.run("return document.querySelectorAll('#tasks tbody tr').length", &[]), 1);
    browser.click("#tasks tbody tr td.why");
    browser.until_text("#data", &SOUGHT.to_string());

    browser.go("/tasks?state=dead&tag=batch-7");
    browser.click("form.all button[value=retry]");
    browser.until_text("h1", "10,000");
    assert_eq!(http.get("/v1/queues/default").ok(200)["counts"]["dead"], MANY, "nothing was changed yet");
    browser.click("main button.danger");
    browser.until("the operations", || browser.place().starts_with("/operations"));
    browser.run("window.kept = true", &[]);
    let waiting = || http.get("/v1/queues/default").ok(200)["counts"]["ready"].as_u64().expect("a number");
    until("it has begun", || waiting() > 0);
    server.stop_by(rustix::process::Signal::KILL);
    browser.until("it says that nothing answers", || !browser.text("#banner").is_empty());
    let server = serve();
    browser.until_text("#operations", "succeeded");
    browser.until("the word is gone", || browser.text("#banner").is_empty());
    assert_eq!(browser.run("return window.kept", &[]), true, "the page was not loaded again");
    assert_eq!(waiting(), TAGGED.len() as u64);
    assert_eq!(http.get("/v1/queues/default").ok(200)["counts"]["dead"], MANY - TAGGED.len(), "each was run again once");
    let refused = browser.complaints();
    assert!(refused.iter().all(|line| line.contains("ERR_CON") || line.contains("ERR_INCOMPLETE_CHUNKED")), "{refused:?}");

    // How soon a person can use the list on a slow device. It is printed for a look at it: a test does not judge times.
    browser.emulate("Emulation.setCPUThrottlingRate", &serde_json::json!({"rate": 4}));
    browser.go("/tasks?state=dead");
    let times = browser.run(
        "const [one] = performance.getEntriesByType('navigation'); \
         return ['responseStart', 'responseEnd', 'domInteractive', 'loadEventEnd'].map((name) => `${name} ${Math.round(one[name])} ms`)",
        &[],
    );
    eprintln!("the list of tasks at a quarter of the speed, {} dead: {times}", MANY - TAGGED.len());
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(server.stop().success());
}
