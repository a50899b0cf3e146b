//! Bodies that misbehave on demand, or show one service of the host. They are for trying out an installation, and for taskhost's tests.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use taskhost_sdk::prelude::*;

/// Returns its argument.
#[task]
fn echo(value: serde_json::Value) -> TaskResult<serde_json::Value> {
    Ok(value)
}

/// Panics with this message.
#[task]
fn panic_task(message: Option<String>) -> TaskResult<()> {
    panic!("{}", message.unwrap_or_else(|| "panic_task was asked to panic".into()))
}

/// Panics with a message of this many megabytes.
#[task]
fn panic_loudly(megabytes: u32) -> TaskResult<()> {
    panic!("{}", "x".repeat(megabytes as usize * 1_000_000))
}

/// Fails its first `times` attempts, then returns the number of the attempt.
#[task]
fn fail(times: u32) -> TaskResult<u32> {
    let attempt = context::attempt();
    if attempt <= times {
        Err(TaskError::retry(format!("attempt {attempt} of {times} that fail")).with_code("asked-to-fail"))
    } else {
        Ok(attempt)
    }
}

/// Fails permanently.
#[task]
fn fail_permanently(message: Option<String>) -> TaskResult<()> {
    Err(TaskError::permanent(message.unwrap_or_else(|| "fail_permanently was asked to fail".into())))
}

/// Sleeps for this many seconds. Ends early when the task is cancelled.
#[task(timeout = "1h")]
fn long_running_task(seconds: f64) -> TaskResult<f64> {
    let end = Instant::now() + duration(seconds)?;
    loop {
        context::check_cancelled()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(seconds);
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Sleeps for this many seconds in one host call. It does not notice a cancellation.
#[task(timeout = "1h")]
fn sleep(seconds: f64) -> TaskResult<f64> {
    thread::sleep(duration(seconds)?);
    Ok(seconds)
}

/// Computes for this many seconds without a pause. Returns the number of rounds.
#[task(timeout = "1h")]
fn spin(seconds: f64) -> TaskResult<u64> {
    let limit = duration(seconds)?;
    let start = Instant::now();
    let mut rounds = 0;
    // Reading the clock is a host call. It is rare, so that nearly all the time is the guest's own.
    while start.elapsed() < limit {
        compute(1 << 16);
        rounds += 1;
    }
    Ok(rounds)
}

/// Computes this many millions of steps. Returns the last state, so that no step can be optimised away.
#[task(timeout = "1h")]
fn burn(millions: u32) -> TaskResult<u64> {
    Ok((0..millions).fold(0, |sum, _| sum ^ compute(1_000_000)))
}

/// Never ends.
#[task(timeout = "1h")]
fn spin_forever() -> TaskResult<()> {
    loop {
        compute(1 << 16);
    }
}

/// Allocates this many MiB of memory, and writes to each page.
#[task]
fn allocate(mebibytes: u32) -> TaskResult<u64> {
    let mut bytes = Vec::new();
    bytes.resize((mebibytes as usize) << 20, 1_u8);
    Ok(black_box(&bytes).iter().step_by(4096).map(|&byte| u64::from(byte)).sum())
}

/// Calls itself until the stack ends.
#[task]
fn recurse() -> TaskResult<u64> {
    fn deeper(depth: u64) -> u64 {
        let frame = black_box([depth; 64]);
        if frame[0] == u64::MAX { 0 } else { deeper(depth + 1) + frame[63] }
    }
    Ok(deeper(0))
}

/// Exits with this status, without a result.
#[task]
fn exit(status: i32) -> TaskResult<()> {
    std::process::exit(status)
}

/// Prints a line to stdout and one to stderr, and logs one at each level.
#[task]
fn chatter(text: String) -> TaskResult<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "stdout: {text}")?;
    writeln!(std::io::stderr(), "stderr: {text}")?;
    for level in [log::Level::Trace, log::Level::Debug, log::Level::Info, log::Level::Warn, log::Level::Error] {
        log::field("level", format!("{level:?}")).write(level, &text);
    }
    Ok(())
}

/// Returns a text of this many bytes.
#[task]
fn large_result(bytes: u32) -> TaskResult<String> {
    Ok("x".repeat(bytes as usize))
}

/// Enqueues `n` children with the arguments 0 to n-1, and returns their ids. The body is `echo` unless another is named. With `then_fail` it
/// fails after that, so that no child is created.
#[task(enqueue = "echo")]
fn spawn_children(n: u32, body: Option<String>, then_fail: Option<bool>) -> TaskResult<Vec<String>> {
    let body = body.unwrap_or_else(|| "echo".into());
    let ids = (0..n).map(|i| children::enqueue(&*body, [i])).collect::<Result<_, _>>()?;
    if then_fail == Some(true) { Err(TaskError::permanent("failed after enqueueing, as asked")) } else { Ok(ids) }
}

