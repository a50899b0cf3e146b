//! The words of the pages: English in the code, Chinese in `words.txt`.
//!
//! Invariant: each English text that the code names stands in the file. A test reads the code to see it.

use std::{collections::HashMap, sync::LazyLock};

use axum::http::{HeaderMap, header};

use crate::serve::cookie::cookie;

/// `English = 中文`, a line each.
const FILE: &str = include_str!("words.txt");

static CHINESE: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| FILE.lines().filter_map(|line| line.split_once(" = ")).collect());

/// A language of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    English,
    Chinese,
}

impl Words {
    /// The language that the reader chose, else the one that the browser prefers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let chosen = cookie(headers, "taskhost_language");
        let preferred = || headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let word = chosen.unwrap_or_else(|| preferred().split([',', ';']).next().unwrap_or_default());
        if word.trim().to_ascii_lowercase().starts_with("zh") { Self::Chinese } else { Self::English }
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }

    /// A text in this language.
    pub(super) fn say(self, english: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::Chinese => CHINESE.get(english).copied().unwrap_or(english),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn each_text_of_the_pages_has_a_translation_and_none_is_left_over() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/pages");
        let mut used = BTreeSet::new();
        for file in fs::read_dir(folder).expect("the pages").map(|entry| entry.expect("an entry").path()) {
            if file.extension().is_none_or(|extension| extension != "rs") || file.ends_with("words.rs") {
                continue;
            }
            let text = fs::read_to_string(file).expect("a file");
            let said = text.split("say(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
            used.extend(said.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
            let marked = text.split("w!(").skip(1).filter_map(|rest| rest.strip_prefix('"'));
            used.extend(marked.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
        }
        let known: BTreeSet<_> =
            FILE.lines().filter(|line| !line.is_empty()).map(|line| line.split(" = ").next().unwrap_or(line).to_owned()).collect();
        let missing: Vec<_> = used.difference(&known).collect();
        let left_over: Vec<_> = known.difference(&used).collect();
        assert!(missing.is_empty() && left_over.is_empty(), "missing: {missing:#?}\nleft over: {left_over:#?}");
        assert!(FILE.lines().filter(|line| !line.is_empty()).all(|line| line.matches(" = ").count() == 1));
    }

    #[test]
    fn the_language_is_chosen_or_the_browser_s() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            Words::of(&pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect())
        };
        assert_eq!(of(&[]), Words::English);
        assert_eq!(of(&[("accept-language", "zh-CN,zh;q=0.9,en;q=0.8")]), Words::Chinese);
        assert_eq!(of(&[("accept-language", "de,zh;q=0.1")]), Words::English);
        assert_eq!(of(&[("accept-language", "zh"), ("cookie", "taskhost_language=en")]), Words::English);
    }
}
