//! Undoing: what has succeeded in a flow that did not, one step after the other, the newest first.

use super::Run;
use crate::workflow::{
    Node,
    plan::Call,
    record::{Group, Record, Word},
};

impl Run<'_> {
    /// Undoes what has succeeded, one step after the other, the newest first. Whether there is still something to undo.
    pub(super) fn undo(&mut self) -> bool {
        let mut done: Vec<(u32, usize)> = Vec::new();
        for step in 0..self.plan.steps.len() {
            let record = self.step(step);
            let has_succeeded = record.group.map_or(record.word == Word::Succeeded, |group| group.succeeded > 0);
            if self.plan.steps[step].undo.is_some() && has_succeeded {
                done.push((record.place, step));
            }
        }
        done.sort_unstable_by(|one, other| other.cmp(one));
        done.into_iter().any(|(_, step)| self.undo_step(step))
    }

    /// Whether the step is not undone yet.
    fn undo_step(&mut self, step: usize) -> bool {
        let node = Node::step(step).undo();
        let record = self.record(node);
        let Some(undo) = &self.plan.steps[step].undo else { return false };
        match (record.word, self.step(step).group) {
            (Word::Idle, None) => self.start_task(node, undo, &Record { epoch: record.epoch + 1, ..record }),
            (Word::Idle, Some(of)) => {
                let group = Some(Group { total: of.total, ..Group::default() });
                let record = Record { word: Word::Running, epoch: record.epoch + 1, group, ..record };
                self.write(node, record.clone());
                self.tend_undo(step, undo, record);
            }
            (Word::Running, Some(_)) => self.tend_undo(step, undo, record),
            _ => {}
        }
        !self.record(node).word.is_ended()
    }

    fn tend_undo(&mut self, step: usize, undo: &Call, mut record: Record) {
        let (parallel, whole) = (self.parallel(step), Node::step(step).undo());
        let Some(mut group) = record.group else { return };
        while group.live < parallel && group.cursor < group.total && self.has_room() {
            let node = whole.item(group.cursor);
            group.cursor += 1;
            if self.record(Node { is_undo: false, ..node }).word != Word::Succeeded {
                continue;
            }
            let old = if record.epoch == 1 { Record::default() } else { self.record(node) };
            self.start_task(node, undo, &Record { epoch: record.epoch, ..old });
            if self.done.writes.get(&node).is_some_and(|item| item.word == Word::Running) {
                group.live += 1;
            } else {
                group.failed += 1;
            }
        }
        record.group = Some(group);
        if group.live == 0 && group.cursor >= group.total {
            let word = if group.failed > 0 { Word::Dead } else { Word::Succeeded };
            let text = record.text.clone();
            return self.end(whole, &record, word, text);
        }
        self.write(whole, record);
    }
}
