//! Makes one attempt: a call goes in, an [`Attempted`] comes out.
//!
//! fresh store → instantiate → `run` under the meter, beside a timer and a cancel signal → classify → drop everything

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    allocator,
    call::{Attempted, Call},
    cpu::{Meter, Metered, Turn},
    ending::{self, Failed, HOST_FAULT_DELAY, Stopped},
    guest::{Attempt, Guest},
    machine::Machine,
    output::Shared,
};
use taskhost_core::task::{Clock, Outcome, SystemClock};

/// How long an attempt runs before its log is shown, and then from one look to the next.
const TELL: Duration = Duration::from_secs(1);

pub(super) async fn run(engine: Arc<Machine>, call: Call, turn: Turn) -> Attempted {
    let Call { terms, body, args, about, timeout, cancelled, grace, services } = call;
    let limits = &terms.limits;
    let timeout = limits.timeout_ceiling.map_or(timeout, |ceiling| timeout.min(ceiling));
    let account = Account::new(Arc::clone(&engine.pool), limits);
    let meter = Meter::new(&engine.cpu, limits.cpu);
    let shared = Arc::new(Shared::new(meter, account, limits, about.attempt, about.trace.clone(), Some(Arc::clone(&services))));
    let attempt = Attempt {
        about,
        progress: 0,
        services,
        cancelled: cancelled.clone(),
        saw_cancelled: false,
        began: SystemClock.now(),
        timeout,
        children: Vec::new(),
        children_bytes: 0,
        children_held: None,
        spans_held: None,
    };
    let mut store = match Guest::store(&engine.wasm, &engine.outside, Arc::clone(&terms), Arc::clone(&shared), Some(attempt)) {
        Ok(store) => store,
        Err(reason) => return Attempted::unrun(Outcome::HostFault { reason, delay: HOST_FAULT_DELAY }),
    };
    let ended = {
        let call = pin!(async {
            let plugin = terms.code.pre.instantiate_async(&mut store).await.map_err(Failed::ToStart)?;
            plugin.taskhost_plugin_tasks().call_run(&mut store, &body, &args).await.map_err(Failed::ToRun)
        });
        let metered = Metered { call, meter: &shared.meter, turn };
        tokio::select! {
            biased;
            returned = metered => Ok(returned),
            stopped = watch(&shared, timeout, &cancelled, grace) => Err(stopped),
        }
    };
    // Give the share of the CPU back before clearing up.
    shared.meter.release();
    let outcome = match ended {
        Ok(Ok(returned)) => ending::returned(returned, store.data_mut(), &body),
        Ok(Err(failed)) => ending::failed(&failed, store.data()),
        Err(stopped) => ending::stopped(stopped, store.data()),
    };
    let memory = store.data().usage.memory;
    drop(store);
    if shared.account.kept.load(Relaxed) > allocator::WORTH_TRIMMING {
        allocator::trim();
    }
    Attempted {
        outcome,
        log: shared.take_log(),
        ran: shared.meter.age(),
        cpu: shared.meter.spent(),
        memory,
        requests: shared.requests(),
        within: shared.take_within(),
    }
}

/// Waits until the attempt must be stopped: its time is over, or it has not returned within `grace` after a cancel.
async fn watch(shared: &Shared, timeout: Duration, cancelled: &CancellationToken, grace: Duration) -> Stopped {
    tokio::select! {
        () = out_of_time(shared, timeout) => Stopped::Timeout(timeout),
        () = async { cancelled.cancelled().await; tokio::time::sleep(grace).await } => Stopped::Cancelled(grace),
    }
}

/// Waits until the attempt has run for `timeout`. Time in the queue for the CPU does not count. Meanwhile its log is shown once a second.
async fn out_of_time(shared: &Shared, timeout: Duration) {
    let meter = &shared.meter;
    let mut next_tell = TELL;
    loop {
        let age = meter.age();
        let left = (timeout + meter.waited()).saturating_sub(age);
        if left.is_zero() {
            return;
        }
        if age >= next_tell {
            shared.tell_log();
            next_tell = age + TELL;
        }
        // While the attempt queues for the CPU, `left` stands still, so look again only now and then.
        let pause = if meter.is_waiting() { left.max(Duration::from_millis(10)) } else { left };
        let pause = pause.min(next_tell.saturating_sub(age));
        tokio::time::sleep(pause).await;
    }
}
