//! The cost of a look in commands and bytes of Redis. It depends on the tasks that are shown, and not on the number of ended tasks. The
//! same tests for SQLite are in `sqlite/tests.rs`.

use redis::Value;
use taskhost_broker::{BrokerSettings, Lease, Produce, TaskFilter, Tasks, redis::RedisBroker};
use taskhost_core::task::{NewTask, QueueName, State};

use crate::support::{RedisServer, Worker, add, dead, enqueue, finish, ok, queue};

const QUEUES: usize = 20;
/// More single ends than the 2,000 entries that the feed of ends had in earlier builds.
const ENDS: usize = 2_200;

/// The commands of a look, inside and outside of scripts, the bytes of its answers, and the time of its scripts.
#[derive(Debug)]
struct Cost {
    calls: u64,
    bytes: u64,
    microseconds: u64,
}

struct Server {
    _process: RedisServer,
    broker: RedisBroker,
    beside: redis::aio::MultiplexedConnection,
}

impl Server {
    async fn start() -> Self {
        let server = RedisServer::start();
        let broker = RedisBroker::connect(&server.url(), BrokerSettings::default()).await.expect("connect");
        let client = redis::Client::open(server.url()).expect("a URL");
        let beside = client.get_multiplexed_async_connection().await.expect("connect");
        Self { _process: server, broker, beside }
    }

    async fn ask(&self, command: &redis::Cmd) -> Value {
        command.query_async(&mut self.beside.clone()).await.expect("an answer")
    }

    async fn info(&self, section: &str) -> String {
        redis::from_redis_value(self.ask(redis::cmd("INFO").arg(section)).await).expect("text")
    }

