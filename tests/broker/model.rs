//! The model check: the same random verbs on a driver and on a small model of it. Answers and views must be equal.
//!
//! The model has three queues with their tasks, children, outboxes and unique keys, the schedules, and the plugins' store. Each check
//! prints its seed. A seed can be given: `MODEL_SEED=7 cargo test -p taskhost-broker --test broker model`.

mod beside;
mod compare;
mod player;
mod queue;
mod tasks;
mod world;

use taskhost_broker::BrokerSettings;

use self::{player::Player, queue::LIMIT};
use crate::support::{Place, RedisServer, SqlitePlace};

const STEPS: usize = 10_000;

/// One database has all queues, so a child for another queue comes to be with the finish of its parent.
#[tokio::test]
async fn sqlite_does_what_the_model_does() {
    check(&SqlitePlace::make().await, false).await;
}

#[tokio::test]
async fn redis_does_what_the_model_does() {
    check(&RedisServer::make().await, true).await;
}

async fn check(place: &dyn Place, has_outbox: bool) {
    let seed = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MODEL_SEED={seed}");
    let broker = place.open(BrokerSettings { payload_limit: LIMIT, ..BrokerSettings::default() }).await;
    let mut player = Player::new(&*broker, seed, has_outbox).await;
    for step in 0..STEPS {
        player.step = step;
        player.hire().await;
        one_step(&mut player).await;
        if step % 500 == 499 {
            player.compare().await;
        }
    }
}

async fn one_step(player: &mut Player<'_>) {
    match player.random.u8(0..100) {
        0..24 => player.enqueue().await,
        24..46 => player.claim().await,
        46..67 => player.finish().await,
        67..71 => player.cancel().await,
        71 => player.say().await,
        72..76 => player.retry().await,
        76..78 => player.delete().await,
        78 => player.edit().await,
        79..81 => player.pause().await,
        81 => player.purge().await,
        82..85 => player.relay().await,
        85 => player.sweep().await,
        86 => player.leave().await,
        87..89 => player.lose().await,
        89..91 => player.put_schedule().await,
        91 => player.pause_schedule().await,
        92 if player.random.bool() => player.remove_schedule().await,
        92..95 => player.fire().await,
        95..98 => player.change_value().await,
        _ => player.read_values().await,
    }
}
