//! Measurements for `taskhost bench`: the server's CPU time and memory, and how to clear a prefix.
//!
//! All numbers are of the whole server, with its other clients. Those of a cluster's nodes are added up.

use std::{collections::HashMap, time::Duration};

use redis::Value;

use super::{
    driver::RedisBroker,
    values::{list, number, text, word, words},
};
use crate::error::{BrokerError, Result};
use taskhost_core::task::QueueName;

/// Keys in one step of a scan.
const SCANNED: usize = 5_000;

/// Members in one ZMSCORE.
const ASKED: i64 = 1_000;

/// One measurement of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerLoad {
    /// CPU time since its start.
    pub cpu: Duration,
    /// Bytes of its data.
    pub memory: u64,
    /// Reads from its clients' sockets since its start: one for each command, or one for several that arrive together.
    pub reads: u64,
    /// Unlinked keys whose memory is not free yet.
    pub unlinking: u64,
}

impl RedisBroker {
    pub async fn load(&self) -> Result<ServerLoad> {
        let mut load = ServerLoad::default();
        for (_, info) in self.infos().await? {
            let number = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
            let seconds = |name: &str| info.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            load.cpu +=
                Duration::from_secs_f64(seconds("used_cpu_user").max(0.0)) + Duration::from_secs_f64(seconds("used_cpu_sys").max(0.0));
            load.memory += number("used_memory");
            load.reads += number("total_reads_processed");
            load.unlinking += number("lazyfree_pending_objects");
        }
        Ok(load)
    }

    /// The cheapest write: one bare `SET`.
    pub async fn set(&self, value: &str) -> Result<()> {
        self.commands.send(redis::cmd("SET").arg(self.keys.shared("bench")).arg(value)).await.map(drop)
    }

    /// Lets the server finish rehashing the `ready` set of `queue` after it grew. Each lookup moves the set's table one step, so there are
    /// as many lookups as members.
    pub async fn until_rearranged(&self, queue: &QueueName) -> Result<()> {
        let ready = self.keys.of(queue, "ready");
        let members = number(&self.commands.send(redis::cmd("ZCARD").arg(&ready)).await?);
        let mut nobody = redis::cmd("ZMSCORE");
        nobody.arg(&ready);
        for number in 0..ASKED {
            nobody.arg(number);
        }
        for _ in 0..members / ASKED {
            self.commands.send(&nobody).await?;
        }
        Ok(())
    }

    /// Deletes every key of this broker's prefix (tasks, results, schedules, all) in bounded steps.
    pub async fn erase(&self) -> Result<()> {
        let pattern = format!("{}:*", self.settings.prefix);
        for (node, _) in self.infos().await? {
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
                let mut page = list(self.commands.send_to(node.as_deref(), &scan).await?)?.into_iter();
                cursor = page.next().map(word).unwrap_or_default();
                let keys = words(page.next().unwrap_or(Value::Nil))?;
                if !keys.is_empty() {
                    match self.commands.send(redis::cmd("UNLINK").arg(&keys)).await {
                        // A replica refuses; its master deletes the keys.
                        Err(BrokerError::Refused(_)) | Ok(_) => {}
                        Err(error) => return Err(error),
                    }
                }
                if cursor == "0" || cursor.is_empty() {
                    break;
                }
            }
        }
        self.met.clear();
        Ok(())
    }

    /// The INFO of each node. A single server has no node name.
    pub(super) async fn infos(&self) -> Result<Vec<(Option<String>, HashMap<String, String>)>> {
        let told: Vec<(Option<String>, Value)> = match self.commands.send(&redis::cmd("INFO")).await? {
            Value::Map(nodes) => nodes.into_iter().map(|(node, info)| (text(node), info)).collect(),
            info => vec![(None, info)],
        };
        let fields = |info: Value| {
            let info = text(info).unwrap_or_default();
            info.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
        };
        Ok(told.into_iter().map(|(node, info)| (node, fields(info))).collect())
    }
}
