//! The calls of the host outside a guest: the attempt that [`testing`](crate::testing) runs answers them.

#[cfg(feature = "http")]
use crate::http;
use crate::{
    children, kv,
    log::Level,
    testing::{LogLine, Spanned, current},
};

pub(crate) fn task_id() -> String {
    current(|state| state.id.clone())
}
pub(crate) fn queue() -> String {
    current(|state| state.queue.clone())
}
pub(crate) fn attempt() -> u32 {
    current(|state| state.number)
}
pub(crate) fn max_attempts() -> u32 {
    current(|state| state.max_attempts)
}
pub(crate) fn enqueued_at() -> u64 {
    current(|state| state.enqueued_at)
}
pub(crate) fn deadline() -> u64 {
    current(|state| state.deadline)
}
pub(crate) fn headers() -> Vec<(String, String)> {
    current(|state| state.headers.clone())
}
pub(crate) fn is_cancelled() -> bool {
    current(|state| state.cancelled)
}
pub(crate) fn progress(done: u64, total: Option<u64>, note: &str) {
    current(|state| state.progress.push((done, total, note.into())));
}
pub(crate) fn env(name: &str) -> Option<String> {
    current(|state| state.env.get(name).cloned())
}

pub(crate) fn log(level: Level, message: &str, fields: &[(String, String)]) {
    current(|state| state.logs.push(LogLine { level, message: message.into(), fields: fields.into() }));
}

pub(crate) fn span_start(name: &str, fields: &[(String, String)]) -> u32 {
    current(|state| {
        let parent = state.spans.iter().rposition(|span| !span.is_ended);
        state.spans.push(Spanned { name: name.into(), fields: fields.into(), parent, ..Spanned::default() });
        u32::try_from(state.spans.len()).unwrap_or(0)
    })
}

pub(crate) fn span_event(span: u32, name: &str, _fields: &[(String, String)]) {
    current(|state| {
        if let Some(span) = state.span(span) {
            span.events.push(name.into());
        }
    });
}

pub(crate) fn span_end(span: u32, error: Option<&str>) {
    current(|state| {
        if let Some(span) = state.span(span) {
            span.error = error.map(Into::into);
            span.is_ended = true;
        }
    });
}

pub(crate) fn enqueue(task: children::NewTask) -> Result<String, children::Error> {
    const LIMIT: usize = 1_000;
    current(|state| {
        if state.children.len() >= LIMIT {
            return Err(children::Error::TooMany(format!("an attempt may enqueue {LIMIT}")));
        }
        let id = task.id.clone().unwrap_or_else(|| format!("child-{}", state.children.len() + 1));
        state.children.push(task);
        Ok(id)
    })
}

pub(crate) fn kv_get(key: &str) -> Result<Option<Vec<u8>>, kv::Error> {
    current(|state| Ok(state.kv()?.get(key).cloned()))
}

pub(crate) fn kv_set(key: &str, value: &[u8]) -> Result<(), kv::Error> {
    current(|state| {
        state.kv()?.insert(key.into(), value.into());
        Ok(())
    })
}

pub(crate) fn kv_remove(key: &str) -> Result<bool, kv::Error> {
    current(|state| Ok(state.kv()?.remove(key).is_some()))
}

pub(crate) fn kv_increment(key: &str, by: i64) -> Result<i64, kv::Error> {
    current(|state| {
        let mut store = state.kv()?;
        let old = match store.get(key) {
            None => 0,
            Some(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| kv::Error::Invalid(format!("`{key}` holds no decimal integer")))?,
        };
        let new = old.checked_add(by).ok_or_else(|| kv::Error::Invalid(format!("`{key}` would leave 64 bits")))?;
        store.insert(key.into(), new.to_string().into_bytes());
        Ok(new)
    })
}

pub(crate) fn kv_keys(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, kv::Error> {
    current(|state| {
        let store = state.kv()?;
        let keys = store.keys().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        Ok(keys.take(limit.min(1_000) as usize).cloned().collect())
    })
}

#[cfg(feature = "http")]
#[expect(clippy::unused_async, reason = "the guest's awaits")]
pub(crate) async fn send(request: http::Request) -> Result<http::Response, http::Error> {
    let server = current(|state| {
        state.requests.push(request.clone());
        state.http.clone()
    });
    let Some(server) = server else {
        return Err(http::Error::Denied(format!("{}: no server here: give the attempt one with `.http(|request| …)`", request.url)));
    };
    // It is called outside `current`, so that it may read the attempt.
    let mut server = server.borrow_mut();
    server(&request)
}
