//! Judges all candidates together: which version of which file serves which names from now on. Pure.
//!
//! present owners of names + candidates + policies → [`Judgement`]: the serving version of each file, the owner of each name, and a sentence
//! for each refused file
//!
//! Invariant: no name has two owners. A refused file changes nothing for the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{digest::Digest, policy::Policies};
use crate::engine::Limits;
use taskhost_core::{
    catalogue::{Description, PluginInfo, PluginStatus},
    task::{CodeId, TaskName},
};

/// Which file serves each name.
pub(super) type Owners = BTreeMap<TaskName, String>;

/// The facts of a loaded version that judging needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    pub(super) digest: Digest,
    pub(super) description: Arc<Description>,
    pub(super) warnings: Arc<[String]>,
    /// Bytes of memory at the start of an attempt.
    pub(super) memory: u64,
}

/// The content under a file's name.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// The file is missing, but not for long enough to be unloaded.
    Absent,
    /// It is being written or loaded. The note tells if that takes more than one try.
    Loading(Option<String>),
    /// It can't be read or is not a plugin. The sentence says why.
    Bad(String),
    /// It is a plugin, but was rolled back. The sentence says why.
    Barred(String),
    Loaded(Version),
}

/// One file as a pass found it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    /// File name, such as `math.wasm`.
    pub(super) file: String,
    /// The stem of its name, by which policies are found. A bad name counts as bad content.
    pub(super) plugin: String,
    pub(super) content: Content,
    /// The version that this file last served.
    pub(super) good: Option<Version>,
}

/// The rules that versions must keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) policies: &'a Policies,
    /// The limits that a policy does not set.
    pub(super) limits: &'a Limits,
}

/// The decision of a pass.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Judgement {
    /// By file.
    pub(super) serving: BTreeMap<String, Version>,
    pub(super) owners: Owners,
    /// In the order of the candidates.
    pub(super) files: Vec<PluginInfo>,
}

pub(super) fn judge(owners: &Owners, candidates: &[Candidate], rules: Rules<'_>) -> Judgement {
    let heirs = heirs(candidates);
    let owners: Owners =
        owners.iter().map(|(name, file)| (name.clone(), heirs.get(file.as_str()).unwrap_or(&file.as_str()).to_string())).collect();
    let mut contest = Contest::new(&owners, candidates, rules, &heirs);
    contest.resolve_clashes();
    contest.raise();
    let files = candidates.iter().enumerate().map(|(i, candidate)| contest.info(i, candidate)).collect();
    let mut judgement = Judgement { files, ..Judgement::default() };
    for (i, candidate) in candidates.iter().enumerate() {
        let Some(option) = contest.choice(i) else { continue };
        judgement.owners.extend(option.names.iter().map(|name| (name.clone(), candidate.file.clone())));
        if let Some(version) = &option.version {
            judgement.serving.insert(candidate.file.clone(), version.clone());
        }
    }
    judgement
}

/// Files that are gone, each with the file that now has the bytes that it served. This is a rename, and takes effect at once.
fn heirs(candidates: &[Candidate]) -> BTreeMap<&str, &str> {
    let mut taken = BTreeSet::new();
    let mut heirs = BTreeMap::new();
    for gone in candidates.iter().filter(|c| c.content == Content::Absent) {
        let Some(good) = &gone.good else { continue };
        let has_its_bytes = |c: &&Candidate| matches!(&c.content, Content::Loaded(v) if v.digest == good.digest);
        // A file that served these bytes before is a copy, not a new name.
        let is_new = |c: &&Candidate| c.good.as_ref().is_none_or(|g| g.digest != good.digest);
        if let Some(heir) = candidates.iter().filter(has_its_bytes).filter(is_new).find(|c| !taken.contains(c.file.as_str())) {
            taken.insert(heir.file.as_str());
            heirs.insert(gone.file.as_str(), heir.file.as_str());
        }
    }
    heirs
}

/// The versions that a file may serve, best first. After the last it serves nothing.
struct Choice {
    names: BTreeSet<TaskName>,
    /// `None` holds the names of a file that owned them and is still being loaded.
    version: Option<Version>,
    is_new: bool,
}

struct Contest<'a> {
    owners: &'a Owners,
    files: Vec<&'a str>,
    choices: Vec<Vec<Choice>>,
    /// Index into `choices` of each file.
    chosen: Vec<usize>,
    /// For each file: why its own bytes are refused.
    refused: Vec<Option<String>>,
}

impl<'a> Contest<'a> {
    fn new(owners: &'a Owners, candidates: &'a [Candidate], rules: Rules<'_>, heirs: &BTreeMap<&str, &str>) -> Self {
        let mut contest = Self {
            owners,
            files: candidates.iter().map(|c| c.file.as_str()).collect(),
            choices: Vec::new(),
            chosen: vec![0; candidates.len()],
            refused: vec![None; candidates.len()],
        };
        for (i, candidate) in candidates.iter().enumerate() {
            let mut choices = Vec::new();
            if !heirs.contains_key(candidate.file.as_str()) {
                let mut offer = |version: &Version, is_new: bool| match admit(version, &candidate.plugin, rules) {
                    Ok(()) => choices.push(Choice { names: names(version), version: Some(version.clone()), is_new }),
                    Err(why) => contest.refused[i] = Some(why),
                };
                match &candidate.content {
                    Content::Loaded(version) => offer(version, true),
                    Content::Bad(_) | Content::Barred(_) | Content::Absent | Content::Loading(_) => {}
                }
                match (&candidate.content, &candidate.good) {
                    (Content::Loaded(version), Some(good)) if version.digest == good.digest => {}
                    (_, Some(good)) => offer(good, false),
                    (Content::Loading(_), None) => {
                        let names = owners.iter().filter(|(_, owner)| **owner == candidate.file).map(|(name, _)| name.clone()).collect();
                        choices.push(Choice { names, version: None, is_new: false });
                    }
                    _ => {}
                }
            }
            contest.choices.push(choices);
        }
        contest
    }

