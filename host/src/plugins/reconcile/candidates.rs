//! Turns the state of a file into a candidate for the judgement. Pure.

use super::{files::Tracked, versions::Known};
use crate::plugins::{
    digest::Digest,
    judge::{Candidate, Content},
    name::stem,
};

/// `barred`: why its bytes were rolled back. `known`: the knowledge of some bytes.
pub(super) fn candidate(file: &str, tracked: &Tracked, barred: Option<String>, known: impl Fn(&Digest) -> Known) -> Candidate {
    let good = tracked.good.as_ref().map(&known);
    let is_good_loading = matches!(good, Some(Known::Loading(_)));
    let content = match content(tracked, barred, known) {
        // The file's fate is open until its last good version is loaded.
        Content::Bad(_) | Content::Barred(_) if is_good_loading => Content::Loading(None),
        content => content,
    };
    let good = match good {
        Some(Known::Loaded(version)) => Some(version),
        _ => None,
    };
    Candidate { file: file.to_owned(), plugin: stem(file).to_owned(), content, good }
}

fn content(tracked: &Tracked, barred: Option<String>, known: impl Fn(&Digest) -> Known) -> Content {
    if tracked.absent.is_some() {
        return Content::Absent;
    }
    if let Some(why) = &tracked.trouble {
        return Content::Bad(why.clone());
    }
    let Some(digest) = tracked.digest() else { return Content::Loading(None) };
    if let Some(why) = barred {
        return Content::Barred(why);
    }
    match known(digest) {
        Known::Unverified(why) => Content::Loading(Some(why)),
        Known::Distrusted(why) | Known::Bad(why) => Content::Bad(why),
        Known::Loading(note) => Content::Loading(note),
        Known::Loaded(version) => Content::Loaded(version),
    }
}

#[cfg(test)]
mod tests {
    use taskhost_core::catalogue::Description;
    use tokio::time::Instant;

    use super::*;
    use crate::plugins::directory::Identity;

    fn version(digest: &str) -> Version {
        let description = Description { version: "1".into(), doc: String::new(), bodies: Vec::new() };
        Version { digest: digest.into(), description: description.into(), warnings: [].into(), memory: 0 }
    }

    use crate::plugins::judge::Version;

    /// Each possible knowledge of some bytes.
    fn every_known(digest: &str) -> [Known; 5] {
        [
            Known::Unverified("unverified".into()),
            Known::Distrusted("distrusted".into()),
            Known::Loading(None),
            Known::Bad("bad".into()),
            Known::Loaded(version(digest)),
        ]
    }

    fn identity() -> Identity {
        Identity::of(&std::fs::metadata("/").unwrap())
    }

    #[test]
    fn a_file_that_is_not_there_or_not_readable_says_so_whatever_is_known_of_its_bytes() {
        for known in every_known("new") {
            let of = |tracked: Tracked| candidate("math.wasm", &tracked, None, |_| known.clone()).content;
            assert_eq!(of(Tracked { absent: Some((Instant::now(), 1)), ..Tracked::default() }), Content::Absent);
            assert_eq!(of(Tracked { trouble: Some("a pipe".into()), ..Tracked::default() }), Content::Bad("a pipe".into()));
            assert_eq!(of(Tracked::default()), Content::Loading(None), "it is being written");
        }
    }

    /// Every knowledge of the file's bytes × every knowledge of its last good version × barred or not.
    #[test]
    fn each_combination_of_bytes_and_last_good_version_has_its_content() {
        let bad = |why: &str| Content::Bad(why.into());
        for captured in every_known("new") {
            for good in every_known("old").map(Some).into_iter().chain([None]) {
                for barred in [None, Some("rolled back".to_owned())] {
                    let tracked = Tracked {
                        captured: Some((identity(), "new".into())),
                        good: good.is_some().then(|| "old".into()),
                        ..Tracked::default()
                    };
                    let known = |digest: &Digest| if &**digest == "new" { captured.clone() } else { good.clone().unwrap() };
                    let found = candidate("math.wasm", &tracked, barred.clone(), known);
                    let is_open = good == Some(Known::Loading(None));
                    let wanted = match (&captured, &barred) {
                        (Known::Loaded(new), None) => Content::Loaded(new.clone()),
                        (Known::Unverified(_), None) => Content::Loading(Some("unverified".into())),
                        (Known::Loading(_), None) => Content::Loading(None),
                        _ if is_open => Content::Loading(None),
                        (_, Some(why)) => Content::Barred(why.clone()),
                        (Known::Distrusted(_), None) => bad("distrusted"),
                        (Known::Bad(_), None) => bad("bad"),
                    };
                    assert_eq!(found.content, wanted, "{captured:?}, good {good:?}, barred {barred:?}");
                    let falls_back = matches!(good, Some(Known::Loaded(_)));
                    assert_eq!(found.good.is_some(), falls_back, "only a loaded and trusted version serves on: {good:?}");
                }
            }
        }
    }
}
