//! The meaning of Redis's errors for the caller, and what an operator should do about them.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::BrokerError;

/// The text of an error that connection.rs makes when the sentinels name no living master.
pub(super) const NO_MASTER: &str = "the sentinels name no living master";

/// The fault when the sentinels did not name the master. `at` is their address.
pub(super) fn no_master(at: &str, error: &RedisError) -> BrokerError {
    if error.to_string().starts_with(NO_MASTER) {
        let why = error.detail().unwrap_or_default();
        return BrokerError::Unavailable(format!("cannot reach Redis: the sentinels at {at} name no living master: {why}"));
    }
    match error.kind() {
        ErrorKind::Io => BrokerError::Unavailable(unreachable("the sentinels", at, error)),
        _ => fault(at, error),
    }
}

/// The fault behind the plain-text answer of a server that could not be used. `tls`: whether the URL asks for TLS.
pub(super) fn by_plain_words(at: &str, tls: bool, said: &[u8]) -> Option<BrokerError> {
    let full = b"-ERR max number of clients";
    if said.starts_with(full) {
        return Some(by_code(at, "ERR", "max number of clients reached", &RedisError::from(std::io::Error::other("full"))));
    }
    match said.first()? {
        b'+' | b'-' if tls => Some(BrokerError::Misconfigured(format!(
            "Redis at {at} does not speak TLS on this port; name its TLS port, or write redis:// for rediss:// (and no `tls=true`)"
        ))),
        // The alert that a TLS server sends to a plain-text client.
        0x15 if !tls => Some(BrokerError::Misconfigured(format!(
            "the server at {at} speaks TLS; write rediss:// for redis:// (or `tls=true` for sentinels and clusters)"
        ))),
        _ => None,
    }
}

/// The fault behind an error. `at` is the address without its password.
pub(super) fn fault(at: &str, error: &RedisError) -> BrokerError {
    let code = error.code().unwrap_or_default();
    let said = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::AuthenticationFailed => BrokerError::Misconfigured(format!(
            "Redis at {at} refused the user or password; correct them in the broker's URL: redis://USER:PASSWORD@HOST:PORT"
        )),
        ErrorKind::InvalidClientConfig => BrokerError::Misconfigured(format!("failed to use the broker's address {at}: {error}")),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            BrokerError::Misconfigured(format!("the server at {at} is not a Redis server; correct the host and port in the broker's URL"))
        }
        ErrorKind::MasterNameNotFoundBySentinel => {
            BrokerError::Misconfigured(format!("the sentinels at {at} know no master of that name; correct the name in the broker's URL"))
        }
        ErrorKind::Server(ServerErrorKind::NoPerm) => BrokerError::Misconfigured(format!(
            "Redis at {at} does not permit this user what taskhost needs ({said}); grant it: ACL SETUSER NAME ~th:* &th:* +@all -@dangerous +info"
        )),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain,
        ) => BrokerError::Refused(format!("Redis at {at} takes no commands for now ({code} {said}); ask again when it does")),
        ErrorKind::Io => BrokerError::Unavailable(unreachable("Redis", at, error)),
        ErrorKind::ClusterConnectionNotFound | ErrorKind::NoValidReplicasFoundBySentinel => {
            BrokerError::Unavailable(format!("cannot reach a node of the Redis cluster at {at}: {error}; are its nodes up?"))
        }
        _ => by_code(at, code, said, error),
    }
}

fn by_code(at: &str, code: &str, said: &str, error: &RedisError) -> BrokerError {
    match code {
        "NOAUTH" => BrokerError::Misconfigured(format!(
            "Redis at {at} asks for a password; put it in the broker's URL: redis://USER:PASSWORD@HOST:PORT, or redis://:PASSWORD@HOST:PORT"
        )),
        "DENIED" => BrokerError::Misconfigured(format!(
            "Redis at {at} is in protected mode and takes no commands from other machines; set a password there and put it in the broker's URL"
        )),
        "OOM" => BrokerError::Refused(format!(
            "Redis at {at} is out of memory (maxmemory reached): nothing was enqueued; raise maxmemory, or let workers drain the queues"
        )),
        // A script's refusal of a record that this program did not make.
        "INVALID" => BrokerError::Invalid(said.to_owned()),
        "MISCONF" | "NOREPLICAS" | "BUSY" => {
            BrokerError::Refused(format!("Redis at {at} takes no writes for now ({code} {said}); look at its log, and ask again then"))
        }
        // An older host sent a script with one key while the slot of the queue moves.
        _ if said.contains("non local key") => {
            BrokerError::Refused(format!("Redis at {at} is moving this queue to another node ({said}); ask again when it has arrived"))
        }
        "WRONGTYPE" => wrong_type(at),
        _ if said.contains("WRONGTYPE") => wrong_type(at),
        _ if said.contains("-OOM") || said.starts_with("OOM ") => by_code(at, "OOM", said, error),
        _ if said.contains("max number of clients") => {
            BrokerError::Refused(format!("Redis at {at} has its maximum of clients; raise maxclients, or end some of them"))
        }
        _ if said.contains("unknown command") || said.contains("DB index") || said.contains("SELECT is not allowed") => {
            BrokerError::Misconfigured(format!(
                "Redis at {at} refused: {code} {said}; taskhost needs Redis 7.0 or later and its own database"
            ))
        }
        _ => BrokerError::Corrupt(format!("Redis at {at} failed a step: {error}; look at the keys it names, and at the server's log")),
    }
}

fn wrong_type(at: &str) -> BrokerError {
    BrokerError::Corrupt(format!(
        "Redis at {at} holds keys under our prefix that are not ours; give taskhost a database or a key prefix of its own"
    ))
}

fn unreachable(who: &str, at: &str, error: &RedisError) -> String {
    if error.is_connection_refusal() {
        return format!("cannot reach {who} at {at}: connection refused; is it running? start it, or name another with --broker");
    }
    if error.is_timeout() {
        return format!("cannot reach {who} at {at}: no answer in time; is it up, and does a firewall block it?");
    }
    let text = error.to_string();
    if text.contains("certificate") || text.contains("tls") || text.contains("TLS") || text.contains("InvalidContentType") {
        return format!("cannot reach {who} at {at}: TLS failed ({text}); does the server speak TLS, and is its certificate trusted?");
    }
    if text.contains("lookup") || text.contains("resolve") || text.contains("No address") {
        return format!("cannot reach {who} at {at}: the host name is not known ({text}); correct the broker's URL");
    }
    format!("cannot reach {who} at {at}: {text}; is it restarting, or does it have its maximum of clients?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, detail: &str) -> BrokerError {
        fault("127.0.0.1:1", &redis::make_extension_error(code.into(), Some(detail.into())))
    }

    #[test]
    fn each_refusal_is_what_the_caller_does_next() {
        assert!(matches!(said("OOM", "command not allowed"), BrokerError::Refused(_)));
        assert!(matches!(said("MISCONF", "disk"), BrokerError::Refused(_)));
        assert!(matches!(said("NOAUTH", "Authentication required."), BrokerError::Misconfigured(_)));
        assert!(matches!(said("WRONGTYPE", "…"), BrokerError::Corrupt(_)));
        let refused = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let BrokerError::Unavailable(text) = fault("127.0.0.1:1", &refused) else { panic!("transient") };
        assert!(text.starts_with("cannot reach Redis at 127.0.0.1:1: connection refused; is it running?"), "{text}");
    }
}
