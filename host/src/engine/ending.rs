//! Says how an attempt ended, in words for people.
//!
//! returned | failed (trap, exit, a limit) | stopped (time, cancelled) → [`Outcome`]

use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use super::{
    account::Refused,
    bindings::{Failure, TaskError as Said},
    blame,
    cpu::CpuSpent,
    guest::Guest,
    json,
    output::Stream,
    sentence,
    setup::FRAMES,
};
use taskhost_core::task::{ErrorKind, Outcome, TaskError};
use taskhost_core::units;

/// How long an attempt is delayed that the host could not equip.
pub(super) const HOST_FAULT_DELAY: Duration = Duration::from_secs(1);
/// The most bytes of a message, and of a detail.
const MESSAGE: usize = 2 << 10;
const DETAIL: usize = 8 << 10;
/// The SDK's error code for a name that its plugin does not offer.
const NO_SUCH_BODY: &str = "no-such-body";

/// The host ended it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stopped {
    Timeout(Duration),
    Cancelled(Duration),
}

/// wasmtime ended it.
#[derive(Debug)]
pub(super) enum Failed {
    ToStart(wasmtime::Error),
    ToRun(wasmtime::Error),
}

/// `run` returned.
pub(super) fn returned(returned: Result<String, Said>, guest: &mut Guest, body: &str) -> Outcome {
    let denied = guest.shared.denied();
    let payload = guest.terms.limits.payload;
    let Some(attempt) = guest.attempt.as_mut() else { return fail(ErrorKind::Trap, "an attempt without a task".into()) };
    let said = match returned {
        Ok(result) => {
            return match check_result(result, payload) {
                Ok(result) => Outcome::Done { result, children: std::mem::take(&mut attempt.children) },
                Err(error) => Outcome::Failed { error, after: None },
            };
        }
        Err(said) => said,
    };
    let (kind, failure, after) = match said {
        Said::Retry(retry) => (ErrorKind::Retry, retry.failure, retry.after_ms.map(Duration::from_millis)),
        Said::Permanent(failure) => (ErrorKind::Permanent, failure, None),
        Said::InvalidArguments(failure) if failure.code.as_deref() == Some(NO_SUCH_BODY) => (ErrorKind::NoSuchBody, failure, None),
        Said::InvalidArguments(failure) => (ErrorKind::InvalidArguments, failure, None),
        Said::Cancelled if attempt.saw_cancelled => return fail(ErrorKind::Cancelled, "the body stopped because it was cancelled".into()),
        Said::Cancelled => return fail(ErrorKind::Permanent, format!("`{body}` says it was cancelled, but nobody cancelled it")),
    };
    Outcome::Failed { error: with_denied(told(kind, failure), denied), after }
}

fn check_result(result: String, payload: usize) -> Result<String, TaskError> {
    if result.len() > payload {
        return Err(too_large(&units::show_size(result.len() as u64), payload));
    }
    json::compact(result).map_err(|error| {
        TaskError::new(ErrorKind::BadResult, sentence::line(&format!("the body's result is not one JSON text: {error}"), MESSAGE))
    })
}

fn too_large(size: &str, payload: usize) -> TaskError {
    let limit = units::show_size(payload as u64);
    TaskError::new(ErrorKind::ResultTooLarge, format!("the result has {size}, over the limit of {limit}: return less, or keep it in kv"))
}

