use super::*;
use taskhost_core::catalogue::{Body, Hints};

fn version(digest: &str, bodies: &[&str]) -> Version {
    let body = |name: &&str| Body {
        name: TaskName::new(name).unwrap(),
        doc: String::new(),
        parameters: Vec::new(),
        returns: serde_json::Value::Bool(true),
        hints: Hints::default(),
    };
    let description = Description { version: "1".into(), doc: String::new(), bodies: bodies.iter().map(body).collect() };
    Version { digest: digest.into(), description: description.into(), warnings: Arc::from([]), memory: 1 << 20 }
}

fn loaded(digest: &str, bodies: &[&str]) -> Content {
    Content::Loaded(version(digest, bodies))
}

fn bad() -> Content {
    Content::Bad("not a component: build one".into())
}

fn file(name: &str, content: Content, good: Option<Version>) -> Candidate {
    Candidate { file: format!("{name}.wasm"), plugin: name.into(), content, good }
}

/// A directory over several passes: what serves is what the next pass knows as good.
#[derive(Default)]
struct Passes {
    owners: Owners,
    good: BTreeMap<String, Version>,
    last: Vec<PluginInfo>,
    policies: Policies,
}

impl Passes {
    fn pass(&mut self, files: &[(&str, Content)]) -> &mut Self {
        let candidates: Vec<_> =
            files.iter().map(|(name, content)| file(name, content.clone(), self.good.get(&format!("{name}.wasm")).cloned())).collect();
        let judgement = judge(&self.owners, &candidates, Rules { policies: &self.policies, limits: &Limits::default() });
        for (name, owner) in &judgement.owners {
            let reserved = !judgement.serving.contains_key(owner);
            let offers = judgement.serving.get(owner).is_some_and(|v| names(v).contains(name));
            assert!(reserved || offers, "{owner} owns {name} without offering it");
        }
        for version in judgement.serving.values() {
            assert!(names(version).iter().all(|name| judgement.owners.contains_key(name)));
        }
        self.owners = judgement.owners;
        self.good = judgement.serving;
        self.last = judgement.files;
        self
    }

    fn owner(&self, name: &str) -> Option<&str> {
        self.owners.get(&TaskName::new(name).unwrap()).map(String::as_str)
    }

    /// `file digest` of every file that serves.
    fn serving(&self) -> Vec<String> {
        self.good.iter().map(|(file, version)| format!("{file} {}", version.digest)).collect()
    }

    fn info(&self, name: &str) -> &PluginInfo {
        self.last.iter().find(|info| info.file == format!("{name}.wasm")).unwrap()
    }

    fn error(&self, name: &str) -> &str {
        assert_eq!(self.info(name).status, PluginStatus::Failed, "{:?}", self.info(name));
        self.info(name).error.as_deref().unwrap()
    }
}

#[test]
fn a_good_file_serves_its_bodies() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d1", &["add", "multiply"])), ("text", loaded("d2", &["concat"]))]);
    assert_eq!(passes.serving(), ["math.wasm d1", "text.wasm d2"]);
    assert_eq!((passes.owner("add"), passes.owner("concat")), (Some("math.wasm"), Some("text.wasm")));
    let info = passes.info("math");
    assert_eq!((info.status, &info.error), (PluginStatus::Serving, &None));
    assert_eq!(info.serving, Some(CodeId { plugin: "math".into(), version: "1".into(), digest: "d1".into() }));
    assert_eq!(info.description.as_ref().unwrap().bodies.len(), 2);
}

#[test]
fn two_files_exchange_a_body_in_one_pass() {
    let mut passes = Passes::default();
    passes.pass(&[("a", loaded("a1", &["x"])), ("b", loaded("b1", &["y"]))]);
    passes.pass(&[("a", loaded("a2", &["y"])), ("b", loaded("b2", &["x"]))]);
    assert_eq!(passes.serving(), ["a.wasm a2", "b.wasm b2"]);
    assert_eq!((passes.owner("x"), passes.owner("y")), (Some("b.wasm"), Some("a.wasm")));
}

#[test]
fn an_exchange_waits_until_both_files_are_loaded() {
    let mut passes = Passes::default();
    passes.pass(&[("a", loaded("a1", &["x"])), ("b", loaded("b1", &["y"]))]);
    passes.pass(&[("a", loaded("a2", &["y"])), ("b", Content::Loading(None))]);
    assert_eq!(passes.serving(), ["a.wasm a1", "b.wasm b1"]);
    assert!(passes.error("a").contains("`y` of a.wasm is offered by b.wasm already"));
    assert_eq!(passes.info("b").status, PluginStatus::Loading);
    passes.pass(&[("a", loaded("a2", &["y"])), ("b", loaded("b2", &["x"]))]);
    assert_eq!(passes.serving(), ["a.wasm a2", "b.wasm b2"]);
}

