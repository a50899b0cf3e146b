//! The comparison: everything that the broker shows is as the model has it.

use std::collections::BTreeSet;

use taskhost_broker::TaskFilter;
use taskhost_core::task::State;

use super::player::Player;

impl Player<'_> {
    pub(super) async fn compare(&mut self) {
        self.compare_tasks().await;
        self.compare_lists().await;
        for hand in &self.crew {
            let held: BTreeSet<_> = self.broker.held(&hand.who).await.expect("held").into_iter().map(|leased| leased.member).collect();
            assert_eq!(held, hand.held.iter().map(|leased| leased.member.clone()).collect(), "step {}: held", self.step);
        }
        let now = self.broker.now().await.expect("now");
        self.agree_on_schedules(now).await;
    }

    /// Each task, found in its queue and found by its id alone.
    async fn compare_tasks(&self) {
        for (line, queue) in &self.world.queues {
            for id in &queue.ids {
                let view = self.broker.find(Some(line), id).await.expect("find");
                let shown = view.map(|view| {
                    let (has_result, error) = (view.result.is_some(), view.error.map(|error| error.kind));
                    assert_eq!(view.ended_at.is_some(), view.state.is_ended(), "step {}: {line} {id}", self.step);
                    assert_eq!(view.due_at.is_some(), view.state == State::Scheduled, "step {}: {line} {id}", self.step);
                    let args = view.args.get().to_owned();
                    (view.state, args, view.tries, view.cancel_asked, error, view.errors.len(), view.expires_at, has_result)
                });
                let known = queue.tasks.get(id).map(|task| {
                    let has_result = task.state == State::Succeeded;
                    (task.state, task.args.clone(), task.tries, task.cancel_asked, task.error, task.errors, task.expires, has_result)
                });
                assert_eq!(shown, known, "step {}: {line} {id}", self.step);
                let log = self.broker.log(Some(line), id).await.expect("log");
                assert_eq!(log, queue.tasks.get(id).map(|task| task.log.clone()), "step {}: the log of {line} {id}", self.step);
                let anywhere = self.broker.find(None, id).await.map(|view| view.map(|view| view.queue)).map_err(drop);
                assert_eq!(anywhere, self.world.only_queue_of(id).map(Option::<&_>::cloned), "step {}: {id} by its id alone", self.step);
            }
        }
    }

    /// The lists and counts have each task once.
    async fn compare_lists(&self) {
        let counted = self.broker.queues().await.expect("queues");
        for (line, queue) in &self.world.queues {
            let filter = TaskFilter { queue: Some(line.clone()), ..TaskFilter::default() };
            let (mut listed, mut from) = (Vec::new(), None);
            loop {
                let page = self.broker.list(&filter, from.as_deref(), 60).await.expect("list");
                listed.extend(page.tasks.into_iter().map(|view| (view.id, view.state)));
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            listed.sort();
            let known: Vec<_> = queue.tasks.iter().map(|(id, task)| (id.clone(), task.state)).collect();
            assert_eq!(listed, known, "step {}: {line} listed", self.step);
            let view = counted.iter().find(|view| view.queue == *line).expect("the queue is listed");
            assert_eq!(view.paused, queue.paused, "step {}: {line}", self.step);
            assert_eq!(view.totals, queue.totals, "step {}: totals of {line}", self.step);
            for state in State::ALL {
                let known = known.iter().filter(|(_, known)| *known == state).count() as u64;
                assert_eq!(view.counts.get(&state), Some(&known), "step {}: {state} tasks of {line} counted", self.step);
            }
        }
    }
}
