//! Tells which bytes are signed by a key in force. Every pass asks; verification happens only if bytes, signature or keys are new.
//!
//! (bytes by digest, signature text, keys) → trusted, or a sentence that says why not

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    digest::Digest,
    directory::digest,
    signature::{Trust, TrustFile, signature_beside},
    state::{State, Unread},
    writable::Writable,
};

/// One digest to verify, and the place of its bytes and its signature.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// A file in the plugin directory.
    File(Digest, PathBuf),
    /// The last good version, in the state directory.
    Kept(Digest),
}

/// The result for some bytes.
#[derive(Debug, Clone)]
struct Checked {
    signature: Result<String, Unread>,
    trust: Arc<Trust>,
    verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Trusted,
    /// The result holds until bytes, signature or keys change.
    Refused(String),
    /// They could not be read. They are not trusted now, and are verified again in the next pass.
    Open(String),
}

#[derive(Debug, Clone)]
pub(super) struct Signatures {
    file: TrustFile,
    checked: HashMap<Digest, Checked>,
}

impl Signatures {
    pub(super) fn new(file: TrustFile) -> Self {
        Self { file, checked: HashMap::new() }
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.file.trouble()
    }

    /// Why these bytes must not run, if so.
    pub(super) fn distrust(&self, digest: &Digest) -> Option<&str> {
        match self.checked.get(digest).map(|checked| &checked.verdict) {
            Some(Verdict::Trusted) => None,
            Some(Verdict::Refused(why) | Verdict::Open(why)) => Some(why),
            None => Some("its signature could not be looked at yet"),
        }
    }

    /// Whether these bytes were not verified yet, so that nothing is known of them.
    pub(super) fn is_open(&self, digest: &Digest) -> bool {
        self.checked.get(digest).is_none_or(|checked| matches!(checked.verdict, Verdict::Open(_)))
    }

    /// A sentence if others may write to the keys. Blocks on the file system.
    pub(super) fn exposed(&self) -> Option<String> {
        self.file.exposed()
    }

    /// Verifies all of `wanted`, and forgets the rest. Also reads the keys again, if they may be believed. Blocks on the file system.
    pub(super) fn look(&mut self, wanted: &[Wanted], state: Option<&State>, writable: Writable) {
        if writable != Writable::Refuse || self.exposed().is_none() {
            self.file.refresh();
        }
        let trust = self.file.trust().clone();
        let mut seen = HashSet::new();
        for wanted in wanted {
            let (digest, signature) = match wanted {
                Wanted::File(digest, path) => (digest, signature_beside(path)),
                Wanted::Kept(digest) => {
                    // The file that has these bytes was verified before.
                    if seen.contains(digest) {
                        continue;
                    }
                    let kept = state.map_or(Ok(None), |state| state.signature(digest));
                    let none = || Unread::Spoilt("the signature of its last good version is not kept".to_owned());
                    (digest, kept.and_then(|kept| kept.ok_or_else(none)))
                }
            };
            // The same bytes in two files: one good signature is enough.
            let first = seen.insert(digest.clone());
            let known = self.checked.get(digest).filter(|known| Arc::ptr_eq(&known.trust, &trust));
            let is_known = |known: &Checked| known.signature == signature && !matches!(known.verdict, Verdict::Open(_));
            if known.is_some_and(|known| is_known(known) || (!first && known.verdict == Verdict::Trusted)) {
                continue;
            }
            let verdict = match &signature {
                Ok(text) => verdict(wanted, text, &trust, state),
                // The result for these bytes still holds.
                Err(Unread::Trouble(_)) if known.is_some() => continue,
                Err(Unread::Trouble(why)) => Verdict::Open(why.clone()),
                Err(Unread::Spoilt(why)) => Verdict::Refused(why.clone()),
            };
            self.checked.insert(digest.clone(), Checked { signature, trust: trust.clone(), verdict });
        }
        self.checked.retain(|digest, _| seen.contains(digest));
    }
}

/// Checks bytes against a signature. Their digest is known, so a change of the file meanwhile does not matter.
fn verdict(wanted: &Wanted, signature: &str, trust: &Trust, state: Option<&State>) -> Verdict {
    let (digest, bytes) = match wanted {
        Wanted::File(digest, path) => (digest, read(path, digest)),
        Wanted::Kept(digest) => {
            let nowhere = || Unread::Spoilt("there is no state directory".into());
            (digest, state.ok_or_else(nowhere).and_then(|state| state.read(digest)))
        }
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(Unread::Spoilt(why)) => return Verdict::Refused(why),
        Err(Unread::Trouble(why)) => return Verdict::Open(why),
    };
    if let Err(why) = trust.check(&bytes, signature) {
        return Verdict::Refused(why);
    }
    if let Some(Err(why)) = state.map(|state| state.keep_signature(digest, signature)) {
        tracing::warn!("{why}");
    }
    Verdict::Trusted
}

fn read(path: &Path, wanted: &Digest) -> Result<Vec<u8>, Unread> {
    let bytes = std::fs::read(path).map_err(|error| Unread::Trouble(format!("it cannot be read ({error})")))?;
    if digest(&bytes) == *wanted { Ok(bytes) } else { Err(Unread::Trouble("it is being changed".into())) }
}