/// The guest's own error, shortened. An invalid code is left out.
fn told(kind: ErrorKind, failure: Failure) -> TaskError {
    let valid =
        |code: &String| (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let message = sentence::line(&failure.message, MESSAGE);
    TaskError {
        kind,
        message: if message.is_empty() { "the body failed without a message".into() } else { message },
        code: failure.code.filter(valid),
        detail: failure.detail.filter(|detail| !detail.is_empty()).map(|detail| sentence::cut(detail, DETAIL)),
    }
}

/// The host stopped it.
pub(super) fn stopped(stopped: Stopped, guest: &Guest) -> Outcome {
    let (kind, message) = match stopped {
        Stopped::Timeout(timeout) => (ErrorKind::Timeout, format!("timed out after {}", units::duration_in_words(timeout))),
        Stopped::Cancelled(grace) => {
            (ErrorKind::Cancelled, format!("cancelled; the body did not return within its grace of {}", units::duration_in_words(grace)))
        }
    };
    seen(kind, message, guest)
}

/// The guest trapped, left, or could not be started.
pub(super) fn failed(failed: &Failed, guest: &Guest) -> Outcome {
    let limits = &guest.terms.limits;
    let (Failed::ToStart(error) | Failed::ToRun(error)) = failed;
    if error.is::<PoolConcurrencyLimitError>() {
        return host_fault("all sandbox slots of this worker are taken: lower its concurrency".into());
    }
    if let Some(refused) = error.downcast_ref().copied().or(guest.usage.refused) {
        let sentence = guest.shared.account.sentence(refused, limits);
        return match refused {
            Refused::MemoryOfProcess | Refused::DescriptorsOfProcess => host_fault(sentence),
            Refused::Memory => seen(ErrorKind::MemoryLimit, sentence, guest),
            Refused::Tables | Refused::Descriptors => seen(ErrorKind::Trap, sentence, guest),
        };
    }
    if error.is::<CpuSpent>() {
        let limit = limits.cpu.unwrap_or_default();
        return seen(ErrorKind::Timeout, format!("used up its CPU time of {}", units::duration_in_words(limit)), guest);
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return seen(ErrorKind::Exit, format!("left with exit({code}) without a result"), guest);
    }
    // wasmtime does not export the second type.
    let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    if full || error.root_cause().to_string().contains("store handle limit exceeded") {
        return seen(ErrorKind::Trap, format!("holds more than {} resources (streams, files, requests) at once", limits.resources), guest);
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => trapped(*trap, error, guest),
        None => no_trap(failed, error, guest),
    }
}

fn trapped(trap: Trap, error: &wasmtime::Error, guest: &Guest) -> Outcome {
    let recursion = trap == Trap::StackOverflow || (trap == Trap::MemoryOutOfBounds && looks_recursive(error));
    if recursion {
        return seen(ErrorKind::StackOverflow, "stack overflow: the body calls itself too deep".into(), guest);
    }
    let stderr = guest.shared.printed(Stream::Err);
    if trap == Trap::UnreachableCodeReached {
        if let Some(message) = panic_message(&stderr).or_else(|| panic_message(&guest.shared.panic()?)) {
            return seen(ErrorKind::Panic, message, guest);
        }
        if let Some(last) = stderr.lines().rev().find(|line| !line.trim().is_empty()) {
            return seen(ErrorKind::Trap, sentence::line(&format!("aborted: {}", last.trim()), MESSAGE), guest);
        }
    }
    let text = trap.to_string();
    seen(ErrorKind::Trap, format!("trapped: {}", text.strip_prefix("wasm trap: ").unwrap_or(&text)), guest)
}

/// Whether the guest overflowed its own stack. That stack is at the start of its memory, so most languages leave it by an address out of
/// bounds. Few functions in many frames are a recursion.
fn looks_recursive(error: &wasmtime::Error) -> bool {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return false };
    let mut functions: Vec<u32> = trace.frames().iter().map(wasmtime::FrameInfo::func_index).collect();
    let frames = functions.len();
    functions.sort_unstable();
    functions.dedup();
    frames >= FRAMES && functions.len() * 2 <= frames
}

