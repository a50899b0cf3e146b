//! Flows played in memory: what they do, and bad input. `orders` plays any graph in any order.

mod orders;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::json;

use super::*;
use crate::task::Millis;

const LIMIT: usize = 1 << 20;

/// A broker for one flow.
#[derive(Debug, Clone)]
struct Sim {
    plan: Plan,
    input: String,
    state: FlowState,
    records: BTreeMap<Node, Record>,
    results: BTreeMap<Node, String>,
    signals: BTreeMap<String, String>,
    /// Tasks on their way.
    running: BTreeMap<(Node, u32), String>,
    asked_to_stop: BTreeSet<(Node, u32)>,
    /// What began, in this order.
    begun: Vec<(Node, u32)>,
    known: HashSet<(Node, u32)>,
    now: Millis,
    wake: Option<Millis>,
    ends: usize,
    result: Option<String>,
}

impl Sim {
    fn new(flow: &serde_json::Value, input: &str) -> Self {
        let plan = Plan::read(flow).unwrap_or_else(|error| panic!("{error}"));
        let now = Millis(1_000_000);
        let View { state, records, .. } = View::fresh(&plan, input, now);
        let mut sim = Self {
            plan,
            input: input.to_owned(),
            state,
            records,
            results: BTreeMap::new(),
            signals: BTreeMap::new(),
            running: BTreeMap::new(),
            asked_to_stop: BTreeSet::new(),
            begun: Vec::new(),
            known: HashSet::new(),
            now,
            wake: None,
            ends: 0,
            result: None,
        };
        sim.feed(&[]);
        sim
    }

    /// Decides as a driver does: with the records of the steps first, then with what was missing.
    fn decide(&self, events: &[Event]) -> Advanced {
        let mut view = View { state: self.state.clone(), input: self.input.clone(), signals: self.signals.clone(), ..View::default() };
        for step in 0..self.plan.steps.len() {
            let node = Node::step(step);
            view.records.insert(node, self.records.get(&node).cloned().unwrap_or_default());
        }
        loop {
            match advance(&self.plan, &view, events, self.now, LIMIT) {
                Ok(advanced) => return advanced,
                Err(missing) => {
                    assert!(missing != Missing::default(), "something is asked for");
                    for node in missing.records {
                        let known = view.records.insert(node, self.records.get(&node).cloned().unwrap_or_default());
                        assert_eq!(known, None, "nothing is asked for twice");
                    }
                    for node in missing.results {
                        let known = view.results.insert(node, self.results.get(&node).cloned().unwrap_or_else(|| "null".into()));
                        assert_eq!(known, None, "nothing is asked for twice");
                    }
                }
            }
        }
    }

    fn feed(&mut self, events: &[Event]) {
        let begins_again = events.iter().any(|event| matches!(event, Event::Retry(_) | Event::Reopened { .. }));
        let had_ended = self.state.word.is_ended() && !begins_again;
        let advanced = self.decide(events);
        for record in advanced.writes.values() {
            assert_eq!(record.to_string().parse().as_ref(), Ok(record));
        }
        self.records.extend(advanced.writes);
        self.state = advanced.state;
        self.wake = advanced.wake;
        for effect in advanced.effects {
            match effect {
                Effect::Start { node, epoch, args, .. } | Effect::StartFlow { node, epoch, input: args } => {
                    self.check_rule(node);
                    assert!(self.running.range((node, 0)..=(node, u32::MAX)).next().is_none(), "one epoch of a node lives");
                    assert!(self.known.insert((node, epoch)), "an epoch begins once");
                    serde_json::from_str::<serde_json::Value>(&args).expect("JSON");
                    self.running.insert((node, epoch), args);
                    self.begun.push((node, epoch));
                }
                Effect::Cancel { node, epoch } => _ = self.asked_to_stop.insert((node, epoch)),
                Effect::End { result } => {
                    assert_eq!(result.is_some(), self.state.word == FlowWord::Succeeded);
                    self.result = result;
                    assert!(!had_ended && self.running.is_empty(), "the end comes once, after all tasks: {:?}", self.running);
                    self.ends += 1;
                }
            }
        }
        assert_eq!(self.state.to_string().parse().as_ref(), Ok(&self.state));
        assert_eq!(self.state.word.is_ended(), self.wake.is_none() && self.state.word.is_ended());
        if self.wake == Some(self.now) {
            // So many items that one decision did not start all.
            self.feed(&[]);
        }
    }

