//! The values of a flow: its input, results, the item of a node.

use super::Run;
use crate::workflow::{
    Node,
    arguments::Source,
    plan::{Kind, Wait},
    record::{Record, Word},
};

impl Run<'_> {
    /// The JSON of a source, for a node. "null" while it is missing, or if there is none.
    pub(super) fn value(&mut self, of: Source, node: Node) -> String {
        let null = || "null".to_owned();
        match of {
            Source::Input => self.view.input.clone(),
            Source::Result(step) => self.result(step),
            Source::Failure(step) => match self.step(step) {
                Record { word: Word::Dead | Word::Cancelled, text, .. } => serde_json::Value::from(text.unwrap_or_default()).to_string(),
                _ => null(),
            },
            Source::Item => node.item.and_then(|item| self.list(node)?.get(item as usize).map(ToString::to_string)).unwrap_or_else(null),
            Source::Index => node.item.unwrap_or_default().to_string(),
            Source::Own => self.result_of(Node { is_undo: false, ..node }),
        }
    }

    /// The list that a step with `map` goes over.
    fn list(&mut self, node: Node) -> Option<&Vec<serde_json::Value>> {
        if let Kind::Map { over, .. } = &self.plan.steps[node.step].kind
            && !self.lists.contains_key(&node.step)
        {
            let text = self.value(over.of, node);
            if let serde_json::Value::Array(list) = over.part(&text) {
                self.lists.insert(node.step, list);
            }
        }
        self.lists.get(&node.step)
    }

    /// The result of the last step, or an object of those of the last steps.
    pub(super) fn result_of_flow(&mut self) -> String {
        let last: Vec<usize> = self.plan.last_steps().collect();
        if let [only] = last[..] {
            return self.result(only);
        }
        let one = |step: usize| format!("{}:{}", serde_json::Value::from(&*self.plan.steps[step].name), self.result(step));
        format!("{{{}}}", last.into_iter().map(one).collect::<Vec<_>>().join(","))
    }

    pub(super) fn result(&mut self, step: usize) -> String {
        match &self.plan.steps[step].kind {
            Kind::Wait(Wait::Signal { name, .. }) => self.view.signals.get(name).cloned().unwrap_or_else(|| "null".to_owned()),
            Kind::Wait(Wait::For(_)) => "null".to_owned(),
            Kind::Task(_) | Kind::Flow { .. } => self.result_of(Node::step(step)),
            Kind::Map { .. } | Kind::Group { .. } => {
                let total = self.step(step).group.map_or(0, |group| group.total);
                let results: Vec<String> = (0..total).map(|item| self.result_of(Node::step(step).item(item))).collect();
                format!("[{}]", results.join(","))
            }
        }
    }

    pub(super) fn result_of(&mut self, node: Node) -> String {
        let record = self.record(node);
        if record.word != Word::Succeeded {
            return "null".to_owned();
        }
        if let Some(text) = record.text.or_else(|| self.view.results.get(&node).cloned()) {
            return text;
        }
        self.missing.results.insert(node);
        "null".to_owned()
    }
}
