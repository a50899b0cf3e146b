//! From an address to a broker.

use std::sync::Arc;

use super::{address::BrokerAddress, error::Result, redis::RedisBroker, roles::Broker, settings::BrokerSettings, sqlite::SqliteBroker};

/// Connects to Redis, or opens the SQLite file and makes it where there is none. Refuses at once a server or a file that can't be used.
pub async fn connect(address: &BrokerAddress, settings: BrokerSettings) -> Result<Arc<dyn Broker>> {
    Ok(match address {
        BrokerAddress::Redis(url) => Arc::new(RedisBroker::connect(url.reveal(), settings).await?),
        BrokerAddress::Sqlite(path) => Arc::new(SqliteBroker::open(path, settings)?),
    })
}
