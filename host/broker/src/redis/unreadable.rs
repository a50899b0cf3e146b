//! Ends tasks that can't be read.

use std::time::Duration;

use super::{
    connection::Link,
    driver::RedisBroker,
    scripts::UNREADABLE,
    values::{Odd, millis, shown_id},
};
use crate::unreadable;
use taskhost_core::task::QueueName;

/// Tasks of one script call.
const TOGETHER: usize = 500;

impl RedisBroker {
    /// Ends unreadable tasks as dead, each by itself. A task that can't be ended now stays held. It is found again when this incarnation,
    /// or the one that adopts it, reads what it holds.
    pub(super) async fn end_unreadable(&self, link: &Link, within: Duration, queue: &QueueName, incarnation: &str, odd: Vec<Odd>) {
        for part in odd.chunks(TOGETHER) {
            let mut call = UNREADABLE.call(&self.keys.queue(queue)).arg(millis(self.settings.result_ttl)).arg(incarnation);
            for Odd { id, held, why } in part {
                let own = String::from_utf8_lossy(id);
                let known = shown_id(id);
                let why = if known.as_str() == own { why.clone() } else { format!("{why} (its id was `{}`)", unreadable::shown(&own)) };
                let text = serde_json::Value::from(&*why).to_string();
                call.push(id);
                if let Some((claimed_us, place)) = held {
                    call.push(*claimed_us);
                    call.push(*place);
                } else {
                    call.push("");
                    call.push("");
                }
                call.push(known.as_str());
                call.push(&text[1..text.len() - 1]);
                let then =
                    format!("it is dead: `taskhost task show {known} --queue {queue}`, `taskhost task delete {known} --queue {queue}`");
                unreadable::say(&self.at, &format!("task `{known}` of queue `{queue}`"), why, then);
            }
            if let Err(error) = link.call_within(&call, within).await {
                tracing::debug!(%queue, %error, "unreadable tasks are ended later");
                return;
            }
        }
    }
}
