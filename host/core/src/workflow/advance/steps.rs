//! One step: whether its rule holds, its beginning, its items, its end.

use super::{Effect, Missing, Run};
use crate::workflow::{
    Node,
    plan::{Call, Kind, MOST_NODES, Rule, Wait},
    record::{Group, Record, Word},
};

impl Run<'_> {
    pub(super) fn settle_step(&mut self, step: usize) {
        let record = self.step(step);
        match record.word {
            Word::Idle => self.consider(step, record),
            Word::Waiting => self.wait_on(step, &record),
            Word::Running if record.group.is_some() => self.tend(step, record),
            _ => {}
        }
    }

    /// Starts or skips a step if all that it needs has ended.
    fn consider(&mut self, step: usize, record: Record) {
        let node = Node::step(step);
        if self.is_halted(step) {
            return self.end(node, &record, Word::Skipped, Some("the flow stops".to_owned()));
        }
        let of = &self.plan.steps[step];
        let needs: Vec<(usize, Word)> = of.needs.iter().map(|need| (*need, self.step(*need).word)).collect();
        if needs.iter().any(|(_, word)| !word.is_ended()) {
            return;
        }
        let has_failed = |word: &Word| matches!(word, Word::Dead | Word::Cancelled);
        let unmet = match of.rule {
            Rule::Success => needs
                .iter()
                .find(|(_, word)| *word != Word::Succeeded)
                .map(|(need, _)| format!("`{}` did not succeed", self.plan.steps[*need].name)),
            Rule::Failure => (!needs.iter().any(|(_, word)| has_failed(word))).then(|| "nothing failed".to_owned()),
            Rule::End => None,
        };
        if let Some(why) = unmet {
            return self.end(node, &record, Word::Skipped, Some(why));
        }
        if let Some(when) = &of.when {
            let value = self.value(when.value.of, node);
            if self.missing != Missing::default() {
                return;
            }
            if when.value.part(&value) != when.is {
                return self.end(node, &record, Word::Skipped, Some("its condition does not hold".to_owned()));
            }
        }
        self.start(step, record);
    }

    fn start(&mut self, step: usize, record: Record) {
        let (node, epoch) = (Node::step(step), record.epoch + 1);
        let record = Record { epoch, ..record };
        match &self.plan.steps[step].kind {
            Kind::Task(call) => self.start_task(node, call, &record),
            Kind::Map { over, .. } => {
                let list = self.value(over.of, node);
                match over.part(&list) {
                    serde_json::Value::Array(list) => self.open(step, record, list.len()),
                    _ => self.end(node, &record, Word::Dead, Some("what `map` names is no list".to_owned())),
                }
            }
            Kind::Group { calls, .. } => self.open(step, record, calls.len()),
            Kind::Wait(wait) => {
                let time = match wait {
                    Wait::Signal { timeout, .. } => *timeout,
                    Wait::For(time) => Some(*time),
                };
                let record = Record { word: Word::Waiting, until: time.map(|time| self.now.after(time)), ..record };
                self.write(node, record.clone());
                self.wait_on(step, &record);
            }
            Kind::Flow { input, .. } => {
                let mut text = String::new();
                input.fill(&mut |of| self.value(of, node), &mut text);
                self.done.effects.push(Effect::StartFlow { node, epoch, input: text });
                self.write(node, Record { word: Word::Running, ..record });
            }
        }
    }

    pub(super) fn start_task(&mut self, node: Node, call: &Call, record: &Record) {
        let mut args = String::new();
        call.args.fill(&mut |of| self.value(of, node), &mut args);
        if args.len() > self.limit {
            let why = format!("its arguments are {} bytes, over the payload limit of {}; send a reference instead", args.len(), self.limit);
            return self.end(node, record, Word::Dead, Some(why));
        }
        let epoch = record.epoch;
        self.starts += 1;
        self.done.effects.push(Effect::Start { node, epoch, call: call.clone(), args });
        self.write(node, Record { word: Word::Running, place: 0, text: None, ..record.clone() });
    }

    /// Begins a step with so many items.
    fn open(&mut self, step: usize, record: Record, items: usize) {
        let known = record.group.map_or(0, |group| group.total);
        let total = u32::try_from(items).unwrap_or(u32::MAX);
        let nodes = self.done.state.nodes.saturating_sub(known).saturating_add(total);
        if nodes > MOST_NODES {
            let why = format!("with {items} items the flow has over {MOST_NODES} nodes: map over parts of the list");
            return self.end(Node::step(step), &record, Word::Dead, Some(why));
        }
        self.done.state.nodes = nodes;
        let group = Some(Group { total, ..Group::default() });
        let record = Record { word: Word::Running, group, ..record };
        self.write(Node::step(step), record.clone());
        self.tend(step, record);
    }

    /// Starts items as far as there is room, and ends the step after the last one.
    fn tend(&mut self, step: usize, record: Record) {
        let (parallel, whole) = (self.parallel(step), Node::step(step));
        let mut record = record;
        let Some(mut group) = record.group else { return };
        let before = group;
        loop {
            let is_failed = group.failed > 0 && !self.continues(step);
            if self.is_halted(step) || is_failed || group.live >= parallel || group.cursor >= group.total || !self.has_room() {
                break;
            }
            let node = whole.item(group.cursor);
            // In its first epoch no item stands.
            let item = if record.epoch == 1 { Record::default() } else { self.record(node) };
            group.cursor += 1;
            let was_undone = record.epoch > 1 && self.plan.steps[step].undo.is_some() && self.record(node.undo()).word != Word::Idle;
            if item.word == Word::Succeeded && !was_undone {
                group.succeeded += 1;
                continue;
            }
            if was_undone {
                let old = self.record(node.undo());
                self.write(node.undo(), Record { word: Word::Idle, place: 0, text: None, ..old });
            }
            let Some(call) = self.plan.call(step, node.item) else { break };
            self.start_task(node, call, &Record { epoch: record.epoch, ..item });
            match self.done.writes.get(&node) {
                Some(Record { word: Word::Running, .. }) => group.live += 1,
                refused => {
                    group.failed += 1;
                    let why = refused.and_then(|item| item.text.clone()).unwrap_or_default();
                    record.text.get_or_insert_with(|| format!("item {}: {why}", group.cursor - 1));
                }
            }
        }
        record.group = Some(group);
        let is_failed = group.failed > 0 && !self.continues(step);
        let is_over = group.cursor >= group.total || is_failed || self.is_halted(step);
        if group.live == 0 && is_over {
            let word = match () {
                () if is_failed => Word::Dead,
                () if group.cursor < group.total => Word::Cancelled,
                () => Word::Succeeded,
            };
            let text = record.text.clone().filter(|_| word == Word::Dead);
            return self.end(whole, &record, word, text);
        }
        if group != before {
            self.write(whole, record);
        }
    }

    pub(super) fn parallel(&self, step: usize) -> u32 {
        match &self.plan.steps[step].kind {
            Kind::Map { parallel, .. } | Kind::Group { parallel, .. } => *parallel,
            Kind::Task(_) | Kind::Wait(_) | Kind::Flow { .. } => 1,
        }
    }

    fn wait_on(&mut self, step: usize, record: &Record) {
        let node = Node::step(step);
        if self.is_halted(step) {
            return self.end(node, record, Word::Cancelled, Some("the flow stops".to_owned()));
        }
        let Kind::Wait(wait) = &self.plan.steps[step].kind else { return };
        let is_over = record.until.is_some_and(|until| until <= self.now);
        match wait {
            Wait::Signal { name, .. } if self.view.signals.contains_key(name) => self.end(node, record, Word::Succeeded, None),
            Wait::Signal { name, .. } if is_over => self.end(node, record, Word::Dead, Some(format!("no signal `{name}` came in time"))),
            Wait::For(_) if is_over => self.end(node, record, Word::Succeeded, None),
            Wait::Signal { .. } | Wait::For(_) => {}
        }
    }
}