    fn choice(&self, i: usize) -> Option<&Choice> {
        self.choices[i].get(self.chosen[i])
    }

    /// Steps losers down until no name is claimed twice. A file owns the names that it already serves, so a step down can only take a name
    /// from a newcomer, never from the old version of another file.
    fn resolve_clashes(&mut self) {
        while let Some((name, winner, losers)) = self.first_clash() {
            for loser in losers {
                let (winner, file) = (self.files[winner], self.files[loser]);
                if self.choice(loser).is_some_and(|choice| choice.is_new) {
                    self.refused[loser] = Some(format!(
                        "`{name}` of {file} is offered by {winner} already: rename the body in one of them, or remove one of the two files"
                    ));
                }
                self.chosen[loser] += 1;
            }
        }
    }

    /// Steps losers up again if the winner itself stepped down later, and the names are free now.
    fn raise(&mut self) {
        for i in 0..self.files.len() {
            for better in 0..self.chosen[i] {
                let free = |name: &TaskName| self.claimants(name).all(|claimant| claimant == i);
                if self.choices[i][better].names.iter().all(free) {
                    self.chosen[i] = better;
                    if self.choices[i][better].is_new {
                        self.refused[i] = None;
                    }
                    break;
                }
            }
        }
    }

    fn claimants(&self, name: &TaskName) -> impl Iterator<Item = usize> {
        (0..self.files.len()).filter(move |i| self.choice(*i).is_some_and(|choice| choice.names.contains(name)))
    }

    /// A name that several files claim: the file that keeps it, and the others.
    fn first_clash(&self) -> Option<(TaskName, usize, Vec<usize>)> {
        let mut claims: BTreeMap<&TaskName, Vec<usize>> = BTreeMap::new();
        for i in 0..self.files.len() {
            for name in self.choice(i).iter().flat_map(|choice| &choice.names) {
                claims.entry(name).or_default().push(i);
            }
        }
        let (name, claimants) = claims.into_iter().find(|(_, claimants)| claimants.len() > 1)?;
        let owner = self.owners.get(name);
        // By file name, not by the order of the candidates, so that every worker judges the same files alike.
        let winner = claimants.iter().copied().min_by_key(|i| (owner.is_none_or(|owner| owner != self.files[*i]), self.files[*i]))?;
        Some((name.clone(), winner, claimants.into_iter().filter(|i| *i != winner).collect()))
    }

    fn info(&self, i: usize, candidate: &Candidate) -> PluginInfo {
        let version = self.choice(i).and_then(|choice| choice.version.as_ref());
        let is_new = self.choice(i).is_some_and(|choice| choice.is_new);
        let mut warnings: Vec<String> = version.iter().flat_map(|v| v.warnings.iter().cloned()).collect();
        let (status, error) = match &candidate.content {
            Content::Loaded(_) if is_new => (PluginStatus::Serving, None),
            Content::Loaded(_) => (PluginStatus::Failed, self.refused[i].clone()),
            Content::Bad(why) => (PluginStatus::Failed, Some(why.clone())),
            Content::Barred(why) => (PluginStatus::RolledBack, Some(why.clone())),
            Content::Loading(note) => (PluginStatus::Loading, note.clone()),
            Content::Absent => {
                warnings.push(format!("{} is gone from the plugin directory and about to be unloaded", candidate.file));
                (PluginStatus::Serving, None)
            }
        };
        PluginInfo {
            file: candidate.file.clone(),
            status,
            serving: version.map(|v| code_id(&candidate.plugin, v)),
            error,
            warnings,
            description: version.map(|v| (*v.description).clone()),
            granted: Vec::new(),
            lacking: Vec::new(),
        }
    }
}

/// The checks of every version in every pass, new or last good: policy and signature. Only bad new bytes are replaced by the last good
/// version; that happens elsewhere.
fn admit(version: &Version, plugin: &str, rules: Rules<'_>) -> Result<(), String> {
    if version.description.bodies.is_empty() {
        return Err(format!("{plugin}.wasm offers no bodies: export at least one, in Rust by `export_plugin!(body, …)`"));
    }
    let limit = rules.policies.plugins.get(plugin).and_then(|policy| policy.memory).unwrap_or(rules.limits.memory);
    if version.memory > limit {
        let needed = version.memory.div_ceil(1 << 20);
        return Err(format!(
            "{plugin}.wasm begins with {needed} MiB of memory, more than its limit of {} MiB: build it with less initial memory, or allow \
             it by memory = \"{}MiB\" in [plugins.{plugin}]",
            limit >> 20,
            needed.next_power_of_two()
        ));
    }
    Ok(())
}

fn names(version: &Version) -> BTreeSet<TaskName> {
    version.description.bodies.iter().map(|body| body.name.clone()).collect()
}

pub(super) fn code_id(plugin: &str, version: &Version) -> CodeId {
    CodeId { plugin: plugin.to_owned(), version: version.description.version.clone(), digest: version.digest.to_string() }
}

#[cfg(test)]
mod tests;