/// An error that wasmtime or the host's own functions raised.
fn no_trap(failed: &Failed, error: &wasmtime::Error, guest: &Guest) -> Outcome {
    let limits = &guest.terms.limits;
    let root = error.root_cause();
    let text = root.to_string();
    // With a guest's frame on the stack, a call to the host failed. Otherwise `run` had returned or had not begun.
    let in_guest = error.is::<WasmBacktrace>();
    // wasmtime does not export the type of this error.
    let too_much = text.contains("fuel allocated for hostcalls");
    match failed {
        _ if in_guest && too_much => {
            let most = units::show_size(4 * limits.payload as u64 + (1 << 20));
            seen(ErrorKind::Trap, format!("handed more than {most} to the host in one call"), guest)
        }
        _ if in_guest => seen(ErrorKind::Trap, sentence::line(&format!("trapped: {text}"), MESSAGE), guest),
        // The guest had no room for the arguments.
        Failed::ToRun(_) if text.starts_with("realloc return") => {
            seen(ErrorKind::Trap, "its `cabi_realloc` answered with no place in its memory".into(), guest)
        }
        Failed::ToRun(_) if too_much => Outcome::Failed { error: too_large("too many bytes", limits.payload), after: None },
        Failed::ToRun(_) => seen(ErrorKind::BadResult, sentence::line(&format!("the body's result can't be read: {text}"), MESSAGE), guest),
        Failed::ToStart(_) if blame::is_the_machines(error) => {
            host_fault(sentence::line(&format!("no room for a sandbox: {text}"), MESSAGE))
        }
        // It counts, because a task that always fails like this must end.
        Failed::ToStart(_) => seen(ErrorKind::Trap, sentence::line(&format!("can't be started: {text}"), MESSAGE), guest),
    }
}

/// `panicked at src/lib.rs:12: message`, from the output of Rust's panic hook.
fn panic_message(stderr: &str) -> Option<String> {
    let (_, tail) = stderr.rsplit_once("panicked at ")?;
    let (place, said) = tail.split_once(":\n").or_else(|| tail.split_once('\n')).unwrap_or((tail, ""));
    // Of `file:line:column` the column is left out.
    let place = place.rsplit_once(':').filter(|(left, _)| left.contains(':')).map_or(place, |(left, _)| left);
    let said = said.split("\nnote: run with `RUST_BACKTRACE").next().unwrap_or(said);
    let said = said.split("\nstack backtrace:").next().unwrap_or(said);
    let said = sentence::line(said, MESSAGE);
    let place = sentence::line(place, 256);
    Some(if said.is_empty() { format!("panicked at {place}") } else { format!("panicked at {place}: {said}") })
}

/// A failure that the guest did not report itself, with the end of its stderr and the policy's denial, if any.
fn seen(kind: ErrorKind, message: String, guest: &Guest) -> Outcome {
    let stderr = guest.shared.printed(Stream::Err);
    let mut error = TaskError::new(kind, message);
    error.detail = Some(stderr).filter(|text| !text.trim().is_empty());
    Outcome::Failed { error: with_denied(error, guest.shared.denied()), after: None }
}

fn with_denied(mut error: TaskError, denied: Option<String>) -> TaskError {
    // A guest that passed the denial on has reported it already.
    if let Some(denied) = denied.filter(|denied| !error.message.contains(denied.as_str())) {
        error.message = format!("{}; {denied}", error.message);
    }
    error
}

fn fail(kind: ErrorKind, message: String) -> Outcome {
    Outcome::Failed { error: TaskError::new(kind, message), after: None }
}

fn host_fault(reason: String) -> Outcome {
    Outcome::HostFault { reason, delay: HOST_FAULT_DELAY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        let stderr = "\nthread '<unnamed>' (1) panicked at src/lib.rs:12:5:\nindex 3,\nbut 2 items\nnote: run with `RUST_BACKTRACE=1` environment variable\n";
        assert_eq!(panic_message(stderr).unwrap(), "panicked at src/lib.rs:12: index 3, but 2 items");
        assert_eq!(panic_message("thread 'main' panicked at src/lib.rs:7:1:\n").unwrap(), "panicked at src/lib.rs:7");
        assert_eq!(panic_message("nothing of the kind"), None);
    }

    #[test]
    fn a_code_that_is_none_is_left_out() {
        let failure = |code: &str| Failure { message: "a\nb".into(), code: Some(code.into()), detail: None };
        assert_eq!(told(ErrorKind::Retry, failure("http-503")).code.as_deref(), Some("http-503"));
        let error = told(ErrorKind::Retry, failure("Not A Code"));
        assert_eq!((error.code, error.message.as_str()), (None, "a b"));
    }
}