/// Reports progress at each of `steps` steps, `pause_ms` milliseconds apart.
#[task(timeout = "1h")]
fn progress_demo(steps: u64, pause_ms: Option<u64>) -> TaskResult<u64> {
    for step in 1..=steps {
        context::check_cancelled()?;
        context::progress(step, Some(steps), format!("step {step}"));
        log::field("of", steps).info(format!("step {step}"));
        if let Some(pause) = pause_ms {
            thread::sleep(Duration::from_millis(pause));
        }
    }
    Ok(steps)
}

/// Adds to a counter in this plugin's store. Returns the sum.
#[task]
fn kv_increment(key: String, by: Option<i64>) -> TaskResult<i64> {
    Ok(kv::increment(&key, by.unwrap_or(1))?)
}

/// Writes a value into this plugin's store.
#[task]
fn kv_set(key: String, value: serde_json::Value) -> TaskResult<()> {
    Ok(kv::set(&key, &value)?)
}

/// Returns the value of a key in this plugin's store, or null.
#[task]
fn kv_get(key: String) -> TaskResult<Option<serde_json::Value>> {
    Ok(kv::get(&key)?)
}

/// Removes a key from this plugin's store. Returns whether it existed.
#[task]
fn kv_remove(key: String) -> TaskResult<bool> {
    Ok(kv::remove(&key)?)
}

/// Returns the keys in this plugin's store that begin with `prefix`.
#[task]
fn kv_keys(prefix: Option<String>) -> TaskResult<Vec<String>> {
    Ok(kv::keys(prefix.unwrap_or_default()).collect::<Result<_, _>>()?)
}

/// Returns a variable of the environment, or null.
#[task]
fn env(name: String) -> TaskResult<Option<String>> {
    Ok(context::env(&name))
}

/// Writes a variable of the environment to stdout, stderr, the log, the progress and its own failure.
#[task]
fn shout_env(name: String) -> TaskResult<()> {
    let value = context::env(&name).unwrap_or_default();
    chatter(value.clone())?;
    context::progress(1, None, &value);
    Err(TaskError::permanent(value.clone()).with_detail(value))
}

/// Listens for TCP connections, and sends a datagram.
#[task]
fn listen(address: String) -> TaskResult<Vec<String>> {
    let listening = std::net::TcpListener::bind(&address).map(drop);
    let sending = std::net::UdpSocket::bind(&address).and_then(|socket| socket.send_to(b"hello", &address)).map(drop);
    Ok([listening, sending].into_iter().map(|tried| tried.map_or_else(|error| error.to_string(), |()| "it worked".into())).collect())
}

/// Sends a GET, and returns the body of the response. `secret` names a variable to send as a bearer token; `host` sets a false host name.
#[task]
async fn fetch(url: String, secret: Option<String>, host: Option<String>) -> TaskResult<String> {
    let mut request = http::get(url);
    if let Some(token) = secret.and_then(|name| context::env(&name)) {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(host) = host {
        request = request.header("host", &host);
    }
    Ok(request.await?.error_for_status()?.text())
}

/// Works in spans: `read`, within it `page`, and within that a GET if there is a `url`. Then it ends as `how` says: well, or by `fail`, `panic`,
/// `many` (200 spans) or `spin`, with `read` still open.
#[task(timeout = "1h")]
async fn work_in_spans(url: Option<String>, how: Option<String>) -> TaskResult<()> {
    let read = span!("read", table = "orders");
    let page = span!("page", number = 3);
    page.event_with("retried", &[("times".into(), "2".into())]);
    if let Some(url) = url {
        http::get(url).await?;
    }
    page.fail("cut short");
    match how.as_deref() {
        None => drop(read),
        Some("fail") => return Err(TaskError::permanent("as asked")),
        Some("panic") => panic!("as asked"),
        Some("many") => (0..200).for_each(|n| drop(span!("one", n = n))),
        Some("spin") => loop {
            black_box(());
        },
        Some(other) => return Err(TaskError::invalid_arguments(format!("how: fail, panic, many or spin, not `{other}`"))),
    }
    Ok(())
}

/// Returns the text of a file.
#[task]
fn read_file(path: String) -> TaskResult<String> {
    Ok(std::fs::read_to_string(path)?)
}

/// Writes a text into a file.
#[task]
fn write_file(path: String, text: String) -> TaskResult<()> {
    Ok(std::fs::write(path, text)?)
}

/// Opens a TCP connection.
#[task]
fn connect(address: String) -> TaskResult<()> {
    std::net::TcpStream::connect(address)?;
    Ok(())
}

/// Writes this many lines to `log`, `stdout` or `progress`.
#[task]
fn flood(what: String, times: u64) -> TaskResult<u64> {
    use std::io::Write as _;
    let line = "x".repeat(200);
    for n in 0..times {
        match what.as_str() {
            "log" => log::info(&line),
            "stdout" => writeln!(std::io::stdout(), "{line}")?,
            "progress" => context::progress(n, Some(times), &line),
            _ => return Err(TaskError::invalid_arguments("what: log, stdout or progress")),
        }
    }
    Ok(times)
}

/// Writes this many keys of this many bytes into this plugin's store.
#[task]
fn flood_kv(keys: u32, bytes: u32) -> TaskResult<u32> {
    let value = "x".repeat(bytes as usize);
    for n in 0..keys {
        kv::set(&format!("flood:{n}"), &value)?;
    }
    Ok(keys)
}

/// The context of this attempt.
#[derive(Debug, Serialize, Deserialize, Schema)]
pub struct About {
    id: String,
    queue: String,
    attempt: u32,
    max_attempts: u32,
    milliseconds_left: u64,
    headers: Vec<(String, String)>,
}

/// The context of this attempt.
#[task]
fn about() -> TaskResult<About> {
    Ok(About {
        id: context::task_id(),
        queue: context::queue(),
        attempt: context::attempt(),
        max_attempts: context::max_attempts(),
        milliseconds_left: u64::try_from(context::time_left().as_millis()).unwrap_or(u64::MAX),
        headers: context::headers(),
    })
}

export_plugin!(
    echo,
    panic_task,
    panic_loudly,
    fail,
    fail_permanently,
    long_running_task,
    sleep,
    spin,
    burn,
    spin_forever,
    allocate,
    recurse,
    exit,
    chatter,
    large_result,
    spawn_children,
    progress_demo,
    kv_increment,
    kv_set,
    kv_get,
    kv_remove,
    kv_keys,
    env,
    shout_env,
    listen,
    fetch,
    read_file,
    write_file,
    work_in_spans,
    connect,
    flood,
    flood_kv,
    about,
);

fn duration(seconds: f64) -> TaskResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| TaskError::invalid_arguments(format!("parameter `seconds` (argument 1): expected a number of seconds, got {seconds}")))
}

