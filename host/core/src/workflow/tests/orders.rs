//! Any graph, and any order of events.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;
use serde_json::json;

use super::{super::*, Sim};

/// Up to seven steps; each may need earlier ones.
fn any_flow() -> impl Strategy<Value = serde_json::Value> {
    let step = (0..6_u8, any::<u8>(), any::<bool>(), any::<bool>(), 0..3_u8);
    prop::collection::vec(step, 1..7).prop_map(|steps| {
        let one = |(n, (kind, needs, continues, undo, on)): (usize, (u8, u8, bool, bool, u8))| {
            let after: Vec<_> = (0..n).filter(|need| needs >> need & 1 == 1).map(|need| format!("s{need}")).collect();
            let mut step = match kind {
                0 => json!({"group": [{"task": "a"}, {"task": "b"}, {"task": "c"}], "parallel": 2}),
                1 => json!({"task": "a", "map": {"from": "input"}, "args": [{"item": ""}]}),
                2 => json!({"wait": {"signal": "go", "timeout": "1h"}}),
                _ => json!({"task": "a"}),
            };
            if undo && kind != 2 {
                step["undo"] = json!({"task": "undo"});
            }
            if continues {
                step["on_failure"] = json!("continue");
            }
            if !after.is_empty() {
                step["on"] = json!(["success", "failure", "end"][usize::from(on)]);
                step["after"] = json!(after);
            }
            (format!("s{n}"), step)
        };
        let steps: serde_json::Map<_, _> = steps.into_iter().enumerate().map(one).collect();
        json!({"flow": 1, "name": "any", "deadline": "3h", "steps": steps})
    })
}

