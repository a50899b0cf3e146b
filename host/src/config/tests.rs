//! What a user may write, and in which words it is refused.

use std::{ffi::OsString, fs};

use super::*;

fn load(file: &str, flags: &[(&'static str, &str)], variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(FILE_NAME);
    fs::write(&path, file).expect("a file in it");
    let flags: Vec<_> = flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
    let pairs: Vec<(OsString, OsString)> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Settings::load_from(Some(&path), &flags, &variable, || pairs.into_iter())
        .map_err(|ConfigError(text)| ConfigError(text.replace(&format!("{}/", dir.path().display()), "")))
}

fn refusal(file: &str) -> String {
    load(file, &[], &[]).expect_err("refused").to_string()
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file = "lease = '10s'\ndrain = '11s'\ntimeout = '12s'\n";
    let settings = load(file, &[("lease", "30s")], &[("TASKHOST_LEASE", "20s"), ("TASKHOST_DRAIN", "21s")]).unwrap();
    assert_eq!(settings.lease, Duration::from_secs(30));
    assert_eq!(settings.drain, Duration::from_secs(21));
    assert_eq!(settings.limits.timeout, Duration::from_secs(12));
    assert_eq!(settings.retry.max_attempts, 4);
}

#[test]
fn every_default_is_valid_and_documented() {
    let settings = load("", &[], &[("HOME", "/anna")]).unwrap();
    assert_eq!(settings.broker.to_string(), "sqlite:taskhost.db");
    assert_eq!(settings.state, Path::new("/anna/.local/state/taskhost"));
    assert_eq!(settings.cache, Path::new("/anna/.cache/taskhost"));
    assert!(KEYS.iter().all(|key| !key.about.is_empty()));
}

#[test]
fn durability_by_a_replica_needs_a_redis() {
    let settings = load("broker = 'redis://h'\ndurability = 'replica'", &[], &[]).unwrap();
    assert_eq!(settings.bounds.durability, Durability::Replica);
    assert_eq!(load("", &[], &[]).unwrap().bounds.durability, Durability::Master);
    let text = refusal("durability = 'replica'");
    assert!(text.contains("taskhost.toml:1: `durability`: SQLite has no replicas: use a Redis"), "{text}");
    assert!(refusal("durability = 'both'").contains("`master` or `replica` is wanted here: `both`"));
}

#[test]
fn a_state_directory_holds_the_cache_too() {
    let settings = load("", &[("state", "/srv/th")], &[("XDG_CACHE_HOME", "/elsewhere")]).unwrap();
    assert_eq!((settings.state.as_path(), settings.cache.as_path()), (Path::new("/srv/th"), Path::new("/srv/th/cache")));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest() {
    assert_eq!(refusal("lease = '10s'\n\nbrokr = 'sqlite:x.db'\n"), "taskhost.toml:3: unknown key `brokr`; did you mean `broker`?");
    assert_eq!(
        refusal("[schedules.bu]\nrule = '* * * * *'\ntask = 'x'\noverlaps = 'skip'\n"),
        "taskhost.toml:4: unknown key `overlaps` of a schedule; did you mean `overlap`?"
    );
}

#[test]
fn a_bad_value_names_the_place_it_stands_at() {
    assert_eq!(refusal("# a comment\nlease = 30\n"), "taskhost.toml:2: `lease`: a duration is written like `30s`, `5m` or `1h 30m`: `30`");
    assert_eq!(
        load("", &[], &[("TASKHOST_MEMORY", "lots")]).unwrap_err().to_string(),
        "TASKHOST_MEMORY: a size is written like `64MiB`, `1GB` or `1048576` (bytes): `lots`"
    );
    assert_eq!(
        load("", &[("result_ttl", "soon")], &[]).unwrap_err().to_string(),
        "--result-ttl: a duration is written like `30s`, `5m` or `1h 30m`: `soon`"
    );
    assert!(refusal("lease = \n").starts_with("taskhost.toml:1: "));
    assert!(refusal("broker = ['x']\n").starts_with("taskhost.toml:1: `broker` takes a text or a number"));
}

/// Every setting with bounds, one step beyond each of them.
#[test]
fn a_value_out_of_its_bounds_is_refused_with_the_bound() {
    let mut bounds = 0;
    for key in KEYS {
        let beyond: Vec<(String, &str)> = match &key.kind {
            Kind::Duration(range) => vec![
                (format!("{}ms", range.start().as_millis().saturating_sub(1)), "at least"),
                (format!("{}ms", range.end().as_millis().saturating_add(1)), "at most"),
            ],
            Kind::Size(range) | Kind::Number(range) => vec![
                ((u128::from(*range.start()).saturating_sub(1)).to_string(), "at least"),
                ((u128::from(*range.end()) + 1).to_string(), "at most"),
            ],
            Kind::Word(_) => vec![("perhaps".to_owned(), "is wanted here")],
            Kind::Broker | Kind::Prefix | Kind::Path | Kind::Queues | Kind::LogFilter | Kind::Address | Kind::Origins | Kind::BasePath => {
                continue;
            }
        };
        for (text, why) in beyond {
            // Where zero is allowed there is nothing below, and nothing is above what the type holds.
            if let Err(error) = load("", &[(key.name, &text)], &[]) {
                let error = error.to_string();
                assert!(error.starts_with(&key.flag()) && (error.contains(why) || text.len() > 19), "{}: {error}", key.name);
                bounds += 1;
            }
        }
    }
    assert!(bounds > 15, "only {bounds} bounds were met");
    for (key, text, why) in [
        ("lease", "999ms", "--lease: it is at least `1s`: `999ms`"),
        ("memory", "1KiB", "--memory: it is at least `64KiB`: `1KiB`"),
        ("memory", "5GiB", "--memory: it is at most `4GiB`: `5GiB`"),
        ("concurrency", "0", "--concurrency: it is at least `1`: `0`"),
        ("retries", "4294967296", "--retries: it is at most `1000000`: `4294967296`"),
        ("queues", "a=1001", "--queue: a queue's weight is a number from 1 to 1000, such as `mail=3`: `a=1001`"),
    ] {
        assert_eq!(load("", &[(key, text)], &[]).unwrap_err().to_string(), why);
    }
}

#[test]
fn less_memory_for_all_than_for_one_is_warned_about() {
    let settings = load("guest_memory = '32MiB'", &[], &[]).unwrap();
    assert_eq!(
        settings.warnings,
        ["`guest_memory` (32 MiB for all attempts) is less than `memory` (64 MiB for one): no attempt gets that much"]
    );
}

#[test]
fn an_unknown_variable_is_warned_about() {
    let settings = load("", &[], &[("TASKHOST_LEESE", "1s"), ("TASKHOST_DRAIN", "")]).unwrap();
    assert_eq!(settings.warnings, ["`TASKHOST_LEESE` in the environment sets nothing; did you mean `TASKHOST_LEASE`?"]);
}

#[test]
fn queues_carry_weights_in_three_spellings() {
    for file in ["queues = 'mail=3,default'", "queues = ['mail=3', 'default']", "queues = { mail = 3, default = 1 }"] {
        let mut queues = load(file, &[], &[]).unwrap().queues;
        queues.sort();
        assert_eq!(queues, [(QueueName::default(), 1), (QueueName::new("mail").unwrap(), 3)], "{file}");
    }
    assert!(refusal("queues = 'mail=0'").contains("from 1 to 1000"));
    assert!(refusal("queues = ''").contains("at least one"));
    assert!(refusal("queues = 'a,a'").contains("once"));
}

/// The `Default` of each room's settings is for tests and for users of the library. It must not be a second truth.
#[test]
fn the_defaults_of_the_rooms_are_those_of_the_table() {
    let settings = load("", &[], &[]).unwrap();
    assert_eq!(format!("{:?}", settings.bounds), format!("{:?}", BrokerSettings::default()));
    assert_eq!(format!("{:?}", settings.limits), format!("{:?}", Limits::default()));
    assert_eq!(settings.retry, RetrySettings::default());
}

#[test]
fn schedules_are_read_whole() {
    let file = "[schedules.bu]\nrule = '57 9 * * ?'\ntask = 'transferBU'\nargs = [1, 'x']\ntz = 'Asia/Shanghai'\noverlap = 'skip'\nretries = 0\ntags = ['night', 'eu']\n";
    let settings = load(file, &[], &[]).unwrap();
    let [schedule] = settings.schedules.as_slice() else { panic!("one schedule: {:?}", settings.schedules) };
    assert_eq!((schedule.name.as_str(), schedule.timezone.as_str(), schedule.args.as_str()), ("bu", "Asia/Shanghai", r#"[1,"x"]"#));
    assert_eq!(schedule.options.max_attempts, Some(1));
    assert_eq!(schedule.options.carried.shown(), [("tags", "night eu".to_owned())]);
    assert!(refusal("[schedules.bu]\nrule = '61 * * * *'\ntask = 'x'\n").starts_with("taskhost.toml:1: "));
    assert!(refusal("[schedules.bu]\ntask = 'x'\n").contains("rule"));
}

#[test]
fn arguments_of_a_schedule_arrive_as_they_were_written_or_are_refused() {
    let args = |text: &str| load(&format!("[schedules.bu]\nrule = '@daily'\ntask = 'x'\nargs = {text}\n"), &[], &[]);
    let read = |text: &str| args(text).unwrap().schedules[0].args.clone();
    assert_eq!(
        read(r#"[1, 0xff, -9_223_372_036_854_775_808, 1.50, +1e3, 0.1234567890123456789, true, "a\u00e4\"\n", [], { a = [2] }]"#),
        r#"[1,255,-9223372036854775808,1.50,1e3,0.1234567890123456789,true,"aä\"\n",[],{"a":[2]}]"#
    );
    assert_eq!(read("[]"), "[]");
    for (text, why) in [
        ("[2026-01-01]", "`args[0]` is a date or time, which JSON has none of; write it as a text: \"2026-01-01\""),
        ("[1, { at = 07:32:00 }]", "`args[1].at` is a date or time, which JSON has none of; write it as a text: \"07:32:00\""),
        ("[nan]", "`args[0]` is `nan`, which JSON has no number for; write it as a text: \"nan\""),
        ("[[-inf]]", "`args[0][0]` is `-inf`, which JSON has no number for; write it as a text: \"-inf\""),
        ("[1e999]", "`args[0]` is beyond what a number can be; write it as a text: \"1e999\""),
        ("[9223372036854775808]", "`args[0]` is beyond 64 bits; write it as a text: \"9223372036854775808\""),
        ("'x'", "`args` is an array such as [1, \"x\"], not string"),
    ] {
        assert_eq!(args(text).unwrap_err().to_string(), format!("taskhost.toml:4: {why}"));
    }
}

#[test]
fn a_value_of_a_schedule_that_is_not_of_its_type_is_refused_in_our_words() {
    for (line, why) in [
        ("rule = 2026-01-01", "`rule` of a schedule takes a text, not datetime"),
        ("timeout = 5", "`timeout` of a schedule takes a text such as \"5m\", not `5`"),
        ("retries = nan", "`retries` of a schedule takes a whole number from 0 to 4294967295, not float"),
        ("retries = -1", "`retries` of a schedule takes a whole number from 0 to 4294967295, not `-1`"),
        ("priority = 99999999999999999999", "`priority` of a schedule takes a number from 0 to 9, not `99999999999999999999`"),
        ("tz = 'UTC'\ntimezone = 'UTC'", "a schedule has `tz` or `timezone`, which are the same, not both"),
        ("paused = 'yes'", "`paused` of a schedule takes `true` or `false`, not string"),
        ("tags = ['two words']", "`tags` of a schedule: a tag is 1 to 32 characters of A-Z a-z 0-9 . _ : -: `two words`"),
        ("tags = 7", "`tags` of a schedule: tags are a text or a list of texts, such as \"vip\" or [\"vip\", \"eu\"]"),
        ("tags = 2026-01-01", "`tags` is a date or time, which JSON has none of; write it as a text: \"2026-01-01\""),
    ] {
        let at = 2 + line.lines().count();
        assert_eq!(refusal(&format!("[schedules.bu]\ntask = 'x'\n{line}\n")), format!("taskhost.toml:{at}: {why}"));
    }
    let says =
        |line: &str| load(&format!("[schedules.bu]\nrule = '@daily'\ntask = 'x'\n{line}\n"), &[], &[]).unwrap().schedules[0].says_paused;
    assert_eq!((says(""), says("paused = true"), says("paused = false")), (None, Some(true), Some(false)));
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_and_not_bent() {
    use std::os::unix::ffi::OsStringExt;
    let pairs = [(OsString::from("TASKHOST_PLUGINS"), OsString::from_vec(b"/srv/\xff".to_vec()))];
    let refused = Settings::load_from(None, &[], &|_| None, || pairs.into_iter()).unwrap_err();
    assert!(refused.to_string().starts_with("TASKHOST_PLUGINS: its value is not UTF-8"), "{refused}");
}
