//! New tasks as the script arguments that `lua/lib/admit.lua` reads.

use super::{
    scripts::Call,
    values::{json, millis},
};
use crate::error::Result;
use taskhost_core::{
    task::{NewTask, Start, TaskOptions},
    trace::{BAGGAGE, TRACEPARENT},
};

type Headers = [(String, String)];

/// Splits the headers of a trace from the others, if they come first: their fields and values, and the rest. As fields of their own they cost the
/// server a tenth of what JSON costs.
fn trace(headers: &Headers) -> (Vec<(&'static str, &str)>, &Headers) {
    let (mut fields, mut rest) = (Vec::new(), headers);
    for (name, field, fits) in [(TRACEPARENT, "tp", is_traceparent as fn(&str) -> bool), (BAGGAGE, "bg", is_baggage)] {
        if let [(first, value), others @ ..] = rest
            && first == name
            && fits(value)
        {
            fields.push((field, &**value));
            rest = others;
        }
    }
    (fields, rest)
}

/// Whether a value is as `lib/refusal.lua` wants a `tp`.
fn is_traceparent(value: &str) -> bool {
    let parts: Vec<_> = value.split('-').collect();
    parts.len() == 4
        && parts.iter().zip([2, 32, 16, 2]).all(|(part, length)| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a value is as `lib/refusal.lua` wants a `bg`.
fn is_baggage(value: &str) -> bool {
    (1..=8192).contains(&value.len()) && value.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// The script arguments of one task: see lua/lib/admit.lua and docs/protocol.md.
pub(super) fn record(task: &NewTask) -> Result<Vec<String>> {
    let start = match task.start {
        Start::Now => String::new(),
        Start::In(delay) => format!("+{}", millis(delay)),
        Start::At(at) => format!("@{}", at.0.min(31_536_000_000_000)),
    };
    let (key, ttl) = match &task.unique {
        Some(unique) => (unique.key.clone(), millis(unique.ttl).max(1).to_string()),
        None => (String::new(), String::new()),
    };
    let options = &task.options;
    let mut fields = vec![("task", task.name.to_string()), ("args", task.args.clone())];
    fields.extend(options.timeout.map(|timeout| ("timeout", millis(timeout).to_string())));
    fields.extend(options.max_attempts.map(|max| ("max", max.to_string())));
    fields.extend(options.result_ttl.map(|ttl| ("ttl", millis(ttl).to_string())));
    fields.extend(options.carried.to_json().map(|carried| ("options", carried)));
    fields.extend(options.flow.as_ref().map(|place| ("flow", place.to_string())));
    fields.extend(task.expires.map(|at| ("expires", at.0.min(31_536_000_000_000).to_string())));
    if task.awaited {
        fields.push(("awaited", "1".to_owned()));
    }
    let (trace, headers) = trace(&options.headers);
    fields.extend(trace.into_iter().map(|(field, value)| (field, value.to_owned())));
    if !headers.is_empty() {
        fields.push(("headers", json(&headers)?));
    }
    let mut record = vec![task.id.to_string(), options.priority.get().to_string(), start, key, ttl, fields.len().to_string()];
    record.extend(fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    Ok(record)
}

/// Appends the record of `task` to the call.
pub(super) fn push_record(call: &mut Call, task: &NewTask) -> Result<()> {
    for part in record(task)? {
        call.push(part);
    }
    Ok(())
}

/// Whether a task has only id, name and arguments, and runs now. Most tasks are like this.
pub(super) fn is_plain(task: &NewTask) -> bool {
    task.start == Start::Now && task.unique.is_none() && task.expires.is_none() && !task.awaited && task.options == TaskOptions::default()
}
