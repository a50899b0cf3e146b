//! The client on both brokers, with a worker played by the test.

use std::time::{Duration, SystemTime};

use taskhost_broker::BrokerSettings;
use taskhost_client::{Ask, AskReply, CancelReply, Client, ClientError, Flow, QueueName, Request, State, Step, input};
use taskhost_testing::{Place, RedisServer, SOON, SqlitePlace, Worker, announced::serving, dead, ok};

/// How long a test waits for an end that does not come.
const NOT_YET: Duration = Duration::from_millis(50);

/// A client, and a broker for the worker's side.
async fn sqlite() -> (SqlitePlace, String) {
    let place = SqlitePlace::make().await;
    let address = format!("sqlite:{}", place.path().display());
    (place, address)
}

async fn redis() -> (RedisServer, String) {
    let server = RedisServer::make().await;
    let address = server.url();
    (server, address)
}

async fn a_result_is_read_as_its_type(place: &dyn Place, client: &Client) {
    let broker = place.open(BrokerSettings::default()).await;
    let task = client.enqueue(&Request::new("add", (1, 2)).priority(7).header("Trace", "x").tag("vip")).await.expect("enqueue");
    assert!(task.is_new());
    let early = task.wait::<i64>(NOT_YET).await;
    assert!(matches!(early, Err(ClientError::TimedOut { state: State::Ready, .. })), "{early:?}");
    let worker = Worker::new(&*broker).await;
    let leased = worker.run_one(ok("3")).await;
    assert_eq!((&*leased.task.args, leased.task.options.priority.get(), &leased.task.options.headers[0].0[..]), ("[1,2]", 7, "trace"));
    assert_eq!(leased.task.options.carried.tags.iter().map(taskhost_core::task::Tag::as_str).collect::<Vec<_>>(), ["vip"]);
    assert_eq!(task.wait::<i64>(SOON).await.expect("a result"), 3);
    assert!(matches!(task.wait::<String>(SOON).await, Err(ClientError::Shape { .. })));
}

async fn a_flow_is_built_with_types_and_gives_its_result(place: &dyn Place, client: &Client) {
    let broker = place.open(BrokerSettings::default()).await;
    let worker = Worker::new(&*broker).await;
    let step = async || broker.step_flows(&QueueName::default()).await.expect("step");
    let mut flow = Flow::new("sums").input(&5).header("Trace", "x").deadline(Duration::from_secs(60));
    let both = flow.step("both", Step::group([Step::task("add", (input(""), 1)), Step::task("add", (input(""), 2))]).parallel(2));
    let go = flow.step("go", Step::signal("go").after(&both).timeout(Duration::from_secs(9)));
    let sum = flow.step("sum", Step::task("add", (both.part("/0"), both.part("/1"))).after(&go).when(go.part("/yes"), true).retries(0));
    flow.step("alert", Step::task("mail", (sum.failure(),)).after(&sum).on_failure());
    let started = client.start_flow(&flow).await.expect("start");
    assert!(started.is_new() && !client.start_flow(&flow).await.expect("again").is_new());
    for result in ["6", "7"] {
        let leased = worker.run_one(ok(result)).await;
        assert_eq!(leased.task.options.headers, [("trace".to_owned(), "x".to_owned())]);
    }
    step().await;
    assert!(matches!(started.wait::<i64>(NOT_YET).await, Err(ClientError::FlowTimedOut { .. })));
    assert_eq!(started.signal("go", &serde_json::json!({"yes": true})).await.expect("signal"), AskReply::Done);
    assert_eq!(started.signal("go", &1).await.expect("signal"), AskReply::Already);
    assert_eq!(worker.run_one(dead("no luck")).await.task.args, "[6,7]");
    step().await;
    assert_eq!(worker.run_one(ok("null")).await.task.name.as_str(), "mail");
    step().await;
    let failed = started.wait::<i64>(SOON).await.expect_err("it has failed");
    assert!(matches!(failed, ClientError::FlowFailed { .. }) && failed.to_string().contains("no luck"), "{failed}");
    assert_eq!(started.ask(&Ask::Retry(Some("sum".into()))).await.expect("retry"), AskReply::Done);
    worker.run_one(ok("13")).await;
    step().await;
    assert_eq!(started.wait::<i64>(SOON).await.expect("a result"), 13);

    let mut odd = Flow::new("odd");
    odd.step("a", Step::task("add", "no list"));
    let refused = client.start_flow(&odd).await.expect_err("its arguments are no list");
    assert!(refused.to_string().contains("/steps/a/args"), "{refused}");
}

async fn a_dead_task_is_an_error_that_says_why(place: &dyn Place, client: &Client) {
    let broker = place.open(BrokerSettings::default()).await;
    let task = client.enqueue(&Request::new("add", (1, 2)).retries(0)).await.expect("enqueue");
    Worker::new(&*broker).await.run_one(dead("no such picture")).await;
    let error = task.wait::<i64>(SOON).await.expect_err("dead");
    assert!(matches!(error, ClientError::Failed { state: State::Dead, .. }), "{error:?}");
    assert!(error.to_string().contains("no such picture"), "{error}");
}

