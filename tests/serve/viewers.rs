//! What many viewers cost the broker together, and what each of them sees.

use std::{sync::Barrier, time::Instant};

use super::access::token;
use crate::support::{
    http::{Http, Reply},
    on_every_broker,
    program::Taskhost,
};

const VIEWERS: usize = 20;
const QUEUES: usize = 20;
/// The pages that read themselves again when something happens.
const LIVE: [&str; 6] = ["/", "/queues", "/queues/q-1", "/tasks", "/tasks?queue=q-1&state=scheduled", "/workers"];

fn fill(http: &Http) {
    for n in 0..QUEUES {
        http.post("/v1/tasks", &format!("{{\"task\":\"add\",\"args\":[{n},1],\"queue\":\"q-{n}\",\"delay\":\"1h\",\"id\":\"t-{n}\"}}"))
            .ok(201);
    }
}

fn submit(http: &Http, path: &str, body: &str) {
    let browser = http.clone().with("Content-Type", "application/x-www-form-urlencoded").with("Sec-Fetch-Site", "same-origin");
    let reply: Reply = browser.ask("POST", path, Some(body));
    assert_eq!(reply.status, 303, "{reply:?}");
}

/// The commands that Redis has executed, inside and outside of scripts.
fn commands(connection: &mut redis::Connection) -> u64 {
    let said: String = redis::cmd("INFO").arg("commandstats").query(connection).expect("an answer");
    let calls = said.lines().filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
    calls.sum()
}

#[test]
fn twenty_viewers_cost_redis_as_much_as_one() {
    let host = Taskhost::on_redis();
    let (server, http) = Http::serve(&host, &[]);
    fill(&http);
    let client = redis::Client::open(host.redis_url().expect("it is on Redis")).expect("a URL");
    let mut beside = client.get_connection().expect("connect");
    for page in LIVE {
        // A change makes every page read anew.
        let mut cost = |viewers: usize| {
            submit(&http, "/queues/q-0", "do=resume");
            let (before, begun, together) = (commands(&mut beside), Instant::now(), Barrier::new(viewers));
            std::thread::scope(|threads| {
                for _ in 0..viewers {
                    threads.spawn(|| {
                        together.wait();
                        assert_eq!(http.get(page).status, 200);
                    });
                }
            });
            (commands(&mut beside) - before, begun.elapsed().as_secs())
        };
        cost(1);
        let (one, _) = cost(1);
        let (all, seconds) = cost(VIEWERS);
        // The server itself asks for the time, for instance. On a slow machine the viewers come over some seconds.
        let most = (one + 40) * (seconds + 2);
        assert!(all <= most, "{page}: {one} commands for one viewer, {all} for {VIEWERS} in {seconds} s");
        assert!(one < 100 || all < one * VIEWERS as u64 / 4 || seconds > 3, "{page}: {one} and {all}");
        eprintln!("{page}: {one} commands of Redis for one viewer, {all} for {VIEWERS}");
    }
    assert!(server.stop().success());
}

fn a_page_after_a_change_shows_the_change(host: &Taskhost) {
    let (server, http) = Http::serve(host, &[]);
    fill(&http);
    let looks = |words: &str, are_there: bool| {
        for page in ["/queues", "/queues/q-1", "/"] {
            assert_eq!(http.get(page).body.contains(words), are_there, "{page}: {words}");
        }
    };
    for _ in 0..3 {
        looks("‖ ", false);
        submit(&http, "/queues/q-1", "do=pause");
        looks("‖ ", true);
        http.post("/v1/queues/q-1/resume", "").ok(200);
        looks("‖ ", false);
        assert_eq!(http.get("/v1/queues/q-1").ok(200)["paused"], false);
    }
    assert!(http.get("/tasks?queue=q-1").body.contains("/tasks/t-1?"));
    http.ask("DELETE", "/v1/tasks/t-1?queue=q-1", None).ok(204);
    assert!(!http.get("/tasks?queue=q-1").body.contains("/tasks/t-1?"));
    for n in 2..6 {
        let before = http.get("/v1/queues").ok(200)["queues"].as_array().map(Vec::len).expect("queues");
        http.post("/v1/tasks", &format!("{{\"task\":\"add\",\"args\":[1,1],\"queue\":\"new-{n}\",\"delay\":\"1h\"}}")).ok(201);
        assert_eq!(http.get("/v1/queues").ok(200)["queues"].as_array().map(Vec::len), Some(before + 1), "the API is never stale");
    }
    assert!(server.stop().success());
}

on_every_broker! { a_page_after_a_change_shows_the_change }

#[test]
fn what_one_viewer_has_read_is_shown_to_another_only_as_far_as_it_may_see_it() {
    let host = Taskhost::new();
    let (boss, one) = token(&host, "boss", &["--scope", "admin"]);
    let (reader, two) = token(&host, "reader", &["--scope", "read", "--queue", "q-1"]);
    host.write("taskhost.toml", &(one + &two));
    let (server, http) = Http::serve(&host, &[]);
    let (boss, reader) = (http.clone().with_token(&boss), http.clone().with_token(&reader));
    fill(&boss);
    boss.post("/v1/tasks", r#"{"task":"add","args":["a secret",1],"queue":"q-1","delay":"1h","id":"hidden"}"#).ok(201);
    for page in ["/", "/queues", "/tasks", "/tasks?queue=q-1", "/queues/q-1"] {
        let (seen, scoped) = (boss.get(page).body, reader.get(page).body);
        assert!(seen.contains("/queues/q-2") || seen.contains("t-2") || page.contains("q-1"), "{page}: {seen}");
        assert!(!scoped.contains("q-2") && !scoped.contains("t-2") && !scoped.contains("a secret"), "{page}: {scoped}");
        assert!(scoped.contains("q-1"), "{page}: {scoped}");
        assert!(!page.contains("tasks") || seen.contains("a secret"), "{page}: {seen}");
    }
    assert!(server.stop().success());
}