    async fn cost(&self, look: impl AsyncFn(&RedisBroker)) -> Cost {
        // The first look loads the scripts and opens the connections.
        look(&self.broker).await;
        self.ask(redis::cmd("CONFIG").arg("RESETSTAT")).await;
        look(&self.broker).await;
        let (stats, commands) = (self.info("stats").await, self.info("commandstats").await);
        let field = |line: &str, name: &str| {
            let value = line.split([',', ':']).find_map(|part| part.strip_prefix(name)).expect("a number");
            value.trim_start_matches('=').parse::<u64>().expect("a number")
        };
        let bytes = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).expect("bytes");
        let lines = || commands.lines().filter(|line| line.starts_with("cmdstat_") && !line.contains("_info") && !line.contains("_config"));
        Cost {
            calls: lines().map(|line| field(line, "calls")).sum(),
            bytes: bytes.trim().parse().expect("a number"),
            microseconds: lines().filter(|line| line.starts_with("cmdstat_evalsha:")).map(|line| field(line, "usec")).sum(),
        }
    }

    /// This many ends of different kinds in a queue, alone or in pairs. Then two tasks wait and one runs.
    async fn history(&self, queue: &QueueName, ends: usize) {
        let b = &self.broker;
        let tasks: Vec<_> = (0..ends).map(|_| NewTask { queue: queue.clone(), ..add() }).collect();
        let worker = Worker::on(b, queue, crate::support::LEASE).await;
        for some in tasks.chunks(500) {
            b.enqueue(some).await.expect("enqueue");
            for task in &some[..some.len() - some.len() / 4] {
                b.cancel(queue, &task.id).await.expect("cancel");
            }
            let leased = worker.claim(some.len() / 4).await;
            for (n, batch) in leased.chunks(2).enumerate() {
                let verdict = || if n % 3 == 0 { dead("no") } else { ok("2") };
                let finishes: Vec<_> = batch.iter().map(|leased| finish(&leased.member, verdict())).collect();
                b.finish(&worker.who, &finishes).await.expect("finish");
            }
        }
        for _ in 0..3 {
            enqueue(b, NewTask { queue: queue.clone(), ..add() }).await;
        }
        worker.claim(1).await;
    }

    /// Copies the keys of this queue to other queues, which is faster than running the tasks again.
    async fn copies(&self, of: &QueueName, queues: usize) {
        let script = "local keys = redis.call('KEYS', ARGV[1] .. '*')
            for _, key in ipairs(keys) do redis.call('COPY', key, ARGV[2] .. string.sub(key, #ARGV[1] + 1)) end
            redis.call('SADD', 'th:{_}:queues', ARGV[3])";
        for n in 1..queues {
            let to = queue(&format!("copy-{n}"));
            self.ask(redis::cmd("EVAL").arg(script).arg(0).arg(format!("th:{{{of}}}:")).arg(format!("th:{{{to}}}:")).arg(to.as_str()))
                .await;
        }
    }
}

#[tokio::test]
async fn a_list_of_queues_costs_the_same_whatever_has_ended_there() {
    let mut costs = Vec::new();
    for ends in [40, ENDS] {
        let server = Server::start().await;
        server.history(&queue("first"), ends).await;
        server.copies(&queue("first"), QUEUES).await;
        let cost = server
            .cost(async |broker| {
                let queues = broker.queues().await.expect("queues");
                assert_eq!(queues.len(), QUEUES);
                for view in queues {
                    let ended = State::ALL.into_iter().filter(|state| state.is_ended()).map(|state| view.counts[&state]).sum::<u64>();
                    assert_eq!(ended, ends as u64, "{view:?}");
                }
            })
            .await;
        eprintln!("{ends} ended in each of {QUEUES} queues: a list of the queues costs Redis {} µs, {cost:?}", cost.microseconds);
        costs.push(cost);
    }
    assert!(costs[1].calls <= costs[0].calls, "{costs:?}");
    assert!(costs[1].calls <= 45 * QUEUES as u64, "{costs:?}");
    assert!(costs[1].bytes <= costs[0].bytes + 100 * QUEUES as u64, "{costs:?}");
}

#[tokio::test]
async fn a_page_costs_the_same_whatever_has_ended() {
    let filters = [vec![], vec![State::Cancelled], vec![State::Succeeded], vec![State::Dead]];
    let mut costs = Vec::new();
    for ends in [1_000, ENDS] {
        let server = Server::start().await;
        server.history(&queue("first"), ends).await;
        server.copies(&queue("first"), QUEUES).await;
        for of in [Some(queue("first")), None] {
            for states in &filters {
                let filter = TaskFilter { queue: of.clone(), states: states.clone(), ..TaskFilter::default() };
                let from = server.broker.list(&filter, None, 20).await.expect("list").next;
                let cost = server
                    .cost(async |broker| {
                        let page = broker.list(&filter, from.as_deref(), 20).await.expect("list");
                        assert_eq!((page.tasks.len(), page.next.is_some()), (20, true));
                    })
                    .await;
                eprintln!(
                    "{ends} ended in each of {QUEUES} queues: a page of 20 of {states:?} in {of:?} costs Redis {} µs, {cost:?}",
                    cost.microseconds
                );
                costs.push((of.is_some(), cost));
            }
        }
    }
    let (few, many) = costs.split_at(costs.len() / 2);
    for ((is_one, few), (_, many)) in few.iter().zip(many) {
        let queues = if *is_one { 1 } else { QUEUES as u64 };
        // A page touches a different number of lists each time.
        assert!(many.calls <= few.calls + few.calls / 5 + 20, "{few:?} {many:?}");
        assert!(many.calls <= 250 + 40 * queues, "{many:?}");
        assert!(many.bytes <= 25_000 + 3_000 * queues, "{many:?}");
    }
}

#[tokio::test]
async fn the_feed_of_an_earlier_build_is_taken_away() {
    let server = Server::start().await;
    server.ask(redis::cmd("XADD").arg("th:{default}:events").arg("*").arg("at").arg(1).arg("succeeded").arg("a b")).await;
    enqueue(&server.broker, add()).await;
    assert_eq!(server.broker.queues().await.expect("queues")[0].counts[&State::Succeeded], 0);
    server.broker.sweep(&QueueName::default(), &[]).await.expect("sweep");
    assert_eq!(server.ask(redis::cmd("EXISTS").arg("th:{default}:events")).await, Value::Int(0));
}
