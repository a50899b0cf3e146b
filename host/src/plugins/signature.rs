//! Minisign keys that the operator trusts, and signatures beside the plugins' files.
//!
//! `math.wasm.minisig` lies beside `math.wasm` and is checked against every key of the trust file. That file is read again when it changes,
//! so keys can be added and removed while a worker runs.
//!
//! Invariant: with trust required, nothing is compiled or served before its signature was checked against the keys in force.

use std::{
    io::{Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use minisign::{KeyPair, PublicKey, SecretKeyBox, SignatureBox};

use super::{directory::Identity, settings::PluginsError, state::Unread, writable::exposed};

/// The most bytes of a signature file or trust file.
const LONGEST: u64 = 64 << 10;

/// Public keys. A signature by any of them is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust(Vec<PublicKey>);

impl Trust {
    /// Reads a trust file: minisign public keys, one after the other. Comment lines are skipped.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read(path).map_err(|error| format!("cannot read the trusted keys ({error}): `{}`", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') || line.starts_with("untrusted comment:") {
                continue;
            }
            let key = PublicKey::from_base64(line);
            keys.push(key.map_err(|_| format!("line {number}: not a minisign public key; `taskhost plugin keygen` makes one"))?);
        }
        if keys.is_empty() {
            return Err("it has no public key: put in what `taskhost plugin keygen` printed".into());
        }
        Ok(Self(keys))
    }

    /// Checks that `signature`, the text of a `.minisig` file, is by one of these keys and for `bytes`. Returns the key's id.
    pub fn check(&self, bytes: &[u8], signature: &str) -> Result<String, String> {
        let signature = SignatureBox::from_string(signature).map_err(|_| "its signature file is no minisign signature: sign it again")?;
        let id = key_id(signature.keynum());
        let Some(key) = self.0.iter().find(|key| key.keynum() == signature.keynum()) else {
            return Err(format!(
                "it is signed with key {id}, which is not trusted here: add that key to the trust file, or sign it with another"
            ));
        };
        match minisign::verify(key, &signature, Cursor::new(bytes), true, false, false) {
            Ok(()) => Ok(id),
            Err(_) => Err(format!("its signature by key {id} does not fit its bytes: it was changed after it was signed; sign it again")),
        }
    }
}

/// A phrase about a file's signature, or why `trust` refuses the file. Without `trust` nothing is refused.
pub(super) fn status(plugin: &Path, bytes: &[u8], trust: Option<&Trust>) -> Result<String, String> {
    if let Some(trust) = trust {
        let key = trust.check(bytes, &read_signature(plugin)?)?;
        return Ok(format!("good, by key {key}, which is trusted"));
    }
    if !signature_path(plugin).exists() {
        return Ok("not signed".into());
    }
    let signature = read_signature(plugin).ok().and_then(|text| SignatureBox::from_string(&text).ok());
    Ok(signature.map_or_else(
        || "its signature file is no minisign signature".into(),
        |signature| format!("by key {}, not checked: set `trust` to check it", key_id(signature.keynum())),
    ))
}

/// The key's id as minisign shows it: in upper-case hex.
fn key_id(number: &[u8]) -> String {
    number.iter().rev().fold(String::new(), |text, byte| text + &format!("{byte:02X}"))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The path of the signature of a plugin's file.
pub fn signature_path(plugin: &Path) -> PathBuf {
    let mut path = plugin.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}

/// The signature beside a plugin's file. The error says what to do. Blocks on the file system.
pub fn read_signature(plugin: &Path) -> Result<String, String> {
    signature_beside(plugin).map_err(Unread::into_text)
}

/// The same. The error also tells whether the machine failed.
pub(super) fn signature_beside(plugin: &Path) -> Result<String, Unread> {
    let path = signature_path(plugin);
    read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Unread::Spoilt("it is not signed, and only signed plugins serve here: `taskhost plugin sign` it".into())
        }
        // The file is not text, and another try would read the same.
        std::io::ErrorKind::InvalidData => Unread::Spoilt("its signature file is no minisign signature: sign it again".into()),
        _ => Unread::Trouble(format!("its signature cannot be read ({error}): `{}`", path.display())),
    })
}

/// Makes a pair of keys: the text of the secret key's file, encrypted if there is a `password`, and that of the public key's file.
pub fn keygen(password: Option<String>) -> Result<(String, String), String> {
    let failed = |error: minisign::PError| format!("failed to make a key pair: {error}");
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let KeyPair { pk, sk } = pair.map_err(failed)?;
    let secret = sk.to_box(Some("taskhost plugin signing key")).map_err(failed)?.into_string();
    Ok((secret, pk.to_box().map_err(failed)?.into_string()))
}

