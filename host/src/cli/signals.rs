//! Handles the signals of a worker.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGTERM, SIGINT, SIGQUIT | the first drains, the second hands everything back at once |
//! | SIGHUP | the plugins room reads its files again; when the terminal has gone that the worker was started on: as SIGTERM |
//! | SIGTSTP, SIGCONT | claims nothing more; claims again. The process itself is not stopped: its lease stands |
//! | SIGUSR1, SIGUSR2 | says in the log what runs |

use std::fs::File;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use crate::worker::Stop;

/// Neither `rustix` nor `tokio` names these two for tokio's listener.
fn kind(signal: rustix::process::Signal) -> SignalKind {
    SignalKind::from_raw(signal.as_raw())
}

/// The returned loop ends with `shutdown`.
pub(super) fn run(stop: Stop, shutdown: CancellationToken) -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("failed to listen for signals: {error}; raise the limit of open files")))
    };
    // Under `nohup` the signal is ignored, so the terminal may go.
    let terminal = has_terminal() && !is_hangup_ignored();
    let mut ends = [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::quit())?];
    let mut dumps = [listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?];
    let mut hangup = listen(SignalKind::hangup())?;
    let (mut pause, mut resume) = (listen(kind(rustix::process::Signal::TSTP))?, listen(kind(rustix::process::Signal::CONT))?);
    Ok(async move {
        let mut quiet = false;
        loop {
            tokio::select! {
                () = any(&mut ends) => end(&stop),
                () = any(&mut dumps) => stop.dump(),
                Some(()) = hangup.recv() => if terminal && !has_terminal() {
                    tracing::info!("the terminal of this worker has gone");
                    end(&stop);
                },
                Some(()) = pause.recv() => {
                    quiet = true;
                    stop.keep_quiet(true);
                    tracing::info!("SIGTSTP: claims nothing more, what runs goes on; SIGCONT claims again");
                }
                // A process that was stopped by SIGSTOP gets one too.
                Some(()) = resume.recv() => if std::mem::take(&mut quiet) {
                    stop.keep_quiet(false);
                    tracing::info!("SIGCONT: claims again");
                },
                () = shutdown.cancelled() => return,
            }
        }
    })
}

fn end(stop: &Stop) {
    if stop.drain.is_cancelled() {
        tracing::info!("stopping at once");
        stop.now.cancel();
    } else {
        tracing::info!("stopping: attempts may end, a second signal hands them back at once");
        stop.drain.cancel();
    }
}

async fn any<const N: usize>(signals: &mut [Signal; N]) {
    futures_util::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
}

/// Whether this process has a terminal that has not hung up.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether this process was started with SIGHUP ignored. `false` without `/proc`.
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_under_nohup_outlives_its_terminal() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!ignores_hangup("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