/// How a task of a node ends: always the same, whatever the order.
fn fate(node: Node, seed: u64) -> End {
    let mixed = (node.step as u64 * 31 + u64::from(node.item.unwrap_or(99)) * 17 + u64::from(node.is_undo) * 7 + seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        >> 60;
    match mixed {
        0..3 => End::Dead("no".into()),
        3 => End::Cancelled,
        _ => End::Succeeded(Some("1".into())),
    }
}

fn play(flow: &serde_json::Value, seed: u64, order: u64, together: usize) -> Sim {
    let mut sim = Sim::new(flow, "[1, 2]");
    let mut random = order;
    let mut told: Vec<Event> = Vec::new();
    for round in 0..1_000 {
        if sim.state.word.is_ended() {
            return sim;
        }
        if sim.running.is_empty() {
            sim.now = sim.wake.expect("who runs nothing waits for something");
            sim.feed(&[]);
            continue;
        }
        let mut events = Vec::new();
        for _ in 0..together {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let keys: Vec<_> = sim.running.keys().copied().collect();
            let Some((node, epoch)) = keys.get((random >> 33) as usize % keys.len().max(1)).copied() else { break };
            let end = if sim.asked_to_stop.contains(&(node, epoch)) { End::Cancelled } else { fate(node, seed) };
            events.push(sim.end_of(node, epoch, end));
        }
        // Old news come again.
        events.extend(told.iter().rev().take(round % 3).cloned());
        told.extend(events.iter().cloned());
        sim.feed(&events);
    }
    panic!("the flow does not end: {sim:#?}");
}

proptest! {
    #[test]
    fn every_flow_whose_tasks_end_ends_once(flow in any_flow(), seed in any::<u64>(), order in any::<u64>(), together in 1..4_usize) {
        let sim = play(&flow, seed, order, together);
        prop_assert_eq!(sim.ends, 1);
        for (step, of) in sim.plan.steps.iter().enumerate() {
            let record = &sim.records[&Node::step(step)];
            prop_assert!(record.word.is_ended(), "{}", of.name);
            // Undo runs for each success that has one, if the flow did not succeed, and for nothing else.
            let undone = sim.begun.iter().filter(|(node, _)| node.is_undo && node.step == step).count();
            let successes = sim.records.iter().filter(|(node, record)| {
                node.step == step && !node.is_undo && record.word == Word::Succeeded && record.group.is_none()
            }).count();
            let expected = if of.undo.is_some() && sim.state.word != FlowWord::Succeeded { successes } else { 0 };
            prop_assert_eq!(undone, expected, "{}", of.name);
        }
        let undone: Vec<usize> = sim.begun.iter().filter(|(node, _)| node.is_undo).map(|(node, _)| node.step).collect();
        let places: Vec<u32> = undone.iter().map(|step| sim.records[&Node::step(*step)].place).collect();
        prop_assert!(places.is_sorted_by(|one, next| one >= next), "newest first: {:?}", undone);
    }

    #[test]
    fn without_failures_every_order_ends_alike(flow in any_flow(), orders in prop::array::uniform2(any::<u64>())) {
        // A seed without a failing fate is found by trying.
        let nodes = (0..7).flat_map(|step| [None, Some(0), Some(1), Some(2)].map(|item| Node { step, item, is_undo: false }));
        let nodes: Vec<_> = nodes.collect();
        let Some(seed) = (0..10_000_u64).find(|seed| nodes.iter().filter(|node| !matches!(fate(**node, *seed), End::Succeeded(_))).count() < 6) else { return Ok(()) };
        let [one, other] = orders.map(|order| play(&flow, seed, order, 1));
        if one.state.word == FlowWord::Succeeded || other.state.word == FlowWord::Succeeded {
            let words = |sim: &Sim| sim.records.iter().map(|(node, record)| (*node, record.word)).collect::<Vec<_>>();
            prop_assert_eq!(one.state.word, other.state.word);
            prop_assert_eq!(words(&one), words(&other));
        }
    }
}

/// Every state that small flows can reach by ends, repeats, cancel, retry, signal and time: breadth first.
#[test]
fn small_flows_reach_no_wrong_state() {
    let flows = [
        json!({"a": {"task": "a"}, "b": {"task": "b", "after": "a"}, "c": {"task": "c", "after": ["a", "b"], "on": "end"}}),
        json!({"a": {"task": "a", "undo": {"task": "u"}}, "b": {"task": "b"}, "c": {"task": "c", "after": ["a", "b"]}, "d": {"task": "d", "after": "c", "on": "failure"}}),
        json!({"a": {"group": [{"task": "x"}, {"task": "y"}], "parallel": 1, "undo": {"task": "u"}}, "b": {"task": "b", "args": [{"from": "a"}]}}),
        json!({"a": {"wait": {"signal": "s", "timeout": "1m"}}, "b": {"task": "b", "after": "a", "when": {"from": "a", "is": 1}}}),
    ];
    for steps in flows {
        let first = Sim::new(&json!({"flow": 1, "name": "f", "steps": steps}), "null");
        let key = |sim: &Sim| {
            let records: Vec<_> = sim.records.iter().map(|(node, record)| (*node, record.word, record.epoch, record.group)).collect();
            format!("{records:?} {:?} {:?} {}", sim.state.word, sim.running.keys(), sim.signals.len())
        };
        let (mut seen, mut queue) = (HashSet::new(), VecDeque::from([(first, 0_u32, 0_u32)]));
        let mut ended = 0;
        while let Some((sim, cancels, retries)) = queue.pop_front() {
            if !seen.insert((key(&sim), cancels, retries)) {
                continue;
            }
            assert!(seen.len() < 20_000, "too many states");
            if sim.state.word.is_ended() {
                ended += 1;
                assert!(
                    sim.running.is_empty()
                        && sim.plan.steps.iter().enumerate().all(|(step, _)| sim.records[&Node::step(step)].word.is_ended())
                );
                if retries < 1 {
                    let mut next = sim.clone();
                    next.feed(&[Event::Retry(None)]);
                    next.ends = 0;
                    queue.push_back((next, cancels, retries + 1));
                }
                continue;
            }
            let mut nexts = Vec::new();
            for (node, epoch) in sim.running.keys().copied() {
                for end in [End::Succeeded(Some("1".into())), End::Dead("no".into()), End::Cancelled] {
                    let mut next = sim.clone();
                    let event = next.end_of(node, epoch, end);
                    // A step that is lost is made again with the same answer; what comes twice counts once.
                    assert_eq!(next.decide(std::slice::from_ref(&event)), next.decide(&[event.clone(), event.clone()]));
                    next.feed(&[event]);
                    nexts.push((next, cancels));
                }
            }
            if cancels < 1 {
                let mut next = sim.clone();
                next.feed(&[Event::Cancel]);
                nexts.push((next, cancels + 1));
            }
            if sim.signals.is_empty() {
                let mut next = sim.clone();
                next.signal("s", "1");
                nexts.push((next, cancels));
            }
            if let Some(wake) = sim.wake {
                let mut next = sim.clone();
                next.now = wake;
                next.feed(&[]);
                nexts.push((next, cancels));
            }
            assert!(!nexts.is_empty());
            queue.extend(nexts.into_iter().map(|(next, cancels)| (next, cancels, retries)));
        }
        assert!(ended > 3, "{ended}");
    }
}
