//! One table says what a report makes of its task. Both brokers keep to it, so they never disagree about an end.
//!
//! A row is one combination of outcome × cancelled before × attempts left × unique × expires × kept, and one task on each broker. The
//! pure `judge` and `transition` say what the broker must show.

mod expected;
mod played;
mod rows;

use std::time::Duration;

use taskhost_broker::{Broker, BrokerSettings, Finished};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, State, Verdict};

use self::{
    expected::expected,
    played::play,
    rows::{Expires, HOUR, LIMIT, rows},
};
use crate::support::{Place, RedisServer, SOON, SqlitePlace, Worker, add, enqueue, finish, retry_after, state, view, wait_until};

const ALL: [Expires; 3] = [Expires::Never, Expires::InAnHour, Expires::Meanwhile];

pub(crate) fn kilobyte_payloads() -> BrokerSettings {
    BrokerSettings { payload_limit: LIMIT, ..BrokerSettings::default() }
}

pub(crate) async fn a_verdict_has_the_same_end_on_every_broker(b: &dyn Broker) {
    for expires in ALL {
        for played in play(b, &rows(expires)).await {
            assert_eq!(
                (played.task.tries, played.task.options.max_attempts),
                (played.row.tries, played.row.max_attempts),
                "{:?}",
                played.row
            );
            assert_eq!(played.seen, expected(&played.row, &played.task), "{:?}", played.row);
        }
    }
}

/// The brokers show the same view of each row's task, apart from the times.
#[tokio::test]
async fn both_brokers_show_the_same_of_every_end() {
    let (file, server) = (SqlitePlace::make().await, RedisServer::make().await);
    let (sqlite, redis) = (file.open(kilobyte_payloads()).await, server.open(kilobyte_payloads()).await);
    for expires in ALL {
        let rows = rows(expires);
        let (sqlite, redis) = tokio::join!(play(&*sqlite, &rows), play(&*redis, &rows));
        for (one, other) in sqlite.into_iter().zip(redis) {
            let (mut one_view, mut other_view) = (one.view, other.view);
            for view in [&mut one_view, &mut other_view] {
                let Some(fields) = view.as_object_mut() else { continue };
                // Each broker may have needed another queue to be in time.
                fields.remove("queue");
                // SQLite shows when the newest attempt began, Redis when the newest attempt that counts began.
                if fields["tries"] == one.row.tries {
                    fields.remove("started_at");
                }
            }
            assert_eq!((one.seen, one_view), (other.seen, other_view), "{:?}", one.row);
        }
    }
}

/// A task that is handed back counts as not started. If its time to start is over it ends, on every way back and wherever it waits.
pub(crate) async fn what_is_handed_back_after_its_time_to_start_expires(b: &dyn Broker) {
    let default = QueueName::default();
    for way in ["handed back", "handed back for later", "parked", "left", "tried"] {
        let now = b.now().await.expect("now");
        let expires = now.after(Duration::from_millis(100));
        let id = enqueue(b, NewTask { expires: Some(expires), ..add() }).await;
        let worker = Worker::new(b).await;
        let Some(leased) = worker.claim(1).await.pop() else { panic!("a task can be claimed") };
        wait_until(SOON, "its time is over", || async { b.now().await.expect("now") > expires }).await;
        // A sweep meanwhile must not forget that the task expires.
        b.sweep(&default, &[]).await.expect("sweep");
        assert_eq!(state(b, &id).await, State::Running, "{way}");
        let verdict = match way {
            "handed back" => Verdict::HandBack { delay: Duration::ZERO },
            "handed back for later" => Verdict::HandBack { delay: HOUR },
            "parked" => Verdict::Park,
            _ => retry_after(Duration::ZERO),
        };
        if way != "left" {
            assert_eq!(b.finish(&worker.who, &[finish(&leased.member, verdict)]).await.expect("finish"), [Finished::Recorded]);
        }
        b.leave(&worker.who).await.expect("leave");
        b.sweep(&default, &[]).await.expect("sweep");
        let shown = view(b, &id).await;
        if way == "tried" {
            assert_eq!(shown.state, State::Ready, "what was tried has started");
        } else {
            assert_eq!((shown.state, shown.error.map(|error| error.kind)), (State::Cancelled, Some(ErrorKind::Expired)), "{way}");
        }
        b.purge(&default).await.expect("purge");
    }
}
