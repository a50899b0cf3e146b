//! Whether a Redis is usable: its version, its settings, its schema, the user's rights.

use super::{driver::RedisBroker, upgrade::Schema};
use crate::{
    directory::Health,
    error::{BrokerError, Result},
    settings::{BrokerSettings, Durability},
};
use taskhost_core::task::{QueueName, TaskId};

impl RedisBroker {
    /// Connects. Refuses at once a server that can't serve: unreachable, wrong password, not a Redis, too old, another schema.
    pub async fn connect(url: &str, settings: BrokerSettings) -> Result<Self> {
        let broker = Self::new(url, settings)?;
        match broker.meet_server().await {
            Err(error @ (BrokerError::Unavailable(_) | BrokerError::Misconfigured(_))) => {
                Err(broker.target.look_closer(&broker.at).await.unwrap_or(error))
            }
            met => met.map(|_| broker),
        }
    }

    /// Refuses an unusable server, and warns of settings that lose tasks.
    pub(super) async fn meet_server(&self) -> Result<Health> {
        // In a cluster each node answers; any will do.
        let info = self.infos().await?.into_iter().next().map(|(_, info)| info).unwrap_or_default();
        let at = &self.target.place(&self.at);
        let version = info.get("redis_version").map_or("0", String::as_str);
        let is_valkey = info.get("server_name").is_some_and(|name| name == "valkey");
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < 7 {
            return Err(BrokerError::Misconfigured(format!(
                "Redis at {at} is version {version}; taskhost needs 7.0 or later: upgrade it, or name another broker"
            )));
        }
        let schema = self.agree_on_schema().await?;
        let (name, version) = match info.get("valkey_version").filter(|_| is_valkey) {
            Some(valkey) => ("Valkey", valkey.as_str()),
            None => ("Redis", version),
        };
        let about = format!("{name} {version}, {}, {at}", self.target.kind());
        let mut warnings = Vec::new();
        if schema == Schema::Before {
            warnings.push(format!(
                "Redis at {at} is of taskhost 0.1 (schema 1): the first worker of this version brings it to schema 2 when the last worker of 0.1 has stopped"
            ));
        }
        match info.get("maxmemory_policy").map(String::as_str) {
            None | Some("noeviction") => {}
            Some(policy) => warnings.push(format!(
                "Redis at {at} may throw tasks away when its memory is full (maxmemory-policy {policy}): set maxmemory-policy noeviction"
            )),
        }
        if info.get("aof_enabled").is_some_and(|on| on == "0") {
            warnings.push(format!(
                "Redis at {at} loses all changes since its last snapshot when it stops, or everything if it takes no snapshots (appendonly no): set appendonly yes"
            ));
        }
        if self.settings.durability == Durability::Replica && info.get("connected_slaves").is_some_and(|count| count == "0") {
            warnings.push(format!(
                "Redis at {at} has no replica, and durability is `replica`: nothing can be enqueued or finished until one follows it, or durability is `master`"
            ));
        }
        Ok(Health { about, warnings })
    }

    /// Scripts publish ends and cancels. A user without the right to these channels is refused here, and not only at the first await.
    pub(super) async fn meet_channels(&self) -> Result<()> {
        let nobody = TaskId::new("check").map_err(|error| BrokerError::Corrupt(error.to_string()))?;
        for channel in [self.keys.control(), self.keys.done(&QueueName::default(), &nobody)] {
            // Listeners ignore an empty message.
            self.commands.send(redis::cmd("PUBLISH").arg(&channel).arg("")).await?;
            let listened = async { self.target.listen().await?.subscribe(&channel).await };
            listened.await.map_err(|error| self.target.fault(&self.at, &error))?;
        }
        Ok(())
    }
}
