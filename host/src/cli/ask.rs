//! Questions of several commands: connect to the broker, find a task in any queue, ask a person for consent.

use std::{
    io::{self, BufRead, IsTerminal},
    sync::Arc,
};

use super::{failure::Failure, output};
use crate::config::{BrokerAddress, Settings};
use taskhost_broker as broker;
use taskhost_broker::{Broker, BrokerSettings, Directory, Tasks};
use taskhost_core::{
    catalogue::PluginStatus,
    task::{QueueName, State, TaskId, TaskView, WaitsFor},
};

/// Connects to the broker of these settings.
pub(super) async fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, Failure> {
    Ok(connect(&settings.broker, settings.bounds.clone()).await?)
}

pub(super) async fn connect(address: &BrokerAddress, bounds: BrokerSettings) -> broker::Result<Arc<dyn Broker>> {
    broker::connect(address, bounds).await
}

/// The task, in `queue` or in any.
pub(super) async fn find(broker: &dyn Tasks, queue: Option<&QueueName>, id: &TaskId) -> Result<TaskView, Failure> {
    broker.find(queue, id).await?.ok_or_else(|| no_such_task(queue, id))
}

/// Fills in what each parked task waits for. Asks the workers if any task is parked.
pub(super) async fn what_they_wait_for(broker: &dyn Directory, views: &mut [TaskView]) -> Result<(), Failure> {
    let mut parked = views.iter_mut().filter(|view| view.state == State::Parked).peekable();
    if parked.peek().is_none() {
        return Ok(());
    }
    let workers = broker.workers().await?;
    for view in parked {
        let is_offered =
            workers.iter().filter(|worker| worker.queues.contains(&view.queue)).flat_map(|worker| &worker.plugins).any(|file| {
                let bodies = file.serving.as_ref().and(file.description.as_ref()).map(|description| &description.bodies);
                bodies.is_some_and(|bodies| bodies.iter().any(|body| body.name == view.task))
            });
        view.waits_for = Some(if is_offered { WaitsFor::Slot } else { WaitsFor::Plugin });
    }
    Ok(())
}

pub(super) fn no_such_task(queue: Option<&QueueName>, id: &TaskId) -> Failure {
    let place = queue.map_or_else(String::new, |queue| format!(" in queue `{queue}`"));
    Failure::Usage(format!(
        "no task `{id}`{place}: its result may have been kept for its time and be gone, or it lives at another broker; `taskhost task list` shows what there is"
    ))
}

/// Asks a person at a terminal. Without a terminal only `--yes` agrees.
pub(super) fn agreed(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Say so with --yes")));
    }
    output::note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Usage("nothing was changed".to_owned())),
    }
}

/// A plugin file that a live worker has not judged yet, so that its bodies are missing in the catalogue.
pub(super) async fn loading(broker: &dyn Directory) -> Result<Option<String>, Failure> {
    let mut plugins = broker.workers().await?.into_iter().flat_map(|worker| worker.plugins);
    Ok(plugins.find(|plugin| plugin.status == PluginStatus::Loading).map(|plugin| plugin.file))
}
