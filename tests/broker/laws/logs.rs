//! Laws of the log: whole lines, each once, in the order of the attempts, within its bound.

use std::time::Duration;

use taskhost_broker::{Broker, Finish, Member};
use taskhost_core::task::QueueName;

use crate::support::{SHORT_LEASE, Worker, add, enqueue, finish, ok, retry_after, task_id};

pub(crate) async fn what_bodies_log_is_kept_newest_last(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    assert_eq!(b.log(None, &id).await.expect("log").as_deref(), Some(""));
    for (text, verdict) in [("{\"n\":1}\n", retry_after(Duration::ZERO)), ("{\"n\":2}\n", ok("2"))] {
        let leased = worker.claim_one().await;
        let finish = Finish { log: text.into(), ..finish(&leased.member, verdict) };
        b.finish(&worker.who, &[finish]).await.expect("finish");
    }
    assert_eq!(b.log(Some(&QueueName::default()), &id).await.expect("log").as_deref(), Some("{\"n\":1}\n{\"n\":2}\n"));
    assert!(b.log(None, &task_id("nobody")).await.expect("log").is_none());
}

pub(crate) async fn a_long_log_keeps_its_newest_64_kib(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    for n in 0..3 {
        let leased = worker.claim_one().await;
        let log = format!("{}\n", n.to_string().repeat(999)).repeat(40);
        let finish = Finish { log, ..finish(&leased.member, retry_after(Duration::ZERO)) };
        b.finish(&worker.who, &[finish]).await.expect("finish");
    }
    let log = b.log(None, &id).await.expect("log").expect("known");
    assert!(log.len() <= 64 << 10 && log.len() > 60 << 10, "{} bytes", log.len());
    assert!(log.ends_with("2222\n") && !log.contains('0'));
}

pub(crate) async fn the_log_of_an_attempt_that_runs_is_shown_and_each_line_stands_once(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    let log = async || b.log(None, &id).await.expect("log").expect("known");
    let say = async |who: &Worker<'_>, member: &Member, text: &str| b.log_so_far(&who.who, member, text).await.expect("log_so_far");
    let first = worker.claim_one().await.member;
    say(&worker, &first, "1\n").await;
    assert_eq!(log().await, "1\n");
    say(&worker, &first, "1\n2\n").await;
    say(&worker, &first, "1\n2\n").await;
    assert_eq!(log().await, "1\n2\n", "what is told again stands once");
    let finish = Finish { log: "1\n2\n3\n".into(), ..finish(&first, retry_after(Duration::ZERO)) };
    b.finish(&worker.who, &[finish]).await.expect("finish");
    assert_eq!(log().await, "1\n2\n3\n", "the end replaces what was shown before");
    say(&worker, &first, "late\n").await;
    assert_eq!(log().await, "1\n2\n3\n", "a late word changes nothing");

    // The next attempt is lost with its worker. Its lines stay.
    let lost = Worker::on(b, &QueueName::default(), SHORT_LEASE).await;
    let second = lost.claim_one().await.member;
    say(&lost, &second, "4\n").await;
    let adopted = worker.adopt().await;
    say(&lost, &second, "4\nlate\n").await;
    assert_eq!(log().await, "1\n2\n3\n4\n");
    worker.finish(&adopted[0].member, retry_after(Duration::ZERO)).await;
    let third = worker.claim_one().await.member;
    say(&worker, &third, "5\n").await;
    assert_eq!(log().await, "1\n2\n3\n4\n5\n");

    // The log keeps its bound, and the next lines of this attempt still replace the earlier ones.
    let long = |n: usize| (0..n).map(|n| format!("{n} {}\n", "x".repeat(990))).collect::<Vec<_>>().concat();
    for n in [10, 70, 60] {
        say(&worker, &third, &long(n)).await;
    }
    let kept = log().await;
    assert!(kept.len() <= 64 << 10 && kept.ends_with(&long(60)) && kept.matches("\n59 ").count() == 1, "{} bytes", kept.len());
    worker.finish(&third, ok("2")).await;
    assert_eq!(log().await, kept, "an end without a log of its own keeps what was shown");
}
