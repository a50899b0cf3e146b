//! Waiting for the end of a flow. A flow takes steps by itself, so looking now and then is enough.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{FlowView, Flows};
use crate::error::Result;
use taskhost_core::task::{QueueName, TaskId};

/// How often a flow is looked at: after a change, and when nothing has changed for some time.
const LOOKS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// The flow when it has ended, or as it is after `limit`; `None` if it is unknown. `seen` is told each time that something has changed.
pub async fn await_flow<B: Flows + ?Sized>(
    broker: &B,
    queue: &QueueName,
    id: &TaskId,
    limit: Option<Duration>,
    mut seen: impl FnMut(&FlowView) + Send,
) -> Result<Option<FlowView>> {
    let begun = Instant::now();
    let mut pause = LOOKS[0];
    let mut last = None;
    loop {
        let Some(view) = broker.flow(Some(queue), id).await? else { return Ok(None) };
        let now = (view.line.ends, view.progress, view.line.state, view.line.paused);
        if last.replace(now) != Some(now) {
            pause = LOOKS[0];
            seen(&view);
        }
        let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        if view.line.ended_at.is_some() || left == Some(Duration::ZERO) {
            return Ok(Some(view));
        }
        sleep(left.map_or(pause, |left| pause.min(left))).await;
        pause = (pause * 2).min(LOOKS[1]);
    }
}