async fn a_request_is_added_once_however_often_it_is_enqueued(_: &dyn Place, client: &Client) {
    let request = Request::new("add", (1, 2));
    assert!(client.enqueue(&request).await.expect("enqueue").is_new());
    let again = client.enqueue(&request).await.expect("enqueue");
    assert!(!again.is_new());
    assert_eq!(again.view().await.expect("view").expect("known").state, State::Ready);
}

async fn the_second_of_two_unique_requests_gets_the_first_one_s_handle(_: &dyn Place, client: &Client) {
    let request = || Request::new("add", (1, 2)).unique(Duration::from_secs(60));
    let first = client.enqueue(&request()).await.expect("enqueue");
    let second = client.enqueue(&request()).await.expect("enqueue");
    assert!(first.is_new() && !second.is_new());
    assert_eq!(first.id(), second.id());
}

async fn a_cancelled_task_ends_cancelled(_: &dyn Place, client: &Client) {
    let task = client.enqueue(&Request::new("add", (1, 2)).delay(Duration::from_secs(600))).await.expect("enqueue");
    assert_eq!(task.cancel().await.expect("cancel"), CancelReply::Cancelled);
    let end = task.wait::<i64>(SOON).await;
    assert!(matches!(end, Err(ClientError::Failed { state: State::Cancelled, .. })), "{end:?}");
}

async fn a_bulk_is_enqueued_in_order_or_not_at_all(_: &dyn Place, client: &Client) {
    let requests: Vec<_> = (0..2_500).map(|number| Request::new("add", (number, 1)).id(&format!("bulk-{number}"))).collect();
    let tasks = client.enqueue_all(&requests).await.expect("enqueue");
    assert!(tasks.iter().enumerate().all(|(number, task)| task.is_new() && task.id().as_str() == format!("bulk-{number}")));
    let wrong = [Request::new("add", (1, 1)).id("good"), Request::new("add", 1)];
    let error = client.enqueue_all(&wrong).await.expect_err("the second one is wrong");
    assert!(error.enqueued.is_empty() && matches!(error.error, ClientError::Invalid(_)), "{error}");
    let good = client.task("default".parse().expect("a queue"), "good".parse().expect("an id"));
    assert!(good.view().await.expect("view").is_none(), "nothing was enqueued");
    assert!(matches!(good.wait::<i64>(NOT_YET).await, Err(ClientError::NoSuchTask(_))));
}

async fn arguments_are_checked_against_what_workers_announced(place: &dyn Place, client: &Client) {
    let broker = place.open(BrokerSettings::default()).await;
    broker.announce(&serving("box:1:a", "math.wasm", "add"), Duration::from_secs(60)).await.expect("announce");
    client.check(&Request::new("add", (1,))).await.expect("it fits");
    let refused = client.check(&Request::new("add", ("x",))).await.expect_err("no integer").to_string();
    assert!(refused.contains("integer"), "{refused}");
    let refused = client.check(&Request::new("ad", ())).await.expect_err("unknown").to_string();
    assert!(refused.contains("`add`"), "{refused}");
}

async fn a_task_past_its_expiry_is_cancelled_instead_of_run(place: &dyn Place, client: &Client) {
    let broker = place.open(BrokerSettings::default()).await;
    let task =
        client.enqueue(&Request::new("add", (1, 2)).expires(SystemTime::UNIX_EPOCH + Duration::from_secs(1))).await.expect("enqueue");
    assert!(Worker::new(&*broker).await.claim(1).await.is_empty());
    let end = task.wait::<i64>(SOON).await;
    assert!(matches!(end, Err(ClientError::Failed { state: State::Cancelled, .. })), "{end:?}");
}

macro_rules! on_both_brokers {
    ($($test:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    let (place, address) = super::sqlite().await;
                    super::$test(&place, &super::Client::connect(&address).await.expect("connect")).await;
                }
            )*
        }
        mod on_redis {
            $(
                #[tokio::test]
                async fn $test() {
                    let (place, address) = super::redis().await;
                    super::$test(&place, &super::Client::connect(&address).await.expect("connect")).await;
                }
            )*
        }
    };
}

on_both_brokers! {
    a_result_is_read_as_its_type,
    a_flow_is_built_with_types_and_gives_its_result,
    a_dead_task_is_an_error_that_says_why,
    a_request_is_added_once_however_often_it_is_enqueued,
    the_second_of_two_unique_requests_gets_the_first_one_s_handle,
    a_cancelled_task_ends_cancelled,
    a_bulk_is_enqueued_in_order_or_not_at_all,
    arguments_are_checked_against_what_workers_announced,
    a_task_past_its_expiry_is_cancelled_instead_of_run,
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_refused_in_a_sentence() {
    let wrong = Client::connect("postgres://x:secret@y").await.expect_err("no broker").to_string();
    assert!(wrong.contains("redis://") && !wrong.contains("secret"), "{wrong}");
    let away = Client::connect("redis://127.0.0.1:1").await.expect_err("nobody listens");
    assert!(matches!(&away, ClientError::Broker(error) if error.is_transient()), "{away:?}");
}
