//! The loop on tokio's paused clock, against a broker that keeps schedules in memory and the rules of `Schedules::fire`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use taskhost_broker::{CatchUp, Overlap, ScheduleEntry, Source};
use taskhost_core::task::{QueueName, TaskName, TaskOptions};

/// 2026-03-01T00:00:00Z by the broker's clock when a test begins.
const START: Millis = Millis(1_772_323_200_000);

/// A broker of schedules that remembers each firing, with a clock of its own.
#[derive(Debug)]
struct Fake {
    began: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    schedules: BTreeMap<String, Schedule>,
    fired: Vec<Firing>,
    /// Each request to fire: the schedule and the due time.
    asked: Vec<(String, Millis)>,
    puts: usize,
    /// The next calls fail.
    failures: usize,
    /// The clock of `fire` is this much behind `now`.
    behind: Duration,
    /// `overlap = skip` finds the last task running.
    running: bool,
    /// `fire` refuses for good.
    refuses: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Firing {
    id: String,
    due: Millis,
    at: Millis,
}

impl Fake {
    fn new(schedules: impl IntoIterator<Item = Schedule>) -> Arc<Self> {
        let schedules = schedules.into_iter().map(|schedule| (schedule.name.clone(), schedule)).collect();
        Arc::new(Self { began: Instant::now(), kept: Mutex::new(Kept { schedules, ..Kept::default() }) })
    }

    fn time(&self) -> Millis {
        START.after(self.began.elapsed())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.kept.lock())
    }

    fn step<T>(&self, step: impl FnOnce(&mut Kept, Millis) -> T) -> broker::Result<T> {
        let now = self.time();
        self.with(|kept| {
            if kept.failures == 0 {
                return Ok(step(kept, now));
            }
            kept.failures -= 1;
            Err(BrokerError::Unavailable("connection refused".into()))
        })
    }

    /// Due times fired so far, as milliseconds after the start.
    fn fired(&self) -> Vec<u64> {
        self.with(|kept| kept.fired.iter().map(|firing| firing.due.0 - START.0).collect())
    }

    /// Lets `hosts` loops run for `time`.
    async fn run(self: &Arc<Self>, hosts: usize, time: Duration) {
        let loops = (0..hosts).map(|_| fires(self));
        let _ = tokio::time::timeout(time, futures_util::future::join_all(loops)).await;
    }
}

#[async_trait]
impl Schedules for Fake {
    async fn put_schedule(&self, schedule: &Schedule) -> broker::Result<()> {
        self.step(|kept, _| {
            kept.puts += 1;
            let held = kept.schedules.get(&schedule.name).is_some_and(|old| old.paused);
            let paused = schedule.says_paused.unwrap_or(held || schedule.paused);
            kept.schedules.insert(schedule.name.clone(), Schedule { paused, ..schedule.clone() });
        })
    }

    async fn schedules(&self) -> broker::Result<Vec<Schedule>> {
        self.step(|kept, _| kept.schedules.values().cloned().collect())
    }

    async fn pause_schedule(&self, _name: &str, _paused: bool) -> broker::Result<bool> {
        unreachable!("the loop pauses nothing")
    }

    async fn remove_schedule(&self, _name: &str) -> broker::Result<bool> {
        unreachable!("the loop removes nothing")
    }

    async fn schedule_record(&self, _name: &str) -> broker::Result<Vec<ScheduleEntry>> {
        unreachable!("the loop reads no record")
    }

