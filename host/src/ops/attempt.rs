//! Makes one attempt of a body on the real engine, without a broker or worker, for plugin authors.
//!
//! file → inspect under a policy → invoke with a kv that lives as long as the attempt → what it used and how it ended

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use taskhost_core::{
    catalogue::{ArgumentsError, Bound, Catalogue, Given, Offer},
    task::{LogLine, Progress, TaskName},
    units,
};
use tokio_util::sync::CancellationToken;

use super::{engine::foreground_engine, error::OpsError};
use crate::{
    config::Settings,
    engine::{About, Attempted, Call, Engine, Grants, HttpGrant, Limits, ServiceError, Services, Terms},
    plugins::{self, Plugin},
};

/// An attempt to make.
#[derive(Debug)]
pub struct AttemptOrder {
    pub file: PathBuf,
    pub body: TaskName,
    pub given: Given,
    /// The file with the plugin's policy.
    pub policy: Option<PathBuf>,
    /// Granted beside the policy.
    pub env: Vec<(String, String)>,
    pub http: Vec<HttpGrant>,
    pub kv: bool,
    pub enqueue: Vec<String>,
    /// `None`: the policy's, else the body's hint, else the setting's.
    pub timeout: Option<Duration>,
    /// `None`: the policy's, else the setting's.
    pub memory: Option<u64>,
    pub headers: Vec<(String, String)>,
}

/// A message about a running attempt. Its text is as raw as the guest wrote it.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A problem of the file.
    Warning(&'a str),
    Log(&'a LogLine),
    Progress(&'a Progress),
}

type Hear = Arc<dyn Fn(Heard<'_>) + Send + Sync>;

/// Makes one attempt. Nothing outlives it.
pub async fn attempt(settings: &Settings, order: AttemptOrder, hear: Hear) -> Result<Attempted, OpsError> {
    let engine = foreground_engine(settings)?;
    let attempted = on(&engine, settings, order, hear).await;
    engine.stop();
    attempted
}

async fn on(engine: &Arc<Engine>, settings: &Settings, order: AttemptOrder, hear: Hear) -> Result<Attempted, OpsError> {
    let policy = order.policy.as_deref().or(settings.file.as_deref());
    let inspection = plugins::inspect(&order.file, engine, policy, None, &settings.limits).await?;
    for warning in &inspection.warnings {
        hear(Heard::Warning(warning));
    }
    let plugin = inspection.plugin;
    let args = order.checked(&plugin)?;
    let hint = plugin.description.bodies.iter().find(|body| body.name == order.body).and_then(|body| body.hints.timeout_ms);
    let limits = Limits { memory: order.memory.unwrap_or(plugin.limits.memory), ..(*plugin.limits).clone() };
    let bound = Bound { policy: limits.timeout_ceiling, setting: limits.timeout };
    let timeout = order.timeout.unwrap_or_else(|| bound.bind(hint.map(Duration::from_millis)));
    let grants = extended(&plugin.grants, &order);
    let call = Call {
        terms: Terms { limits: limits.into(), grants: grants.into(), ..plugin.terms() }.into(),
        body: order.body.to_string(),
        args,
        about: About::without_broker(order.headers),
        timeout,
        cancelled: CancellationToken::new(),
        grace: settings.grace,
        services: Arc::new(Local { kv: Mutex::default(), hear }),
    };
    let attempted = engine.invoke(call).await;
    tracing::info!(ran = ?attempted.ran, cpu = ?attempted.cpu, memory = units::show_size(attempted.memory), "attempt ended");
    Ok(attempted)
}

impl AttemptOrder {
    fn checked(&self, plugin: &Plugin) -> Result<String, OpsError> {
        let offers = plugin.description.bodies.iter();
        let offers = offers.map(|body| (body.name.clone(), Offer { body: body.clone(), code: plugin.id.clone() })).collect();
        Catalogue { offers }.check(&self.body, &self.given).map_err(|error| match error {
            ArgumentsError::UnknownTask { .. } => OpsError::NoSuchBody { file: plugin.file.clone(), why: error },
            error => error.into(),
        })
    }
}

/// The grants of the policy and of the order.
fn extended(policy: &Grants, order: &AttemptOrder) -> Grants {
    let mut grants = policy.clone();
    grants.env.extend(order.env.iter().cloned());
    grants.http.extend(order.http.iter().cloned());
    if order.kv {
        grants.kv.get_or_insert_default();
    }
    if !order.enqueue.is_empty() {
        grants.enqueue.get_or_insert_default().tasks.extend(order.enqueue.iter().cloned());
    }
    grants
}

/// Services without a broker: kv in memory; logs and progress are heard.
struct Local {
    kv: Mutex<BTreeMap<String, Vec<u8>>>,
    hear: Hear,
}

impl Local {
    fn kv(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.kv.lock()
    }
}

#[async_trait]
impl Services for Local {
    fn log_so_far(&self, _lines: String) {}

    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        Ok(self.kv().get(key).cloned())
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        self.kv().insert(key.to_owned(), value);
        Ok(())
    }

    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError> {
        Ok(self.kv().remove(key).is_some())
    }

    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError> {
        let mut kv = self.kv();
        let old = match kv.get(key) {
            None => 0,
            Some(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| ServiceError::Invalid(format!("the value of `{key}` is no decimal integer")))?,
        };
        let sum = old.checked_add(by).ok_or_else(|| ServiceError::Invalid(format!("the sum at `{key}` does not fit 64 bits")))?;
        kv.insert(key.to_owned(), sum.to_string().into_bytes());
        Ok(sum)
    }

    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError> {
        let kv = self.kv();
        let from = after.map_or(prefix, |after| after.max(prefix));
        let keys = kv.range(from.to_owned()..).map(|(key, _)| key);
        Ok(keys.take_while(|key| key.starts_with(prefix)).filter(|key| Some(key.as_str()) != after).take(limit).cloned().collect())
    }

    fn progress(&self, progress: Progress) {
        (self.hear)(Heard::Progress(&progress));
    }

    fn log(&self, line: &LogLine) {
        (self.hear)(Heard::Log(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        Local { kv: Mutex::default(), hear: Arc::new(|_| ()) }
    }

    #[tokio::test]
    async fn the_local_kv_pages_in_byte_order() {
        let kv = local();
        for key in ["b1", "a", "b2", "b3", "c"] {
            kv.kv_set(key, b"x".to_vec()).await.unwrap();
        }
        assert_eq!(kv.kv_keys("b", None, 2).await.unwrap(), ["b1", "b2"]);
        assert_eq!(kv.kv_keys("b", Some("b2"), 2).await.unwrap(), ["b3"]);
        assert_eq!(kv.kv_keys("b", Some("a"), 9).await.unwrap().len(), 3);
        assert!(kv.kv_keys("z", None, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_local_kv_counts() {
        let kv = local();
        assert_eq!(kv.kv_increment("n", 3).await, Ok(3));
        assert_eq!(kv.kv_increment("n", -5).await, Ok(-2));
        kv.kv_set("n", b"x".to_vec()).await.unwrap();
        assert!(matches!(kv.kv_increment("n", 1).await, Err(ServiceError::Invalid(_))));
    }
}
