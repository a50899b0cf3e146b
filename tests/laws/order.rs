//! Laws of claiming: once, in order, on time.

use taskhost::{broker::Broker, task::Priority};

use crate::support::{Worker, add, enqueue};

pub(crate) async fn a_claimed_task_is_claimed_once(b: &dyn Broker) {
    let (one, two) = (Worker::new(b).await, Worker::new(b).await);
    let id = enqueue(b, add()).await;
    assert_eq!(one.claim_one().await.task.id, id);
    assert!(one.claim(9).await.is_empty());
    assert!(two.claim(9).await.is_empty());
}

pub(crate) async fn order_is_priority_then_first_in_first_out(b: &dyn Broker) {
    let mut expected = Vec::new();
    for priority in [5, 0, 9, 5, 9, 0, 5] {
        let priority = Priority::new(priority).expect("valid");
        expected.push((9 - priority.get(), enqueue(b, taskhost::task::NewTask { priority, ..add() }).await));
    }
    expected.sort_by_key(|(rank, _)| *rank);
    let worker = Worker::new(b).await;
    let mut got = worker.claim(3).await;
    got.extend(worker.claim(9).await);
    assert_eq!(
        got.into_iter().map(|leased| leased.task.id).collect::<Vec<_>>(),
        expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
    );
}
