//! Secrets: the guest holds a placeholder, and the host puts the value in when a request leaves.
//!
//! grants → a fresh placeholder for each secret and attempt → headers of requests to the secret's own origins
//!
//! Invariant: a value is in no guest's memory, no log and no error. A placeholder is worthless everywhere else.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio::io::AsyncReadExt;

use super::limits::{Grants, SecretGrant, SecretSource};

/// The most bytes of a secret.
const LONGEST: u64 = 16 << 10;

/// The secrets of one attempt.
#[derive(Clone)]
pub(super) struct Secrets(Arc<[Secret]>);

struct Secret {
    /// The guest's environment variable.
    name: String,
    placeholder: String,
    grant: SecretGrant,
}

impl Secrets {
    pub(super) fn of(grants: &Grants) -> Self {
        let secret = |(name, grant): (&String, &SecretGrant)| Secret {
            name: name.clone(),
            placeholder: format!("taskhost-secret-{}", uuid::Uuid::new_v4().simple()),
            grant: grant.clone(),
        };
        Self(grants.secrets.iter().map(secret).collect())
    }

    /// The variables of the guest's environment.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|secret| (secret.name.as_str(), secret.placeholder.as_str()))
    }

    /// Replaces placeholders by values. `is_for` tells whether the request goes to one of these origins. The error is for the operator: it
    /// names the secret and shows nothing of its value.
    pub(super) async fn fill(&self, headers: &mut HeaderMap, mut is_for: impl FnMut(&SecretGrant) -> bool) -> Result<(), String> {
        for secret in &*self.0 {
            let holds = |value: &HeaderValue| find(value.as_bytes(), secret.placeholder.as_bytes()).is_some();
            if !headers.values().any(holds) {
                continue;
            }
            let name = &secret.name;
            if !is_for(&secret.grant) {
                return Err(format!("denied: the secret {name} is not for this host; to allow it add the origin to its `hosts`"));
            }
            let value = secret.grant.source.read().await.map_err(|why| format!("the secret {name} can't be had on this host: {why}"))?;
            for header in headers.values_mut().filter(|value| holds(value)) {
                let filled = replace(header.as_bytes(), secret.placeholder.as_bytes(), &value);
                *header = HeaderValue::from_bytes(&filled)
                    .map_err(|_| format!("the secret {name} has bytes that no header may have: keep one line of text in it"))?;
                header.set_sensitive(true);
            }
        }
        Ok(())
    }
}

impl SecretSource {
    async fn read(&self) -> Result<Vec<u8>, String> {
        let mut value = match self {
            Self::Variable(name) => std::env::var_os(name)
                .map(std::ffi::OsString::into_encoded_bytes)
                .ok_or_else(|| format!("the host's environment has no `{name}`: set it and start the worker again"))?,
            Self::File(path) => {
                let failed = |error: std::io::Error| format!("{error}: `{}`", path.display());
                let mut value = Vec::new();
                let file = tokio::fs::File::open(path).await.map_err(failed)?;
                file.take(LONGEST + 1).read_to_end(&mut value).await.map_err(failed)?;
                value
            }
        };
        while value.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            value.pop();
        }
        if value.is_empty() || value.len() as u64 > LONGEST {
            return Err(format!("it is empty, or has more than {LONGEST} bytes"));
        }
        Ok(value)
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn replace(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (mut rest, mut replaced) = (text, Vec::with_capacity(text.len() + new.len()));
    while let Some(at) = find(rest, old) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(source: SecretSource) -> (Secrets, String) {
        let grant = SecretGrant { source, origins: Vec::new() };
        let secrets = Secrets::of(&Grants { secrets: [("TOKEN".into(), grant)].into(), ..Grants::default() });
        let placeholder = secrets.placeholders().next().unwrap().1.to_owned();
        (secrets, placeholder)
    }

    fn asking(placeholder: &str) -> HeaderMap {
        let value = format!("Bearer {placeholder}, again {placeholder}").parse().unwrap();
        HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])
    }

    #[tokio::test]
    async fn a_value_reaches_its_own_hosts_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").unwrap();
        let (secrets, placeholder) = secrets(SecretSource::File(path.clone()));
        let mut headers = asking(&placeholder);
        let refused = secrets.fill(&mut headers, |_| false).await.unwrap_err();
        assert!(refused.contains("TOKEN") && !refused.contains("s3cret"), "{refused}");
        assert_eq!(headers, asking(&placeholder), "nothing was swapped");
        secrets.fill(&mut headers, |_| true).await.unwrap();
        let value = &headers[http::header::AUTHORIZATION];
        assert_eq!(value, "Bearer s3cret, again s3cret");
        assert!(value.is_sensitive());
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let refused = secrets.fill(&mut asking(&placeholder), |_| true).await.unwrap_err();
        assert!(refused.contains("one line") && !refused.contains("two"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        assert!(secrets.fill(&mut asking(&placeholder), |_| true).await.unwrap_err().contains("can't be had"));
        secrets.fill(&mut HeaderMap::new(), |_| false).await.unwrap();
    }

    #[test]
    fn a_placeholder_is_fresh_for_each_attempt() {
        let source = || SecretSource::Variable("X".into());
        assert_ne!(secrets(source()).1, secrets(source()).1);
    }
}