    async fn now(&self) -> broker::Result<Millis> {
        self.step(|_, now| now)
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> broker::Result<Fired> {
        // A round trip takes time, so that hosts overtake each other.
        sleep(Duration::from_micros(fastrand::u64(50..2_000))).await;
        self.step(|kept, now| {
            kept.asked.push((schedule.name.clone(), due));
            if kept.refuses {
                return Err(BrokerError::Invalid("arguments are over the payload limit".into()));
            }
            let now = Millis(now.0 - u64::try_from(kept.behind.as_millis()).unwrap());
            let (behind, running) = (due.since(now), kept.running);
            let Some(stored) = kept.schedules.get_mut(&schedule.name) else { return Ok(Fired::NotNow) };
            if stored.paused || due <= stored.last || !stored.is_defined_as(schedule) {
                return Ok(Fired::NotNow);
            }
            if due > now {
                return Ok(Fired::TooEarly(behind));
            }
            stored.last = due;
            if let Some(last) = stored.last_task.clone().filter(|_| running && schedule.overlap == Overlap::Skip) {
                return Ok(Fired::Skipped(last));
            }
            stored.last_task = Some(task.id.clone());
            kept.fired.push(Firing { id: task.id.to_string(), due, at: now });
            Ok(Fired::Enqueued(task.id.clone()))
        })?
    }
}

/// A host without a file.
async fn fires(broker: &Fake) {
    host(broker, Vec::new()).await;
}

/// A host with these schedules in its file.
async fn host(broker: &Fake, defined: Vec<Schedule>) {
    let mut file = File::new(defined);
    fire_for_ever(broker, &mut file, &Observers::none()).await;
}

fn of_file(name: &str, rule: &str) -> Schedule {
    Schedule { source: Source::Toml, created_at: Millis(0), last: Millis(0), ..schedule(name, rule) }
}

fn schedule(name: &str, rule: &str) -> Schedule {
    Schedule {
        name: name.into(),
        rule: rule.into(),
        timezone: "UTC".into(),
        task: TaskName::new("add").unwrap(),
        args: "[1,1]".into(),
        queue: QueueName::default(),
        catch_up: CatchUp::Once,
        overlap: Overlap::Allow,
        source: Source::Cli,
        defined_at: Millis(0),
        says_paused: None,
        created_at: START,
        paused: false,
        last: START,
        last_task: None,
        options: TaskOptions::default(),
    }
}

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

fn seconds(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.map(|second| second * SECOND).collect()
}

#[tokio::test(start_paused = true)]
async fn three_hosts_fire_every_second_once_and_on_time() {
    let broker = Fake::new([schedule("tick", "* * * * * *")]);
    broker.run(3, Duration::from_millis(120_500)).await;
    assert_eq!(broker.fired(), seconds(1..=120));
    let slowest = broker.with(|kept| kept.fired.iter().map(|firing| firing.at.since(firing.due)).max());
    assert!(slowest < Some(Duration::from_millis(30)), "{slowest:?}");
    assert_eq!(broker.with(|kept| kept.fired[0].id.clone()), format!("cron:tick:{}", START.0 + SECOND));
}

#[tokio::test(start_paused = true)]
async fn many_schedules_of_one_moment_all_fire() {
    let broker = Fake::new((0..200).map(|n| schedule(&format!("s{n}"), "* * * * *")));
    broker.run(2, Duration::from_secs(185)).await;
    assert_eq!(broker.fired().len(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_added_paused_changed_or_removed_meanwhile_is_followed() {
    let broker = Fake::new([]);
    broker.run(1, Duration::from_secs(10)).await;
    let running = async {
        sleep(Duration::from_secs(10)).await;
        let added = Schedule { created_at: broker.time(), last: broker.time(), ..schedule("tick", "*/10 * * * * *") };
        broker.with(|kept| kept.schedules.insert("tick".into(), added));
        sleep(Duration::from_secs(25)).await;
        broker.with(|kept| kept.schedules.get_mut("tick").unwrap().paused = true);
        sleep(Duration::from_secs(30)).await;
        let now = broker.time();
        broker.with(|kept| {
            let tick = kept.schedules.get_mut("tick").unwrap();
            (tick.paused, tick.last) = (false, now);
        });
        sleep(Duration::from_secs(30)).await;
        let now = broker.time();
        broker.with(|kept| {
            kept.schedules.insert("tick".into(), Schedule { last: now, created_at: now, ..schedule("tick", "*/15 * * * * *") })
        });
        sleep(Duration::from_secs(35)).await;
        broker.with(|kept| kept.schedules.clear());
        sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        () = fires(&broker) => {}
        () = running => {}
    }
    assert_eq!(broker.fired(), [30, 40, 80, 90, 100, 120, 135].map(|second| second * SECOND));
}

#[tokio::test(start_paused = true)]
async fn missed_due_times_are_caught_up_with_as_asked() {
    let of = |name: &str, catch_up| Schedule { catch_up, last: Millis(START.0 - 5 * HOUR - 60 * SECOND), ..schedule(name, "30 * * * *") };
    let broker = Fake::new([of("skip", CatchUp::Skip), of("once", CatchUp::Once), of("all", CatchUp::All)]);
    broker.run(2, Duration::from_secs(60)).await;
    let mut of: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for firing in broker.with(|kept| kept.fired.clone()) {
        of.entry(firing.id.split(':').nth(1).unwrap().into()).or_default().push((START.0 - firing.due.0) / 60_000);
    }
    assert_eq!(of, BTreeMap::from([("once".into(), vec![30]), ("all".into(), vec![270, 210, 150, 90, 30])]));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_at_most_are_made_up_for_and_others_do_not_wait_for_them() {
    let missed = Schedule { catch_up: CatchUp::All, last: Millis(START.0 - 10_000 * 60 * SECOND), ..schedule("all", "* * * * *") };
    let broker = Fake::new([missed, schedule("tick", "* * * * * *")]);
    broker.run(1, Duration::from_millis(30_500)).await;
    let (all, tick): (Vec<_>, Vec<_>) =
        broker.with(|kept| kept.fired.clone()).into_iter().partition(|firing| firing.id.starts_with("cron:all:"));
    assert_eq!(all.len(), 1000);
    assert!(all.is_sorted_by_key(|firing| firing.due), "oldest first");
    assert_eq!(all.last().unwrap().due, START);
    assert_eq!(tick.len(), 30);
    assert!(tick.iter().all(|firing| firing.at.since(firing.due) < Duration::from_millis(200)));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_broker_ends_nothing() {
    let broker = Fake::new([schedule("tick", "*/5 * * * * *")]);
    let trouble = async {
        sleep(Duration::from_millis(11_000)).await;
        broker.with(|kept| kept.failures = 7);
        sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        () = fires(&broker) => {}
        () = trouble => {}
    }
    let fired = broker.fired();
    assert!(fired.starts_with(&[5 * SECOND, 10 * SECOND]) && fired.ends_with(&[60 * SECOND, 65 * SECOND, 70 * SECOND]), "{fired:?}");
    assert!(broker.with(|kept| kept.failures) == 0 && fired.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_cannot_be_read_is_left_out() {
    let broker = Fake::new([schedule("bad", "61 * * * * *"), schedule("good", "*/10 * * * * *")]);
    broker.run(1, Duration::from_secs(25)).await;
    assert_eq!(broker.fired(), [10 * SECOND, 20 * SECOND]);
    assert!(broker.with(|kept| kept.asked.iter().all(|(name, _)| name == "good")));
}

#[tokio::test(start_paused = true)]
async fn a_firing_that_the_broker_refuses_for_good_is_asked_once_for_each_due_time() {
    let broker = Fake::new([schedule("big", "*/10 * * * * *")]);
    broker.with(|kept| kept.refuses = true);
    broker.run(1, Duration::from_secs(35)).await;
    assert_eq!(broker.with(|kept| kept.asked.len()), 3);
}

#[tokio::test(start_paused = true)]
async fn a_firing_too_early_by_the_brokers_clock_comes_again() {
    for behind in [40, 3_000] {
        let broker = Fake::new([schedule("tick", "*/10 * * * * *")]);
        broker.with(|kept| kept.behind = Duration::from_millis(behind));
        broker.run(1, Duration::from_secs(35)).await;
        assert_eq!(broker.fired(), [10 * SECOND, 20 * SECOND, 30 * SECOND], "{behind}");
        assert!(broker.with(|kept| kept.asked.len()) < 150, "it does not spin");
    }
}

#[tokio::test(start_paused = true)]
async fn every_is_anchored_at_creation() {
    let broker = Fake::new([Schedule { created_at: Millis(START.0 - 7 * SECOND), ..schedule("every", "@every 30s") }]);
    broker.run(2, Duration::from_secs(60)).await;
    assert_eq!(broker.fired(), [23 * SECOND, 53 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn an_overlap_is_skipped_and_the_next_due_time_comes() {
    let broker = Fake::new([Schedule { overlap: Overlap::Skip, ..schedule("slow", "*/10 * * * * *") }]);
    let task = async {
        sleep(Duration::from_secs(15)).await;
        broker.with(|kept| kept.running = true);
        sleep(Duration::from_secs(20)).await;
        broker.with(|kept| kept.running = false);
        sleep(Duration::from_secs(10)).await;
    };
    tokio::select! {
        () = fires(&broker) => {}
        () = task => {}
    }
    assert_eq!(broker.fired(), [10 * SECOND, 40 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn the_files_schedules_are_put_when_new_or_changed_and_none_is_removed() {
    let broker = Fake::new([of_file("same", "0 9 * * *"), of_file("elsewhere", "0 1 * * *"), schedule("taken", "0 2 * * *")]);
    let defined = [
        of_file("same", "0 9 * * *"),
        of_file("new", "0 3 * * *"),
        of_file("taken", "0 4 * * *"),
        of_file("bad", "0 99 * * *"),
        of_file("a b", "0 1 * * *"),
    ];
    let mut file = File::new(defined.to_vec());
    let stored = broker.schedules().await.unwrap();
    broker.with(|kept| kept.failures = 1);
    assert!(file.put(&*broker, &stored, &Plans::default()).await.unwrap_err().is_transient());
    assert!(file.put(&*broker, &stored, &Plans::default()).await.unwrap());
    let stored = broker.schedules().await.unwrap();
    assert!(!file.put(&*broker, &stored, &Plans::default()).await.unwrap());
    let (names, puts) = broker.with(|kept| (kept.schedules.keys().cloned().collect::<Vec<_>>(), kept.puts));
    assert_eq!(names, ["elsewhere", "new", "same", "taken"]);
    assert_eq!(puts, 2, "`new` and `taken`, once each");
    let taken = broker.with(|kept| kept.schedules["taken"].clone());
    assert_eq!((taken.rule.as_str(), taken.source, taken.last), ("0 4 * * *", Source::Toml, START));
}

#[tokio::test(start_paused = true)]
async fn the_files_schedules_come_back_when_the_broker_is_empty_and_remember_what_they_were() {
    let broker = Fake::new([]);
    let file = vec![of_file("tick", "*/10 * * * * *"), of_file("every", "@every 7s"), of_file("held", "*/10 * * * * *")];
    let outage = async {
        sleep(Duration::from_millis(1_500)).await;
        broker.with(|kept| kept.schedules.get_mut("held").unwrap().paused = true);
        sleep(Duration::from_secs(20)).await;
        broker.with(|kept| kept.schedules.clear());
        broker.with(|kept| kept.failures = 5);
        sleep(Duration::from_secs(40)).await;
    };
    tokio::select! {
        () = host(&broker, file) => {}
        () = outage => {}
    }
    let kept = broker.with(|kept| kept.schedules.values().map(|one| (one.name.clone(), one.paused)).collect::<Vec<_>>());
    assert_eq!(kept, [("every".into(), false), ("held".into(), true), ("tick".into(), false)]);
    let of = |name: &str| -> Vec<u64> {
        let fired = broker.with(|kept| kept.fired.clone());
        let mine = fired.into_iter().filter(|firing| firing.id.starts_with(&format!("cron:{name}:")));
        mine.map(|firing| (firing.due.0 - START.0) / SECOND).collect()
    };
    let tick = of("tick");
    assert!(tick.starts_with(&[10, 20]) && tick.ends_with(&[50, 60]) && tick.is_sorted(), "{tick:?}");
    assert!(of("every").iter().all(|second| second % 7 == 0), "it counts from when it first came to be: {:?}", of("every"));
    assert_eq!(of("held"), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn hosts_with_different_files_do_not_undo_each_other_and_the_last_to_start_wins() {
    let broker = Fake::new([]);
    let (old, new) = (of_file("tick", "0 0 1 * *"), of_file("tick", "0 0 2 * *"));
    let later = async {
        sleep(Duration::from_secs(10)).await;
        host(&broker, vec![new.clone()]).await;
    };
    let emptied = async {
        sleep(Duration::from_secs(60)).await;
        let first = broker.with(|kept| (kept.puts, std::mem::take(&mut kept.schedules)["tick"].rule.clone()));
        sleep(Duration::from_secs(60)).await;
        (first, broker.with(|kept| (kept.puts, kept.schedules["tick"].rule.clone())))
    };
    let (first, second) = tokio::select! {
        () = host(&broker, vec![old.clone()]) => unreachable!("it runs for ever"),
        () = later => unreachable!("it runs for ever"),
        seen = emptied => seen,
    };
    assert_eq!(first, (2, new.rule.clone()));
    assert!(second.0 <= 4 && second.1 == new.rule, "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_stands_until_a_host_starts_whose_file_names_it() {
    let broker = Fake::new([]);
    let paused = || broker.with(|kept| kept.schedules["tick"].paused);
    let set = |to: bool| broker.with(|kept| kept.schedules.get_mut("tick").unwrap().paused = to);
    let runs = async |says_paused| {
        let file = vec![Schedule { says_paused, ..of_file("tick", "0 0 1 * *") }];
        let _over = tokio::time::timeout(Duration::from_secs(10), host(&broker, file)).await;
    };
    runs(None).await;
    set(true);
    runs(None).await;
    assert!(paused(), "the file does not name it");
    runs(Some(false)).await;
    assert!(!paused(), "the file names it");
    runs(Some(true)).await;
    assert!(paused(), "of a schedule that is known, too");
    let resumed = async {
        sleep(Duration::from_secs(1)).await;
        set(false);
    };
    tokio::join!(runs(Some(true)), resumed);
    assert!(!paused(), "the host that runs has said its word");
}

#[test]
fn a_schedule_is_validated_with_a_sentence() {
    assert!(validate(&schedule("nightly.v2", "0 3 * * *")).is_ok());
    for (changed, expected) in [
        (
            schedule("", "0 3 * * *"),
            "a schedule's name starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -: ``",
        ),
        (
            schedule("a b", "0 3 * * *"),
            "a schedule's name starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -: `a b`",
        ),
        (schedule("a", "0 24 * * *"), "can't read hour `24`: hour is 0 to 23"),
        (
            Schedule { timezone: "Asia/Shangai".into(), ..schedule("a", "0 3 * * *") },
            "unknown time zone `Asia/Shangai`; did you mean `Asia/Shanghai`?",
        ),
        (
            Schedule { args: "{}".into(), ..schedule("a", "0 3 * * *") },
            "a schedule's arguments are a JSON array such as [1, \"x\"]: invalid type: map, expected a sequence at line 1 column 0",
        ),
        (
            Schedule { options: TaskOptions { max_attempts: Some(0), ..TaskOptions::default() }, ..schedule("a", "0 3 * * *") },
            "a schedule's tasks have at least 1 attempt, and 1 ms for each",
        ),
    ] {
        assert_eq!(validate(&changed).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_next_due_times_can_be_shown() {
    let nightly = Schedule { timezone: "America/New_York".into(), ..schedule("nightly", "30 2 * * *") };
    let rule = validate(&nightly).unwrap();
    let next: Vec<_> = upcoming(&nightly, Millis(START.0 + 6 * 24 * HOUR), 3).into_iter().map(|at| rule.show(at)).collect();
    assert_eq!(next, ["2026-03-07 02:30:00 -05:00", "2026-03-08 03:00:00 -04:00", "2026-03-09 02:30:00 -04:00"]);
    assert_eq!(upcoming(&Schedule { paused: true, ..nightly.clone() }, START, 3), []);
    assert_eq!(upcoming(&Schedule { rule: "x".into(), ..nightly }, START, 3), []);
}
