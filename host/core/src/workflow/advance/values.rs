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
            Source::Item => match (&self.plan.steps[node.step].kind, node.item) {
                (Kind::Map { over, .. }, Some(item)) => {
                    let list = self.value(over.of, node);
                    over.part(&list).get(item as usize).map_or_else(null, ToString::to_string)
                }
                _ => null(),
            },
            Source::Index => node.item.unwrap_or_default().to_string(),
            Source::Own => self.result_of(Node { is_undo: false, ..node }),
        }
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
