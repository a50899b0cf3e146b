//! The verbs beside tasks, each on the broker and on the model: schedules and the plugins' store.

use taskhost_broker::{CatchUp, Fired, KvError, KvRoom, Overlap, Schedule, Source};
use taskhost_core::task::{Millis, NewTask, TaskOptions};

use super::{
    player::{HOUR, Player},
    world::{NOW, Refusal},
};
use crate::support::{SOON, named, task_id, task_name, wait_until};

const PLUGINS: [&str; 2] = ["math", "text"];
const KEYS: [&str; 6] = ["a", "a/1", "a/2", "b", "ü", "n"];
const VALUES: [&[u8]; 10] = [b"", b"1", b"-5", b"007", b"+5", b"-0", b" 5", b"x", b"9223372036854775807", &[0, 255]];

impl Player<'_> {
    fn definition(&mut self) -> Schedule {
        let pick = |random: &mut fastrand::Rng| random.bool();
        Schedule {
            name: format!("s{}", self.random.u8(0..4)),
            rule: if pick(&mut self.random) { "@daily" } else { "0 9 * * *" }.into(),
            timezone: if self.random.u8(0..4) == 0 { "Asia/Shanghai" } else { "UTC" }.into(),
            task: task_name("a"),
            args: if pick(&mut self.random) { "[]" } else { "[1]" }.into(),
            queue: self.any_queue(),
            catch_up: CatchUp::Once,
            overlap: if pick(&mut self.random) { Overlap::Allow } else { Overlap::Skip },
            source: Source::Toml,
            defined_at: Millis(0),
            says_paused: [None, None, Some(true), Some(false)][self.random.usize(0..4)],
            created_at: Millis(self.random.u64(1..5)),
            paused: self.random.u8(0..4) == 0,
            last: Millis(if pick(&mut self.random) { 0 } else { self.random.u64(1_000..1_010) }),
            last_task: None,
            options: TaskOptions::default(),
        }
    }

    pub(super) async fn put_schedule(&mut self) {
        let schedule = self.definition();
        let before = self.broker.now().await.expect("now");
        self.world.put_schedule(&schedule);
        self.broker.put_schedule(&schedule).await.expect("put");
        self.agree_on_schedules(before).await;
    }

    pub(super) async fn pause_schedule(&mut self) {
        let (name, paused) = (self.definition().name, self.random.bool());
        let before = self.broker.now().await.expect("now");
        let expected = self.world.pause_schedule(&name, paused);
        assert_eq!(self.broker.pause_schedule(&name, paused).await.expect("pause"), expected, "step {}: {name}", self.step);
        self.agree_on_schedules(before).await;
    }

    pub(super) async fn remove_schedule(&mut self) {
        let name = self.definition().name;
        let expected = self.world.schedules.remove(&name).is_some();
        assert_eq!(self.broker.remove_schedule(&name).await.expect("remove"), expected, "step {}: {name}", self.step);
    }

    /// Fires mostly the stored definition at a due time after the last one, and then the same again. Sometimes it fires another definition,
    /// an earlier due time, or one ahead.
    pub(super) async fn fire(&mut self) {
        let mut schedule = self.definition();
        let stored = self.world.schedules.get(&schedule.name).cloned();
        if let Some(stored) = stored.clone().filter(|_| self.random.u8(0..4) > 0) {
            schedule = stored;
        }
        let last = stored.as_ref().map_or(Millis(1_000), |stored| stored.last);
        let due = Millis(last.0 + self.random.u64(0..3));
        if self.random.u8(0..8) == 0 {
            self.fire_early(&schedule).await;
        }
        wait_until(SOON, "it is due", || async { self.broker.now().await.expect("now") >= due }).await;
        let task = firing(&schedule, due);
        for _ in 0..2 {
            let expected = self.world.fire(&schedule, due, &task);
            let told = self.broker.fire(&schedule, due, &task).await.expect("fire");
            assert_eq!(told, expected, "step {}: {schedule:#?} at {due:?}, stored {stored:#?}", self.step);
        }
    }

    /// Changes nothing. A schedule that does not fire says so before it looks at the time.
    async fn fire_early(&self, schedule: &Schedule) {
        let due = self.broker.now().await.expect("now").after(HOUR);
        let told = self.broker.fire(schedule, due, &firing(schedule, due)).await.expect("fire");
        assert!(matches!(told, Fired::TooEarly(_) | Fired::NotNow), "step {}: {told:?}", self.step);
    }

    /// All stored schedules are as the model has them. A `last` that the broker set to its own now is taken over.
    pub(super) async fn agree_on_schedules(&mut self, before: Millis) {
        let mut stored = self.broker.schedules().await.expect("schedules");
        let after = self.broker.now().await.expect("now");
        for schedule in &stored {
            if let Some(known) = self.world.schedules.get_mut(&schedule.name).filter(|known| known.last == NOW) {
                assert!(schedule.last >= before && schedule.last <= after, "step {}: it counts from now: {schedule:?}", self.step);
                known.last = schedule.last;
            }
        }
        let mut known: Vec<_> = self.world.schedules.values().cloned().collect();
        // After an operator's word, SQLite no longer shows that the definition asked for a pause. Redis does.
        for schedule in stored.iter_mut().chain(&mut known) {
            schedule.says_paused = None;
        }
        assert_eq!(stored, known, "step {}: schedules", self.step);
    }

    pub(super) async fn change_value(&mut self) {
        let (plugin, key) = self.place();
        let is_small = self.random.bool();
        match self.random.u8(0..5) {
            0 | 1 => {
                let value = VALUES[self.random.usize(0..VALUES.len())];
                let room = if is_small { KvRoom { bytes: 30, keys: 3 } } else { KvRoom::UNBOUNDED };
                let expected = self.world.set(plugin, key, value, room);
                let told = self.broker.kv_set(plugin, key, value, room).await.map_err(refusal);
                assert_eq!(told, expected, "step {}: {plugin} {key} = {value:?} in {room:?}", self.step);
            }
            2 | 3 => {
                let by = [1, -7, 0, i64::MAX][self.random.usize(0..4)];
                // Redis counts each number as the longest one, so the brokers agree only about the bound of keys.
                let room = if is_small { KvRoom { keys: 3, ..KvRoom::UNBOUNDED } } else { KvRoom::UNBOUNDED };
                let expected = self.world.increment(plugin, key, by, room);
                let told = self.broker.kv_increment(plugin, key, by, room).await.map_err(refusal);
                let old = self.world.values.get(&(plugin.to_owned(), key.to_owned()));
                assert_eq!(told, expected, "step {}: {plugin} {key} + {by} in {room:?}, then {old:?}", self.step);
            }
            _ => {
                let expected = self.world.values.remove(&(plugin.to_owned(), key.to_owned())).is_some();
                assert_eq!(self.broker.kv_remove(plugin, key).await, Ok(expected), "step {}: {plugin} {key}", self.step);
            }
        }
    }

    pub(super) async fn read_values(&mut self) {
        let (plugin, key) = self.place();
        let expected = self.world.values.get(&(plugin.to_owned(), key.to_owned())).cloned();
        assert_eq!(self.broker.kv_get(plugin, key).await, Ok(expected), "step {}: {plugin} {key}", self.step);
        let prefix = ["", "a", "a/", "c"][self.random.usize(0..4)];
        let after = Some(key).filter(|_| self.random.bool());
        let limit = self.random.usize(0..5);
        let expected = self.world.keys(plugin, prefix, after, limit);
        let told = self.broker.kv_keys(plugin, prefix, after, limit).await;
        assert_eq!(told, Ok(expected), "step {}: {limit} keys of {plugin} with `{prefix}` after {after:?}", self.step);
    }

    fn place(&mut self) -> (&'static str, &'static str) {
        (PLUGINS[self.random.usize(0..PLUGINS.len())], KEYS[self.random.usize(0..KEYS.len())])
    }
}

fn firing(schedule: &Schedule, due: Millis) -> NewTask {
    NewTask {
        id: task_id(&format!("cron:{}:{}", schedule.name, due.0)),
        queue: schedule.queue.clone(),
        ..named(schedule.task.as_str(), &schedule.args)
    }
}

fn refusal(error: KvError) -> Refusal {
    match error {
        KvError::Invalid(_) => Refusal::Invalid,
        KvError::Full(_) => Refusal::Full,
        KvError::Unavailable(why) => panic!("{why}"),
    }
}
