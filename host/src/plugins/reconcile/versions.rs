//! The versions that files have or fall back to, by digest: their signatures and their code.
//!
//! bytes → trusted? → loading → code, or a sentence why not
//!
//! Invariant: bytes that are not trusted are not compiled.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use super::{files::Files, pass::Pass};
use crate::plugins::{
    digest::Digest,
    judge::Version,
    loads::{Loaded, Loader, Loads, Source},
    signed::{Signatures, Wanted},
    state::State,
    writable::Writable,
};

pub(super) struct Versions<L: Loader> {
    pub(super) loads: Loads<L>,
    /// `None`: unsigned plugins serve too.
    pub(super) signatures: Option<Signatures>,
    compiled: HashMap<Digest, Compiled<L::Code>>,
}

/// The result of loading some bytes.
enum Compiled<C> {
    Loading,
    Bad(String),
    Loaded(Version, Arc<C>),
}

/// The knowledge of some bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    /// Their signature could not be read yet. The sentence says why.
    Unverified(String),
    /// They must not run. The sentence says why.
    Distrusted(String),
    /// They are not loaded. The note tells if that takes more than one try.
    Loading(Option<String>),
    /// They are no plugin. The sentence says why.
    Bad(String),
    Loaded(Version),
}

impl<L: Loader> Versions<L> {
    pub(super) fn new(loads: Loads<L>, signatures: Option<Signatures>) -> Self {
        Self { loads, signatures, compiled: HashMap::new() }
    }

    pub(super) fn known(&self, digest: &Digest) -> Known {
        if let Some(signatures) = &self.signatures
            && let Some(why) = signatures.distrust(digest)
        {
            let why = why.to_owned();
            return if signatures.is_open(digest) { Known::Unverified(why) } else { Known::Distrusted(why) };
        }
        match self.compiled.get(digest) {
            Some(Compiled::Loaded(version, _)) => Known::Loaded(version.clone()),
            Some(Compiled::Bad(why)) => Known::Bad(why.clone()),
            Some(Compiled::Loading) | None => Known::Loading(self.loads.note(digest)),
        }
    }

    pub(super) fn code(&self, digest: &Digest) -> Option<Arc<L::Code>> {
        match self.compiled.get(digest)? {
            Compiled::Loaded(_, code) => Some(code.clone()),
            Compiled::Loading | Compiled::Bad(_) => None,
        }
    }

    /// Whether these bytes are loaded or being loaded.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.compiled.contains_key(digest)
    }

    /// Verifies new bytes, and bytes with new keys or signatures: those of the files in `dir`, and `kept` ones. Bytes that are trusted only
    /// now are read again.
    pub(super) async fn verify(
        &mut self,
        (dir, writable): (&Path, Writable),
        state: Option<Arc<State>>,
        files: &mut Files,
        kept: Vec<Digest>,
        pass: &mut Pass,
    ) {
        let Some(mut signatures) = self.signatures.clone() else { return };
        let captured = files.by_name.iter().filter_map(|(file, t)| Some(Wanted::File(t.digest()?.clone(), dir.join(file))));
        let wanted: Vec<Wanted> = captured.chain(kept.into_iter().map(Wanted::Kept)).collect();
        let looked = tokio::task::spawn_blocking(move || {
            signatures.look(&wanted, state.as_deref(), writable);
            signatures
        });
        let Ok(signatures) = looked.await else { return };
        let is_missing = |digest: &Digest| !self.has(digest) && !pass.captured.iter().any(|(captured, _)| captured == digest);
        let unread = files.by_name.iter().filter(|(_, t)| t.digest().is_some_and(|d| is_missing(d) && signatures.distrust(d).is_none()));
        let unread: Vec<String> = unread.map(|(file, _)| file.clone()).collect();
        for file in unread {
            files.read_again(&file, pass);
        }
        self.signatures = Some(signatures);
    }

    /// Starts to load bytes, unless they are not trusted or were loaded before.
    pub(super) fn load(&mut self, digest: &Digest, source: Source) {
        let is_trusted = !matches!(self.known(digest), Known::Unverified(_) | Known::Distrusted(_));
        if is_trusted && !self.has(digest) {
            self.compiled.insert(digest.clone(), Compiled::Loading);
            self.loads.start(digest, source);
        }
    }

    /// Takes in a load that has ended.
    pub(super) fn loaded(&mut self, digest: Digest, result: Result<Loaded<L::Code>, String>) {
        let compiled = match result {
            Ok(Loaded { code, description, warnings, memory }) => {
                let version = Version { digest: digest.clone(), description: description.into(), warnings: warnings.into(), memory };
                Compiled::Loaded(version, code)
            }
            Err(why) => Compiled::Bad(why),
        };
        self.compiled.insert(digest, compiled);
    }

    /// Takes in all loads that have ended.
    pub(super) fn take_loaded(&mut self) {
        while let Some((digest, result)) = futures_util::FutureExt::now_or_never(self.loads.next()) {
            self.loaded(digest, result);
        }
    }

    /// Forgets all other bytes, and stops their loads.
    pub(super) fn retain(&mut self, wanted: &HashSet<Digest>) {
        self.loads.retain(wanted);
        self.compiled.retain(|digest, _| wanted.contains(digest));
    }
}