#[test]
fn a_renamed_file_keeps_its_names_without_a_gap() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d", &["add"]))]);
    passes.pass(&[("arith", loaded("d", &["add"])), ("math", Content::Absent)]);
    assert_eq!(passes.serving(), ["arith.wasm d"]);
    assert_eq!(passes.owner("add"), Some("arith.wasm"));
}

#[test]
fn a_rename_over_another_file_takes_its_place() {
    let mut passes = Passes::default();
    passes.pass(&[("arith", loaded("old", &["subtract"])), ("math", loaded("d", &["add"]))]);
    passes.pass(&[("arith", loaded("d", &["add"])), ("math", Content::Absent)]);
    assert_eq!(passes.serving(), ["arith.wasm d"]);
    assert_eq!(passes.owner("subtract"), None);
}

#[test]
fn the_new_name_of_a_file_goes_before_others_that_want_its_bodies() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d", &["add"]))]);
    passes.pass(&[("a", loaded("other", &["add"])), ("math", loaded("d", &["add"]))]);
    passes.pass(&[("a", loaded("other", &["add"])), ("math", Content::Absent), ("sums", loaded("d", &["add"]))]);
    assert_eq!(passes.serving(), ["sums.wasm d"]);
    assert!(passes.error("a").contains("sums.wasm"));
}

#[test]
fn a_removed_file_serves_until_it_is_no_candidate_any_more() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d", &["add"])), ("text", loaded("t", &["concat"]))]);
    passes.pass(&[("math", Content::Absent), ("text", loaded("t", &["concat"]))]);
    assert_eq!(passes.serving(), ["math.wasm d", "text.wasm t"]);
    assert!(passes.info("math").warnings[0].contains("gone"));
    passes.pass(&[("text", loaded("t", &["concat"]))]);
    assert_eq!((passes.owner("add"), passes.serving()), (None, vec!["text.wasm t".to_owned()]));
}

#[test]
fn a_name_stays_with_its_owner_and_the_error_names_both_files() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d", &["add"]))]);
    passes.pass(&[("aa", loaded("e", &["add", "more"])), ("math", loaded("d", &["add"]))]);
    assert_eq!(passes.serving(), ["math.wasm d"]);
    assert_eq!(passes.owner("more"), None, "a refused file serves nothing, not half of it");
    assert_eq!(
        passes.error("aa"),
        "`add` of aa.wasm is offered by math.wasm already: rename the body in one of them, or remove one of the two files"
    );
    assert_eq!((&passes.info("aa").serving, &passes.info("aa").description), (&None, &None));
    passes.pass(&[("aa", loaded("e", &["add", "more"]))]);
    assert_eq!(passes.owner("add"), Some("aa.wasm"), "once it is free");
}

#[test]
fn a_copy_beside_the_original_is_refused() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d", &["add"]))]);
    passes.pass(&[("copy", loaded("d", &["add"])), ("math", loaded("d", &["add"]))]);
    assert_eq!(passes.serving(), ["math.wasm d"]);
    passes.pass(&[("copy", loaded("d", &["add"])), ("math", Content::Absent)]);
    assert_eq!(passes.serving(), ["copy.wasm d"], "and takes over without a gap when the original goes");
}

#[test]
fn at_the_start_names_go_to_the_owner_of_before_then_by_file() {
    let both = [("a", loaded("a1", &["add"])), ("b", loaded("b1", &["add"]))];
    let mut fresh = Passes::default();
    assert_eq!(fresh.pass(&both).owner("add"), Some("a.wasm"));
    let mut again = Passes { owners: Owners::from([(TaskName::new("add").unwrap(), "b.wasm".to_owned())]), ..Passes::default() };
    assert_eq!(again.pass(&both).owner("add"), Some("b.wasm"));
    let mut reversed = Passes::default();
    assert_eq!(reversed.pass(&[both[1].clone(), both[0].clone()]).owner("add"), Some("a.wasm"), "not by the order of listing");
}

#[test]
fn a_file_that_is_still_loading_at_the_start_keeps_the_names_it_owned() {
    let mut passes = Passes { owners: Owners::from([(TaskName::new("add").unwrap(), "slow.wasm".to_owned())]), ..Passes::default() };
    passes.pass(&[("a", loaded("a1", &["add"])), ("slow", Content::Loading(None))]);
    assert!(passes.error("a").contains("slow.wasm"));
    assert_eq!((passes.owner("add"), passes.serving()), (Some("slow.wasm"), Vec::new()));
    passes.pass(&[("a", loaded("a1", &["add"])), ("slow", loaded("s1", &["add"]))]);
    assert_eq!(passes.serving(), ["slow.wasm s1"]);
}