    /// No node starts before its rule holds.
    fn check_rule(&self, node: Node) {
        if node.is_undo {
            assert_eq!(self.state.word, FlowWord::Undoing);
            let undone = Node { is_undo: false, ..node };
            assert_eq!(self.records[&undone].word, Word::Succeeded, "only what succeeded is undone");
            return;
        }
        assert!(!self.state.word.is_ended(), "nothing starts in a flow that has ended");
        let step = &self.plan.steps[node.step];
        let words: Vec<Word> = step.needs.iter().map(|need| self.records[&Node::step(*need)].word).collect();
        let holds = match step.rule {
            Rule::Success => words.iter().all(|word| *word == Word::Succeeded),
            Rule::Failure => {
                words.iter().all(|word| word.is_ended()) && words.iter().any(|word| matches!(word, Word::Dead | Word::Cancelled))
            }
            Rule::End => words.iter().all(|word| word.is_ended()),
        };
        assert!(holds, "{} starts after {words:?}", step.name);
    }

    fn node(&self, name: &str) -> Node {
        Node::parse(name, &self.plan).unwrap_or_else(|| panic!("no node {name}"))
    }

    fn args(&self, name: &str) -> &str {
        let node = self.node(name);
        let found = self.running.iter().find(|((running, _), _)| *running == node);
        found.map_or_else(|| panic!("{name} does not run"), |(_, args)| args)
    }

    fn end_of(&mut self, node: Node, epoch: u32, end: End) -> Event {
        if let End::Succeeded(Some(result)) = &end {
            self.results.insert(node, result.clone());
        }
        self.running.remove(&(node, epoch));
        Event::Ended { node, epoch, end }
    }

    fn end(&mut self, name: &str, end: End) {
        let node = self.node(name);
        let epoch = self.running.keys().find(|(running, _)| *running == node).unwrap_or_else(|| panic!("{name} does not run")).1;
        let event = self.end_of(node, epoch, end);
        self.feed(std::slice::from_ref(&event));
        // Whatever comes twice counts once.
        let stands = (self.records.clone(), self.state.clone());
        self.feed(&[event]);
        assert_eq!((self.records.clone(), self.state.clone()), stands, "{name} ended twice");
    }

    fn ok(&mut self, name: &str, result: &str) {
        self.end(name, End::Succeeded(Some(result.into())));
    }

    fn dead(&mut self, name: &str) {
        self.end(name, End::Dead("no".into()));
    }

    fn signal(&mut self, name: &str, value: &str) {
        self.signals.entry(name.into()).or_insert_with(|| value.into());
        self.feed(&[]);
    }

    fn word(&self, name: &str) -> Word {
        self.records.get(&self.node(name)).cloned().unwrap_or_default().word
    }

    fn running(&self) -> Vec<String> {
        self.running.keys().map(|(node, _)| node.name(&self.plan)).collect()
    }
}

fn order() -> serde_json::Value {
    json!({"flow": 1, "name": "order", "deadline": "2h", "steps": {
        "load": {"task": "load", "args": [{"from": "input", "at": "/id"}]},
        "resize": {"task": "resize", "map": {"from": "load", "at": "/files"}, "args": [{"item": ""}, {"index": true}], "parallel": 2, "undo": {"task": "unlink"}},
        "ok": {"wait": {"signal": "approved", "timeout": "2d"}, "after": ["resize"]},
        "bill": {"task": "bill", "args": [{"from": "resize"}], "after": ["ok"], "when": {"from": "ok", "at": "/yes", "is": true}, "undo": {"task": "refund", "args": [{"own": ""}]}},
        "ship": {"task": "ship", "after": "bill"},
        "alert": {"task": "mail", "args": [{"failure": "ship"}], "after": ["ship"], "on": "failure"}}})
}

