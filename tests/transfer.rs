//! The built `org-transfer` and `greet` on the real engine, the first with a server that misbehaves.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use taskhost::engine::{Call, Code, Grants, HttpGrant};
use taskhost_core::task::{ErrorKind, TaskId};
use tokio::sync::OnceCell;

use super::{
    center::{Center, Fault, PAGES, RECORDS_A_PAGE},
    engine::support::{Fake, call, engine, error, granted, load, plugin, result, run, told},
};

const ALL: u64 = PAGES * RECORDS_A_PAGE;

/// A centre, and a store that outlives attempts.
struct Scene {
    center: Center,
    services: Arc<Fake>,
    code: &'static Arc<Code>,
}

impl Scene {
    async fn open() -> Self {
        static CODE: OnceCell<Arc<Code>> = OnceCell::const_new();
        let code = CODE.get_or_init(async || load(&plugin("org-transfer")).await).await;
        Self { center: Center::start(), services: Arc::default(), code }
    }

    /// One attempt of the task `id`.
    fn attempt(&self, id: &str, body: &str) -> Call {
        let mut call = call(self.code, body, "[]");
        call.about.task_id = TaskId::new(id).unwrap();
        call.services = self.services.clone();
        let url = self.center.url();
        Arc::make_mut(&mut call.terms).grants = Arc::new(Grants {
            http: vec![HttpGrant::new("http", "127.0.0.1", self.center.port())],
            env: BTreeMap::from([("CENTER_URL".into(), url.clone()), ("ECF_URL".into(), url)]),
            ..granted()
        });
        call
    }
}

#[tokio::test]
async fn three_pages_are_staged_once_and_pushed_once() {
    let scene = Scene::open().await;
    assert_eq!(result(run(scene.attempt("t-1", "transferDepartment")).await), ALL.to_string());
    assert_eq!(result(run(scene.attempt("t-2", "transferDepartment")).await), "0");
    assert_eq!(result(run(scene.attempt("e-1", "ecfDepartment")).await), ALL.to_string());
    assert_eq!(result(run(scene.attempt("e-2", "ecfDepartment")).await), "0");
    assert_eq!(scene.center.put()["/department/300"]["name"], "record 100 of page 3");

    scene.center.change_records(" (new)");
    assert_eq!(result(run(scene.attempt("t-3", "transferDepartment")).await), ALL.to_string());
    assert_eq!(result(run(scene.attempt("e-3", "ecfDepartment")).await), ALL.to_string());
    assert_eq!(scene.center.put()["/department/1"]["name"], "record 1 of page 1 (new)");
}

#[tokio::test]
async fn an_attempt_goes_on_where_a_fault_stopped_the_last() {
    for (fault, code) in [(Fault::Status(500), "http-500"), (Fault::Truncated, "http-cut-off"), (Fault::Closed, "http-connection")] {
        let scene = Scene::open().await;
        scene.center.fail(2, fault);
        let error = error(run(scene.attempt("t-1", "transferBU")).await);
        assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Retry, Some(code)), "{fault:?}: {error:?}");
        assert_eq!(result(run(scene.attempt("t-1", "transferBU")).await), ALL.to_string(), "{fault:?}");
        let page = |n| format!("GET /business_unit?page={n}");
        assert_eq!(scene.center.requests(), [page(1), page(2), page(2), page(3)], "{fault:?}");
    }
}

#[tokio::test]
async fn a_push_goes_on_behind_the_records_that_arrived() {
    let scene = Scene::open().await;
    assert_eq!(result(run(scene.attempt("t-1", "transferStaff")).await), ALL.to_string());
    scene.center.fail(3 + 51, Fault::Status(503));
    assert_eq!(told(run(scene.attempt("e-1", "ecfStaff")).await).0, ErrorKind::Retry);
    assert_eq!(scene.center.put().len(), 50);
    assert_eq!(result(run(scene.attempt("e-1", "ecfStaff")).await), (ALL - 50).to_string());
    assert_eq!(scene.center.put().len() as u64, ALL);
}

#[tokio::test]
async fn a_refusal_is_permanent() {
    let scene = Scene::open().await;
    scene.center.fail(1, Fault::Status(404));
    let error = error(run(scene.attempt("t-1", "transferDepartment")).await);
    assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Permanent, Some("http-404")));
}

#[tokio::test]
async fn a_slow_centre_is_waited_for_and_a_silent_one_is_not_waited_for_for_ever() {
    let scene = Scene::open().await;
    scene.center.fail(1, Fault::Slow(Duration::from_millis(300)));
    assert_eq!(result(run(scene.attempt("t-1", "transferDepartment")).await), ALL.to_string());

    let so_far = scene.center.requests().len();
    scene.center.fail(so_far + 1, Fault::Silent);
    let mut silent = scene.attempt("t-2", "transferDepartment");
    silent.timeout = Duration::from_millis(500);
    let (kind, message) = told(run(silent).await);
    assert_eq!(kind, ErrorKind::Timeout, "{message}");
    assert!(scene.center.saw(so_far + 1, Duration::from_secs(10)));
}

#[tokio::test]
async fn javascript_greets() {
    static CODE: OnceCell<Arc<Code>> = OnceCell::const_new();
    let code = CODE.get_or_init(async || load(&plugin("greet")).await).await;
    let (description, warnings) = engine().describe(code).await.unwrap();
    assert_eq!((description.bodies[0].name.as_str(), warnings), ("greet", vec![]));
    assert_eq!(result(run(call(code, "greet", r#"["Ada"]"#)).await), r#""Hello, Ada!""#);
    let (kind, message) = told(run(call(code, "greet", "[7]")).await);
    assert_eq!(kind, ErrorKind::InvalidArguments);
    assert!(message.contains("`name`") && message.ends_with("got 7"), "{message}");
}