/// Runs this many steps of a generator that an optimiser can't shorten.
fn compute(steps: u32) -> u64 {
    let mut state = black_box(88_172_645_463_325_252_u64);
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state)
}

#[cfg(test)]
mod tests {
    use taskhost_sdk::testing;

    use super::*;

    #[test]
    fn fails_so_often_and_no_more() {
        assert!(testing::attempt().number(2).run(|| fail(2)).unwrap_err().is_retryable());
        assert_eq!(testing::attempt().number(3).run(|| fail(2)), Ok(3));
        assert!(!fail_permanently(None).unwrap_err().is_retryable());
    }

    #[test]
    fn sleeping_and_spinning_take_their_time() {
        let start = Instant::now();
        assert_eq!(long_running_task(0.01), Ok(0.01));
        assert_eq!(sleep(0.01), Ok(0.01));
        assert!(spin(0.01).unwrap() > 0);
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert!(!spin(-1.0).unwrap_err().is_retryable());
        assert_eq!(testing::attempt().cancelled().run(|| long_running_task(60.0)), Err(TaskError::cancelled()));
        assert_eq!(burn(1), burn(1));
    }

    #[test]
    fn children_come_with_success() {
        let attempt = testing::attempt();
        assert_eq!(attempt.run(|| spawn_children(3, None, None)).unwrap().len(), 3);
        assert_eq!(attempt.children()[2].args, "[2]");
        assert!(testing::attempt().run(|| spawn_children(1_001, None, None)).unwrap_err().message().contains("1000"));
        assert!(testing::attempt().run(|| spawn_children(1, None, Some(true))).is_err());
    }

    #[test]
    fn tells_progress_and_stops_when_cancelled() {
        let attempt = testing::attempt();
        assert_eq!(attempt.run(|| progress_demo(2, None)), Ok(2));
        assert_eq!(attempt.progress(), [(1, Some(2), "step 1".into()), (2, Some(2), "step 2".into())]);
        assert_eq!(testing::attempt().cancelled().run(|| progress_demo(2, None)), Err(TaskError::cancelled()));
    }

    #[test]
    fn the_store_is_read_back() {
        let attempt = testing::attempt().kv("seen", 4);
        assert_eq!(attempt.run(|| kv_increment("seen".into(), None)), Ok(5));
        attempt.run(|| kv_set("other".into(), serde_json::json!([1]))).unwrap();
        assert_eq!(attempt.run(|| kv_keys(None)).unwrap(), ["other", "seen"]);
        assert_eq!(attempt.run(|| kv_get("other".into())), Ok(Some(serde_json::json!([1]))));
        assert_eq!(attempt.run(|| kv_remove("other".into())), Ok(true));
        assert!(!attempt.run(|| kv_increment("seen".into(), Some(i64::MAX))).unwrap_err().is_retryable());
    }

    #[test]
    #[should_panic(expected = "as asked")]
    fn panics_with_the_message_given() {
        let _ = panic_task(Some("as asked".into()));
    }

    #[test]
    fn says_what_the_host_says() {
        let attempt = testing::attempt().id("t-9").number(2).header("tenant", "7").env("HOME", "/");
        let about = attempt.run(about).unwrap();
        assert_eq!((about.id.as_str(), about.attempt, about.headers.len()), ("t-9", 2, 1));
        assert_eq!(attempt.run(|| env("HOME".into())), Ok(Some("/".into())));
        assert_eq!(attempt.run_json::<echo>(r#"[{"a": [1, null]}]"#).as_deref(), Ok(r#"{"a":[1,null]}"#));
        assert_eq!(large_result(3).as_deref(), Ok("xxx"));
    }
}