#[test]
fn an_order_goes_its_way() {
    let mut sim = Sim::new(&order(), r#"{"id": 7}"#);
    assert_eq!(sim.args("load"), "[7]");
    sim.ok("load", r#"{"files": ["a", "b", "c"]}"#);
    assert_eq!(sim.running(), ["resize.0", "resize.1"], "two at once");
    assert_eq!(sim.args("resize.1"), r#"["b",1]"#);
    sim.ok("resize.1", "11");
    sim.ok("resize.0", "10");
    sim.ok("resize.2", "12345678901234567890123");
    assert_eq!((sim.word("resize"), sim.word("ok"), sim.running().len()), (Word::Succeeded, Word::Waiting, 0));
    sim.signal("other", "1");
    assert_eq!(sim.word("ok"), Word::Waiting);
    sim.signal("approved", r#"{"yes": true}"#);
    sim.signal("approved", r#"{"yes": false}"#);
    assert_eq!(sim.args("bill"), "[[10,11,12345678901234567890123]]");
    sim.ok("bill", "1");
    sim.ok("ship", "2");
    assert_eq!((sim.state.word, sim.ends, sim.word("alert")), (FlowWord::Succeeded, 1, Word::Skipped));
    assert_eq!(sim.result.as_deref(), Some("2"), "that of the last step");
    let shown = progress(&sim.plan, &sim.records);
    assert_eq!((shown.total, shown.succeeded, shown.skipped), (8, 7, 1));
    sim.feed(&[Event::Cancel]);
    sim.feed(&[Event::Retry(None)]);
    assert_eq!(sim.state.word, FlowWord::Succeeded, "what has succeeded stays so");
}

#[test]
fn a_failure_is_told_undone_newest_first_and_retried_alone() {
    let mut sim = Sim::new(&order(), r#"{"id": 7}"#);
    sim.ok("load", r#"{"files": ["a", "b"]}"#);
    sim.signal("approved", r#"{"yes": true}"#);
    sim.ok("resize.0", "10");
    sim.ok("resize.1", "11");
    sim.ok("bill", "\"receipt\"");
    sim.dead("ship");
    assert_eq!((sim.state.word, sim.args("alert")), (FlowWord::Failing, r#"["no"]"#));
    sim.ok("alert", "1");
    assert_eq!((sim.running(), sim.args("bill.undo")), (vec!["bill.undo".to_owned()], r#"["receipt"]"#));
    sim.ok("bill.undo", "1");
    assert_eq!(sim.running(), ["resize.0.undo", "resize.1.undo"]);
    assert_eq!(sim.args("resize.1.undo"), "[11]");
    sim.ok("resize.1.undo", "1");
    sim.dead("resize.0.undo");
    assert_eq!((sim.state.word, sim.ends), (FlowWord::Failed, 1));
    assert_eq!(sim.state.why.as_deref(), Some("step `ship`: no"));

    // What was undone runs again too; what needed no undoing does not.
    sim.feed(&[Event::Retry(Some(sim.plan.step("ship").unwrap()))]);
    assert_eq!((sim.state.word, sim.running()), (FlowWord::Running, vec!["resize.0".to_owned(), "resize.1".to_owned()]));
    sim.ok("resize.0", "20");
    sim.ok("resize.1", "21");
    assert_eq!(sim.args("bill"), "[[20,21]]");
    sim.ok("bill", "1");
    sim.ok("ship", "1");
    assert_eq!((sim.state.word, sim.word("load"), sim.word("alert")), (FlowWord::Succeeded, Word::Succeeded, Word::Skipped));
    assert_eq!(sim.begun.iter().filter(|(node, _)| *node == sim.node("load")).count(), 1);
}

#[test]
fn an_item_that_fails_fails_its_step_unless_it_may() {
    let flow = |more: &str| {
        let text = format!(
            r#"{{"flow": 1, "name": "f", "steps": {{
            "all": {{"group": [{{"task": "a"}}, {{"task": "b", "args": [1]}}, {{"task": "c"}}], "parallel": 2{more}}},
            "sum": {{"task": "sum", "args": [{{"from": "all"}}]}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let mut sim = Sim::new(&flow(""), "null");
    sim.dead("all.1");
    assert_eq!((sim.running(), sim.asked_to_stop.len()), (vec!["all.0".to_owned()], 1), "nothing more of it starts");
    sim.end("all.0", End::Cancelled);
    assert_eq!((sim.state.word, sim.word("all"), sim.word("sum")), (FlowWord::Failed, Word::Dead, Word::Skipped));
    assert_eq!(sim.state.why.as_deref(), Some("step `all`: item 1: no"));
    sim.feed(&[Event::Retry(None)]);
    assert_eq!(sim.running(), ["all.0", "all.1"]);
    sim.ok("all.1", "2");
    sim.ok("all.0", "1");
    sim.ok("all.2", "3");
    assert_eq!(sim.args("sum"), "[[1,2,3]]");

    let mut sim = Sim::new(&flow(r#", "on_failure": "continue""#), "null");
    sim.dead("all.1");
    sim.ok("all.0", "1");
    sim.ok("all.2", "3");
    assert_eq!(sim.args("sum"), "[[1,null,3]]");
    sim.ok("sum", "4");
    assert_eq!(sim.state.word, FlowWord::Succeeded);
}

#[test]
fn cancel_deadline_timers_and_empty_lists() {
    let mut sim = Sim::new(&order(), r#"{"id": 7}"#);
    sim.ok("load", r#"{"files": ["a"]}"#);
    sim.ok("resize.0", "1");
    sim.feed(&[Event::Cancel]);
    assert_eq!((sim.word("ok"), sim.word("bill"), sim.word("alert")), (Word::Cancelled, Word::Skipped, Word::Skipped));
    assert_eq!(sim.running(), ["resize.0.undo"], "a cancelled flow starts nothing but undo");
    sim.ok("resize.0.undo", "1");
    assert_eq!((sim.state.word, sim.ends), (FlowWord::Cancelled, 1));

    let mut late = Sim::new(&order(), "{}");
    assert_eq!(late.wake, Some(late.now.after(std::time::Duration::from_secs(7200))));
    late.now = late.wake.unwrap();
    late.feed(&[]);
    assert_eq!((late.state.word, late.asked_to_stop.len()), (FlowWord::Stopping, 1));
    late.end("load", End::Cancelled);
    assert_eq!((late.state.word, late.state.why.as_deref()), (FlowWord::Failed, Some("its deadline is over")));

    let timed = json!({"flow": 1, "name": "t", "steps": {
        "pause": {"wait": {"for": "10m"}},
        "none": {"task": "x", "map": {"from": "input"}, "after": "pause"},
        "ask": {"wait": {"signal": "s", "timeout": "1m"}, "after": "none", "on_failure": "continue"},
        "end": {"task": "y", "after": "ask", "on": "end"}}});
    let mut sim = Sim::new(&timed, "[]");
    for _ in 0..2 {
        sim.now = sim.wake.expect("it waits");
        sim.feed(&[]);
    }
    assert_eq!((sim.word("none"), sim.word("ask"), sim.running()), (Word::Succeeded, Word::Dead, vec!["end".to_owned()]));
    sim.ok("end", "1");
    assert_eq!(sim.state.word, FlowWord::Succeeded, "the flow goes on without what may fail");
}

#[test]
fn a_wrong_flow_is_refused_with_its_place() {
    let steps = |steps: serde_json::Value| json!({"flow": 1, "name": "f", "steps": steps}).to_string();
    let many: serde_json::Map<_, _> = (0..1_001).map(|n| (format!("s{n}"), json!({"task": "a"}))).collect();
    let members: Vec<_> = (0..100_001).map(|_| json!({"task": "a"})).collect();
    let deep = (0..9).fold(json!({"task": "a"}), |inner, _| json!({"flow": {"flow": 1, "name": "f", "steps": {"a": inner}}}));
    for (text, at, why) in [
        ("{".to_owned(), "/", "not JSON"),
        ("[]".to_owned(), "/", "not a list"),
        ("{}".to_owned(), "/", "`\"flow\": 1` is missing"),
        (r#"{"flow": 2}"#.to_owned(), "/flow", "version 1"),
        (r#"{"flow": 1, "nam": "x"}"#.to_owned(), "/nam", "is `name` meant?"),
        (r#"{"flow": 1, "name": "1x"}"#.to_owned(), "/name", "starts with a letter"),
        (r#"{"flow": 1, "name": "x", "steps": {}}"#.to_owned(), "/steps", "at least one step"),
        (r#"{"flow": 1, "name": "x", "deadline": "soon", "steps": {}}"#.to_owned(), "/deadline", "soon"),
        (steps(json!({"a.b": {"task": "x"}})), "/steps/a.b", "starts with a letter"),
        (steps(json!({"a": {}})), "/steps/a", "`task`, a `group`"),
        (steps(json!({"a": {"task": "x", "wait": {"for": "1s"}}})), "/steps/a", "task and wait"),
        (steps(json!({"a": {"task": "x y"}})), "/steps/a/task", "a task name"),
        (steps(json!({"a": {"task": "x", "args": {}}})), "/steps/a/args", "a list of arguments"),
        (steps(json!({"a": {"task": "x", "priority": 10}})), "/steps/a/priority", "from 0 to 9"),
        (steps(json!({"a": {"task": "x", "after": ["c"]}, "bill": {"task": "x"}})), "/steps/a/after/0", "no step `c`"),
        (steps(json!({"a": {"task": "x", "args": [{"from": "bil"}]}, "bill": {"task": "x"}})), "/steps/a/args/0/from", "is `bill` meant?"),
        (steps(json!({"a": {"task": "x", "args": [{"item": ""}]}})), "/steps/a/args/0", "only a step with `map`"),
        (steps(json!({"a": {"task": "x", "args": [{"own": ""}]}})), "/steps/a/args/0", "only `undo`"),
        (steps(json!({"a": {"task": "x", "args": [{"from": "input", "at": "id"}]}})), "/steps/a/args/0/at", "begins with `/`"),
        (steps(json!({"a": {"task": "x", "on": "failure"}})), "/steps/a/on", "name them in `after`"),
        (steps(json!({"a": {"wait": {"signal": "s", "for": "1s"}}})), "/steps/a/wait", "a `signal`"),
        (steps(json!({"a": {"wait": {"for": "1s"}, "args": [1]}})), "/steps/a/args", "does not belong"),
        (steps(json!({"a": {"wait": {"for": "1s"}, "undo": {"task": "x"}}})), "/steps/a/undo", "a task can be undone"),
        (steps(json!({"a": {"group": []}})), "/steps/a/group", "at least one task"),
        (steps(json!({"a": {"task": "x", "after": ["b"]}, "b": {"task": "x", "args": [{"from": "a"}]}})), "/steps", "`b` → `a` → `b`"),
        (steps(json!({"a": {"task": "x", "after": ["a"]}})), "/steps", "`a` → `a`"),
        (steps(serde_json::Value::Object(many)), "/steps", "at most 1000 steps"),
        (steps(json!({"a": {"group": members}})), "/steps/a/group", "at most 100000 nodes"),
        (steps(json!({"a": deep})), "", "at most 8 deep"),
    ] {
        let error = Plan::compile(&text).expect_err(at);
        assert!((at.is_empty() || error.at == at) && error.why.contains(why), "{at} {why}: {error}");
    }
}

#[test]
fn a_thousand_steps_and_ten_thousand_items_are_decided() {
    let chain: serde_json::Map<_, _> = (0..1_000)
        .map(|n: u32| {
            (format!("s{n:03}"), if n == 0 { json!({"task": "a"}) } else { json!({"task": "a", "after": format!("s{:03}", n - 1)}) })
        })
        .collect();
    let mut sim = Sim::new(&json!({"flow": 1, "name": "chain", "steps": chain}), "null");
    for n in 0..1_000 {
        let event = sim.end_of(Node::step(n), 1, End::Succeeded(None));
        sim.feed(&[event]);
    }
    assert_eq!(sim.state.word, FlowWord::Succeeded);
    let chord = json!({"flow": 1, "name": "chord", "steps": {
        "all": {"task": "a", "map": {"from": "input"}, "args": [{"item": ""}], "parallel": 100_000}, "sum": {"task": "sum", "args": [{"from": "all"}]}}});
    let list: Vec<u32> = (0..10_000).collect();
    let mut sim = Sim::new(&chord, &serde_json::to_string(&list).unwrap());
    assert_eq!(sim.running.len(), 10_000);
    for some in list.chunks(500) {
        let events: Vec<_> = some.iter().map(|n| sim.end_of(Node::step(0).item(*n), 1, End::Succeeded(Some(n.to_string())))).collect();
        sim.feed(&events);
    }
    assert_eq!(sim.args("sum"), format!("[{}]", serde_json::to_string(&list).unwrap()));
}