/// The `.minisig` text for `bytes`. `comment` is signed as well.
pub fn sign(secret: &str, password: Option<String>, bytes: &[u8], comment: &str) -> Result<String, String> {
    let wrong =
        |error: minisign::PError| format!("cannot use the secret key ({error}): give its password by --password-file, if it has one");
    let boxed = || SecretKeyBox::from_string(secret).map_err(wrong);
    let key = match password {
        Some(password) => boxed()?.into_secret_key(Some(password)),
        None => boxed()?.into_unencrypted_secret_key(),
    };
    let key = key.map_err(wrong)?;
    let signed = minisign::sign(None, &key, Cursor::new(bytes), Some(comment), Some("signature of a taskhost plugin"));
    signed.map(SignatureBox::into_string).map_err(|error| format!("failed to sign: {error}"))
}

/// The keys in force. The file is read again when it changes. A bad edit leaves the last good keys in force.
#[derive(Debug, Clone)]
pub(super) struct TrustFile {
    path: PathBuf,
    read: Option<Identity>,
    trust: Arc<Trust>,
    trouble: Option<String>,
}

impl TrustFile {
    pub(super) fn open(path: &Path) -> Result<Self, PluginsError> {
        let identity = std::fs::metadata(path).map(|meta| Identity::of(&meta)).ok();
        let trust = Trust::read(path).map_err(PluginsError::Policy)?;
        Ok(Self { path: path.to_owned(), read: identity, trust: trust.into(), trouble: None })
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// A sentence if others may write to the file. Blocks on the file system.
    pub(super) fn exposed(&self) -> Option<String> {
        exposed("the trusted keys in", &self.path)
    }

    /// Reads the file if it changed. Blocks on the file system. A half-written file is read again in the next pass, because its identity
    /// changes then.
    pub(super) fn refresh(&mut self) {
        let identity = std::fs::metadata(&self.path).map(|meta| Identity::of(&meta)).ok();
        if identity.is_some() && identity == self.read {
            return;
        }
        self.read = identity;
        match Trust::read(&self.path) {
            Ok(trust) => {
                self.trouble = None;
                if trust != *self.trust {
                    tracing::info!(keys = trust.0.len(), "the trusted keys changed");
                    self.trust = trust.into();
                }
            }
            Err(why) => self.trouble = Some(format!("{why}; the last good keys stay in force")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        keygen(None).unwrap()
    }

    #[test]
    fn what_a_trusted_key_signed_is_trusted_and_nothing_else() {
        let ((secret, public), (other_secret, other_public)) = (pair(), pair());
        let trust = Trust::parse(&public).unwrap();
        let signature = sign(&secret, None, b"bytes", "file:math.wasm").unwrap();
        assert_eq!(trust.check(b"bytes", &signature).unwrap().len(), 16);
        assert!(trust.check(b"bytez", &signature).unwrap_err().contains("changed after it was signed"));
        let foreign = sign(&other_secret, None, b"bytes", "file:math.wasm").unwrap();
        assert!(trust.check(b"bytes", &foreign).unwrap_err().contains("not trusted here"));
        assert!(trust.check(b"bytes", "hello").unwrap_err().contains("no minisign signature"));
        // The comment is signed too.
        assert!(trust.check(b"bytes", &signature.replace("file:math.wasm", "file:evil.wasm")).is_err());
        // Rotation: both keys, then only the new one.
        let both = Trust::parse(&format!("# old\n{public}\n# new\n{other_public}")).unwrap();
        assert!(both.check(b"bytes", &signature).is_ok() && both.check(b"bytes", &foreign).is_ok());
        assert!(Trust::parse("# nothing\n").unwrap_err().contains("no public key"));
        assert!(Trust::parse("x\n").unwrap_err().starts_with("line 1: not a minisign public key"));
    }

    #[test]
    fn a_password_protects_the_secret_key() {
        let (secret, public) = keygen(Some("sesame".into())).unwrap();
        assert!(sign(&secret, None, b"x", "c").is_err());
        assert!(sign(&secret, Some("wrong".into()), b"x", "c").is_err());
        let signature = sign(&secret, Some("sesame".into()), b"x", "c").unwrap();
        assert!(Trust::parse(&public).unwrap().check(b"x", &signature).is_ok());
    }

    #[test]
    fn a_bad_edit_keeps_the_last_good_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.pub");
        assert!(TrustFile::open(&path).is_err());
        let ((secret, public), (_, other)) = (pair(), pair());
        std::fs::write(&path, &public).unwrap();
        let mut file = TrustFile::open(&path).unwrap();
        let signature = sign(&secret, None, b"x", "c").unwrap();
        std::fs::write(&path, "nonsense, and longer than a key is: ".repeat(9)).unwrap();
        file.refresh();
        assert!(file.trouble().unwrap().contains("stay in force") && file.trust().check(b"x", &signature).is_ok());
        std::fs::write(&path, format!("# only the new one\n{other}")).unwrap();
        file.refresh();
        assert!(file.trouble().is_none() && file.trust().check(b"x", &signature).is_err());
    }
}
