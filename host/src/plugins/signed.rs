//! Which bytes are signed by a key in force: looked at in every pass, verified only when bytes, signature or keys are new.
//!
//! (bytes by digest, signature text, keys) → trusted, or the sentence that says why not.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    capture::digest,
    judge::Digest,
    signature::{Trust, TrustFile, read_signature},
    state::State,
};

/// One digest to be looked at, and where its bytes and its signature are.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// What stands in the plugin directory.
    File(Digest, PathBuf),
    /// The last good version, in the state directory.
    Kept(Digest),
}

/// What was found out about some bytes.
#[derive(Debug, Clone)]
struct Checked {
    signature: Result<String, String>,
    trust: Arc<Trust>,
    verdict: Result<(), String>,
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
        match self.checked.get(digest) {
            Some(checked) => checked.verdict.as_ref().err().map(String::as_str),
            None => Some("its signature could not be looked at yet"),
        }
    }

    /// Looks at all of `wanted`, and forgets the rest. Blocks on the file system.
    pub(super) fn look(&mut self, wanted: &[Wanted], state: Option<&State>) {
        self.file.refresh();
        let trust = self.file.trust().clone();
        let mut seen = HashSet::new();
        for wanted in wanted {
            let (digest, signature) = match wanted {
                Wanted::File(digest, path) => (digest, read_signature(path)),
                Wanted::Kept(digest) => {
                    // The file that has these very bytes was looked at before.
                    if seen.contains(digest) {
                        continue;
                    }
                    let kept = state.and_then(|state| state.signature(digest));
                    (digest, kept.ok_or_else(|| "the signature of its last good version is not kept".to_owned()))
                }
            };
            // The same bytes in two files: one good signature is enough.
            let first = seen.insert(digest.clone());
            let known = self.checked.get(digest).filter(|known| Arc::ptr_eq(&known.trust, &trust));
            if known.is_some_and(|known| known.signature == signature || (!first && known.verdict.is_ok())) {
                continue;
            }
            let verdict = signature.clone().and_then(|text| {
                let bytes = match wanted {
                    Wanted::File(digest, path) => read(path, digest)?,
                    Wanted::Kept(digest) => state.ok_or("there is no state directory")?.read(digest)?,
                };
                trust.check(&bytes, &text)?;
                if let Some(Err(why)) = state.map(|state| state.keep_signature(digest, &text)) {
                    tracing::warn!("{why}");
                }
                Ok(())
            });
            self.checked.insert(digest.clone(), Checked { signature, trust: trust.clone(), verdict });
        }
        self.checked.retain(|digest, _| seen.contains(digest));
    }
}

fn read(path: &Path, wanted: &Digest) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("it cannot be read ({error})"))?;
    if digest(&bytes) == *wanted { Ok(bytes) } else { Err("it is being changed".into()) }
}
