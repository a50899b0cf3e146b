//! A broker URL, translated into the client library's types.

use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, TlsCertificates, TlsMode,
    sentinel::SentinelNodeConnectionInfo,
};

use super::url::{Host, RedisUrl, Scheme};
use crate::error::{BrokerError, Result};

#[derive(Clone)]
pub(super) enum Address {
    Single(ConnectionInfo, Option<TlsCertificates>),
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, node: SentinelNodeConnectionInfo },
    Cluster(Vec<ConnectionInfo>, Option<TlsCertificates>),
}

impl Address {
    /// Reads the files of certificates that the URL names.
    pub(super) fn of(url: &RedisUrl) -> Result<Self> {
        let settings = settings(url)?;
        let at = |host: &Host, port: u16, settings: &RedisConnectionInfo| {
            let (host, port) = (host.name.clone(), host.port.unwrap_or(port));
            let address = if url.is_tls() {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            };
            info(address, settings)
        };
        let each =
            |port: u16, settings: &RedisConnectionInfo| url.hosts.iter().map(|host| at(host, port, settings)).collect::<Result<Vec<_>>>();
        Ok(match url.scheme {
            Scheme::Unix => Self::Single(info(ConnectionAddr::Unix(url.socket()), &settings)?, None),
            Scheme::Plain | Scheme::Tls => {
                let host = url.hosts.first().ok_or_else(|| BrokerError::Misconfigured("the broker's address names no host".to_owned()))?;
                Self::Single(at(host, 6379, &settings)?, certificates(url)?)
            }
            Scheme::Cluster => Self::Cluster(each(6379, &settings)?, certificates(url)?),
            Scheme::Sentinel => {
                let mut own = RedisConnectionInfo::default();
                if let Some(password) = url.get("sentinel_password") {
                    own = own.set_username(url.get("sentinel_user").unwrap_or("default")).set_password(password);
                }
                let mut node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
                if url.is_tls() {
                    node = node.set_tls_mode(TlsMode::Secure);
                }
                Self::Sentinel { sentinels: each(26379, &own)?, master: url.path.first().cloned().unwrap_or_default(), node }
            }
        })
    }
}

/// The user, password, database and protocol of the URL.
fn settings(url: &RedisUrl) -> Result<RedisConnectionInfo> {
    let mut settings = RedisConnectionInfo::default().set_db(url.db().map_err(BrokerError::Misconfigured)?);
    if let Some(user) = &url.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &url.password {
        settings = settings.set_password(password);
    }
    if matches!(url.get("protocol"), Some("3" | "resp3")) {
        settings = settings.set_protocol(ProtocolVersion::RESP3);
    }
    Ok(settings)
}

fn info(address: ConnectionAddr, settings: &RedisConnectionInfo) -> Result<ConnectionInfo> {
    let info = address.into_connection_info();
    let info =
        info.map_err(|_| BrokerError::Misconfigured("the client library does not accept the broker's address; correct it".to_owned()))?;
    Ok(info.set_redis_settings(settings.clone()))
}

/// The certificates that the URL names: of the authority that signed the server's certificate, and of the client itself.
fn certificates(url: &RedisUrl) -> Result<Option<TlsCertificates>> {
    if ["ca", "cert", "key"].iter().all(|name| url.get(name).is_none()) {
        return Ok(None);
    }
    let file = |name: &str| {
        let read = |path: &str| {
            std::fs::read(path).map_err(|error| {
                BrokerError::Misconfigured(format!(
                    "failed to read the PEM file that `{name}` in the broker's address names: {error}: `{path}`"
                ))
            })
        };
        url.get(name).map(read).transpose()
    };
    let client_tls = match (file("cert")?, file("key")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        _ => None,
    };
    Ok(Some(TlsCertificates { client_tls, root_cert: file("ca")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::of(&RedisUrl::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_form_leads_where_it_says() {
        let Address::Single(info, None) = address("redis://u:p%40%3F@h:1/3") else { panic!("one server") };
        assert!(matches!(info.addr(), ConnectionAddr::Tcp(host, 1) if host == "h"));
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("u"), Some("p@?"), 3));
        let Address::Single(info, None) = address("rediss://[::1]") else { panic!("one server") };
        assert!(matches!(info.addr(), ConnectionAddr::TcpTls { host, port: 6379, insecure: false, .. } if host == "::1"));
        let Address::Single(info, None) = address("redis+unix://:p@/run/r.sock?db=2") else { panic!("one server") };
        assert!(matches!(info.addr(), ConnectionAddr::Unix(path) if path.as_os_str() == "/run/r.sock"));
        assert_eq!((info.redis_settings().password(), info.redis_settings().db()), (Some("p"), 2));
        assert!(matches!(address("redis+cluster://h:1,i"), Address::Cluster(nodes, None) if nodes.len() == 2));
        let Address::Sentinel { sentinels, master, .. } = address("redis+sentinel://u:p@h,i:9/mymaster/2?sentinel_password=s") else {
            panic!("a Sentinel address")
        };
        assert_eq!((sentinels.len(), &*master), (2, "mymaster"));
        assert!(matches!(sentinels[0].addr(), ConnectionAddr::Tcp(host, 26379) if host == "h"));
        assert_eq!(sentinels[0].redis_settings().password(), Some("s"));
    }
}