#[test]
fn a_bad_replacement_leaves_the_last_good_one_serving() {
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d", &["add"]))]);
    passes.pass(&[("math", bad())]);
    assert_eq!(passes.serving(), ["math.wasm d"]);
    assert_eq!(passes.error("math"), "not a component: build one");
    assert_eq!(passes.info("math").serving.as_ref().unwrap().digest, "d");
    passes.pass(&[("math", loaded("d2", &[]))]);
    assert!(passes.error("math").contains("offers no bodies"));
    assert_eq!(passes.serving(), ["math.wasm d"]);
    passes.pass(&[("math", loaded("d3", &["add"]))]);
    assert_eq!(passes.serving(), ["math.wasm d3"]);
}

#[test]
fn a_bad_file_from_the_start_serves_nothing() {
    let mut passes = Passes::default();
    passes.pass(&[("math", bad()), ("text", loaded("t", &["concat"]))]);
    assert_eq!(passes.serving(), ["text.wasm t"]);
    assert_eq!(passes.error("math"), "not a component: build one");
}

#[test]
fn a_refused_replacement_falls_back_and_takes_back_what_it_had_given_up() {
    let mut passes = Passes::default();
    passes.pass(&[("a", loaded("a1", &["x"])), ("b", loaded("b1", &["y"])), ("c", loaded("c1", &["z"]))]);
    // b gives y up for x, which a keeps; so b falls back to y, and c can't have it.
    passes.pass(&[("a", loaded("a1", &["x"])), ("b", loaded("b2", &["x"])), ("c", loaded("c2", &["y", "z"]))]);
    assert_eq!(passes.serving(), ["a.wasm a1", "b.wasm b1", "c.wasm c1"]);
    assert!(passes.error("b").contains("`x` of b.wasm is offered by a.wasm"));
    assert!(passes.error("c").contains("`y` of c.wasm is offered by b.wasm"));
}

#[test]
fn a_file_refused_for_the_sake_of_a_refused_one_gets_its_turn() {
    let mut passes = Passes::default();
    passes.pass(&[("z", loaded("z1", &["owned"]))]);
    // a and b both want `new`; a goes first by name, but a also wants what z owns.
    passes.pass(&[("a", loaded("a1", &["new", "owned"])), ("b", loaded("b1", &["new"])), ("z", loaded("z1", &["owned"]))]);
    assert_eq!(passes.serving(), ["b.wasm b1", "z.wasm z1"]);
    assert_eq!((passes.info("b").status, &passes.info("b").error), (PluginStatus::Serving, &None));
    passes.error("a");
}

#[test]
fn a_plugin_that_begins_beyond_its_memory_limit_is_refused_until_policy_allows_it() {
    let large = || Content::Loaded(Version { memory: 100 << 20, ..version("d2", &["add"]) });
    let mut passes = Passes::default();
    passes.pass(&[("math", loaded("d1", &["add"]))]).pass(&[("math", large())]);
    assert!(passes.error("math").contains("begins with 100 MiB of memory, more than its limit of 64 MiB"));
    assert!(passes.error("math").ends_with("memory = \"128MiB\" in [plugins.math]"));
    assert_eq!(passes.serving(), ["math.wasm d1"]);
    passes.policies = Policies::parse("[plugins.math]\nmemory = \"128MiB\"", std::path::Path::new(".")).unwrap();
    passes.pass(&[("math", large())]);
    assert_eq!(passes.serving(), ["math.wasm d2"]);
    passes.policies = Policies::default();
    passes.pass(&[("math", large())]);
    assert_eq!(passes.serving(), Vec::<String>::new(), "a policy that forbids it holds for what serves as well");
}

mod any_directory {
    use proptest::prelude::*;

    use super::*;

    fn content() -> impl Strategy<Value = Content> {
        let bodies = proptest::sample::subsequence(vec!["u", "v", "w", "x"], 1..=3);
        prop_oneof![
            5 => bodies.prop_map(|bodies| loaded(&bodies.concat(), &bodies)),
            1 => Just(Content::Loading(None)),
            1 => Just(bad()),
            1 => Just(Content::Absent),
        ]
    }

    proptest! {
        #[test]
        fn serves_each_name_once_and_never_loses_what_it_served(steps in proptest::collection::vec(proptest::collection::vec(content(), 4), 1..6)) {
            let mut passes = Passes::default();
            for step in steps {
                let before = passes.good.clone();
                let files: Vec<_> = ["a", "b", "c", "d"].into_iter().zip(step).collect();
                passes.pass(&files);
                let mut seen = BTreeSet::new();
                for name in passes.good.values().flat_map(names) {
                    prop_assert!(seen.insert(name.clone()), "{name} is served twice");
                }
                for (file, old) in before {
                    let renamed = passes.good.values().any(|now| now.digest == old.digest);
                    prop_assert!(passes.good.contains_key(&file) || renamed, "{file} served and was dropped");
                }
                for info in &passes.last {
                    prop_assert_eq!(info.status == PluginStatus::Failed, info.error.is_some(), "{:?}", info);
                }
            }
        }
    }
}
