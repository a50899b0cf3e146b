//! The engine on real guests: what they return, and every way in which they may not.

mod hostile;
mod support;

use hostile::{Guest, running};
use support::{call, compile, engine, load, result, run, told};
use taskhost::task::ErrorKind;

#[tokio::test]
async fn a_guest_answers() {
    let code = load(&running("(call $ok (i32.const 2064) (i32.const 1))")).await;
    let attempted = run(call(&code, "go", "[]")).await;
    assert!(attempted.memory == 64 << 10, "one page: {attempted:?}");
    assert_eq!(result(attempted), "7");
    let (description, warnings) = engine().describe(&code).await.unwrap();
    assert_eq!((description.version.as_str(), description.bodies[0].name.as_str(), warnings.len()), ("1", "go", 0));
}

#[tokio::test]
async fn an_endless_loop_times_out() {
    let code = load(&running("(loop $l (br $l)) (unreachable)")).await;
    let mut endless = call(&code, "go", "[]");
    endless.timeout = std::time::Duration::from_millis(300);
    let attempted = run(endless).await;
    assert!(attempted.cpu > std::time::Duration::ZERO);
    assert_eq!(told(attempted), (ErrorKind::Timeout, "timed out after 300 ms".into()));
}
